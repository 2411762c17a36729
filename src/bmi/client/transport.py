"""One HTTP conversation with a server: problems become errors, lists are read page by page."""

import ssl
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import Any, BinaryIO, Self, cast
from urllib.parse import quote

import httpx

from bmi.client.documents import Json, Operation
from bmi.errors import BmiError, InvalidInputError, UnavailableError, from_problem

_PAGE_SIZE = 1000
CHUNK_BYTES = 1 << 20
# An upload's answer comes after the server has synced the file to its disk.
_SYNC_TIMEOUT_S = 600


class Transport:
    """What the methods of Client are made of."""

    def __init__(
        self,
        url: str,
        token: str = "",
        *,
        timeout_s: float = 30,
        transport: httpx.BaseTransport | None = None,
    ) -> None:
        self.url = url.rstrip("/")
        if not self.url.startswith(("http://", "https://")):
            raise InvalidInputError(
                "url", f"{url!r} is not an address.", remedy="Write it like http://127.0.0.1:7550."
            )
        self._http = httpx.Client(
            base_url=f"{self.url}/v1",
            headers={"Authorization": f"Bearer {token}"} if token else {},
            timeout=timeout_s,
            transport=transport,
            # The server is on the site's own network: a proxy for the web must not get its tokens.
            trust_env=False,
            # The system's own certificates; and plain HTTP need not wait until they are read.
            verify=ssl.create_default_context() if self.url.startswith("https:") else False,
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, _kind: type[BaseException] | None, _error: BaseException | None, _trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Closes the connections."""
        self._http.close()

    def _get(self, path: str, **query: str | int | None) -> Any:
        return self._answer(lambda: self._http.get(path, params=_given(query)), again=True)

    def _list(self, path: str, limit: int | None = None, **query: str | None) -> list[Any]:
        """All items, page by page, or the first `limit`."""
        items: list[Any] = []
        after: str | None = None
        while True:
            size = _PAGE_SIZE if limit is None else min(_PAGE_SIZE, limit - len(items))
            page = self._get(path, after=after, limit=size, **query)
            items += page["items"]
            after = page["next"]
            if after is None or (limit is not None and len(items) >= limit):
                return items

    def _call(self, method: str, path: str, body: Json | None = None, **query: str | None) -> Any:
        given = _given(query)
        return self._answer(lambda: self._http.request(method, path, json=body, params=given), again=False)

    def _call_once(self, method: str, path: str, body: Json | None = None, **query: str | None) -> Any:
        """With an Idempotency-Key: however often it is sent, it is done once."""
        key, given = uuid.uuid4().hex, _given(query)
        return self._answer(
            lambda: self._http.request(
                method, path, json=body, params=given, headers={"Idempotency-Key": key}
            ),
            again=True,
        )

    def _operate(self, method: str, path: str, body: Json | None = None, **query: str | None) -> Operation:
        return cast("Operation", self._call_once(method, path, body, **query))

    @property
    def _sync_timeout(self) -> httpx.Timeout:
        return httpx.Timeout(**self._http.timeout.as_dict() | {"read": _SYNC_TIMEOUT_S})

    @contextmanager
    def _streamed(self, method: str, path: str, **more: Any) -> Iterator[httpx.Response]:
        """An answer whose body is read as it comes. Raises as `_answer` does, while it is read as well."""
        with self._reached(), self._http.stream(method, path, **more) as response:
            if not response.is_success:
                response.read()
                raise _error_of(response)
            yield response

    def _answer(self, send: Callable[[], httpx.Response], *, again: bool) -> Any:
        """What the server says; a request that may be repeated is sent once more if the connection breaks."""
        response = self._answered(send, again=again)
        return response.json() if response.content else None

    def _answered(self, send: Callable[[], httpx.Response], *, again: bool) -> httpx.Response:
        with self._reached():
            try:
                response = send()
            except (httpx.NetworkError, httpx.RemoteProtocolError):
                if not again:
                    raise
                response = send()
        if response.is_success:
            return response
        raise _error_of(response)

    @contextmanager
    def _reached(self) -> Iterator[None]:
        """Turns what goes wrong on the way into an error of ours."""
        try:
            yield
        except httpx.TimeoutException as error:
            raise UnavailableError(
                f"{self.url} does not answer in time.", remedy="Look at the server's log, then try again."
            ) from error
        except (httpx.TransportError, httpx.InvalidURL) as error:
            raise UnavailableError(
                f"{self.url} cannot be reached ({error}).",
                remedy="Start the server (bmi server run), or say where it is: --url or BMI_URL.",
            ) from error


def _error_of(response: httpx.Response) -> BmiError:
    try:
        document = response.json()
    except ValueError:
        document = None
    if isinstance(document, dict) and "type" in document:
        return from_problem(document)
    return UnavailableError(
        f"{response.url.host} answered {response.status_code} and does not seem to be a BMI server.",
        remedy="Check --url or BMI_URL.",
    )


def path(*parts: str) -> str:
    """A path of these parts, whatever a person typed as a name."""
    return "".join(f"/{quote(part, safe='')}" for part in parts)


def _given(query: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in query.items() if value is not None}


def read_chunks(file: BinaryIO, length: int) -> Iterator[tuple[int, bytes]]:
    """The next `length` bytes of a file, each chunk with the number of bytes up to its end."""
    sent = 0
    while sent < length and (chunk := file.read(min(CHUNK_BYTES, length - sent))):
        sent += len(chunk)
        yield sent, chunk
