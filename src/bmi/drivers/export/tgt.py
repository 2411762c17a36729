"""Volumes as iSCSI targets of tgt: one tgtd a portal, which listens in the portal's network namespace."""

import fcntl
import os
import shutil
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from bmi import process
from bmi.drivers.export import Portal, Target, tgt_targets
from bmi.drivers.export.tgt_daemon import TgtDaemon
from bmi.drivers.export.tgt_protocol import Mode, NotRunningError, Op
from bmi.errors import DriverError, TimedOutError

_LOCK_S = 60


class TgtExport:
    """Each portal has a directory below `run_dir`: socket, lock and log of its tgtd, a record a target."""

    def __init__(self, run_dir: Path, *, timeout_s: float, threads: int = 1) -> None:
        """`timeout_s` is how long tgtd may take over one management call, `threads` how many it has a disk."""
        self._run_dir = run_dir
        self._timeout_s = timeout_s
        self._threads = threads

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

    def sessions(self, portal: Portal, iqn: str) -> Sequence[str]:
        daemon = self._daemon(portal)
        try:
            tid = daemon.targets().get(iqn)
        except NotRunningError:
            return []
        return [] if tid is None else [initiator for _, _, initiator in tgt_targets.connections(daemon, tid)]

    def bytes_served(self, portal: Portal) -> Mapping[str, int]:
        daemon = self._daemon(portal)
        try:
            iqns = {tid: iqn for iqn, tid in daemon.targets().items()}
            lines = daemon.call(Op.STATS, Mode.SYSTEM).splitlines()[1:]
        except NotRunningError:
            return {}
        served = dict.fromkeys(iqns.values(), 0)
        for line in lines:
            # tgt lun sid rd_subm(bytes,cmds) rd_done(bytes,cmds) wr_subm(…) wr_done(…) errs
            columns = [int(column) for column in line.split()]
            if columns[0] in iqns:
                served[iqns[columns[0]]] += columns[5]
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
