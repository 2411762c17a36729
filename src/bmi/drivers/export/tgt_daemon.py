"""One tgtd process: started so that it outlives us, found again, asked, and ended."""

import fcntl
import os
import re
import select
import shutil
import signal
import struct
import subprocess
import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from bmi import process
from bmi.drivers.export import Portal
from bmi.drivers.export.doorkeeper import Doorkeeper
from bmi.drivers.export.hang_up import hang_up
from bmi.drivers.export.tgt_protocol import ManagementSocket, Mode, NotRunningError, Op, RefusedError
from bmi.errors import DriverError, TimedOutError

# tgtd makes <TGT_IPC_SOCKET>.<control port> and <the same>.lock; both names are relative to its home.
_SOCKET_STEM = "control"
_SOCKET = f"{_SOCKET_STEM}.0"
_FLOCK = struct.Struct("hhqqi4x")  # struct flock of fcntl(2) on 64-bit Linux

_TARGET = re.compile(r"^\s+Target (\d+): (\S+)$", re.MULTILINE)
_PORTAL = re.compile(r"^Portal: (\S+),\d+$", re.MULTILINE)

# For the RBD volumes. Nothing that was acknowledged may be in tgtd's memory alone: it can be killed, and its
# nodes go on as if nothing had happened. And it answers nobody while it tries to connect to a cluster.
_CEPH = {"CEPH_ARGS": "--rbd-cache=false --client-mount-timeout=10 --log-file= --admin-socket="}

_NAMES = Path("/run/netns")
_START_S = 10
_DEATH_S = 10


class TgtDaemon:
    """The tgtd of one portal, in the directory `home`.

    Nothing about the process is remembered on our side: the lock that tgtd itself holds on its lock
    file says whether it lives and which pid it has, so a stale pid can never be believed.
    """

    def __init__(self, home: Path, *, timeout_s: float, threads: int = 1) -> None:
        """`threads` are those that tgtd gives to each disk."""
        self.home = home
        self.call = ManagementSocket(home / _SOCKET, timeout_s=timeout_s).call
        self._threads = threads
        self._doorkeeper: Doorkeeper | None = None

    def pid(self) -> int | None:
        """The process that holds tgtd's lock, or None when no tgtd lives in this home."""
        try:
            handle = os.open(self.home / f"{_SOCKET}.lock", os.O_RDWR | os.O_CLOEXEC)
        except FileNotFoundError:
            return None
        try:
            asked = _FLOCK.pack(fcntl.F_WRLCK, os.SEEK_SET, 0, 1, 0)
            kind, _, _, _, holder = _FLOCK.unpack(fcntl.fcntl(handle, fcntl.F_GETLK, asked))
        finally:
            os.close(handle)
        return None if kind == fcntl.F_UNLCK else holder

    def serves(self, portal: Portal) -> bool:
        """Whether it listens on the portal's address in the portal's namespace: one small call."""
        if self.pid() is None or self._listens_in() != _namespace(portal.netns):
            return False
        try:
            return _at(portal.address, portal.port) in self.portals()
        except NotRunningError:
            return False

    def start(self, portal: Portal) -> None:
        """Starts tgtd, listening nowhere yet; without effect on a failure."""
        if not _namespace(portal.netns):
            raise DriverError(
                f"There is no network namespace {portal.netns} for the portal {portal.name}.",
                remedy="It is made when the project's network is ensured.",
            )
        # tgtd that is given no portal opens port 3260 of every address; so it gets a port that nobody
        # knows and loses it again before it has any target.
        self._spawn(portal.netns, _at(portal.address, 0))
        try:
            self._wait_until_it_answers()
            opened = self.portals()
            for place in opened:
                self.call(Op.DELETE, Mode.PORTAL, f"portal={place}")
            if not any(place.startswith(_at(portal.address, "")) for place in opened):
                raise DriverError(
                    f"The iSCSI portal cannot listen on {_place(portal)}: the address is not there.",
                    remedy="It is put there when the project's network is ensured.",
                )
        except BaseException:
            self.end()
            raise

    def listen(self, portal: Portal) -> None:
        """Opens the iSCSI portal. Raises DriverError that names who holds the port."""
        try:
            self.call(Op.NEW, Mode.PORTAL, f"portal={_at(portal.address, portal.port)}")
            # A deleted namespace lives as long as a socket in it, so no other gets its number meanwhile.
            self._namespace_file.write_text(_namespace(portal.netns), encoding="ascii")
        except RefusedError as error:
            raise DriverError(
                f"The iSCSI portal cannot listen on {_place(portal)}: {_listeners(portal)} listens there already.",
                remedy="Stop that program, or give BMI another port ([export] port).",
            ) from error
        finally:
            self._dismiss()

    def end(self) -> None:
        """Ends the process, if any, and waits until its sockets are closed.

        SIGKILL is the only signal tgtd obeys; what it has acknowledged is in the page cache already.
        """
        self._dismiss()
        with self._process() as handle:
            if handle is None:
                return
            with suppress(ProcessLookupError):
                signal.pidfd_send_signal(handle, signal.SIGKILL)
            poller = select.poll()
            poller.register(handle, select.POLLIN)
            if not poller.poll(_DEATH_S * 1000):
                raise TimedOutError(f"tgtd of {self.home.name} did not end within {_DEATH_S} s of SIGKILL.")

    def hang_up(self, peers: Collection[str]) -> None:
        """Closes its connections with these addresses. tgtd closes one only when something happens to it, which
        is never when the node was turned off with answers on their way to it. Where we may not, it is left to tgtd.
        """
        with self._process() as handle, suppress(OSError):
            if handle is not None:
                hang_up(handle, peers)

    @contextmanager
    def _process(self) -> Iterator[int | None]:
        """The process as a pidfd, if there is one: its number may be somebody else's the next moment."""
        pid = self.pid()
        with ExitStack() as opened:
            handle = None
            if pid is not None:
                with suppress(ProcessLookupError):
                    handle = os.pidfd_open(pid)
                    opened.callback(os.close, handle)
            yield handle if self.pid() == pid else None

    def portals(self) -> Sequence[str]:
        """Where it listens, as `address:port`."""
        return _PORTAL.findall(self.call(Op.SHOW, Mode.PORTAL))

    def targets(self) -> Mapping[str, int]:
        """Target ids by IQN: one call, about 60 bytes a target (unlike the show of all targets)."""
        return {iqn: int(tid) for tid, iqn in _TARGET.findall(self.call(Op.SHOW, Mode.LLD))}

    def _spawn(self, netns: str | None, at: str) -> None:
        if shutil.which("tgtd") is None:
            raise DriverError(
                "The program tgtd is not installed.",
                retryable=False,
                remedy="Install the package tgt (script/setup does).",
            )
        command = ["tgtd", "--foreground", "-t", str(self._threads), "--iscsi", f"portal={at}"]
        env = {"PATH": os.environ.get("PATH", os.defpath), "TGT_IPC_SOCKET": _SOCKET_STEM, **_CEPH}
        log = os.open(self.home / "tgtd.log", os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        try:
            if netns:
                self._doorkeeper = Doorkeeper(_NAMES / netns)
                self._doorkeeper.spawn(command, cwd=self.home, env=env, log=log)
                return
            # setsid --fork ends at once and leaves tgtd to init: it is nobody's zombie when it dies.
            subprocess.run(
                ["setsid", "--fork", *command],
                cwd=self.home,
                env=env,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                check=True,
                timeout=_START_S,
            )
        finally:
            os.close(log)

    def _dismiss(self) -> None:
        if self._doorkeeper is not None:
            self._doorkeeper.close()
            self._doorkeeper = None

    @property
    def _namespace_file(self) -> Path:
        return self.home / "namespace"

    def _listens_in(self) -> str:
        with suppress(FileNotFoundError):
            return self._namespace_file.read_text(encoding="ascii")
        return ""

    def _wait_until_it_answers(self) -> None:
        deadline = time.monotonic() + _START_S
        while True:
            with suppress(NotRunningError):
                self.portals()
                return
            if time.monotonic() > deadline:
                raise DriverError(
                    f"tgtd did not start within {_START_S} s: {self._last_words()}",
                    remedy=f"See {self.home / 'tgtd.log'}.",
                )
            time.sleep(0.01)

    def _last_words(self) -> str:
        lines = (self.home / "tgtd.log").read_text(encoding="utf-8", errors="replace").split("\n")
        return " ".join(lines[-5:]).strip() or "it said nothing."


def _place(portal: Portal) -> str:
    inside = f" in the network namespace {portal.netns}" if portal.netns else ""
    return f"{portal.address} port {portal.port}{inside}"


def _listeners(portal: Portal) -> str:
    """The names of the programs that hold the portal's port, for people."""
    shown = process.run(["ss", "-Hltnp", f"sport = :{portal.port}"], netns=portal.netns).stdout
    return ", ".join(sorted(set(re.findall(r'\("([^"]+)",pid=', shown)))) or "another program"


def _at(address: str, port: int | str) -> str:
    return f"[{address}]:{port}" if ":" in address else f"{address}:{port}"


def _namespace(netns: str | None) -> str:
    """What tells a network namespace from a later one of the same name; empty where there is none."""
    try:
        known = (_NAMES / netns if netns else Path("/proc/self/ns/net")).stat()
    except FileNotFoundError:
        return ""
    return f"{known.st_dev}:{known.st_ino}"
