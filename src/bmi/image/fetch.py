"""Downloading an image: streamed to a file, checked on the way, resumed where a connection broke."""

import errno
import hashlib
import http.client
import json
import os
import re
import shutil
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from io import FileIO
from pathlib import Path
from urllib.parse import SplitResult, quote, urljoin

from bmi.errors import (
    BmiError,
    DriverError,
    InsufficientSpaceError,
    InvalidImageError,
    TimedOutError,
    TooLargeError,
)
from bmi.image.addresses import Network, check_url, port_of, resolve, shown

_PIECE_BYTES = 1 << 20
_MAX_REDIRECTS = 5
_REDIRECTS = {301, 302, 303, 307, 308}
_MAY_PASS = {408, 425, 429, 500, 502, 503, 504}
# A connection that brought less before it broke, so often one after the other, is given up.
_PROGRESS_BYTES = 1 << 20
_MAX_BREAKS = 4
_FIRST_PAUSE_S = 0.5
_MIN_BYTES_PER_S = 1024
_PROGRESS_EVERY_S = 0.5
_CONTENT_RANGE = re.compile(r"bytes (?:(\d+)-\d+|\*)/(\d+|\*)")
_MARK = "user.bmi.download"  # extended attribute: what the beginning of a file is the beginning of
_URL_SAFE = "/%:@!$&'()*+,;=~?"
_BROKEN = (OSError, http.client.HTTPException)


@dataclass(frozen=True)
class FetchRules:
    """What a download may do and take. `allowed_networks` adds to the public addresses; `ca_file` to the
    system's certificates. At least `keep_free_bytes` stay free where the file is written.
    """

    max_bytes: int
    allow_http: bool = False
    allowed_networks: tuple[Network, ...] = ()
    timeout_s: float = 6 * 3600
    connect_timeout_s: float = 10
    stall_timeout_s: float = 60
    ca_file: Path | None = None
    keep_free_bytes: int = 1 << 30


@dataclass(frozen=True)
class Fetched:
    """A file that was downloaded whole."""

    size_bytes: int
    sha256: str


Progress = Callable[[int, int | None], None]  # bytes there, bytes in all if known


class _BrokenError(Exception):
    """The connection ended too early, or never came about; what is there can be gone on from."""


def fetch(
    url: str,
    target: Path,
    rules: FetchRules,
    *,
    sha256: str = "",
    progress: Progress = lambda _there, _total: None,
) -> Fetched:
    """Downloads `url` to `target`, going on with what an earlier call for the same URL left there.

    Raises InvalidInputError and ForbiddenError for a URL that may not be asked, TooLargeError,
    InsufficientSpaceError, InvalidImageError when the bytes are not those of `sha256`, DriverError and
    TimedOutError when the server does not deliver. After an error that is retryable `target` is kept and a
    later call goes on from there; after any other it is gone. What `progress` raises is passed on.
    """
    check_url(url, allow_http=rules.allow_http)
    download = _Download(url, rules, progress)
    try:
        with _opened(target) as file:
            download.run(file)
        if sha256 and download.digest.hexdigest() != sha256.lower():
            raise InvalidImageError(
                f"The file of the URL has the SHA-256 {download.digest.hexdigest()}, not {sha256.lower()}.",
                remedy="Check the sum; if it is right, somebody changed the file or its server.",
            )
    except BmiError as error:
        if not error.retryable:
            target.unlink(missing_ok=True)
        raise
    return Fetched(download.size, download.digest.hexdigest())


class _Download:
    """One file on its way: what is there of it, and of what it is the beginning."""

    def __init__(self, url: str, rules: FetchRules, progress: Progress) -> None:
        self._url, self._rules, self._progress = url, rules, progress
        self._deadline = time.monotonic() + rules.timeout_s
        self._tls = ssl.create_default_context()
        # A connection that is cut must not pass for one that ended, where no length was said.
        self._tls.options &= ~ssl.OP_IGNORE_UNEXPECTED_EOF
        if rules.ca_file:
            self._tls.load_verify_locations(rules.ca_file)
        self._validator = ""
        self._told_at = 0.0
        self.size = 0
        self.digest = hashlib.sha256()

    def run(self, file: FileIO) -> None:
        """Downloads what is missing, over as many connections as it takes."""
        self._resume(file)
        breaks = farthest = 0
        while True:
            try:
                with self._answer() as response:
                    self._receive(response, file)
                return
            except (*_BROKEN, _BrokenError) as error:
                breaks = 1 if self.size >= farthest + _PROGRESS_BYTES else breaks + 1
                farthest = max(farthest, self.size)
                reason = f"{error or type(error).__name__}".rstrip(".")
                if isinstance(error, ssl.SSLCertVerificationError):
                    raise DriverError(
                        f"The certificate of the URL's host is not trusted: {error.verify_message}.",
                        retryable=False,
                        remedy="Use a host with a valid certificate, or add its authority to this machine's "
                        "(update-ca-certificates).",
                    ) from error
                if breaks >= _MAX_BREAKS:
                    raise DriverError(f"The download broke off {breaks} times: {reason}.") from error
            self._require_time()
            time.sleep(_FIRST_PAUSE_S * 4 ** (breaks - 1))

    def _resume(self, file: FileIO) -> None:
        """Takes over what an earlier call left, if it can be known to be whole to its end."""
        try:
            mark = json.loads(os.getxattr(file.fileno(), _MARK))
        except (OSError, ValueError):
            mark = {}
        if mark.get("url") == _digest_of(self._url) and mark.get("boot") == _boot_id():
            self._validator = mark.get("validator", "")
        if not self._validator:
            self._start_over(file, "")
            return
        while piece := file.read(_PIECE_BYTES):
            self.digest.update(piece)
            self.size += len(piece)

    def _start_over(self, file: FileIO, validator: str) -> None:
        file.seek(0)
        file.truncate()
        self.size, self.digest, self._validator = 0, hashlib.sha256(), validator
        mark = {"url": _digest_of(self._url), "boot": _boot_id(), "validator": validator}
        with suppress(OSError):  # a file system without attributes; then only this call can go on
            os.setxattr(file.fileno(), _MARK, json.dumps(mark).encode())

    @contextmanager
    def _answer(self) -> Iterator[http.client.HTTPResponse]:
        """The server's answer, after all redirects."""
        url = self._url
        for _ in range(_MAX_REDIRECTS + 1):
            parts = check_url(url, allow_http=self._rules.allow_http)
            sock, response = self._ask(parts)
            with closing(sock), closing(response), _alarm(sock, self._left()):
                if response.status not in _REDIRECTS:
                    self._require_good(parts, response.status)
                    yield response
                    return
                location = response.getheader("Location", "").encode("latin-1")  # as http.client read it
                url = urljoin(url, quote(location, safe=_URL_SAFE))
        raise DriverError(f"The URL redirects more than {_MAX_REDIRECTS} times.", retryable=False)

    def _ask(self, parts: SplitResult) -> tuple[socket.socket, http.client.HTTPResponse]:
        connection = http.client.HTTPConnection(parts.hostname or "", port_of(parts))
        headers = {
            "Host": parts.netloc,
            "User-Agent": "bmi",
            "Accept-Encoding": "identity",
            "Connection": "close",
        }
        if self.size and self._validator:
            headers |= {"Range": f"bytes={self.size}-", "If-Range": self._validator}
        sock = self._connect(parts)
        try:
            with _alarm(sock, self._rules.stall_timeout_s):  # it may send its headers ever so slowly
                if isinstance(sock, ssl.SSLSocket):
                    sock.do_handshake()
                connection.sock = sock
                query = f"?{parts.query}" if parts.query else ""
                connection.request("GET", (parts.path or "/") + query, headers=headers)
                return sock, connection.getresponse()
        except BaseException:
            sock.close()
            raise

    def _connect(self, parts: SplitResult) -> socket.socket:
        """A connection to one of the very addresses that were checked; a second look-up could say another."""
        failure: OSError = OSError("no address")
        for address in resolve(parts, self._rules.allowed_networks):
            try:
                sock = socket.create_connection((address, port_of(parts)), self._rules.connect_timeout_s)
            except OSError as error:
                failure = error
                continue
            sock.settimeout(min(self._rules.stall_timeout_s, self._left()))
            if parts.scheme == "http":
                return sock
            return self._tls.wrap_socket(
                sock,
                server_hostname=parts.hostname,
                do_handshake_on_connect=False,
                suppress_ragged_eofs=False,
            )
        raise failure

    def _require_good(self, parts: SplitResult, status: int) -> None:
        if status in _MAY_PASS:
            raise _BrokenError(f"{shown(parts)} answered {status}")
        if status not in {200, 206, 416}:
            raise DriverError(
                f"{shown(parts)} answered {status} ({http.client.responses.get(status, 'unknown')}).",
                retryable=False,
                remedy="Check the URL.",
            )

    def _receive(self, response: http.client.HTTPResponse, file: FileIO) -> None:
        total = self._begin(response, file)
        if total is not None:
            self._require_fits(total, file)
        window_at, window_size = time.monotonic(), self.size
        while total is None or self.size < total:
            piece = response.read1(_PIECE_BYTES)
            if not piece:
                break
            self.size += len(piece)
            if self.size > self._rules.max_bytes:
                raise _too_large(self.size, self._rules.max_bytes)
            _save(file, piece)
            self.digest.update(piece)
            self._tell(total)
            self._require_time()
            if (now := time.monotonic()) - window_at > self._rules.stall_timeout_s:
                if self.size - window_size < _MIN_BYTES_PER_S * (now - window_at):
                    raise _BrokenError("the server sends too slowly")
                self._require_fits(total or self.size, file)
                window_at, window_size = now, self.size
        if total is not None and self.size != total:
            raise _BrokenError(f"the connection ended after {self.size} of {total} bytes")
        self._tell(total, at_last=True)

    def _begin(self, response: http.client.HTTPResponse, file: FileIO) -> int | None:
        """Makes the file end where the answer's bytes begin; returns the whole's size, None if unknown."""
        length = response.length if not response.chunked else None
        if response.status == 200:
            self._start_over(file, _validator_of(response))
            return length
        matched = _CONTENT_RANGE.fullmatch(response.getheader("Content-Range", ""))
        start, whole = (matched[1], matched[2]) if matched else (None, "*")
        total = None if whole == "*" else int(whole)
        if response.status == 416 and total == self.size:  # all of it is there
            return total
        if response.status == 416 or start != str(self.size) or not self._still(response):
            self._start_over(file, "")
            raise _BrokenError("the server does not give the rest of what it gave before")
        file.seek(self.size)
        return total if total is not None or length is None else self.size + length

    def _still(self, response: http.client.HTTPResponse) -> bool:
        """Whether a part is one of the same file; a server may ignore If-Range."""
        return _validator_of(response) in {"", self._validator}

    def _require_fits(self, total: int, file: FileIO) -> None:
        if total > self._rules.max_bytes:
            raise _too_large(total, self._rules.max_bytes)
        free_bytes = shutil.disk_usage(file.fileno()).free
        if free_bytes - (total - self.size) < self._rules.keep_free_bytes:
            raise InsufficientSpaceError(
                f"The download needs {total - self.size} bytes, but only {free_bytes} are free, of which "
                f"{self._rules.keep_free_bytes} are kept.",
                remedy="Delete images or snapshots that nobody needs, or enlarge the disk.",
            )

    def _left(self) -> float:
        return max(self._deadline - time.monotonic(), 0.001)

    def _require_time(self) -> None:
        if time.monotonic() > self._deadline:
            raise TimedOutError(f"The download did not end within {self._rules.timeout_s:g} s.")

    def _tell(self, total: int | None, *, at_last: bool = False) -> None:
        now = time.monotonic()
        if at_last or now - self._told_at >= _PROGRESS_EVERY_S:
            self._told_at = now
            self._progress(self.size, total)


@contextmanager
def _opened(target: Path) -> Iterator[FileIO]:
    try:
        handle = os.open(target, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise DriverError(f"{target} cannot be written: {error.strerror}.", retryable=False) from error
    with FileIO(handle, "r+") as file:
        yield file


def _save(file: FileIO, piece: bytes) -> None:
    view = memoryview(piece)
    try:
        while view:
            view = view[file.write(view) :]
    except OSError as error:
        if error.errno == errno.ENOSPC:
            raise InsufficientSpaceError(
                "The disk filled up during the download.",
                remedy="Delete images or snapshots that nobody needs, or enlarge the disk.",
            ) from error
        raise DriverError(f"The download cannot be written: {error.strerror}.", retryable=False) from error


@contextmanager
def _alarm(sock: socket.socket, timeout_s: float) -> Iterator[None]:
    """Ends the connection when the context lasts longer."""
    # Not SSLSocket's own shutdown, which takes the ground from under a thread that is reading.
    timer = threading.Timer(timeout_s, _hang_up, [sock])
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


def _hang_up(sock: socket.socket) -> None:
    with suppress(OSError):
        socket.socket.shutdown(sock, socket.SHUT_RDWR)


def _validator_of(response: http.client.HTTPResponse) -> str:
    """What If-Range can ask for (RFC 9110, 13.1.5): a strong entity tag, or nothing."""
    tag = response.getheader("ETag", "")
    return tag if tag.startswith('"') else ""


def _too_large(size_bytes: int, max_bytes: int) -> TooLargeError:
    return TooLargeError(
        f"The file of the URL has {size_bytes} bytes or more; at most {max_bytes} are accepted.",
        remedy="Compress it, or raise image.max_size_gib.",
    )


def _digest_of(url: str) -> str:
    """Stands for a URL, whose query may be a key."""
    return hashlib.sha256(url.encode()).hexdigest()


def _boot_id() -> str:
    """Changes when the machine starts: what was not yet on the disk then is lost, the file's length is not."""
    return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
