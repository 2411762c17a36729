"""What surrounds every request: bounded bodies, security headers, and no traceback to anybody."""

from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from bmi.api import problems
from bmi.errors import BmiError, TooLargeError

MAX_BODY_BYTES = 1 << 20
_UPLOADS = "/v1/uploads"

# Answers are data for one caller: nothing may keep, guess at, frame or run them.
_HEADERS = [
    (b"cache-control", b"no-store"),
    (b"content-security-policy", b"default-src 'none'; frame-ancestors 'none'"),
    (b"referrer-policy", b"no-referrer"),
    (b"x-content-type-options", b"nosniff"),
]


class Envelope:
    """ASGI middleware around the whole app."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        begun, whole = False, False

        async def receive_noting_the_end() -> Message:
            nonlocal whole
            message = await receive()
            whole = not message.get("more_body", False)
            return message

        async def send_with_headers(message: Message) -> None:
            nonlocal begun
            if message["type"] == "http.response.start":
                begun = True
                # An answer before the end of a body means that nobody wants the rest of it.
                closing = [] if whole else [(b"connection", b"close")]
                tus = [(b"tus-resumable", b"1.0.0")] if scope["path"].startswith(_UPLOADS) else []
                message["headers"] = [*message.get("headers", ()), *_HEADERS, *closing, *tus]
            await send(message)

        try:
            incoming: Receive = receive_noting_the_end
            if not is_file(scope["method"], scope["path"]):
                incoming = await _read_whole(incoming)
            await self._app(scope, incoming, send_with_headers)
        except ClientDisconnect:
            return
        except Exception as error:
            if begun:
                raise
            problem = error if isinstance(error, BmiError) else problems.defect(error)
            await problems.response_of(problem)(scope, receive, send_with_headers)


def is_file(method: str, path: str) -> bool:
    """Whether the body is a file, or a piece of one, that goes to the disk as it comes."""
    whole = (method, path) == ("POST", "/v1/images")
    return whole or (method == "PATCH" and path.startswith(f"{_UPLOADS}/"))


async def _read_whole(receive: Receive) -> Receive:
    """Reads the body now, so that its size is known to be bearable before anything parses it."""
    parts: list[bytes] = []
    size_bytes = 0
    more = True
    while more:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise ClientDisconnect
        parts.append(message.get("body", b""))
        size_bytes += len(parts[-1])
        more = message.get("more_body", False)
        if size_bytes > MAX_BODY_BYTES:
            raise TooLargeError("The request is larger than 1 MiB.", remedy="Send less.")
    whole: list[Message] = [{"type": "http.request", "body": b"".join(parts), "more_body": False}]

    async def replay() -> Message:
        return whole.pop() if whole else await receive()

    return replay
