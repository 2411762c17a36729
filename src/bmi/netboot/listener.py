"""The TCP side of one network's HTTP: uvicorn's HTTP/1.1, with which neither many nor slow clients use us up."""

import asyncio
import socket
from collections import Counter

import uvicorn
from starlette.types import ASGIApp
from uvicorn.protocols.http.h11_impl import H11Protocol
from uvicorn.server import ServerState

MAX_CONNECTIONS = 512
_REQUEST_S = 15
_IDLE_CONNECTION_S = 15
_STALLED_CLIENT_MS = 60_000
_MAX_HEADER_BYTES = 8192
_BACKLOG = 512


class HttpListener:
    """Serves an application on a socket. In place of `uvicorn.Server`, which wakes up ten times a second:
    not much, but there is one of us on every network.
    """

    def __init__(self, app: ASGIApp, listener: socket.socket) -> None:
        # Accepted connections inherit it: a client that takes no bytes for so long is gone, or up to no good.
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, _STALLED_CLIENT_MS)
        self._socket = listener
        self._state = ServerState()
        self._server: asyncio.Server | None = None
        self._config = uvicorn.Config(
            app,
            http=_BoundedConnection,
            ws="none",
            log_config=None,
            proxy_headers=False,
            server_header=False,
            h11_max_incomplete_event_size=_MAX_HEADER_BYTES,
            timeout_keep_alive=_IDLE_CONNECTION_S,
        )

    async def start(self) -> None:
        """Begins to serve, on the running event loop."""
        self._server = await asyncio.get_running_loop().create_server(
            lambda: _BoundedConnection(self._config, self._state, {}), sock=self._socket, backlog=_BACKLOG
        )

    def stop(self) -> None:
        """Closes the socket and all connections; who was cut off asks again."""
        if self._server is not None:
            self._server.close()
        for connection in list(self._state.connections):
            connection.transport.abort()


class _BoundedConnection(H11Protocol):
    """One of at most MAX_CONNECTIONS; a request must be complete within `_REQUEST_S` of its beginning.

    uvicorn itself waits for ever for the first byte of a connection and for the last one of a request.
    """

    _deadline: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as in the base
        super().connection_made(transport)
        self.access_log = False  # whatever the process logs elsewhere: paths here hold tokens
        self._deadline = self.loop.call_later(_REQUEST_S, transport.abort)
        if len(self.connections) > MAX_CONNECTIONS:
            self._one_too_many().transport.abort()

    def _one_too_many(self) -> "_BoundedConnection":
        """A connection of the address that has most of them: a flood hits its author. This one, if that is as good."""
        ours = [self, *(one for one in self.connections if isinstance(one, _BoundedConnection))]
        held = Counter(one.address for one in ours)
        return max(ours, key=lambda one: held[one.address])

    @property
    def address(self) -> str:
        return self.client[0] if self.client else ""

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        incomplete = self.cycle is None or self.cycle.more_body or self.cycle.response_complete
        if not incomplete:
            self._forget_deadline()
        elif self._deadline is None:
            self._deadline = self.loop.call_later(_REQUEST_S, self.transport.abort)

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        self._forget_deadline()

    def _forget_deadline(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None
