"""Logins wait for hashes and providers: they have threads of their own, so that they never take all."""

from collections.abc import Callable
from typing import TypeVar

from anyio import CapacityLimiter
from anyio.to_thread import run_sync

from bmi.errors import UnavailableError

T = TypeVar("T")

_AT_ONCE = 8
# Those who wait for a thread hold none; more of them than this would only wait in vain.
_INSIDE = 40


class LoginTurns:
    """The threads of the login routes. Used on the event loop alone."""

    def __init__(self) -> None:
        self._threads = CapacityLimiter(_AT_ONCE)
        self._inside = 0

    async def run(self, work: Callable[[], T]) -> T:
        """What `work` returns; raises UnavailableError instead of letting it wait behind too many."""
        if self._inside >= _INSIDE:
            raise UnavailableError("Too many people log in at this moment.", remedy="Try again in a moment.")
        self._inside += 1
        try:
            return await run_sync(work, limiter=self._threads)
        finally:
            self._inside -= 1
