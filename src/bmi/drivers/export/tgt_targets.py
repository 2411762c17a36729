"""Targets inside one tgtd: put up so that a half-made one admits nobody, taken down even under I/O."""

import hashlib
import json
import re
import shutil
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from itertools import count
from pathlib import Path

from bmi.drivers.export import Target
from bmi.drivers.export.tgt_daemon import TgtDaemon
from bmi.drivers.export.tgt_protocol import Code, Mode, NotRunningError, Op, RefusedError
from bmi.errors import DriverError, TimedOutError

_LUN = 1  # tgt keeps LUN 0 for its controller
_CONNECTION = re.compile(
    r"^Session: (\d+)\n\s+Connection: (\d+)\n\s+Initiator: (\S+)\n\s+IP Address: (\S+)$", re.MULTILINE
)
_IQN = re.compile(r"iqn\.[a-z0-9.:-]{1,219}")  # tgt takes no other characters; RFC 3720: at most 223

# tgt's defaults (8192 and 65536) cut writes into small pieces and wait for permission to send the rest:
# with these, 64 KiB to 1 MiB writes were measured 2 to 3 times as fast. Others changed nothing.
_TUNING = ("MaxRecvDataSegmentLength=262144", "FirstBurstLength=262144")

_STORES = {"file": "rdwr", "rbd": "rbd"}  # tgt's backing stores
# Physical blocks of 512 << 3 bytes, the same for every store: for RBD tgt would announce 4 MiB.
_PHYSICAL_BLOCK_EXPONENT = 3
# What one tgtd carries: each has its threads, 13 descriptors and a connection to every OSD it reads from.
_MAX_RBD_VOLUMES = 200

_FENCES_AT_ONCE = 8
_SETTLE_S = 10
# A node that is there lets tgtd end its session sooner.
_SILENT_S = 0.5


@dataclass(frozen=True)
class _Record:
    """What must be known to take a target down again; kept in a file, written before it is put up.

    `digest` is set last of all: a target without one is half made and gets remade.
    """

    initiator: str
    chap_user: str = ""
    target_user: str = ""
    digest: str = ""


def restore(daemon: TgtDaemon, targets: Sequence[Target]) -> Sequence[str]:
    """Exports what can be exported in a tgtd that has just started; says what is wrong with the others."""
    shutil.rmtree(_records(daemon), ignore_errors=True)
    _records(daemon).mkdir(mode=0o700)
    fences = _fence(targets)
    troubles = []
    for target, fence in zip(targets, fences, strict=True):
        try:
            _check_exportable(target)
            fence.result()
        except DriverError as error:
            troubles.append(f"{target.iqn}: {error.detail}")
            continue
        try:
            _put_up(daemon, target)
        except (NotRunningError, TimedOutError):
            raise
        except DriverError as error:
            troubles.append(f"{target.iqn}: {error.detail}")
    return troubles


def _fence(targets: Sequence[Target]) -> Sequence[Future[None]]:
    """All of them, side by side. When the store is away, its error is raised: no portal is better than one that
    tells the nodes that their targets do not exist.
    """
    with ThreadPoolExecutor(_FENCES_AT_ONCE) as pool:
        fences = [pool.submit(target.fence) for target in targets]
    errors = [fence.exception() for fence in fences]
    if errors and all(isinstance(error, DriverError) and error.retryable for error in errors):
        raise next(error for error in errors if error)
    return fences


def ensure(daemon: TgtDaemon, target: Target) -> None:
    """Exports the volume; a target that is half made or different is made anew."""
    _check_exportable(target)
    record = _read_record(daemon, target.iqn)
    if record is not None:
        if record == _complete(target) and target.iqn in daemon.targets():
            return
        _take_down(daemon, target.iqn, record)
    target.fence()
    _put_up(daemon, target)


def remove(daemon: TgtDaemon, iqn: str) -> None:
    """Ends the export and its sessions; succeeds when it is not there."""
    _take_down(daemon, iqn, _read_record(daemon, iqn))


def _put_up(daemon: TgtDaemon, target: Target) -> None:
    """Makes a target that is not there. The name ACL comes last: before it, nobody is let in.

    Only a name ACL, never an address ACL: tgt lets in who matches either. Names also hide the target
    from everybody else's discovery.
    """
    _check_room(daemon, target)
    record = _Record(target.initiator)
    try:
        record = _new_account(daemon, target.iqn, record, target.chap_secret, chap_user=target.chap_user)
        record = _new_account(
            daemon, target.iqn, record, target.target_secret, target_user=target.target_user
        )
        tid = _new_target(daemon, target.iqn)
        for parameter in _TUNING:
            daemon.call(Op.UPDATE, Mode.TARGET, parameter, tid=tid)
        _new_disk(daemon, tid, target)
        daemon.call(Op.BIND, Mode.ACCOUNT, f"user={target.chap_user}", tid=tid)
        daemon.call(Op.BIND, Mode.ACCOUNT, f"user={target.target_user}", tid=tid, outgoing=True)
        daemon.call(Op.BIND, Mode.TARGET, f"initiator-name={target.initiator}", tid=tid)
    except DriverError:
        with suppress(DriverError):
            _take_down(daemon, target.iqn, record)
        raise
    _write_record(daemon, target.iqn, _complete(target))


def _new_account(daemon: TgtDaemon, iqn: str, record: _Record, secret: str, **user: str) -> _Record:
    """Noted in the record before it is made, and no longer where it is another target's: that must not be taken
    down with ours.
    """
    noted = replace(record, **user)
    _write_record(daemon, iqn, noted)
    [name] = user.values()
    try:
        daemon.call(Op.NEW, Mode.ACCOUNT, f"user={name},password={secret}")
    except RefusedError as error:
        _write_record(daemon, iqn, record)
        if error.reason is not Code.USER_EXISTS:
            raise
        raise DriverError(
            f"The CHAP user {name} belongs to another target of this portal.", retryable=False
        ) from error
    return noted


def _new_target(daemon: TgtDaemon, iqn: str) -> int:
    """The target id derives from the IQN: tgt makes the disk's WWN from it, and that should never change."""
    tid = int(_fingerprint(iqn)[:7], 16) or 1  # 28 bits: the WWN has no room for more
    try:
        daemon.call(Op.NEW, Mode.TARGET, f"targetname={iqn}", tid=tid)
    except RefusedError as error:
        if error.reason is not Code.TARGET_EXISTS:
            raise
        taken = set(daemon.targets().values())
        tid = next(free for free in count(tid) if free not in taken)
        daemon.call(Op.NEW, Mode.TARGET, f"targetname={iqn}", tid=tid)
    return tid


def _new_disk(daemon: TgtDaemon, tid: int, target: Target) -> None:
    """Thin provisioning makes UNMAP punch holes; serial number and ids derive from the IQN."""
    backing = target.backing
    store = f"path={backing.location},bstype={_STORES[backing.kind]}"
    if backing.options:
        store += ",bsopts=" + ";".join(f"{name}={value}" for name, value in backing.options)
    serial = target.iqn.rpartition(":")[2][-36:]
    scsi_id = f"BMI     {_fingerprint(target.iqn)[:28]}"  # a T10 vendor designator (SPC-3, 7.6.3.4)
    identity = f"vendor_id=BMI,product_id=volume,scsi_sn={serial},scsi_id={scsi_id}"
    shape = f"thin_provisioning=1,lbppbe={_PHYSICAL_BLOCK_EXPONENT}"
    daemon.call(Op.NEW, Mode.DEVICE, store, tid=tid, lun=_LUN)
    daemon.call(Op.UPDATE, Mode.DEVICE, f"{identity},{shape}", tid=tid, lun=_LUN)


def _take_down(daemon: TgtDaemon, iqn: str, record: _Record | None) -> None:
    """Ends a target, complete or not, in an order that can be cut off anywhere and begun again:
    nobody new, nobody left, no target, no account, no record.
    """
    if record is not None:
        _write_record(daemon, iqn, replace(record, digest=""))  # from here on it is half made
    tid = daemon.targets().get(iqn)
    if tid is not None:
        if record is not None:
            acl = f"initiator-name={record.initiator}"
            daemon.call(Op.UNBIND, Mode.TARGET, acl, tid=tid, tolerate=[Code.NO_ACL])
        _delete_when_quiet(daemon, tid, iqn)
    for user in (record.chap_user, record.target_user) if record else ():
        if user:
            daemon.call(Op.DELETE, Mode.ACCOUNT, f"user={user}", tolerate=[Code.NO_USER])
    _forget(daemon, iqn)


def _delete_when_quiet(daemon: TgtDaemon, tid: int, iqn: str) -> None:
    """Tgtd refuses while the target has a session or a command in flight, and ends a session only some
    moments after it is told to.
    """
    began = time.monotonic()
    while True:
        left = connections(daemon, tid)
        for connection in left:
            disconnect(daemon, tid, connection)
        waited_s = time.monotonic() - began
        if left and waited_s > _SILENT_S:
            daemon.hang_up({connection.address for connection in left})
        try:
            daemon.call(Op.DELETE, Mode.TARGET, tid=tid)
            return
        except RefusedError as error:
            if error.reason not in {Code.TARGET_ACTIVE, Code.LUN_ACTIVE}:
                raise
            if waited_s > _SETTLE_S:
                raise TimedOutError(
                    f"{iqn} is still in use {_SETTLE_S} s after its sessions were ended."
                ) from error
        time.sleep(0.02)


@dataclass(frozen=True)
class Connection:
    """Of somebody logged in to a target: session and connection id, initiator name, and where it comes from."""

    sid: int
    cid: int
    initiator: str
    address: str


@dataclass(frozen=True)
class Statistics:
    """What one session has read of one disk."""

    tid: int
    sid: int
    bytes_read: int


def statistics(daemon: TgtDaemon) -> Sequence[Statistics]:
    """Of all sessions that are open now: one call."""
    lines = daemon.call(Op.STATS, Mode.SYSTEM).splitlines()[1:]
    # tgt lun sid rd_subm(bytes,cmds) rd_done(bytes,cmds) wr_subm(…) wr_done(…) errs
    rows = [[int(column) for column in line.split()] for line in lines]
    return [Statistics(row[0], row[2], row[5]) for row in rows]


def logged_in(daemon: TgtDaemon) -> Mapping[str, tuple[int, frozenset[int]]]:
    """The target id and the ids of the sessions of each target that somebody is logged in to, by its IQN: at most
    two calls. Session ids are not used again while a tgtd lives.
    """
    sids: dict[int, set[int]] = {}
    for row in statistics(daemon):
        sids.setdefault(row.tid, set()).add(row.sid)
    iqns = daemon.targets() if sids else {}
    return {iqn: (tid, frozenset(sids[tid])) for iqn, tid in iqns.items() if tid in sids}


def connections(daemon: TgtDaemon, tid: int) -> Sequence[Connection]:
    """Everybody logged in, the newest first: tgtd puts each before the others."""
    text = daemon.call(Op.SHOW, Mode.CONNECTION, tid=tid, tolerate=[Code.NO_TARGET])
    return [Connection(int(sid), int(cid), *who) for sid, cid, *who in _CONNECTION.findall(text)]


def disconnect(daemon: TgtDaemon, tid: int, connection: Connection) -> None:
    """Ends a connection, and the session that it was the only one of."""
    gone = [Code.NO_TARGET, Code.NO_SESSION, Code.NO_CONNECTION]
    daemon.call(Op.DELETE, Mode.CONNECTION, tid=tid, sid=connection.sid, cid=connection.cid, tolerate=gone)


def _check_exportable(target: Target) -> None:
    backing = target.backing
    if backing.kind == "rbd":
        _check_rbd(target)
    elif not Path(backing.location).exists():
        raise DriverError(f"The volume's file {backing.location} is not there.", retryable=False)
    for what in (target.iqn, target.initiator):
        if not _IQN.fullmatch(what):
            raise DriverError(f"{what!r} is not an iSCSI name that tgt can serve.", retryable=False)
    options = "".join(value for _, value in backing.options)
    if "," in target.chap_user + target.target_user + backing.location + options or ";" in options:
        raise DriverError(
            f"tgt takes no comma in a path or a CHAP user, and no semicolon in an option ({target.iqn}).",
            retryable=False,
            remedy="Choose a data directory without one.",
        )


def _check_rbd(target: Target) -> None:
    if target.backing.location.count("/") != 1 or "@" in target.backing.location:
        raise DriverError(
            f"tgt opens RBD images named pool/image, not {target.backing.location}: it knows no namespaces.",
            retryable=False,
            remedy="Leave `namespace` out of the storage options; a `prefix` keeps installations apart.",
        )


def _check_room(daemon: TgtDaemon, target: Target) -> None:
    if target.backing.kind == "rbd" and len(list(_records(daemon).iterdir())) >= _MAX_RBD_VOLUMES:
        raise DriverError(
            f"The portal exports {_MAX_RBD_VOLUMES} RBD volumes already, as many as one tgtd can carry.",
            retryable=False,
            remedy="Release nodes, or spread them over more projects: each has a portal of its own.",
        )


def _complete(target: Target) -> _Record:
    secrets = f"{target.backing.location}\n{target.chap_secret}\n{target.target_secret}"
    return _Record(target.initiator, target.chap_user, target.target_user, _fingerprint(secrets))


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
