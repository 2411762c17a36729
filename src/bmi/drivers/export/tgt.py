"""Volumes as iSCSI targets of tgt: one tgtd a portal, which listens in the portal's network namespace."""

import fcntl
import os
import shutil
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from bmi import process
from bmi.drivers.export import Portal, Session, Target, tgt_targets
from bmi.drivers.export.tgt_daemon import TgtDaemon
from bmi.drivers.export.tgt_protocol import NotRunningError
from bmi.errors import DriverError, TimedOutError

_LOCK_S = 60

# By IQN and the ids of the sessions there.
_Sessions = dict[tuple[str, frozenset[int]], list[Session]]


class TgtExport:
    """Each portal has a directory below `run_dir`: socket, lock and log of its tgtd, a record a target."""

    def __init__(self, run_dir: Path, *, timeout_s: float, threads: int = 1) -> None:
        """`timeout_s` is how long tgtd may take over one management call, `threads` how many it has a disk."""
        self._run_dir = run_dir
        self._timeout_s = timeout_s
        self._threads = threads
        self._known_sessions: dict[str, tuple[int | None, _Sessions]] = {}

    def ensure_portal(self, portal: Portal, targets: Sequence[Target]) -> bool:
        """As the Protocol says. A target that cannot be exported (its file is gone) does not keep the
        others from coming back; it is named in a DriverError once the portal serves.
        """
        if self._daemon(portal).serves(portal):
            return False
        with self._alone(portal) as daemon:
            if daemon.serves(portal):
                return False
            daemon.end()
            daemon.start(portal)
            try:
                troubles = tgt_targets.restore(daemon, targets)
                daemon.listen(portal)
            except BaseException:
                daemon.end()
                raise
        if troubles:
            raise DriverError(
                f"The portal {portal.name} serves again, but {len(troubles)} of {len(targets)} volumes are "
                f"not exported: {'; '.join(troubles[:3])}",
                remedy="Provision or release their nodes again.",
            )
        return True

    def remove_portal(self, portal: Portal) -> None:
        if not self._home(portal).is_dir():
            return
        with self._alone(portal) as daemon:
            daemon.end()
            shutil.rmtree(daemon.home)

    def ensure(self, portal: Portal, target: Target) -> None:
        if self._daemon(portal).pid() is None:
            raise DriverError(
                f"The portal {portal.name} is not running.",
                remedy="It is started when its network is ensured.",
            )
        with self._alone(portal) as daemon:
            tgt_targets.ensure(daemon, target)

    def remove(self, portal: Portal, iqn: str) -> None:
        if self._daemon(portal).pid() is None:
            return
        with self._alone(portal) as daemon:
            if daemon.pid() is not None:
                tgt_targets.remove(daemon, iqn)

    def list(self, portal: Portal) -> Sequence[str]:
        try:
            return sorted(self._daemon(portal).targets())
        except NotRunningError:
            return []

    def sessions(self, portal: Portal) -> Sequence[Session]:
        """Only the targets to which somebody has come or gone since the last look are asked who it is."""
        daemon = self._daemon(portal)
        pid, known = self._known_sessions.get(portal.name, (None, {}))
        found: _Sessions = {}
        if pid != (pid := daemon.pid()):
            known = {}
        try:
            for iqn, (tid, numbers) in tgt_targets.logged_in(daemon).items():
                found[iqn, numbers] = known.get((iqn, numbers)) or [
                    Session(iqn, one.initiator, one.address, one.sid)
                    for one in tgt_targets.connections(daemon, tid)
                ]
        except NotRunningError:
            found = {}
        self._known_sessions[portal.name] = (pid, found)
        return [session for sessions in found.values() for session in sessions]

    def end_session(self, portal: Portal, session: Session) -> None:
        daemon = self._daemon(portal)
        with suppress(NotRunningError):
            tid = daemon.targets().get(session.iqn, 0)
            for connection in tgt_targets.connections(daemon, tid) if tid else ():
                if (connection.sid, connection.address) == (session.number, session.address):
                    tgt_targets.disconnect(daemon, tid, connection)

    def bytes_served(self, portal: Portal) -> Mapping[str, int]:
        daemon = self._daemon(portal)
        try:
            iqns = {tid: iqn for iqn, tid in daemon.targets().items()}
            rows = tgt_targets.statistics(daemon)
        except NotRunningError:
            return {}
        served = dict.fromkeys(iqns.values(), 0)
        for row in rows:
            if row.tid in iqns:
                served[iqns[row.tid]] += row.bytes_read
        return served

    def check(self) -> str:
        version = process.run(["tgtd", "--version"]).stdout.strip()
        process.run(["nsenter", "--version"])
        if os.geteuid() != 0:
            raise DriverError("tgtd needs root.", retryable=False, remedy="Run the BMI worker as root.")
        return f"tgt {version} exports volumes over iSCSI, its files are in {self._run_dir}."

    def _home(self, portal: Portal) -> Path:
        return self._run_dir / portal.name

    def _daemon(self, portal: Portal) -> TgtDaemon:
        return TgtDaemon(self._home(portal), timeout_s=self._timeout_s, threads=self._threads)

    @contextmanager
    def _alone(self, portal: Portal) -> Iterator[TgtDaemon]:
        """The portal, for one changing call at a time among all threads and processes."""
        home = self._home(portal)
        deadline = time.monotonic() + _LOCK_S
        while True:
            home.mkdir(mode=0o700, parents=True, exist_ok=True)
            with _opened(home) as handle:
                if _locked(handle) and os.fstat(handle).st_nlink:  # a removed directory has no link left
                    yield self._daemon(portal)
                    return
            if time.monotonic() > deadline:
                raise TimedOutError(f"The portal {portal.name} was busy for more than {_LOCK_S} s.")
            time.sleep(0.01)


def create(*, run_dir: str, timeout_s: float = 5, threads: int = 1) -> TgtExport:
    """Portals of one BMI. `run_dir` is this BMI's alone (another BMI's portals of the same name would
    collide in it) and need not survive a reboot. `timeout_s` limits each call to tgtd. `threads` is how
    many requests a volume has under way in the store: one is best for files, RBD wants 16.
    """
    return TgtExport(Path(run_dir).absolute(), timeout_s=timeout_s, threads=threads)


@contextmanager
def _opened(directory: Path) -> Iterator[int]:
    handle = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield handle
    finally:
        os.close(handle)


def _locked(handle: int) -> bool:
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
