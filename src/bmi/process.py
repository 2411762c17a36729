"""The one way to run a program: an argument list, no shell, a time limit, captured output."""

import os
import signal
import subprocess
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from bmi.errors import DriverError, TimedOutError

_SHOWN_CHARACTERS = 2000


@dataclass(frozen=True)
class Result:
    """What a program left behind."""

    returncode: int
    stdout: str
    stderr: str


def run(
    command: Sequence[str | Path],
    *,
    timeout_s: float = 30,
    netns: str | None = None,
    stdin: str | None = None,
    env: Mapping[str, str] | None = None,
    ok_codes: Sequence[int] = (0,),
    secret: bool = False,
    name: str = "",
) -> Result:
    """Runs `command` to its end and returns its output.

    `netns` runs it inside that named network namespace; `env` adds to a clean environment (secrets go
    here or through `stdin`, never into `command`); `secret` keeps its output out of the error; `name` is what
    errors call the program when another one only starts it.
    Raises TimedOutError after `timeout_s` (the program is killed) and DriverError for any exit code
    outside `ok_codes` or a program that is not installed (not retryable).
    """
    argv = [str(part) for part in command]
    program = Path(argv[0]).name
    name = name or program
    if netns:
        # nsenter, not `ip netns exec`: the latter also unshares mounts, and daemons would keep a
        # private copy of our store's mount alive for ever.
        argv = ["nsenter", f"--net=/run/netns/{netns}", "--", *argv]
    clean = {"PATH": os.environ.get("PATH", os.defpath), "LC_ALL": "C", "HOME": os.environ.get("HOME", "/")}
    try:
        done = _run(argv, stdin or "", timeout_s, clean | dict(env or {}))
    except FileNotFoundError as error:
        raise DriverError(
            f"The program {program} is not installed.",
            retryable=False,
            remedy=f"Install the package that holds {program} (script/setup installs all of them).",
        ) from error
    except subprocess.TimeoutExpired as error:
        raise TimedOutError(
            f"{name} did not end within {timeout_s:g} s and was stopped.", program=name
        ) from error
    if done.returncode not in ok_codes:
        shown = "" if secret else (done.stderr.strip() or done.stdout.strip())[-_SHOWN_CHARACTERS:]
        raise DriverError(
            f"{name} failed with exit code {done.returncode}{': ' + shown if shown else '.'}",
            program=name,
            returncode=done.returncode,
        )
    return Result(done.returncode, done.stdout, done.stderr)


def _run(
    argv: list[str], stdin: str, timeout_s: float, environment: dict[str, str]
) -> subprocess.CompletedProcess[str]:
    """As subprocess.run, but what the program started is killed with it: a child that holds its output open
    would make us wait for ever.
    """
    with subprocess.Popen(
        argv,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        encoding="utf-8",
        errors="replace",
        env=environment,
        process_group=0,
    ) as program:
        try:
            stdout, stderr = program.communicate(stdin, timeout_s)
        except BaseException:
            with suppress(ProcessLookupError):
                os.killpg(program.pid, signal.SIGKILL)
            raise
    return subprocess.CompletedProcess(argv, program.returncode, stdout, stderr)
