"""Running a program that parses what strangers made: as nobody in particular, seeing nothing but its task.

Bubblewrap (bwrap(1)) gives the program namespaces of its own: no network, no other process, a file system
of /usr read-only, the one file it reads as INPUT and the one file it writes as OUTPUT. It dies with us.
"""

import os
import threading
from collections.abc import Sequence
from pathlib import Path

from bmi.errors import DriverError
from bmi.process import Result, run

INPUT, OUTPUT = "/input", "/output"

_MEMORY_BYTES = 2 << 30
_SHOWN_CHARACTERS = 2000
_SYSTEM = ("usr/lib", "usr/lib64", "usr/bin", "usr/sbin")
# User ids that no system gives away (systemd's UIDS-GIDS: from 1879048192 on), one for each thread there can be.
_FIRST_UID = 0x7000_0000
# With it, root's two files can be opened by another user; nothing else is there that it could open.
_CAPABILITY = "-all,+dac_override"


def confined(
    command: Sequence[str],
    *,
    reads: Path | None = None,
    writes: Path | None = None,
    written_bytes: int = 0,
    memory_bytes: int = _MEMORY_BYTES,
) -> list[str]:
    """The command line that runs `command` confined; what it must open is called INPUT and OUTPUT in it.

    `written_bytes` is the largest size of a file it may write. The program runs with a user id of its own
    where we are root, else with ours. How long it may take is up to the caller, who ends it by killing it.
    """
    view = ["--ro-bind", "/usr", "/usr", "--dev-bind", "/dev/null", "/dev/null"]
    for place in _SYSTEM:
        view += ["--symlink", place, "/" + place.removeprefix("usr/")]
    if reads is not None:
        view += ["--ro-bind", str(reads.absolute()), INPUT]
    if writes is not None:
        view += ["--bind", str(writes.absolute()), OUTPUT]
    view += ["--remount-ro", "/"]  # else its root is a disk in memory
    apart = [f"--unshare-{what}" for what in ("net", "pid", "ipc", "uts")]
    limits = [f"--as={memory_bytes}", f"--fsize={written_bytes}", "--core=0"]
    return [
        *("bwrap", *apart, "--die-with-parent", "--new-session", "--clearenv", "--setenv", "LC_ALL", "C"),
        *("--setenv", "PATH", "/usr/bin:/usr/sbin", *view, "--"),
        *("prlimit", *limits, "--", *_other_user(), *command),
    ]


def run_confined(
    command: Sequence[str],
    *,
    timeout_s: float,
    reads: Path,
    writes: Path | None = None,
    written_bytes: int = 0,
    ok_codes: Sequence[int] = (0,),
) -> Result:
    """Runs `command` confined to its end; errors as `bmi.process.run` raises them."""
    argv = confined(command, reads=reads, writes=writes, written_bytes=written_bytes)
    # Its own failures (1, 127) must not pass for the program's.
    done = run(argv, name=command[0], timeout_s=timeout_s, ok_codes=range(256))
    if done.returncode:
        require_confined(command[0], done.stderr)
    if done.returncode not in ok_codes:
        raise DriverError(
            f"{command[0]} failed with exit code {done.returncode}: {done.stderr.strip()[-_SHOWN_CHARACTERS:]}",
            program=command[0],
            returncode=done.returncode,
        )
    return done


def require_confined(program: str, said: str) -> None:
    """Raises DriverError when `said`, what a failed program left, shows that it was never started."""
    if said.startswith(("bwrap: ", "prlimit: ", "setpriv: ")):
        raise DriverError(
            f"{program} could not be started confined: {said.strip()[-_SHOWN_CHARACTERS:]}",
            retryable=False,
            remedy="Install the package that holds it; bubblewrap needs user namespaces where BMI is not root.",
        )


def _other_user() -> list[str]:
    if os.geteuid() != 0:
        return []
    user = _FIRST_UID + threading.get_native_id()
    capabilities = [f"--{held}={_CAPABILITY}" for held in ("bounding-set", "inh-caps", "ambient-caps")]
    ids = [f"--reuid={user}", f"--regid={user}", "--clear-groups"]
    return ["setpriv", *ids, *capabilities, "--no-new-privs", "--"]
