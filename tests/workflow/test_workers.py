"""Several workers on one database: they share the work, and one that dies or ends loses none."""

import os
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

from bmi.domain.operations import OperationState, StepState
from bmi.domain.plans import PlannedStep
from bmi.store import operations as journal
from bmi.store.database import Database, connect
from bmi.workflow.engine import Context
from tests.workflow.bench import PATIENCE_S, Bench, until


def in_child(work: Callable[[], object]) -> int:
    """Runs `work` in a child process and returns its id; the child never comes back into the tests."""
    child = os.fork()
    if child:
        return child
    try:
        work()
    finally:
        os._exit(1)


def test_workers_share_the_work_and_no_step_runs_in_two_at_once(bench: Bench) -> None:
    lock = threading.Lock()
    running: set[tuple[str, str]] = set()
    overlaps: list[str] = []

    def run(context: Context) -> None:
        key = (context.operation.id, "step")
        with lock:
            if key in running:
                overlaps.append(context.operation.id)
            running.add(key)
        time.sleep(0.002)
        with lock:
            running.discard(key)

    names = ["one", "two", "three"]
    for name in names:
        bench.step(name, run)
    plan = bench.plan(*names)
    operations = [bench.ask(plan, f"n{number}") for number in range(20)]
    workers = [bench.engine(f"worker-{number}", threads=3) for number in range(3)]
    threads = [threading.Thread(target=worker.run_until_idle, args=(PATIENCE_S,)) for worker in workers]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert overlaps == []
    assert Counter(bench.did) == dict.fromkeys(names, len(operations))
    assert sorted(bench.ended) == sorted((f"n{number}", "succeeded") for number in range(20))


def test_work_of_a_killed_worker_is_taken_over_where_it_was(
    bench: Bench, database_url: str, tmp_path: Path
) -> None:
    begun = tmp_path / "begun"
    parent = os.getpid()

    def hang_in_the_child(_context: Context) -> None:
        if os.getpid() != parent:
            begun.touch()
            time.sleep(3600)

    bench.step("second", hang_in_the_child)
    made = bench.ask(bench.plan("first", "second", "third"))

    def work() -> None:
        own = Database(connect(database_url))
        bench.engine("doomed", database=own, lease_s=0.5).run()

    child = in_child(work)
    until(begun.exists)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    assert bench.steps_of(made)["second"].state is StepState.RUNNING

    bench.run(owner="survivor")
    assert bench.did == ["second", "third"], "the child has done the first"
    assert bench.operation(made).state is OperationState.SUCCEEDED


def test_the_lease_of_a_live_worker_is_not_taken_however_long_its_step_takes(bench: Bench) -> None:
    release = threading.Event()
    bench.step("long", lambda _: {"waited": release.wait(PATIENCE_S)})
    made = bench.ask(bench.plan("long"))
    other = bench.engine("other")
    with bench.working(bench.engine("owner", lease_s=0.3)):
        until(lambda: bench.did == ["long"])
        _for_three_leases(0.3, other.claim_and_advance)
        assert bench.operation(made).owner == "owner"
        release.set()
        until(lambda: not bench.operation(made).is_live)

    assert bench.did == ["long"]


def test_a_worker_that_is_told_to_stop_ends_its_steps_first_and_keeps_its_leases_so_long(
    bench: Bench,
) -> None:
    release = threading.Event()
    bench.step("long", lambda _: {"waited": release.wait(PATIENCE_S)})
    made = bench.ask(bench.plan("long", "next"))
    other = bench.engine("other", lease_s=60)
    stopping = bench.engine("stopping", lease_s=0.3)
    with bench.working(stopping):
        until(lambda: bench.did == ["long"])
        stopping.stop()
        _for_three_leases(0.3, other.claim_and_advance)
        assert bench.did == ["long"]
        release.set()

    assert bench.steps_of(made)["long"].state is StepState.DONE
    assert bench.operation(made).owner is None
    other.run_until_idle(PATIENCE_S)
    assert bench.did == ["long", "next"]


def test_steps_that_were_queued_in_a_stopped_worker_are_done_by_the_next(bench: Bench) -> None:
    release = threading.Event()
    names = ["a", "b", "c"]
    for name in names:
        bench.step(name, lambda _: {"waited": release.wait(PATIENCE_S)})
    bench.ask(bench.plan(*(PlannedStep(name) for name in names)))
    stopping = bench.engine("stopping", threads=1)
    with bench.working(stopping):
        until(lambda: len(stopping._pool._queue) == 2)
        stopping.stop()
        until(lambda: not stopping._pool._queue)
        release.set()
    assert bench.did == ["a"]

    bench.run(owner="next")
    assert sorted(bench.did) == names
    assert bench.ended == [("n1", "succeeded")]


def test_a_worker_that_wakes_up_after_a_takeover_changes_nothing(bench: Bench) -> None:
    """Its process stood still for longer than its lease; the other one has done everything meanwhile."""
    asleep, awake = threading.Event(), threading.Event()

    def run(context: Context) -> dict[str, str]:
        if context.operation.owner != "sleeper":
            return {"by": "other"}
        asleep.set()
        assert awake.wait(PATIENCE_S)
        return {"by": "sleeper"}

    bench.step("only", run)
    made = bench.ask(bench.plan("only"))
    sleeper = bench.engine("sleeper")
    sleeper.claim_and_advance()
    assert asleep.wait(PATIENCE_S)
    with bench.database.write() as tx:
        journal.change(tx, made, "sleeper", lease_until=0.0, wake_at=0.0)

    bench.run(owner="other")
    awake.set()
    until(lambda: not sleeper._in_flight)

    assert bench.steps_of(made)["only"].result == {"by": "other"}
    assert bench.ended == [("n1", "succeeded")]


def test_a_late_failure_does_not_spoil_what_another_worker_has_done(bench: Bench) -> None:
    """The operation was lost, done by another worker, and has come back to the first one meanwhile."""
    asleep, awake = threading.Event(), threading.Event()

    def run(_context: Context) -> None:
        asleep.set()
        assert awake.wait(PATIENCE_S)
        raise RuntimeError("the world has moved on")

    bench.step("first", run)
    made = bench.ask(bench.plan("first", "second"))
    sleeper = bench.engine("sleeper")
    sleeper.claim_and_advance()
    assert asleep.wait(PATIENCE_S)
    with bench.database.write() as tx:
        journal.change_step(tx, made, 0, state=StepState.DONE, result={"by": "other"})
    awake.set()
    sleeper.run_until_idle(PATIENCE_S)

    assert bench.did == ["first", "second"]
    assert bench.ended == [("n1", "succeeded")]


def _for_three_leases(lease_s: float, do: Callable[[], object]) -> None:
    end = time.monotonic() + 3 * lease_s
    while time.monotonic() < end:
        do()
        time.sleep(lease_s / 10)
