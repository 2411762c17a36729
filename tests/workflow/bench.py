"""Engines with made-up steps and plans, for tests of what the engine itself promises."""

import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, cast

import pytest
from sqlalchemy import Connection

from bmi.domain.nouns import Actor, Json, Role
from bmi.domain.operations import Operation, Step
from bmi.domain.plans import PLANS, Plan, PlannedStep
from bmi.errors import BmiError
from bmi.store import operations as journal
from bmi.store.database import Database
from bmi.workflow.engine import Context, Engine, Outcome, StepType, Wait
from bmi.workflow.tools import Tools

PATIENCE_S = 20
_LOOK_EVERY_S = 0.005
Do = Callable[[Context], Json | Wait | None]


class Bench:
    """Steps that note what they do, and operations that use them."""

    def __init__(self, database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
        self.database = database
        self.did: list[str] = []
        self.ended: list[tuple[str, str]] = []
        self.steps: dict[str, StepType] = {}
        self.outcomes: dict[str, Outcome] = {}
        self._patch = monkeypatch
        self._engines: list[Engine] = []

    def step(
        self,
        name: str,
        do: Do = lambda _: {},
        *,
        undo: Callable[[Context], object] = lambda _: None,
        attempts: int = 3,
        backoff_s: float = 0.01,
        timeout_s: float = 60,
    ) -> None:
        def noted_do(context: Context) -> Json | Wait | None:
            self.did.append(name)
            return do(context)

        def noted_undo(context: Context) -> object:
            self.did.append(f"undo {name}")
            return undo(context)

        self.steps[name] = StepType(
            name, noted_do, noted_undo, attempts=attempts, backoff_s=backoff_s, timeout_s=timeout_s
        )

    def plan(self, *steps: str | PlannedStep, undoable: bool = True, kind: str = "test") -> Plan:
        """A plan of these steps, by name one after the other, or as planned."""
        planned: list[PlannedStep] = []
        for step in steps:
            after = (planned[-1].name,) if planned else ()
            planned.append(step if isinstance(step, PlannedStep) else PlannedStep(step, after))
        for step in planned:
            if step.name not in self.steps:
                self.step(step.name)
        made = Plan(kind, tuple(planned), undoable=undoable)
        self._patch.setitem(PLANS, kind, made)
        self.outcomes.setdefault(kind, Outcome(self._succeeded, self._failed))
        return made

    def _succeeded(self, _tx: Connection, operation: Operation, _r: Mapping[str, Json], _now: float) -> None:
        self.ended.append((operation.subject_id, "succeeded"))

    def _failed(self, _tx: Connection, operation: Operation, error: BmiError, _now: float) -> None:
        self.ended.append((operation.subject_id, error.detail))

    def ask(self, plan: Plan, subject: str = "n1") -> str:
        """Enqueues an operation and returns its id."""
        with self.database.write() as tx:
            return journal.enqueue(
                tx,
                plan,
                now=self.database.now(),
                actor=Actor("admin", Role.ADMIN, None),
                subject=("node", subject, subject),
                project_id=None,
                args={},
            ).id

    def engine(self, owner: str = "worker", **options: Any) -> Engine:
        database: Database = options.pop("database", self.database)
        options.setdefault("threads", 4)
        tools = cast("Tools", None)  # made-up steps use none
        made = Engine(database, self.steps, self.outcomes, tools, owner=owner, **options)
        self._engines.append(made)
        return made

    def run(self, **options: Any) -> None:
        """One worker works until nothing is live."""
        self.engine(**options).run_until_idle(PATIENCE_S)

    @contextmanager
    def working(self, engine: Engine) -> Iterator[None]:
        """The engine works in a thread meanwhile."""
        thread = threading.Thread(target=engine.run)
        thread.start()
        try:
            yield
        finally:
            engine.stop()
            thread.join(PATIENCE_S)
            assert not thread.is_alive()

    def operation(self, operation_id: str) -> Operation:
        with self.database.read() as tx:
            return journal.operations.get(tx, operation_id)

    def steps_of(self, operation_id: str) -> dict[str, Step]:
        with self.database.read() as tx:
            return {step.name: step for step in journal.steps_of(tx, operation_id)}

    def wake(self, subject: str = "n1") -> None:
        with self.database.write() as tx:
            journal.wake(tx, subject, self.database.now())

    def cancel(self, operation_id: str) -> None:
        """As the service does it."""
        with self.database.write() as tx:
            journal.operations.update(tx, id=operation_id, values={"cancel_requested": True})
            journal.wake_operation(tx, operation_id, self.database.now())

    def close(self) -> None:
        for engine in self._engines:
            engine.stop()
            engine._pool.shutdown(wait=True)


def until(happened: Callable[[], bool]) -> None:
    """Waits for what another thread or process does."""
    deadline = time.monotonic() + PATIENCE_S
    while not happened():
        assert time.monotonic() < deadline, "it did not happen"
        time.sleep(_LOOK_EVERY_S)
