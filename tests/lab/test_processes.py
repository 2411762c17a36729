"""Processes: found by what they are, ended without hitting another."""

import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from bmi.lab import processes


def _await_command_line(process: subprocess.Popen[bytes], program: str) -> None:
    """A process that has just begun still has no command line, or its parent's."""
    while not processes.command_line(process.pid).startswith(program):
        time.sleep(0.001)


@pytest.fixture
def sleeper() -> Iterator[subprocess.Popen[bytes]]:
    with subprocess.Popen(["sleep", "60.0625"]) as made:
        _await_command_line(made, "sleep")
        yield made
        made.kill()


def test_a_process_is_found_by_its_file_and_its_command_line(
    tmp_path: Path, sleeper: subprocess.Popen[bytes]
) -> None:
    pid_file = tmp_path / "pid"
    assert processes.running(pid_file, "60.0625") is None
    pid_file.write_text(str(sleeper.pid))
    assert processes.running(pid_file, "60.0625") == sleeper.pid
    assert processes.running(pid_file, "somebody else") is None
    pid_file.write_text("")
    assert processes.running(pid_file, "60.0625") is None


def test_only_the_process_meant_is_ended(tmp_path: Path, sleeper: subprocess.Popen[bytes]) -> None:
    processes.end(sleeper.pid, "somebody else")
    assert sleeper.poll() is None
    processes.end(sleeper.pid, "60.0625")
    assert sleeper.wait(5) == -9
    processes.end(sleeper.pid, "60.0625")


def test_processes_that_mention_a_path_are_found(tmp_path: Path) -> None:
    with subprocess.Popen(["tail", "-f", "/dev/null", str(tmp_path)]) as exact:
        with subprocess.Popen(["tail", "-f", "/dev/null", f"{tmp_path}-other"]) as other:
            _await_command_line(exact, "tail")
            _await_command_line(other, "tail")
            assert processes.mentioning(tmp_path) == [exact.pid]
            other.kill()
        exact.kill()
