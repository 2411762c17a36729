"""tgt over RBD: a cluster that its portal's network does not reach, locks that the dead leave behind."""

import os
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from bmi.drivers.export import Portal, Target, tgt, tgt_targets
from bmi.drivers.export.tgt import TgtExport
from bmi.drivers.storage import Ref, ceph
from bmi.drivers.storage.ceph import CephStorage
from bmi.errors import DriverError
from bmi.lab.ceph import CephCluster
from tests import ceph as clusters
from tests.drivers.export.iscsi import ADDRESS, Client, kill, namespace, pid_of, rbd_volume

pytestmark = pytest.mark.real


@dataclass
class Site:
    """A portal in a namespace of its own, and a store on a cluster that is not in it."""

    export: TgtExport
    portal: Portal
    client: Client
    store: CephStorage

    def volume(self, number: int) -> Target:
        return rbd_volume(self.store, number)


@pytest.fixture
def site(tmp_path: Path, ceph_cluster: CephCluster) -> Iterator[Site]:
    with _site(tmp_path, ceph_cluster) as made:
        yield made


@contextmanager
def _site(directory: Path, cluster: CephCluster) -> Iterator[Site]:
    options, _ = clusters.store(cluster, directory / "staging")
    with namespace() as netns:
        export = tgt.create(run_dir=str(directory / "run"), timeout_s=5, threads=16)
        portal = Portal("red", ADDRESS, netns=netns)
        try:
            yield Site(export, portal, Client(portal), ceph.create(**options))
        finally:
            export.remove_portal(portal)


def test_nodes_reach_the_volume_and_nothing_else_of_the_cluster(site: Site) -> None:
    target = site.volume(1)
    site.export.ensure_portal(site.portal, [target, site.volume(2)])
    assert site.client.read(target) == b"volume 1"
    site.client.qemu_io(target, "write -P 65 512 512")
    assert site.client.qemu_io(target, "read -v 512 512") == b"A" * 512
    listening = ["nsenter", f"--net=/run/netns/{site.portal.netns}", "--", "ss", "-Htln"]
    shown = subprocess.run(listening, capture_output=True, text=True, check=True).stdout
    assert [line.split()[3] for line in shown.splitlines()] == [f"{ADDRESS}:3260"]


def test_trimmed_objects_leave_the_store(site: Site) -> None:
    target = site.volume(1)
    site.export.ensure_portal(site.portal, [target])
    site.client.qemu_io(target, "write 16M 8M")
    full = site.store.usage(Ref("volume", "1")).allocated_bytes
    site.client.qemu_io(target, "discard 16M 8M")
    assert site.store.usage(Ref("volume", "1")).allocated_bytes < full


def test_after_a_kill_writes_go_on_in_seconds(site: Site) -> None:
    """The dead tgtd leaves the image's lock; without a fence the next write waits 30 s for it."""
    target = site.volume(1)
    site.export.ensure_portal(site.portal, [target])
    site.client.qemu_io(target, "write -P 65 512 512")
    kill(site.export, site.portal)
    began = time.monotonic()
    assert site.export.ensure_portal(site.portal, [target])
    site.client.qemu_io(target, "write -P 66 1024 512")
    assert time.monotonic() - began < 15  # half of what it takes unfenced; in fact a fraction of a second
    assert site.client.qemu_io(target, "read -v 512 1024") == b"A" * 512 + b"B" * 512


def test_what_was_cut_off_never_writes_again(site: Site, tmp_path: Path) -> None:
    """A second exporter, as after a loss of contact: from then on the first one's writes fail."""
    target = site.volume(1)
    site.export.ensure_portal(site.portal, [target])
    site.client.qemu_io(target, "write -P 65 0 512")
    with namespace() as netns:
        other = tgt.create(run_dir=str(tmp_path / "other"), threads=16)
        portal = replace(site.portal, netns=netns)
        try:
            other.ensure_portal(portal, [target])
            Client(portal).qemu_io(target, "write -P 66 0 512")
            with pytest.raises(AssertionError, match="failed"):
                site.client.qemu_io(target, "write -P 67 0 512")
            assert Client(portal).qemu_io(target, "read -v 0 512") == b"B" * 512
        finally:
            other.remove_portal(portal)


def test_nothing_is_acknowledged_that_a_kill_would_lose(tmp_path: Path) -> None:
    with clusters.running(tmp_path / "ceph") as cluster, _site(tmp_path, cluster) as site:
        target = site.volume(1)
        site.export.ensure_portal(site.portal, [target])
        # A flush is what makes librbd's cache, where there is one, acknowledge writes early from then on.
        site.client.qemu_io(target, "write -P 65 0 512")
        site.client.qemu_io(target, "flush")
        with cluster.frozen("osd"), site.client.writing(target, "write -P 66 0 512") as writer:
            with pytest.raises(subprocess.TimeoutExpired):
                writer.wait(3)
            kill(site.export, site.portal)


def test_a_missing_image_is_named(site: Site) -> None:
    target, lost = site.volume(1), site.volume(2)
    site.store.delete(Ref("volume", "2"))
    with pytest.raises(DriverError, match=r"1 of 2 volumes.*volume-2"):
        site.export.ensure_portal(site.portal, [lost, target])
    assert site.client.read(target) == b"volume 1"


def test_a_portal_that_is_full_says_so(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tgt_targets, "_MAX_RBD_VOLUMES", 1)
    site.export.ensure_portal(site.portal, [site.volume(1)])
    site.export.ensure(site.portal, site.volume(1))
    with pytest.raises(DriverError, match="as many as one tgtd can carry") as caught:
        site.export.ensure(site.portal, site.volume(2))
    assert not caught.value.retryable


def test_a_volume_looks_the_same_as_from_a_file(site: Site) -> None:
    """Physical blocks of 4 KiB, not of an RBD object: partitioning tools align to them."""
    target = site.volume(1)
    site.export.ensure_portal(site.portal, [target])
    assert site.client.physical_block_bytes(target) == 4096


def test_the_exporter_lives_outside_of_the_nodes_network(site: Site) -> None:
    site.export.ensure_portal(site.portal, [])
    pid = pid_of(site.export, site.portal)
    assert Path(f"/proc/{pid}/ns/net").stat() == Path("/proc/self/ns/net").stat()
    assert os.getsid(pid) == pid
