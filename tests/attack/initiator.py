"""An iSCSI initiator that says what it likes (RFC 7143), to see what a portal makes of it."""

import hashlib
import os
import socket
import struct
from collections.abc import Sequence
from dataclasses import dataclass

_LOGIN, _TEXT = 0x43, 0x04  # the former as an immediate command, as it must be
SECURITY, OPERATIONAL, FULL = 0, 1, 3
OK = (0, 0)
_GONE = (-1, -1)

Keys = Sequence[tuple[str, str]]


@dataclass(frozen=True)
class Answer:
    """Status class and detail of a login (RFC 7143, 11.13.5), and its keys. A connection cut off has status -1."""

    status: tuple[int, int]
    keys: dict[str, list[str]]
    is_full: bool = False  # the full feature phase is reached: the target takes commands

    def one(self, key: str) -> str:
        return (self.keys.get(key) or [""])[0]


class Initiator:
    """One connection. `isid` tells sessions of one initiator name apart."""

    def __init__(self, connection: socket.socket, isid: bytes = b"\x80\0\0\0\0\1") -> None:
        self._socket = connection
        self._isid = isid
        self._tasks = 0

    def login(self, keys: Keys, *, stage: int = SECURITY, next_stage: int = OPERATIONAL) -> Answer:
        """One login request that asks for the next stage."""
        flags = 0x80 | stage << 2 | next_stage
        head = struct.pack("!BBBB", _LOGIN, flags, 0, 0)
        return self._exchange(head, self._isid + b"\0\0", bytes(4), keys)

    def log_in(
        self,
        initiator: str,
        iqn: str,
        user: str,
        secret: str,
        *,
        challenge: bytes = b"",
        answer_with: str = "",
    ) -> Answer:
        """A whole login with CHAP; with `challenge` the target has to answer one, too. `answer_with` is sent in place
        of the right answer.
        """
        names = [("InitiatorName", initiator), ("TargetName", iqn), ("SessionType", "Normal")]
        said = self.login([*names, ("AuthMethod", "CHAP")])
        if said.status != OK:
            return said
        said = self.login([("CHAP_A", "5")])
        if said.status != OK or not said.one("CHAP_C"):
            return said
        number, asked = int(said.one("CHAP_I")), bytes.fromhex(said.one("CHAP_C")[2:])
        right = "0x" + hashlib.md5(bytes([number]) + secret.encode() + asked).hexdigest()
        keys = [("CHAP_N", user), ("CHAP_R", answer_with or right)]
        if challenge:
            keys += [("CHAP_I", "7"), ("CHAP_C", "0x" + challenge.hex())]
        said = self.login(keys)
        if said.status != OK or challenge:
            return said
        return self.finish()

    def finish(self) -> Answer:
        """The rest of a login that is past security; the target may want to say something about parameters first."""
        for _ in range(3):
            said = self.login([], stage=OPERATIONAL, next_stage=FULL)
            if said.status != OK or said.is_full:
                break
        return said

    def discover(self, initiator: str, wanted: str = "All") -> list[str]:
        """The targets that a discovery session lists."""
        names = [("InitiatorName", initiator), ("SessionType", "Discovery")]
        if self.login([*names, ("AuthMethod", "None")], next_stage=FULL).status != OK:
            return []
        head = struct.pack("!BBBB", _TEXT, 0x80, 0, 0)
        said = self._exchange(head, bytes(8), b"\xff" * 4, [("SendTargets", wanted)])
        return said.keys.get("TargetName", [])

    @property
    def alive(self) -> bool:
        """Whether the portal keeps the connection."""
        self._socket.settimeout(0.05)
        try:
            return self._socket.recv(1) != b""
        except TimeoutError:
            return True
        except OSError:
            return False

    def _exchange(self, head: bytes, session: bytes, transfer: bytes, keys: Keys) -> Answer:
        text = b"".join(f"{key}={value}".encode() + b"\0" for key, value in keys)
        self._tasks += 1
        task = struct.pack("!I", self._tasks)
        connection = transfer if head[0] == _TEXT else bytes(4)
        pdu = (
            head
            + struct.pack("!I", len(text))
            + session
            + task
            + connection
            + struct.pack("!II", 1, 1)
            + bytes(16)
        )
        try:
            self._socket.sendall(pdu + text + bytes(-len(text) % 4))
            said = self._read(48)
            body = self._read(int.from_bytes(said[5:8]) + 3 & ~3)
        except OSError:
            return Answer(_GONE, {})
        found: dict[str, list[str]] = {}
        for pair in body.rstrip(b"\0").split(b"\0"):
            key, _, value = pair.decode("utf-8", "replace").partition("=")
            found.setdefault(key, []).append(value)
        if head[0] != _LOGIN:
            return Answer(OK, found)
        return Answer((said[36], said[37]), found, is_full=said[1] & 0x83 == 0x83)

    def _read(self, count: int) -> bytes:
        read = b""
        while len(read) < count:
            piece = self._socket.recv(count - len(read))
            if not piece:
                raise ConnectionResetError
            read += piece
        return read


def fresh_isid() -> bytes:
    return b"\x80" + os.urandom(5)
