"""A small web service over real HTTP that can be away or slow when told to."""

import json
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit


@dataclass(frozen=True)
class Request:
    method: str
    path: str
    query: dict[str, str]
    authorization: str
    content_type: str
    body: bytes


@dataclass(frozen=True)
class Answer:
    status: int = 200
    body: str = ""
    headers: dict[str, str] = field(default_factory=dict)


class Service:
    """Answers requests one after the other until `close`. HTTP/1.0: no connection outlives its request."""

    def __init__(self, answer: Callable[[Request], Answer]) -> None:
        self._answer = answer
        self._lock = threading.Lock()
        self._open = threading.Event()
        self._open.set()
        self.slow_s = 0.0
        self.requests: list[str] = []
        self._port = 0
        self._server: ThreadingHTTPServer | None = None
        self.come_back()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._port}"

    def come_back(self) -> None:
        """Listens (again, where it did before)."""
        service = self

        class Handler(BaseHTTPRequestHandler):
            def _handle(self) -> None:
                service._handle(self)

            do_GET = do_PUT = do_POST = do_DELETE = do_PATCH = _handle  # noqa: N815  # http.server's names

            def log_message(self, *_: Any) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", self._port), Handler)
        self._server.daemon_threads = True
        self._port = self._server.server_address[1]
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.01,), daemon=True)
        self._thread.start()

    def go_away(self) -> None:
        """Refuses connections from now on."""
        if self._server:
            self._server.shutdown()
            self._thread.join()
            self._server.server_close()
            self._server = None

    def close(self) -> None:
        self._open.clear()
        self.go_away()

    def _handle(self, handler: BaseHTTPRequestHandler) -> None:
        ends_at = time.monotonic() + self.slow_s
        while self._open.is_set() and time.monotonic() < ends_at:
            time.sleep(0.01)
        url = urlsplit(handler.path)
        request = Request(
            method=handler.command,
            path=unquote(url.path),
            query={name: values[0] for name, values in parse_qs(url.query).items()},
            authorization=handler.headers.get("Authorization", ""),
            content_type=handler.headers.get("Content-Type", ""),
            body=handler.rfile.read(int(handler.headers.get("Content-Length", 0))),
        )
        with self._lock:
            self.requests.append(f"{request.method} {request.path}")
            answer = self._answer(request)
        try:
            handler.send_response(answer.status)
            for name, value in answer.headers.items():
                handler.send_header(name, value)
            handler.send_header("Content-Length", str(len(answer.body.encode())))
            handler.end_headers()
            handler.wfile.write(answer.body.encode())
        except OSError:
            pass  # a client that has lost its patience


def as_json(value: object) -> str:
    return json.dumps(value)
