"""Volumes as iSCSI targets of tgt: one tgtd a portal, inside the portal's network namespace."""

import fcntl
import hashlib
import json
import os
import re
import shutil
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, replace
from itertools import count
from pathlib import Path

from bmi import process
from bmi.drivers.export import Portal, Target
from bmi.drivers.export.tgt_daemon import TgtDaemon
from bmi.drivers.export.tgt_protocol import Code, Mode, NotRunningError, Op, RefusedError
from bmi.errors import DriverError, TimedOutError

_LUN = 1  # tgt keeps LUN 0 for its controller
_CONNECTION = re.compile(r"^Session: (\d+)\n\s+Connection: (\d+)\n\s+Initiator: (\S+)", re.MULTILINE)
_IQN = re.compile(r"iqn\.[a-z0-9.:-]{1,219}")  # tgt takes no other characters; RFC 3720: at most 223

_SETTLE_S = 10
_LOCK_S = 60


@dataclass(frozen=True)
class _Record:
    """What must be known to take a target down again; kept in a file, written before it is put up.

    `digest` is set last of all: a target without one is half made and gets remade.
    """

    initiator: str
    chap_user: str
    digest: str = ""


class TgtExport:
    """Each portal has a directory below `run_dir`: socket, lock and log of its tgtd, a record a target."""

    def __init__(self, run_dir: Path, *, timeout_s: float) -> None:
        """`timeout_s` is how long tgtd may take over one management call."""
        self._run_dir = run_dir
        self._timeout_s = timeout_s

    def ensure_portal(self, portal: Portal, targets: Sequence[Target]) -> bool:
        """As the Protocol says. A target that cannot be exported (its file is gone) does not keep the
        others from coming back; it is named in a DriverError once the portal serves."""
        if self._daemon(portal).serves(portal):
            return False
        with self._alone(portal) as daemon:
            if daemon.serves(portal):
                return False
            daemon.end()
            self._forget_all(daemon)
            daemon.start(portal)
            try:
                troubles = _put_up_all(daemon, targets)
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
        _check_exportable(target)
        if not self._home(portal).is_dir():
            raise _not_running(portal)
        with self._alone(portal) as daemon:
            record = _read_record(daemon, target.iqn)
            if record is not None:
                if record == _complete(target) and target.iqn in daemon.targets():
                    return
                _take_down(daemon, target.iqn, record)
            try:
                _put_up(daemon, target)
            except NotRunningError as error:
                raise _not_running(portal) from error

    def remove(self, portal: Portal, iqn: str) -> None:
        if not self._home(portal).is_dir():
            return
        with self._alone(portal) as daemon:
            if daemon.pid() is not None:
                _take_down(daemon, iqn, _read_record(daemon, iqn))

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
        return [] if tid is None else [initiator for _, _, initiator in _connections(daemon, tid)]

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
        return TgtDaemon(self._home(portal), timeout_s=self._timeout_s)

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

    def _forget_all(self, daemon: TgtDaemon) -> None:
        shutil.rmtree(_records(daemon), ignore_errors=True)
        _records(daemon).mkdir(mode=0o700)


def create(*, run_dir: str, timeout_s: float = 5) -> TgtExport:
    """Portals of one BMI. `run_dir` is this BMI's alone (another BMI's portals of the same name would
    collide in it) and need not survive a reboot. `timeout_s` limits each call to tgtd."""
    return TgtExport(Path(run_dir), timeout_s=timeout_s)


def _put_up_all(daemon: TgtDaemon, targets: Sequence[Target]) -> Sequence[str]:
    """Exports what can be exported; returns what is wrong with the others."""
    troubles = []
    for target in targets:
        try:
            _check_exportable(target)
            _put_up(daemon, target)
        except (NotRunningError, TimedOutError):
            raise
        except DriverError as error:
            troubles.append(f"{target.iqn}: {error.detail}")
    return troubles


def _put_up(daemon: TgtDaemon, target: Target) -> None:
    """Makes a target that is not there. The name ACL comes last: before it, nobody is let in.

    Only a name ACL, never an address ACL: tgt lets in who matches either. Names also hide the target
    from everybody else's discovery.
    """
    record = _Record(target.initiator, target.chap_user)
    _write_record(daemon, target.iqn, record)
    try:
        daemon.call(Op.NEW, Mode.ACCOUNT, f"user={target.chap_user},password={target.chap_secret}")
    except RefusedError as error:
        _forget(daemon, target.iqn)  # the account is another target's: it must not be taken down with ours
        raise DriverError(
            f"The CHAP user {target.chap_user} belongs to another target of this portal.", retryable=False
        ) from error
    try:
        tid = _new_target(daemon, target.iqn)
        _new_disk(daemon, tid, target)
        daemon.call(Op.BIND, Mode.ACCOUNT, f"user={target.chap_user}", tid=tid)
        daemon.call(Op.BIND, Mode.TARGET, f"initiator-name={target.initiator}", tid=tid)
    except DriverError:
        with suppress(DriverError):
            _take_down(daemon, target.iqn, record)
        raise
    _write_record(daemon, target.iqn, _complete(target))


def _new_target(daemon: TgtDaemon, iqn: str) -> int:
    """The target id derives from the IQN, so that the disk keeps its WWN (tgt makes it from the id) for ever."""
    tid = int(_fingerprint(iqn)[:7], 16) or 1  # 28 bits: the WWN has no room for more
    try:
        daemon.call(Op.NEW, Mode.TARGET, f"targetname={iqn}", tid=tid)
    except RefusedError as error:
        if error.reason is not Code.TARGET_EXISTS:
            raise
        present = daemon.targets()
        if iqn in present:  # its record was lost
            _take_down(daemon, iqn, None)
        taken = set(daemon.targets().values())
        tid = next(free for free in count(tid) if free not in taken)
        daemon.call(Op.NEW, Mode.TARGET, f"targetname={iqn}", tid=tid)
    return tid


def _new_disk(daemon: TgtDaemon, tid: int, target: Target) -> None:
    """Thin provisioning makes UNMAP punch holes; serial number and ids derive from the IQN."""
    serial = target.iqn.rpartition(":")[2][-36:]
    scsi_id = f"BMI     {_fingerprint(target.iqn)[:28]}"  # a T10 vendor designator (SPC-3, 7.6.3.4)
    identity = f"vendor_id=BMI,product_id=volume,scsi_sn={serial},scsi_id={scsi_id}"
    daemon.call(
        Op.NEW, Mode.DEVICE, f"path={target.backing.location},bstype=rdwr", tid=tid, lun=_LUN
    )
    daemon.call(Op.UPDATE, Mode.DEVICE, f"{identity},thin_provisioning=1", tid=tid, lun=_LUN)


def _take_down(daemon: TgtDaemon, iqn: str, record: _Record | None) -> None:
    """Ends a target, complete or not, in an order that can be cut off anywhere and begun again:
    nobody new, nobody left, no target, no account, no record."""
    tid = daemon.targets().get(iqn)
    if tid is not None:
        if record is not None:
            acl = f"initiator-name={record.initiator}"
            daemon.call(Op.UNBIND, Mode.TARGET, acl, tid=tid, tolerate=[Code.NO_ACL])
        _delete_when_quiet(daemon, tid, iqn)
    if record is not None:
        daemon.call(Op.DELETE, Mode.ACCOUNT, f"user={record.chap_user}", tolerate=[Code.NO_USER])
    _forget(daemon, iqn)


def _delete_when_quiet(daemon: TgtDaemon, tid: int, iqn: str) -> None:
    """tgt refuses to delete a target while it has a session or a command in flight, and ends a session
    only some moments after it is told to."""
    deadline = time.monotonic() + _SETTLE_S
    while True:
        for sid, cid, _ in _connections(daemon, tid):
            gone = [Code.NO_SESSION, Code.NO_CONNECTION]
            daemon.call(Op.DELETE, Mode.CONNECTION, tid=tid, sid=sid, cid=cid, tolerate=gone)
        try:
            daemon.call(Op.DELETE, Mode.TARGET, tid=tid)
            return
        except RefusedError as error:
            if error.reason not in {Code.TARGET_ACTIVE, Code.LUN_ACTIVE}:
                raise
            if time.monotonic() > deadline:
                raise TimedOutError(f"{iqn} is still in use {_SETTLE_S} s after its sessions were ended.") from error
        time.sleep(0.02)


def _connections(daemon: TgtDaemon, tid: int) -> Sequence[tuple[int, int, str]]:
    """Session id, connection id and initiator name of everybody logged in."""
    text = daemon.call(Op.SHOW, Mode.CONNECTION, tid=tid, tolerate=[Code.NO_TARGET])
    return [(int(sid), int(cid), initiator) for sid, cid, initiator in _CONNECTION.findall(text)]


def _check_exportable(target: Target) -> None:
    if target.backing.kind != "file":
        raise DriverError(
            f"The tgt driver cannot export {target.backing.kind} volumes yet.",
            retryable=False,
            remedy="Use a storage driver that keeps volumes in files, such as local.",
        )
    if not Path(target.backing.location).exists():
        raise DriverError(f"The volume's file {target.backing.location} is not there.", retryable=False)
    for what in (target.iqn, target.initiator):
        if not _IQN.fullmatch(what):
            raise DriverError(f"{what!r} is not an iSCSI name that tgt can serve.", retryable=False)
    if "," in target.chap_user + target.backing.location:
        raise DriverError(
            f"tgt takes no comma in a path or a CHAP user ({target.iqn}).",
            retryable=False,
            remedy="Choose a data directory without one.",
        )


def _complete(target: Target) -> _Record:
    secret = f"{target.backing.location}\n{target.chap_secret}"
    return _Record(target.initiator, target.chap_user, _fingerprint(secret))


def _fingerprint(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def _records(daemon: TgtDaemon) -> Path:
    return daemon.home / "targets"


def _read_record(daemon: TgtDaemon, iqn: str) -> _Record | None:
    try:
        return _Record(**json.loads((_records(daemon) / iqn).read_text()))
    except FileNotFoundError:
        return None


def _write_record(daemon: TgtDaemon, iqn: str, record: _Record) -> None:
    fresh = daemon.home / "record.new"
    fresh.write_text(json.dumps(asdict(record)))
    fresh.replace(_records(daemon) / iqn)


def _forget(daemon: TgtDaemon, iqn: str) -> None:
    (_records(daemon) / iqn).unlink(missing_ok=True)


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


def _not_running(portal: Portal) -> DriverError:
    return DriverError(
        f"The portal {portal.name} is not running.", remedy="It is started when the project's network is ensured."
    )
