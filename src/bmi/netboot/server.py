"""Follows the networks that are to be served: opens and closes their listeners, retries what fails."""

import asyncio
import logging
import socket
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from ipaddress import IPv4Interface
from pathlib import Path

import uvicorn

from bmi.domain.boot import Foot
from bmi.netboot import dhcp, ra
from bmi.netboot.desk import Desk
from bmi.netboot.http import boot_url, create_app
from bmi.netboot.namespace import inside, tcp_listener
from bmi.netboot.tftp import TftpServer

log = logging.getLogger(__name__)

_FOLLOW_EVERY_S = 0.5
_DHCP_THREADS = 8
_DHCP_BATCH = 256
# A mass power-on sends thousands of packets before one is read.
_DHCP_BUFFER_BYTES = 4 << 20
_MAX_CONNECTIONS = 1000
_IDLE_CONNECTION_S = 15


def _dhcp_socket(interface: str) -> socket.socket:
    listener = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _DHCP_BUFFER_BYTES)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, interface.encode())
    listener.bind(("", dhcp.SERVER_PORT))
    listener.setblocking(False)
    return listener


class _Station:
    """All listeners of one network."""

    def __init__(self, desk: Desk, foot: Foot, *, http_port: int, boot_dir: Path) -> None:
        self.foot = foot
        self._desk = desk
        self._http_port = http_port
        self._tftp = TftpServer(foot)
        self._opened: list[socket.socket] = []
        try:
            self._dhcp = self._open(lambda: _dhcp_socket(foot.interface))
            self._ra = self._open(lambda: ra.open_socket(foot.interface))
            self._http_socket = tcp_listener(foot.netns, foot.address.partition("/")[0], http_port)
        except OSError:
            self._close_sockets()
            raise
        self._opened.append(self._http_socket)
        self._http = uvicorn.Server(
            uvicorn.Config(
                create_app(desk, foot, http_port, boot_dir),
                log_config=None,
                access_log=False,
                lifespan="off",
                server_header=False,
                limit_concurrency=_MAX_CONNECTIONS,
                timeout_keep_alive=_IDLE_CONNECTION_S,
                timeout_graceful_shutdown=1,
            )
        )
        self._serving: asyncio.Task[None] | None = None

    def _open(self, make: Callable[[], socket.socket]) -> socket.socket:
        opened = inside(self.foot.netns, make)
        self._opened.append(opened)
        return opened

    def start(self, pool: ThreadPoolExecutor) -> None:
        loop = asyncio.get_running_loop()
        loop.add_reader(self._dhcp, self._drain, pool)
        loop.add_reader(self._ra, self._advertise)
        self._serving = loop.create_task(self._http.serve(sockets=[self._http_socket]))

    @property
    def is_serving(self) -> bool:
        return self._serving is not None and not self._serving.done()

    async def stop(self) -> None:
        loop = asyncio.get_running_loop()
        loop.remove_reader(self._dhcp)
        loop.remove_reader(self._ra)
        self._http.should_exit = True
        if self._serving is not None:
            with suppress(Exception):
                await asyncio.wait_for(self._serving, 5)
        self._close_sockets()
        await asyncio.to_thread(self._tftp.stop)

    def tend(self) -> None:
        self._tftp.ensure()

    def _close_sockets(self) -> None:
        for opened in self._opened:
            opened.close()

    def _advertise(self) -> None:
        # A solicitation that cannot be answered now is repeated by its sender.
        with suppress(OSError):
            ra.reply(self._ra)

    def _drain(self, pool: ThreadPoolExecutor) -> None:
        for _ in range(_DHCP_BATCH):
            try:
                data = self._dhcp.recv(4096)
            except OSError:
                return
            pool.submit(self._answer, data)

    def _answer(self, data: bytes) -> None:
        try:
            request = dhcp.parse(data)
        except dhcp.MalformedPacketError:
            return
        try:
            offer = self._desk.offer(self.foot.network_id, request.mac, request.firmware)
            url = boot_url(self.foot, self._http_port, offer.boot_token if offer else None)
            reply = dhcp.answer(request, IPv4Interface(self.foot.address), offer, url)
            if reply is not None:
                self._dhcp.sendto(dhcp.build(reply), dhcp.destination(request, reply))
        except Exception:  # one packet must never end the service of a network
            log.exception("A DHCP request of %s could not be answered", request.mac)


class Netboot:
    """All networks' listeners, in one thread of their own."""

    def __init__(self, desk: Desk, *, http_port: int, boot_dir: Path) -> None:
        self._desk = desk
        self._http_port = http_port
        self._boot_dir = boot_dir
        self._stations: dict[Foot, _Station] = {}
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
            await asyncio.gather(*(station.stop() for station in self._stations.values()))

    async def _follow(self, pool: ThreadPoolExecutor) -> None:
        wanted = set(await asyncio.to_thread(self._desk.feet))
        for foot, station in list(self._stations.items()):
            if foot not in wanted or not station.is_serving:
                del self._stations[foot]
                await station.stop()
        for foot in wanted:
            if foot not in self._stations:
                await self._open(foot, pool)
        for station in self._stations.values():
            await asyncio.to_thread(station.tend)

    async def _open(self, foot: Foot, pool: ThreadPoolExecutor) -> None:
        try:
            station = await asyncio.to_thread(
                _Station,
                self._desk,
                foot,
                http_port=self._http_port,
                boot_dir=self._boot_dir,
            )
        except OSError as error:
            self._say(foot, f"not served yet: {error}")
            return
        station.start(pool)
        self._stations[foot] = station
        self._say(foot, "")

    def _say(self, foot: Foot, trouble: str) -> None:
        """Logs a change, not every attempt."""
        if self._troubles.get(foot) != trouble:
            log.log(logging.WARNING if trouble else logging.INFO, "%s: %s", foot.address, trouble or "served")
            self._troubles[foot] = trouble
