"""A program that listens where it does not live."""

import errno
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from bmi.drivers.export.doorkeeper import Doorkeeper
from tests.drivers.export.iscsi import ADDRESS, namespace

pytestmark = pytest.mark.real

PORT = 3260
PROGRAM = f"""
import errno, os, socket, sys
taken = socket.socket(socket.AF_UNIX)
taken.bind("unix")
doors = []
for command in iter(sys.stdin.readline, ""):
    door = socket.socket()
    try:
        door.bind(({ADDRESS!r}, int(command)))
        door.listen()
        doors.append(door)
        print("listens", door.getsockname()[1], flush=True)
    except OSError as error:
        print(errno.errorcode[error.errno], flush=True)
"""


class Program:
    """The program and its two pipes: it reads what port to bind, and writes what came of it."""

    def __init__(self, keeper: Doorkeeper, directory: Path) -> None:
        commands, answers = directory / "commands", directory / "answers"
        os.mkfifo(commands)
        with answers.open("wb") as log:
            script = ["sh", "-c", 'exec "$0" -c "$1" < commands', sys.executable, PROGRAM]
            keeper.spawn(script, cwd=directory, env={"PATH": os.environ["PATH"]}, log=log.fileno())
        self._commands = commands.open("w")
        self._answers = answers.open()

    def bind(self, port: int) -> str:
        print(port, file=self._commands, flush=True)
        deadline = time.monotonic() + 20
        while not (line := self._answers.readline()):
            assert time.monotonic() < deadline
            time.sleep(0.01)
        return line.strip()

    def end(self) -> None:
        self._commands.close()
        self._answers.close()


@pytest.fixture
def netns() -> Iterator[str]:
    with namespace() as made:
        yield made


@pytest.fixture
def keeper(netns: str) -> Iterator[Doorkeeper]:
    made = Doorkeeper(Path("/run/netns", netns))
    yield made
    made.close()


@pytest.fixture
def program(keeper: Doorkeeper, tmp_path: Path) -> Iterator[Program]:
    made = Program(keeper, tmp_path)
    yield made
    made.end()


def _listeners(netns: str) -> list[str]:
    inside = ["nsenter", f"--net=/run/netns/{netns}", "--", "ss", "-Htln"]
    shown = subprocess.run(inside, capture_output=True, text=True, check=True).stdout
    return [line.split()[3] for line in shown.splitlines()]


def test_it_listens_in_the_namespace_and_nowhere_else(program: Program, netns: str) -> None:
    assert program.bind(PORT) == f"listens {PORT}"
    assert _listeners(netns) == [f"{ADDRESS}:{PORT}"]
    with socket.socket() as probe, pytest.raises(OSError, match="assign"):
        probe.bind((ADDRESS, 0))  # the address is not this namespace's at all


def test_what_the_kernel_refuses_is_refused(program: Program) -> None:
    assert program.bind(PORT) == f"listens {PORT}"
    assert program.bind(PORT) == errno.errorcode[errno.EADDRINUSE]
    assert program.bind(PORT + 1) == f"listens {PORT + 1}"


def test_left_alone_it_goes_on_and_binds_no_more(program: Program, keeper: Doorkeeper, netns: str) -> None:
    program.bind(PORT)
    keeper.close()
    assert program.bind(PORT + 1) == errno.errorcode[errno.ENOSYS]
    assert _listeners(netns) == [f"{ADDRESS}:{PORT}"]


def test_a_program_that_does_not_exist_harms_nobody(keeper: Doorkeeper, tmp_path: Path) -> None:
    with (tmp_path / "log").open("w+b") as log:
        keeper.spawn(["/no/such/program"], cwd=tmp_path, env={}, log=log.fileno())
    keeper.close()
    keeper.close()
