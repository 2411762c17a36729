"""A small Redfish service on loopback that can be told to misbehave."""

import json
import socket
import ssl
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

Reply = tuple[int, Any]


@dataclass
class Service:
    """`replies` maps "METHOD path" to (status, document) or to a list of them, used up one by one but for
    the last; a document that is no JSON value but bytes is sent as it is.
    """

    url: str = ""
    replies: Mapping[str, Reply | list[Reply]] = field(default_factory=dict)
    requests: list[str] = field(default_factory=list)
    bodies: list[Any] = field(default_factory=list)

    def reply(self, request: str) -> Reply:
        self.requests.append(request)
        planned = self.replies.get(request, (404, {"error": {"message": "nothing here"}}))
        if isinstance(planned, list):
            return planned.pop(0) if len(planned) > 1 else planned[0]
        return planned


def system(power: str = "Off", **more: Any) -> dict[str, Any]:
    """A system document as small as one may be."""
    return {
        "@odata.id": "/redfish/v1/Systems/1",
        "Id": "1",
        "Name": "System",
        "Manufacturer": "Contoso",
        "Model": "3500",
        "PowerState": power,
        "Boot": {
            "BootSourceOverrideTarget": "None",
            "BootSourceOverrideEnabled": "Disabled",
            "BootSourceOverrideTarget@Redfish.AllowableValues": ["None", "Pxe", "Hdd"],
        },
        "Actions": {
            "#ComputerSystem.Reset": {
                "target": "/redfish/v1/Systems/1/Actions/ComputerSystem.Reset",
                "ResetType@Redfish.AllowableValues": ["On", "ForceOff", "ForceRestart"],
            }
        },
    } | more


@contextmanager
def serving(
    replies: Mapping[str, Reply | list[Reply]], tls: ssl.SSLContext | None = None, port: int = 0
) -> Iterator[Service]:
    """The service, answering until the end of the block, on any free port or on this one."""
    service = Service(replies=replies)

    class Handler(BaseHTTPRequestHandler):
        def _answer(self) -> None:
            length = int(self.headers.get("Content-Length", 0))
            if length:
                service.bodies.append(json.loads(self.rfile.read(length)))
            status, document = service.reply(f"{self.command} {self.path}")
            body = document if isinstance(document, bytes) else json.dumps(document).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        do_GET = do_POST = do_PATCH = _answer  # noqa: N815  # names that http.server wants

        def log_message(self, *_: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", port), Handler)
    if tls:
        server.socket = tls.wrap_socket(server.socket, server_side=True)
    service.url = f"{'https' if tls else 'http'}://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield service
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@contextmanager
def dripping(at_once: bytes, slowly: bytes, pause_s: float) -> Iterator[str]:
    """The URL of a service that answers its only request byte by byte from some point on."""
    over = threading.Event()

    def answer() -> None:
        connection, _ = listener.accept()
        with connection, suppress(OSError):  # whoever asked may have gone away
            connection.recv(1 << 16)
            connection.sendall(at_once)
            for byte in slowly:
                if over.wait(pause_s):
                    return
                connection.sendall(bytes([byte]))

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=answer)
        thread.start()
        try:
            yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        finally:
            over.set()
            thread.join()
