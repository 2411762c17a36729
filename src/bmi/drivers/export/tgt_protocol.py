"""The wire format of tgtd's management socket: one request, one answer, one connection (usr/tgtadm.h of tgt 1.0).

Speaking it directly costs a tenth of a `tgtadm` process and keeps CHAP secrets off every command line.
"""

import os
import socket
import struct
from collections.abc import Collection
from enum import IntEnum
from pathlib import Path

from bmi.errors import DriverError, TimedOutError

# struct tgtadm_req: mode, op, lld, len, tid, sid, lun, cid, host_no, device_type, ac_dir, pack, force.
_REQUEST = struct.Struct("=II64sIiQQIIIIII")
# struct tgtadm_rsp: err, len; `len` counts this header as well.
_ANSWER = struct.Struct("=II")
_DRIVER = b"iscsi"
_MAX_PARAMETERS = 8 * 1024  # MAX_MGT_BUFSIZE in usr/mgmt.c


class Op(IntEnum):
    """enum tgtadm_op"""

    NEW = 0
    DELETE = 1
    SHOW = 2
    BIND = 3
    UNBIND = 4
    UPDATE = 5
    STATS = 6


class Mode(IntEnum):
    """enum tgtadm_mode"""

    SYSTEM = 0
    TARGET = 1
    DEVICE = 2
    PORTAL = 3
    LLD = 4
    SESSION = 5
    CONNECTION = 6
    ACCOUNT = 7


class Code(IntEnum):
    """enum tgtadm_errno: why tgtd refused."""

    SUCCESS = 0
    UNKNOWN_ERROR = 1
    NO_MEMORY = 2
    NO_DRIVER = 3
    NO_TARGET = 4
    NO_LUN = 5
    NO_SESSION = 6
    NO_CONNECTION = 7
    NO_BINDING = 8
    TARGET_EXISTS = 9
    LUN_EXISTS = 10
    BINDING_EXISTS = 11
    ACL_EXISTS = 12
    NO_ACL = 13
    USER_EXISTS = 14
    NO_USER = 15
    TOO_MANY_USERS = 16
    INVALID_REQUEST = 17
    OUTGOING_ACCOUNT_EXISTS = 18
    TARGET_ACTIVE = 19
    LUN_ACTIVE = 20
    DRIVER_ACTIVE = 21
    UNSUPPORTED_OPERATION = 22
    UNKNOWN_PARAMETER = 23
    PREVENT_REMOVAL = 24


class RefusedError(DriverError):
    """tgtd answered, and the answer is no; `reason` says why."""

    def __init__(self, what: str, reason: Code) -> None:
        super().__init__(f"tgtd refused to {what}: {reason.name.lower().replace('_', ' ')}.")
        self.reason = reason


class NotRunningError(DriverError):
    """Nobody answers at the management socket."""


class ManagementSocket:
    """Calls to the tgtd that listens at `path`."""

    def __init__(self, path: Path, *, timeout_s: float) -> None:
        self.path = path
        self._timeout_s = timeout_s

    def call(
        self,
        op: Op,
        mode: Mode,
        parameters: str = "",
        *,
        tid: int = 0,
        sid: int = 0,
        cid: int = 0,
        lun: int = 0,
        outgoing: bool = False,
        tolerate: Collection[Code] = (),
    ) -> str:
        """One request; returns the text of the answer (empty for most).

        Raises RefusedError for any code but success and those in `tolerate`, NotRunningError when
        there is no tgtd, TimedOutError when it does not answer. `parameters` is in no error: it may
        hold a secret. `outgoing` is about an account with which the target proves itself.
        """
        what = f"{op.name.lower()} {mode.name.lower()}"
        payload = parameters.encode() + b"\0" if parameters else b""
        if len(payload) > _MAX_PARAMETERS:
            raise DriverError(f"The parameters to {what} are too long for tgtd.", retryable=False)
        length = _REQUEST.size + len(payload)
        head = _REQUEST.pack(mode, op, _DRIVER, length, tid, sid, lun, cid, 0, 0, int(outgoing), 0, 0)
        try:
            code, text = self._exchange(head + payload)
        except TimeoutError as error:
            raise TimedOutError(
                f"tgtd did not answer within {self._timeout_s:g} s (asked to {what}).",
                remedy="If it stays so, end that tgtd; its targets are then exported again by a new one.",
                socket=str(self.path),
            ) from error
        except (FileNotFoundError, ConnectionError) as error:
            raise NotRunningError(
                f"No tgtd answers at {self.path}.", remedy="It is started again when its portal is ensured."
            ) from error
        if code is not Code.SUCCESS and code not in tolerate:
            raise RefusedError(what, code)
        return text

    def _exchange(self, request: bytes) -> tuple[Code, str]:
        # sun_path holds 107 bytes only; through the directory's descriptor any path will do.
        directory = os.open(self.path.parent, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as peer:
                peer.settimeout(self._timeout_s)
                try:
                    peer.connect(f"/proc/self/fd/{directory}/{self.path.name}")
                except BlockingIOError as error:  # its queue of connections is full
                    raise TimeoutError from error
                peer.sendall(request)
                code, length = _ANSWER.unpack(_read(peer, _ANSWER.size))
                text = _read(peer, length - _ANSWER.size)
                return Code(code), text.rstrip(b"\0").decode(errors="replace")
        finally:
            os.close(directory)


def _read(peer: socket.socket, count: int) -> bytes:
    """Exactly `count` bytes; ConnectionError when tgtd hangs up before."""
    received = bytearray()
    while len(received) < count:
        piece = peer.recv(min(count - len(received), 1 << 20))
        if not piece:
            raise ConnectionResetError
        received += piece
    return bytes(received)
