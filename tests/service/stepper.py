"""A worker that does one step after the other in the test's own thread: the same calls give the same course."""

import random
import sys
import time
from collections import deque

from bmi.domain.operations import LIVE
from bmi.store import operations as journal
from bmi.workflow.engine import Engine
from bmi.workflow.pool import Task
from bmi.workflow.ports import Keeper
from bmi.workflow.steps import OUTCOMES, STEPS
from tests.installation import Site

LEASE_S = 15
# An audit event before each step acts, when it has, and when that is written down: see tests.killed.
STEP_EFFECT = "bmi.step"
_PATIENCE_S = 60
_POLL_S = 0.005


class _Tasks:
    """What the engine takes for its pool of threads."""

    def __init__(self) -> None:
        self.waiting: deque[Task] = deque()

    def submit(self, task: Task) -> None:
        self.waiting.append(task)

    def expire(self) -> None:
        """Nothing exceeds its time here."""


class Stepper:
    """The real engine; only its `number` decides on the order of what could happen at the same time."""

    def __init__(self, site: Site, number: int) -> None:
        self._database = site.database
        self._random = random.Random(number)
        self._engine = Engine(
            site.database,
            STEPS,
            OUTCOMES,
            site.engine._tools,
            owner=f"worker-{number}",
            lease_s=LEASE_S,
            patience_s=_PATIENCE_S,
            hook=lambda step, moment: sys.audit(STEP_EFFECT, step, moment),
        )
        self._keeper = Keeper(site.engine._tools, owner=f"worker-{number}", lease_s=LEASE_S)
        self._tasks = _Tasks()
        self._engine._pool = self._tasks  # type: ignore[assignment]  # all of it that is used here

    def work(self) -> None:
        """Does everything that there is to do."""
        deadline = time.monotonic() + _PATIENCE_S
        while self._is_busy():
            while self._tasks.waiting:
                self._do_one()
            assert time.monotonic() < deadline, "operations are still live"

    def work_in_part(self, steps: int) -> None:
        """Does so many steps, if there are as many. Then `work` goes on, or this worker is heard of no more."""
        self._engine.claim_and_advance()
        for _ in range(steps):
            if self._tasks.waiting:
                self._do_one()

    def act_only(self) -> None:
        """Does what another step does, and dies before anybody can write it down."""
        if self._tasks.waiting:
            self._next().act()

    def _do_one(self) -> None:
        task = self._next()
        task.settle(task.act())

    def _next(self) -> Task:
        self._tasks.waiting.rotate(self._random.randrange(len(self._tasks.waiting)))
        return self._tasks.waiting.popleft()

    def _is_busy(self) -> bool:
        """Claims what is due; whether there is anything left to do, now or soon."""
        self._engine.claim_and_advance()
        if self._tasks.waiting:
            return True
        with self._database.read() as tx:
            is_live = journal.operations.find(tx, journal.operations.table.c.state.in_(LIVE)) is not None
        if is_live:
            self._keeper.look()
            self._keeper.finish()
            time.sleep(_POLL_S)
        return is_live
