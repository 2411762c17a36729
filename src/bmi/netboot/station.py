"""All listeners of one network: DHCP, router solicitations, HTTP, and the TFTP server."""

import asyncio
import logging
import socket
from collections.abc import Callable
from concurrent.futures import Executor
from contextlib import suppress
from ipaddress import IPv4Interface
from pathlib import Path

from bmi.domain.boot import Foot
from bmi.netboot import dhcp, link, ra
from bmi.netboot.desk import Desk
from bmi.netboot.http import boot_url, create_app
from bmi.netboot.listener import HttpListener
from bmi.netboot.namespace import identity, inside
from bmi.netboot.tftp import TftpServer

log = logging.getLogger(__name__)

# Those requests of one network that are being answered are few: the rest waits in the kernel, where a flood
# loses its own packets and delays no other network's.
_DHCP_PENDING = 32
_ETHERNET_MTU_BYTES = 1500


class Station:
    """The listeners of the network that `foot` stands in; opening them raises OSError."""

    def __init__(self, desk: Desk, foot: Foot, pool: Executor, *, http_port: int, boot_dir: Path) -> None:
        self._desk = desk
        self._foot = foot
        self._pool = pool
        self._http_port = http_port
        self._tftp = TftpServer(foot)
        self._pending = 0
        self._stopped = False
        self._opened: list[socket.socket] = []
        try:
            self._place = identity(foot.netns)
            self._dhcp = self._open(lambda: link.open_socket(foot.interface))
            http_socket = self._open(lambda: socket.create_server((_host(foot), http_port)))
            self._ra = self._open_ra()
        except OSError:
            self._close_sockets()
            raise
        self._http = HttpListener(create_app(desk, foot, http_port, boot_dir), http_socket)

    async def start(self) -> None:
        """Begins to serve, on the running event loop."""
        loop = asyncio.get_running_loop()
        loop.add_reader(self._dhcp, self._receive)
        if self._ra:
            loop.add_reader(self._ra, self._advertise, self._ra)
        await self._http.start()

    @property
    def serves(self) -> bool:
        """Whether all still listen on the network of this name. A removed namespace or interface lives on,
        out of everybody's sight, for as long as a socket is in it.
        """
        try:
            self._dhcp.getsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, 16)
            here = identity(self._foot.netns) == self._place
        except OSError:
            return False
        return here

    def tend(self) -> str:
        """Restarts what has died; returns what is wrong, if anything."""
        return self._tftp.ensure()

    async def stop(self) -> None:
        """Closes everything."""
        self._stopped = True
        loop = asyncio.get_running_loop()
        for opened in (self._dhcp, self._ra):
            if opened:
                loop.remove_reader(opened)
        self._http.stop()
        self._close_sockets()
        await asyncio.to_thread(self._tftp.stop)

    def _open(self, make: Callable[[], socket.socket]) -> socket.socket:
        opened = inside(self._foot.netns, make)
        self._opened.append(opened)
        return opened

    def _open_ra(self) -> socket.socket | None:
        try:
            return self._open(lambda: ra.open_socket(self._foot.interface))
        except OSError as error:  # without IPv6, boots only take longer
            log.info("%s: no router advertisements: %s", self._foot.address, error)
            return None

    def _close_sockets(self) -> None:
        for opened in self._opened:
            opened.close()

    def _advertise(self, listener: socket.socket) -> None:
        # A solicitation that cannot be answered now is repeated by its sender.
        with suppress(OSError):
            ra.reply(listener)

    def _receive(self) -> None:
        try:
            data = self._dhcp.recv(_ETHERNET_MTU_BYTES)
        except OSError:
            return
        self._pending += 1
        loop = asyncio.get_running_loop()
        if self._pending == _DHCP_PENDING:
            loop.remove_reader(self._dhcp)
        loop.run_in_executor(self._pool, self._answer, data).add_done_callback(self._answered)

    def _answered(self, _done: object) -> None:
        self._pending -= 1
        if self._pending == _DHCP_PENDING - 1 and not self._stopped:
            asyncio.get_running_loop().add_reader(self._dhcp, self._receive)

    def _answer(self, data: bytes) -> None:
        try:
            request = dhcp.parse(data)
        except dhcp.MalformedPacketError:
            return
        try:
            offer = self._desk.offer(self._foot.network_id, request.mac, request.firmware)
            url = boot_url(self._foot, self._http_port, offer.boot_token if offer else None)
            reply = dhcp.answer(request, IPv4Interface(self._foot.address), offer, url)
        except Exception:  # one packet must never end the service of a network
            log.exception("A DHCP request of %s could not be answered", request.mac)
            return
        if reply is not None:
            with suppress(OSError):  # nobody is there any more; who is still there asks again
                link.send(self._dhcp, self._foot.interface, reply)


def _host(foot: Foot) -> str:
    return foot.address.partition("/")[0]
