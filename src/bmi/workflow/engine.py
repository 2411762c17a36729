"""Runs operations: ready steps side by side, each result committed before anything builds on it.

The database is the only memory. A step is `running` from a commit before it starts to a commit after
it ends; whoever finds one `running` that nobody runs does it again, which is safe because steps are
idempotent. Nothing here knows what a step does.
"""

import logging
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace

from sqlalchemy import Connection

from bmi.domain.nouns import Json
from bmi.domain.operations import LIVE, Operation, OperationState, Step, StepState, next_due, ready
from bmi.domain.plans import PLANS
from bmi.errors import BmiError, CancelledError, InternalError, TimedOutError, from_problem
from bmi.store import operations as journal
from bmi.store.database import Database
from bmi.workflow.pool import Changes, Pool, Task
from bmi.workflow.problems import DATABASE_AWAY, as_bmi_error, is_plain, problem_of, without_statements
from bmi.workflow.tools import Tools

log = logging.getLogger(__name__)
log.addFilter(without_statements)

_IDLE_POLL_S = 0.1
_UNDO_ATTEMPTS = 3
_MAX_BACKOFF_S = 30
_TIMEOUT_S = 120


@dataclass(frozen=True)
class Wait:
    """What a step, or its undo, returns that has nothing to do but wait: look again at `until`, or when woken."""

    until: float


@dataclass(frozen=True)
class Context:
    """What a step is given: its operation, the results of earlier steps, when it was first tried."""

    operation: Operation
    results: Mapping[str, Json]
    started_at: float
    tools: Tools


@dataclass(frozen=True)
class StepType:
    """How a step is done and undone. `undo` None means that there is nothing to take back, and `why`
    says why. A retryable error is tried `attempts` times, `backoff_s` apart and doubling; a `patient` step is
    tried, and undone, for as long as the engine has patience. Each try, and each undo, may take `timeout_s`:
    far more than its drivers allow themselves, for it is the last resort.
    """

    name: str
    do: Callable[[Context], Json | Wait | None]
    undo: Callable[[Context], object] | None = None
    why: str = ""
    attempts: int = 4
    backoff_s: float = 0.5
    timeout_s: float = _TIMEOUT_S
    patient: bool = False

    def __post_init__(self) -> None:
        if (self.undo is None) != bool(self.why):
            raise InternalError(f"Step {self.name} needs an undo, or a reason for having none.")


@dataclass(frozen=True)
class Outcome:
    """What an ended operation does to the rows of its subject, in the very transaction that ends it."""

    succeeded: Callable[[Connection, Operation, Mapping[str, Json], float], None]
    failed: Callable[[Connection, Operation, BmiError, float], None]


Hook = Callable[[str, str], None]

# A step's name, and what to run for it.
_Job = tuple[str, Task]


class Engine:
    """One worker process: claims operations, runs their steps in threads, keeps its leases alive.

    `hook(step, moment)` is called at "before", "done" (acted, not yet written down) and "after" of
    each step (the same with "undo-" in front); tests kill the process there.
    """

    def __init__(
        self,
        database: Database,
        steps: Mapping[str, StepType],
        outcomes: Mapping[str, Outcome],
        tools: Tools,
        *,
        owner: str,
        threads: int = 16,
        lease_s: float = 15,
        patience_s: float = 0,
        hook: Hook = lambda _step, _moment: None,
    ) -> None:
        self._db = database
        self._types = steps
        self._outcomes = outcomes
        self._tools = tools
        self._owner = owner
        self._lease_s = lease_s
        self._patience_s = patience_s
        self._hook = hook
        self._threads = threads
        self._pool = Pool(threads)
        self._lock = threading.RLock()
        self._in_flight: dict[str, set[str]] = {}
        self._stop = threading.Event()
        self._kicked = threading.Event()

    # ---- the loop -------------------------------------------------------------------------------

    def kick(self) -> None:
        """Looks for due operations now instead of at the next poll."""
        self._kicked.set()

    def stop(self) -> None:
        """Ends `run` after the steps in flight, or their time; what is left goes on at the next start."""
        self._stop.set()
        self._kicked.set()

    def run(self) -> None:
        """Works until `stop`, then gives everything back."""
        with self._leases_kept():
            while not self._stop.is_set():
                self._kicked.clear()
                try:
                    self.claim_and_advance()
                except Exception:  # a worker must outlive a database that is away for a moment
                    log.exception("The worker could not look for operations")
                    self._stop.wait(1)
                self._kicked.wait(_IDLE_POLL_S)
            with self._lock:  # nobody is between deciding on steps and starting them
                self._pool.shutdown(wait=False)
            self._pool.shutdown()
        with self._db.write() as tx:
            journal.release_leases(tx, owner=self._owner, now=self._db.now())

    def run_until_idle(self, timeout_s: float = 60) -> None:
        """Works until no operation is live (for tests and one-shot tools)."""
        deadline = time.monotonic() + timeout_s
        with self._leases_kept():
            while time.monotonic() < deadline:
                self.claim_and_advance()
                with self._lock, self._db.read() as tx:
                    live = journal.operations.find(tx, journal.operations.table.c.state.in_(LIVE))
                    if not self._in_flight and live is None:
                        return
                time.sleep(0.005)
        raise InternalError(f"Operations were still live after {timeout_s:g} s.")

    def claim_and_advance(self) -> None:
        """Takes what is due, new operations as far as there is room, and starts its steps."""
        self._pool.expire()
        with self._lock:
            room = max(0, self._threads - len(self._in_flight))
        now = self._db.now()
        with self._db.write() as tx:
            claimed = journal.claim(tx, owner=self._owner, now=now, lease_s=self._lease_s, limit=room)
        for operation_id in claimed:
            self._advance(operation_id)

    @contextmanager
    def _leases_kept(self) -> Iterator[None]:
        """Keeps the leases alive until the block ends: to the end of the last step, not of the last claim."""
        over = threading.Event()
        heartbeat = threading.Thread(target=self._keep_leases, args=(over,), name="leases", daemon=True)
        heartbeat.start()
        try:
            yield
        finally:
            over.set()
            heartbeat.join()

    def _keep_leases(self, over: threading.Event) -> None:
        while not over.wait(self._lease_s / 3):
            try:
                with self._db.write() as tx:
                    journal.extend_leases(tx, owner=self._owner, until=self._db.now() + self._lease_s)
            except Exception:  # the next beat may succeed; the fence protects us if none does
                log.exception("The worker could not extend its leases")

    # ---- one operation --------------------------------------------------------------------------

    def _advance(self, operation_id: str) -> None:
        """Starts every step of the operation that can start; ends or parks it when none can."""
        with self._lock:
            if self._stop.is_set():
                return
            flying = self._in_flight.setdefault(operation_id, set())
            for name, task in self._next_jobs(operation_id, flying):
                flying.add(name)
                self._pool.submit(task)
            if not flying:
                del self._in_flight[operation_id]

    def _next_jobs(self, operation_id: str, flying: set[str]) -> list[_Job]:
        try:
            with self._db.write() as tx:
                return self._decide(tx, operation_id, flying)
        except journal.LostLeaseError:
            pass
        except DATABASE_AWAY:  # it is still ours, and due again before the lease ends
            log.exception("Operation %s could not be looked at", operation_id)
        except Exception as error:  # noqa: BLE001  # it would fail like this at every look
            if not flying:
                self._give_up(operation_id, error)
        return []

    def _give_up(self, operation_id: str, error: Exception) -> None:
        """Ends an operation that cannot even be decided on, or whose outcome cannot be written."""
        problem = problem_of(as_bmi_error(error, f"Operation {operation_id}"))
        try:
            with self._db.write() as tx:
                operation = journal.load_owned(tx, operation_id, self._owner)
                self._end(tx, operation, OperationState.FAILED, problem)
        except Exception:
            log.exception("Operation %s could not be ended", operation_id)

    def _decide(self, tx: Connection, operation_id: str, flying: set[str]) -> list[_Job]:
        operation = journal.load_owned(tx, operation_id, self._owner)
        steps = journal.steps_of(tx, operation_id)
        if operation.state is OperationState.UNDOING:
            return self._decide_undo(tx, operation, steps, flying)
        failed = next((step for step in steps if step.state is StepState.FAILED), None)
        if failed or operation.cancel_requested:
            if flying:
                return []
            problem = failed.problem if failed else CancelledError("The operation was cancelled.").problem()
            if not PLANS[operation.kind].undoable:
                self._end(tx, operation, OperationState.FAILED, problem)
                return []
            journal.change(tx, operation_id, self._owner, state=OperationState.UNDOING, problem=problem)
            journal.reset_steps(tx, operation_id)
            operation = replace(operation, problem=problem)
            return self._decide_undo(tx, operation, journal.steps_of(tx, operation_id), flying)
        return self._decide_do(tx, operation, steps, flying)

    def _decide_do(
        self, tx: Connection, operation: Operation, steps: list[Step], flying: set[str]
    ) -> list[_Job]:
        now = self._db.now()
        starting = [step for step in ready(steps, now) if step.name not in flying]
        busy = flying.union(step.name for step in starting)
        due = next_due([step for step in steps if step.name not in busy])
        if not busy:
            if due is None:
                self._end(tx, operation, OperationState.SUCCEEDED, None)
            else:
                journal.park(tx, operation.id, self._owner, due)
            return []
        if operation.state is OperationState.QUEUED:
            journal.change(tx, operation.id, self._owner, state=OperationState.RUNNING, started_at=now)
        if due is not None and due < operation.wake_at:
            journal.change(tx, operation.id, self._owner, wake_at=due)
        results = {step.name: step.result or {} for step in steps if step.state is StepState.DONE}
        jobs: list[_Job] = []
        for step in starting:
            started_at = step.started_at or now
            journal.change_step(tx, operation.id, step.seq, state=StepState.RUNNING, started_at=started_at)
            context = Context(operation, results, started_at, self._tools)
            jobs.append((step.name, self._task(context, step)))
        return jobs

    def _decide_undo(
        self, tx: Connection, operation: Operation, steps: list[Step], flying: set[str]
    ) -> list[_Job]:
        """The last step that has left something behind is undone next; one at a time."""
        if flying:
            return []
        touched = [s for s in steps if s.state is not StepState.UNDONE and s.started_at is not None]
        if not touched:
            self._end_undone(tx, operation, steps)
            return []
        step = touched[-1]
        now = self._db.now()
        if step.due_at > now:
            journal.park(tx, operation.id, self._owner, step.due_at)
            return []
        results = {s.name: s.result or {} for s in steps}
        context = Context(operation, results, step.started_at or now, self._tools)
        return [(step.name, self._task(context, step, undo=True))]

    def _end_undone(self, tx: Connection, operation: Operation, steps: list[Step]) -> None:
        """A cancellation that left something behind has failed: what stays must not be forgotten."""
        if not isinstance(from_problem(operation.problem or {}), CancelledError):
            self._end(tx, operation, OperationState.FAILED, operation.problem)
            return
        left = next((s.problem for s in steps if s.problem and s.problem.get("undo")), None)
        state = OperationState.FAILED if left else OperationState.CANCELLED
        self._end(tx, operation, state, left or operation.problem)

    def _end(self, tx: Connection, operation: Operation, state: OperationState, problem: Json | None) -> None:
        now = self._db.now()
        journal.change(
            tx,
            operation.id,
            self._owner,
            state=state,
            problem=problem,
            finished_at=now,
            owner=None,
            lease_until=None,
        )
        outcome = self._outcomes[operation.kind]
        if state is OperationState.SUCCEEDED:
            results = {step.name: step.result or {} for step in journal.steps_of(tx, operation.id)}
            outcome.succeeded(tx, operation, results, now)
        else:
            outcome.failed(tx, operation, from_problem(problem or {}), now)
        log.info("%s of %s %s: %s", operation.kind, operation.subject_kind, operation.subject_name, state)

    # ---- one step -------------------------------------------------------------------------------

    def _task(self, context: Context, step: Step, *, undo: bool = False) -> Task:
        """A step's do or undo, for the pool. One that does not end in time has failed for good: its thread
        may still act, even beside its own undo or a retry, but what comes of it is not written down. What
        it leaves in the world is what a release, or a deletion, removes.
        """
        kind = self._types.get(step.name)
        timeout_s = kind.timeout_s if kind else _TIMEOUT_S
        if undo:
            run, failed, moment, what = self._undo, self._after_undo_error, "undo-after", "Undoing"
        else:
            run, failed, moment, what = self._do, self._after_error, "after", "Step"
        what = f"{what} {step.name}"

        def act() -> Changes:
            try:
                return run(context, step)
            except Exception as error:  # noqa: BLE001  # whatever it was, it is the step's problem document
                return failed(context, step, as_bmi_error(error, what))

        def too_late() -> Changes:
            detail = f"{what} did not end within {timeout_s:g} s."
            remedy = "See the log of the worker for what it waits for; then retry the operation."
            return failed(context, step, TimedOutError(detail, retryable=False, remedy=remedy))

        return Task(
            act, too_late, lambda changes: self._checkpoint(context, step, changes, moment), timeout_s
        )

    def _do(self, context: Context, step: Step) -> Changes:
        self._hook(step.name, "before")
        result = self._types[step.name].do(context)
        self._hook(step.name, "done")
        if isinstance(result, Wait):
            return {"state": StepState.WAITING, "due_at": result.until}
        if not is_plain(result):
            raise InternalError(f"Step {step.name} returned what is not plain JSON: {result!r}")
        return {"state": StepState.DONE, "result": result or {}, "problem": None}

    def _undo(self, context: Context, step: Step) -> Changes:
        self._hook(step.name, "undo-before")
        undo = self._types[step.name].undo
        result = undo(context) if undo else None
        self._hook(step.name, "undo-done")
        if isinstance(result, Wait):
            return {"due_at": result.until}
        return {"state": StepState.UNDONE}

    def _after_undo_error(self, context: Context, step: Step, error: BmiError) -> Changes:
        """A few tries; what stays then is cleaned up by a later release, or by a person."""
        attempts = step.attempts + 1
        log.warning("Undoing %s of %s: %s", step.name, context.operation.subject_name, error)
        kind = self._types.get(step.name)
        if kind and error.retryable and attempts < self._allowed(kind, _UNDO_ATTEMPTS):
            return {"attempts": attempts, "due_at": self._db.now() + _backoff_s(kind, attempts)}
        return {"state": StepState.UNDONE, "problem": problem_of(error, step=step.name, undo=True)}

    def _after_error(self, context: Context, step: Step, error: BmiError) -> Changes:
        kind = self._types.get(step.name)
        attempts, allowed = step.attempts + 1, self._allowed(kind, kind.attempts) if kind else 1
        again = error.retryable and attempts < allowed and not context.operation.cancel_requested
        log.log(
            logging.INFO if again else logging.WARNING,
            "%s of %s failed (attempt %d of %d): %s",
            step.name,
            context.operation.subject_name,
            attempts,
            allowed,
            error,
        )
        changes = {"attempts": attempts, "problem": problem_of(error, step=step.name)}
        if kind and again:
            due = self._db.now() + _backoff_s(kind, attempts)
            return changes | {"state": StepState.PENDING, "due_at": due}
        return changes | {"state": StepState.FAILED}

    def _allowed(self, kind: StepType, attempts: int) -> int:
        """How often a step may be tried. Counted, not timed: that is known after a restart as well."""
        if not kind.patient:
            return attempts
        waited_s, tried = 0.0, 1
        while waited_s < self._patience_s:
            waited_s += _backoff_s(kind, tried)
            tried += 1
        return max(attempts, tried)

    def _checkpoint(self, context: Context, step: Step, changes: Changes, moment: str) -> None:
        operation_id = context.operation.id
        try:
            with self._db.write() as tx:
                journal.load_owned(tx, operation_id, self._owner)
                self._write_down(tx, step, changes)
            self._hook(step.name, moment)
        except journal.LostLeaseError:
            log.warning("Operation %s was taken over by another worker", operation_id)
        except Exception:  # the step is still `running` in the database, and is run again
            log.exception("The result of %s could not be written down", step.name)
        finally:
            with self._lock:
                self._in_flight[operation_id].discard(step.name)
        self._advance(operation_id)

    def _write_down(self, tx: Connection, step: Step, changes: Changes) -> None:
        state = changes.get("state")
        if state in {StepState.DONE, StepState.FAILED}:
            changes["finished_at"] = self._db.now()
        undo_waits = changes.keys() == {"due_at"}
        if undo_waits or state in {StepState.WAITING, StepState.PENDING, StepState.FAILED}:
            current = journal.get_step(tx, step.operation_id, step.seq)
            if current.state is StepState.DONE and not undo_waits:
                return  # another worker had it meanwhile, and did it
            if (undo_waits or state is StepState.WAITING) and current.due_at != step.due_at:
                changes["due_at"] = self._db.now()  # woken while it was deciding to wait
        journal.change_step(tx, step.operation_id, step.seq, **changes)


def _backoff_s(kind: StepType, attempts: int) -> float:
    return min(kind.backoff_s * 2.0 ** min(attempts - 1, 32), max(kind.backoff_s, _MAX_BACKOFF_S))
