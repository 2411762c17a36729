"""tgt seen by real initiators: who gets in, what survives a kill, what is left when something fails."""

import os
import resource
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from bmi.drivers.export import Portal, Target, tgt
from bmi.drivers.export.tgt import TgtExport
from bmi.drivers.export.tgt_daemon import TgtDaemon
from bmi.drivers.storage import Backing
from bmi.errors import DriverError, TimedOutError
from bmi.netboot.namespace import inside
from tests.attack.initiator import Initiator, fresh_isid
from tests.drivers.export.iscsi import ADDRESS, QEMU, Client, kill, namespace, pid_of, volume

pytestmark = pytest.mark.real


class KilledError(BaseException):
    """Stands for kill -9 of BMI: no handler of ours runs on it."""


@dataclass
class Calls:
    """The lengths of tgtd's answers so far, and after how many of them BMI is killed."""

    allowed: int = sys.maxsize
    sizes: list[int] = field(default_factory=list)


class WatchedExport(TgtExport):
    """tgt whose management calls are counted and can be cut off."""

    calls: Calls

    def _daemon(self, portal: Portal) -> TgtDaemon:
        daemon = super()._daemon(portal)
        real, calls = daemon.call, self.calls

        def call(*args: Any, **options: Any) -> str:
            if len(calls.sizes) >= calls.allowed:
                raise KilledError
            text = real(*args, **options)
            calls.sizes.append(len(text))
            return text

        daemon.call = call  # the one place where every call passes
        return daemon


@dataclass
class Site:
    """A portal in a namespace of its own, and a folder of volumes."""

    export: TgtExport
    portal: Portal
    client: Client
    folder: Path

    @property
    def home(self) -> Path:
        return self.folder / "run" / self.portal.name

    def watched(self, *, allowed: int = sys.maxsize) -> WatchedExport:
        """Another BMI at the same portal."""
        export = WatchedExport(self.folder / "run", timeout_s=5)
        export.calls = Calls(allowed)
        return export


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    with namespace() as netns:
        export = tgt.create(run_dir=str(tmp_path / "run"), timeout_s=1)
        portal = Portal("red", ADDRESS, netns=netns)
        try:
            yield Site(export, portal, Client(portal), tmp_path)
        finally:
            export.remove_portal(portal)


def test_only_the_node_with_the_secret_gets_in(site: Site) -> None:
    target = volume(site.folder, 1)
    site.export.ensure_portal(site.portal, [target, volume(site.folder, 2)])
    assert site.client.read(target) == b"volume 1"
    assert site.client.read(volume(site.folder, 2)) == b"volume 2"
    assert site.client.read(target, secret="not-the-secret-01") is None
    assert site.client.read(target, user="user2", secret="secret-of-2-0123") is None
    assert site.client.read(target, user="-") is None
    assert site.client.read(target, initiator="iqn.2024-07.internal.bmi:node-8") is None


def test_a_stranger_discovers_nothing(site: Site) -> None:
    target = volume(site.folder, 1)
    site.export.ensure_portal(site.portal, [target])
    assert site.client.discover("iqn.2024-07.internal.bmi:node-8") == []
    assert site.client.discover(target.initiator) == [target.iqn]


def test_a_node_that_lost_its_volume_is_locked_out(site: Site) -> None:
    before = volume(site.folder, 1)
    after = replace(before, initiator="iqn.2024-07.internal.bmi:node-8", chap_secret="another-secret-99")
    site.export.ensure_portal(site.portal, [before])
    site.export.ensure(site.portal, after)
    assert site.client.read(before) is None
    assert site.client.read(after, initiator=before.initiator) is None
    assert site.client.read(after) == b"volume 1"


def test_sessions_and_bytes_are_counted(site: Site) -> None:
    target = volume(site.folder, 1, QEMU)
    site.export.ensure_portal(site.portal, [target])
    with site.client.endless_reading(target):
        _until(lambda: site.export.bytes_served(site.portal)[target.iqn] > 1 << 20)
        [session] = site.export.sessions(site.portal)
        assert (session.iqn, session.initiator, session.address) == (target.iqn, QEMU, ADDRESS)


def test_of_two_sessions_the_newer_is_told_first_and_either_can_be_ended(site: Site) -> None:
    target = volume(site.folder, 1)
    site.export.ensure_portal(site.portal, [target])
    with ExitStack() as stack:
        initiators = []
        for _ in range(3):
            connection = inside(
                site.portal.netns or "", partial(socket.create_connection, (ADDRESS, 3260), 5)
            )
            initiators.append(Initiator(stack.enter_context(connection), fresh_isid()))
            credentials = (target.initiator, target.iqn, target.chap_user, target.chap_secret)
            assert initiators[-1].log_in(*credentials).is_full
        sessions = site.export.sessions(site.portal)
        assert [session.number for session in sessions] == [3, 2, 1]
        site.export.end_session(site.portal, sessions[1])
        _until(lambda: not initiators[1].alive)
        _until(lambda: site.export.sessions(site.portal) == [sessions[0], sessions[2]])
        site.export.end_session(site.portal, sessions[1])  # once more
        assert [initiator.alive for initiator in initiators] == [True, False, True]


def test_the_target_proves_itself_to_a_node_that_asks(site: Site) -> None:
    target = volume(site.folder, 1)
    site.export.ensure_portal(site.portal, [target])
    assert site.client.trusts(target)
    assert not site.client.trusts(replace(target, target_secret="what-an-impostor-has"))
    assert not site.client.trusts(replace(target, target_user="impostor"))


@pytest.mark.parametrize("silent", [False, True], ids=["reading", "silent"])
def test_a_target_is_removed_under_io(site: Site, silent: bool) -> None:
    """Also when the node has gone silent with answers on their way to it."""
    target = volume(site.folder, 1, QEMU)
    site.export.ensure_portal(site.portal, [target, volume(site.folder, 2)])
    with site.client.endless_reading(target) as reader:
        _until(lambda: site.export.bytes_served(site.portal)[target.iqn] > 1 << 20)
        if silent:
            reader.send_signal(signal.SIGSTOP)
            _until(lambda: _stands_still(site))  # tgtd has no room for a further answer
        site.export.remove(site.portal, target.iqn)
        assert site.export.list(site.portal) == [volume(site.folder, 2).iqn]
        assert target.backing.location not in _open_files(pid_of(site.export, site.portal))


def test_after_a_kill_a_node_finds_the_same_disk(site: Site) -> None:
    target = volume(site.folder, 1)
    site.export.ensure_portal(site.portal, [target])
    site.client.qemu_io(target, "write -P 65 512 512")
    before = _identity(site, target.iqn)
    kill(site.export, site.portal)
    assert site.export.ensure_portal(site.portal, [volume(site.folder, 2), target])
    assert site.client.qemu_io(target, "read -v 512 512") == b"A" * 512
    assert _identity(site, target.iqn) == before
    assert "volume-1" in before


def test_trimmed_blocks_leave_the_store(site: Site) -> None:
    target = volume(site.folder, 1)
    site.export.ensure_portal(site.portal, [target])
    site.client.qemu_io(target, "write 0 8M")
    full = Path(target.backing.location).stat().st_blocks
    site.client.qemu_io(target, "discard 0 8M")
    assert Path(target.backing.location).stat().st_blocks < full // 2


def test_a_half_made_target_admits_nobody_and_is_mended(site: Site) -> None:
    target = volume(site.folder, 1)
    site.export.ensure_portal(site.portal, [])
    whole = site.watched()
    whole.ensure(site.portal, target)
    site.export.remove(site.portal, target.iqn)
    for allowed in range(len(whole.calls.sizes)):
        with pytest.raises(KilledError):
            site.watched(allowed=allowed).ensure(site.portal, target)
        assert site.client.read(target, user="-") is None
        assert site.client.read(target) is None
        site.export.ensure(site.portal, target)
        assert site.client.read(target) == b"volume 1"
        site.export.remove(site.portal, target.iqn)
        assert site.export.list(site.portal) == []


def test_a_removal_that_was_cut_off_is_finished(site: Site) -> None:
    target = volume(site.folder, 1)
    site.export.ensure_portal(site.portal, [target])
    whole = site.watched()
    whole.remove(site.portal, target.iqn)
    for again in (site.export.remove, lambda portal, _: site.export.ensure(portal, target)):
        for allowed in range(len(whole.calls.sizes)):
            site.export.ensure(site.portal, target)
            with pytest.raises(KilledError):
                site.watched(allowed=allowed).remove(site.portal, target.iqn)
            again(site.portal, target.iqn)
            site.export.ensure(site.portal, target)
            assert site.client.read(target) == b"volume 1"


def test_a_start_that_was_cut_off_is_begun_anew(site: Site) -> None:
    target = volume(site.folder, 1)
    whole = site.watched()
    whole.ensure_portal(site.portal, [target])
    for allowed in range(len(whole.calls.sizes)):
        kill(site.export, site.portal)
        with pytest.raises(KilledError):
            site.watched(allowed=allowed).ensure_portal(site.portal, [target])
        assert site.export.ensure_portal(site.portal, [target])
        assert site.client.read(target) == b"volume 1"


def test_adding_costs_the_same_with_a_thousand_targets(site: Site) -> None:
    one = volume(site.folder, 1)
    many = [
        replace(one, iqn=f"{one.iqn}-{n}", chap_user=f"user-{n}", target_user=f"target-{n}")
        for n in range(1000)
    ]
    export = site.watched()
    export.ensure_portal(site.portal, [])
    costs = []
    for number in (2, 3):
        export.calls.sizes.clear()
        export.ensure(site.portal, volume(site.folder, number))
        costs.append(list(export.calls.sizes))
        for target in many if number == 2 else []:
            export.ensure(site.portal, target)
    assert len(export.list(site.portal)) == 1002
    assert costs[0] == costs[1]
    assert sum(costs[0]) == 0  # nothing is asked for, so nothing grows


def test_a_running_portal_is_looked_at_with_one_small_call(site: Site) -> None:
    export = site.watched()
    export.ensure_portal(site.portal, [volume(site.folder, number) for number in range(20)])
    export.calls.sizes.clear()
    assert not export.ensure_portal(site.portal, [])
    assert len(export.calls.sizes) == 1
    assert export.calls.sizes[0] < 100


def test_secrets_are_on_no_command_line_and_in_no_file(site: Site) -> None:
    target = volume(site.folder, 1)
    site.export.ensure_portal(site.portal, [target])
    site.export.ensure(site.portal, replace(target, iqn=f"{target.iqn}-2", chap_user="a", target_user="b"))
    site.client.read(target, secret="not-the-secret-01")
    for place in [*Path("/proc").glob("[0-9]*/cmdline"), *Path("/proc").glob("[0-9]*/environ")]:
        assert not _holds_secret(place, target)
    files = [path for path in site.home.rglob("*") if path.is_file()]
    assert site.home / "tgtd.log" in files
    for path in files:
        assert not _holds_secret(path, target), path
    assert site.home.stat().st_mode & 0o077 == 0
    assert target.chap_secret not in repr(target)
    assert target.target_secret not in repr(target)


def test_a_taken_port_is_named_and_nothing_is_left(site: Site) -> None:
    listen = (
        f"import socket,time; s=socket.create_server(('{ADDRESS}', 3260)); print(flush=True); time.sleep(60)"
    )
    command = ["nsenter", f"--net=/run/netns/{site.portal.netns}", "--", sys.executable, "-c", listen]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as stranger:
        try:
            assert stranger.stdout is not None
            stranger.stdout.readline()
            with pytest.raises(
                DriverError, match=rf"{ADDRESS} port 3260.*python.* listens there already"
            ) as caught:
                site.export.ensure_portal(site.portal, [volume(site.folder, 1)])
        finally:
            stranger.kill()
    assert "another port" in caught.value.remedy
    assert site.export._daemon(site.portal).pid() is None
    assert site.export.ensure_portal(site.portal, [volume(site.folder, 1)])


def test_a_missing_address_is_named_and_nothing_is_left(site: Site) -> None:
    elsewhere = replace(site.portal, address="198.51.100.9")
    with pytest.raises(DriverError, match=r"198\.51\.100\.9.*the address is not there"):
        site.export.ensure_portal(elsewhere, [])
    assert site.export._daemon(elsewhere).pid() is None


def test_a_missing_namespace_is_named(site: Site) -> None:
    with pytest.raises(DriverError, match="no network namespace bmi-export-nowhere"):
        site.export.ensure_portal(replace(site.portal, netns="bmi-export-nowhere"), [])


def test_a_namespace_that_was_made_again_gets_a_new_tgtd(site: Site) -> None:
    target = volume(site.folder, 1)
    site.export.ensure_portal(site.portal, [target])
    with namespace() as netns:
        moved = replace(site.portal, netns=netns)
        assert site.export.ensure_portal(moved, [target])
        assert Client(moved).read(target) == b"volume 1"


def test_a_hung_tgtd_is_a_timeout_and_can_be_removed(site: Site) -> None:
    site.export.ensure_portal(site.portal, [volume(site.folder, 1)])
    daemon = site.export._daemon(site.portal)
    os.kill(pid_of(site.export, site.portal), signal.SIGSTOP)
    with pytest.raises(TimedOutError, match="did not answer within 1 s"):
        site.export.ensure_portal(site.portal, [])
    with pytest.raises(TimedOutError):
        site.export.ensure(site.portal, volume(site.folder, 2))
    with pytest.raises(TimedOutError):
        site.export.remove(site.portal, volume(site.folder, 1).iqn)
    site.export.remove_portal(site.portal)
    assert daemon.pid() is None
    assert not site.home.exists()


def test_a_server_with_many_open_files_ends_its_tgtd(site: Site) -> None:
    site.export.ensure_portal(site.portal, [volume(site.folder, 1)])
    daemon = site.export._daemon(site.portal)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    with ExitStack() as opened:
        opened.callback(resource.setrlimit, resource.RLIMIT_NOFILE, (soft, hard))
        # select(2) knows no number above 1,023.
        while opened.enter_context(Path(os.devnull).open("rb")).fileno() < 1024:
            pass
        site.export.remove_portal(site.portal)
    assert daemon.pid() is None


def test_a_missing_file_hurts_only_its_own_volume(site: Site) -> None:
    good, lost = volume(site.folder, 1), volume(site.folder, 2)
    Path(lost.backing.location).unlink()
    with pytest.raises(DriverError, match=rf"1 of 2 volumes.*{lost.iqn}.*not there"):
        site.export.ensure_portal(site.portal, [lost, good])
    assert site.client.read(good) == b"volume 1"
    with pytest.raises(DriverError, match="is not there") as caught:
        site.export.ensure(site.portal, lost)
    assert not caught.value.retryable
    assert site.export.list(site.portal) == [good.iqn]


def test_a_refusal_in_the_middle_leaves_nothing(site: Site) -> None:
    folder = site.folder / "not-a-disk"
    folder.mkdir()
    site.export.ensure_portal(site.portal, [])
    with pytest.raises(DriverError, match="refused to new device"):
        site.export.ensure(site.portal, replace(volume(site.folder, 1), backing=Backing("file", str(folder))))
    assert site.export.list(site.portal) == []
    site.export.ensure(site.portal, volume(site.folder, 1))
    assert site.client.read(volume(site.folder, 1)) == b"volume 1"


def test_two_targets_cannot_share_a_chap_user(site: Site) -> None:
    first, second = volume(site.folder, 1), replace(volume(site.folder, 2), chap_user="user1")
    site.export.ensure_portal(site.portal, [first])
    with pytest.raises(DriverError, match="user1 belongs to another target"):
        site.export.ensure(site.portal, second)
    site.export.remove(site.portal, second.iqn)
    assert site.client.read(first) == b"volume 1"
    assert site.client.read(first, user="-") is None


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"backing": Backing("rbd", "pool/tenant/bmi-volume-1")}, "knows no namespaces"),
        ({"iqn": "iqn.2024-07.internal.bmi:under_score"}, "not an iSCSI name"),
        ({"initiator": "node-7"}, "not an iSCSI name"),
        ({"chap_user": "a,b"}, "no comma"),
    ],
)
def test_what_tgt_cannot_serve_is_refused_for_good(
    site: Site, change: dict[str, Any], complaint: str
) -> None:
    site.export.ensure_portal(site.portal, [])
    with pytest.raises(DriverError, match=complaint) as caught:
        site.export.ensure(site.portal, replace(volume(site.folder, 1), **change))
    assert not caught.value.retryable
    assert site.export.list(site.portal) == []


def test_two_bmis_with_long_paths_do_not_meet(site: Site, tmp_path: Path) -> None:
    """A socket's path holds 107 bytes; a directory's may be longer."""
    other = tgt.create(run_dir=str(tmp_path / ("other" * 20) / "run"))
    site.export.ensure_portal(site.portal, [volume(site.folder, 1)])
    with namespace() as netns:
        portal = replace(site.portal, netns=netns)
        try:
            other.ensure_portal(portal, [volume(site.folder, 2)])
            assert other.list(portal) == [volume(site.folder, 2).iqn]
            assert site.export.list(site.portal) == [volume(site.folder, 1).iqn]
        finally:
            other.remove_portal(portal)


def _stands_still(site: Site) -> bool:
    before = site.export.bytes_served(site.portal)
    time.sleep(0.2)
    return site.export.bytes_served(site.portal) == before


def _until(condition: Callable[[], bool]) -> None:
    """Waits, seconds at most, for what another process is about to do."""
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def _identity(site: Site, iqn: str) -> str:
    """Serial number and designators (VPD pages 0x80 and 0x83) as the node's kernel sees them."""
    target = volume(site.folder, 1)
    pages = []
    for page in ("128", "131"):
        inquiry = ["iscsi-inq", "-i", target.initiator, "-e", "1", "-c", page, f"iscsi://{ADDRESS}/{iqn}/1"]
        done = subprocess.run(
            ["nsenter", f"--net=/run/netns/{site.portal.netns}", "--", *inquiry],
            env={
                "PATH": os.environ["PATH"],
                "LIBISCSI_CHAP_USERNAME": target.chap_user,
                "LIBISCSI_CHAP_PASSWORD": target.chap_secret,
            },
            capture_output=True,
            check=True,
        )
        pages.append(done.stdout.decode(errors="backslashreplace"))
    return "".join(pages)


def _open_files(pid: int) -> set[str]:
    return {str(entry.readlink()) for entry in Path(f"/proc/{pid}/fd").iterdir()}


def _holds_secret(path: Path, target: Target) -> bool:
    try:
        content = path.read_bytes()
    except OSError:  # a process that has ended meanwhile
        return False
    return any(secret.encode() in content for secret in (target.chap_secret, target.target_secret))
