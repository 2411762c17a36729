"""Threads for work that might never end: what exceeds its time is abandoned, and its place given away."""

import logging
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

log = logging.getLogger(__name__)

_LOOK_EVERY_S = 0.01

Changes = dict[str, Any]


@dataclass(frozen=True, eq=False)
class Task:
    """`act` has `timeout_s` from its start on. What it returns is given to `settle`; when it does not return
    in time, `settle` is given what `too_late` returns instead. Exactly one of the two is ever settled.
    """

    act: Callable[[], Changes]
    too_late: Callable[[], Changes]
    settle: Callable[[Changes], None]
    timeout_s: float


class Pool:
    """Runs up to `limit` tasks at once, each in a thread of its own; the others queue.

    Nothing can end a thread from outside. An abandoned one stays until its work returns, of which nobody
    takes notice any more; it takes no place, and as a daemon it does not keep the process alive.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._lock = threading.Lock()
        self._queue: deque[Task] = deque()
        self._deadlines: dict[Task, float] = {}
        self._settling: set[Task] = set()

    def submit(self, task: Task) -> None:
        """Starts the task as soon as there is a place."""
        with self._lock:
            self._queue.append(task)
            self._start_queued()

    def expire(self) -> None:
        """Settles, in the caller's thread, what has exceeded its time. To be called again and again."""
        now = time.monotonic()
        with self._lock:
            late = [task for task, deadline in self._deadlines.items() if deadline < now]
        for task in late:
            self._settle(task, task.too_late)

    def shutdown(self, *, wait: bool = True) -> None:
        """Forgets what is queued and waits for what runs, no longer than its time."""
        with self._lock:
            self._queue.clear()
        while wait and self._is_busy():
            self.expire()
            time.sleep(_LOOK_EVERY_S)

    def _is_busy(self) -> bool:
        with self._lock:
            return bool(self._deadlines or self._settling)

    def _start_queued(self) -> None:
        while self._queue and len(self._deadlines) + len(self._settling) < self._limit:
            task = self._queue.popleft()
            self._deadlines[task] = time.monotonic() + task.timeout_s
            threading.Thread(target=self._run, args=(task,), name="step", daemon=True).start()

    def _run(self, task: Task) -> None:
        changes = task.act()
        self._settle(task, lambda: changes)

    def _settle(self, task: Task, changes: Callable[[], Changes]) -> None:
        with self._lock:
            if self._deadlines.pop(task, None) is None:
                log.info("What had been given up has ended after all; nothing of it is written down.")
                return
            self._settling.add(task)
        try:
            task.settle(changes())
        finally:
            with self._lock:
                self._settling.discard(task)
                self._start_queued()
