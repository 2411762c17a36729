"""Follows the networks that are to be served: opens and closes their listeners, retries what fails."""

import asyncio
import logging
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from bmi.domain.boot import Foot
from bmi.netboot.desk import Desk
from bmi.netboot.station import Station

log = logging.getLogger(__name__)

_FOLLOW_EVERY_S = 0.5
_DHCP_THREADS = 8


class Netboot:
    """All networks' listeners, in one thread of their own."""

    def __init__(self, desk: Desk, *, http_port: int, boot_dir: Path) -> None:
        self._desk = desk
        self._http_port = http_port
        self._boot_dir = boot_dir
        self._stations: dict[Foot, Station] = {}
        self._troubles: dict[Foot, str] = {}
        self._stop = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._run()), name="netboot")

    def start(self) -> None:
        """Begins to serve; networks come and go by themselves from here on."""
        self._thread.start()

    def stop(self) -> None:
        """Ends all listeners and returns when they are closed."""
        self._stop.set()
        self._thread.join()

    async def _run(self) -> None:
        with ThreadPoolExecutor(_DHCP_THREADS, thread_name_prefix="dhcp") as pool:
            while not self._stop.is_set():
                try:
                    await self._follow(pool)
                except Exception:  # the database may be away for a moment
                    log.exception("The networks to serve could not be read")
                await asyncio.sleep(_FOLLOW_EVERY_S)
            await self._close(set(self._stations))

    async def _follow(self, pool: ThreadPoolExecutor) -> None:
        wanted = set(await asyncio.to_thread(self._desk.feet))
        await self._close(
            {foot for foot, at in self._stations.items() if foot not in wanted or not at.serves}
        )
        for foot in wanted - self._stations.keys():
            await self._open(foot, pool)
        for foot, station in self._stations.items():
            self._say(foot, station.tend())
        self._troubles = {foot: said for foot, said in self._troubles.items() if foot in wanted}

    async def _open(self, foot: Foot, pool: ThreadPoolExecutor) -> None:
        try:
            station = Station(self._desk, foot, pool, http_port=self._http_port, boot_dir=self._boot_dir)
        except OSError as error:
            self._say(foot, f"not served yet: {error}")
            return
        await station.start()
        self._stations[foot] = station

    async def _close(self, feet: set[Foot]) -> None:
        await asyncio.gather(*(self._stations.pop(foot).stop() for foot in feet))

    def _say(self, foot: Foot, trouble: str) -> None:
        """Logs a change, not every attempt."""
        if self._troubles.get(foot) != trouble:
            log.log(logging.WARNING if trouble else logging.INFO, "%s: %s", foot.address, trouble or "served")
            self._troubles[foot] = trouble
