"""The few words of the QEMU Machine Protocol that a BMC needs."""

import json
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from bmi.errors import DriverError

_TIMEOUT_S = 5


def execute(path: Path, command: str) -> None:
    """Runs one command without arguments on the monitor at `path`. Raises DriverError when QEMU refuses
    it, OSError when it is not there or ends.
    """
    with _connected(path) as (_, stream):
        _ask(stream, command)


def events(path: Path) -> Iterator[dict[str, Any]]:
    """The events of the monitor at `path` as they come, until QEMU ends."""
    with _connected(path) as (connection, stream):
        connection.settimeout(None)
        for line in stream:
            message: dict[str, Any] = json.loads(line)
            if "event" in message:
                yield message


@contextmanager
def _connected(path: Path) -> Iterator[tuple[socket.socket, socket.SocketIO]]:
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(_TIMEOUT_S)
        connection.connect(str(path))
        with connection.makefile("rwb", buffering=0) as stream:
            stream.readline()  # the greeting
            _ask(stream, "qmp_capabilities")
            yield connection, stream


def _ask(stream: socket.SocketIO, command: str) -> None:
    stream.write(json.dumps({"execute": command}).encode())
    while line := stream.readline():
        answer = json.loads(line)
        if "error" in answer:
            raise DriverError(f"QEMU refused {command}: {answer['error']['desc']}")
        if "return" in answer:
            return
    raise ConnectionResetError("QEMU has ended.")
