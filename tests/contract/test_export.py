"""What every exporter keeps, the fake one and tgt."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import cache, partial
from pathlib import Path

import pytest

from bmi.drivers.export import Export, Portal, Target, fake, tgt
from bmi.drivers.storage import ceph as ceph_driver
from bmi.errors import DriverError, TimedOutError
from tests import ceph
from tests.drivers.export import iscsi


@dataclass
class Subject:
    """An exporter, one portal for it, and how to kill what serves that portal."""

    export: Export
    portal: Portal
    kill: Callable[[], None]
    volume: Callable[[int], Target]


@pytest.fixture(
    params=["fake", *(pytest.param(name, marks=pytest.mark.real) for name in ("tgt", "tgt over RBD"))]
)
def subject(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Subject]:
    def volume(number: int) -> Target:
        return iscsi.volume(tmp_path, number)

    if request.param == "fake":
        imagined = fake.create(root=str(tmp_path / "world"))
        portal = Portal("red", iscsi.ADDRESS, netns="bmi-red")
        yield Subject(imagined, portal, lambda: imagined.crash(portal), volume)
        return
    if request.param == "tgt over RBD":
        options, _ = ceph.store(request.getfixturevalue("ceph_cluster"), tmp_path / "staging")
        store = ceph_driver.create(**options)
        volume = cache(partial(iscsi.rbd_volume, store))
    with iscsi.namespace() as netns:
        real = tgt.create(run_dir=str(tmp_path / "run"), threads=4)
        portal = Portal("red", iscsi.ADDRESS, netns=netns)
        try:
            yield Subject(real, portal, lambda: iscsi.kill(real, portal), volume)
        finally:
            real.remove_portal(portal)


def test_a_portal_is_started_once_with_its_targets(subject: Subject) -> None:
    targets = [subject.volume(1), subject.volume(2)]
    assert subject.export.ensure_portal(subject.portal, targets)
    assert not subject.export.ensure_portal(subject.portal, targets)
    assert subject.export.list(subject.portal) == [target.iqn for target in targets]


def test_exporting_again_changes_nothing(subject: Subject) -> None:
    subject.export.ensure_portal(subject.portal, [])
    for _ in range(2):
        subject.export.ensure(subject.portal, subject.volume(1))
    subject.export.ensure(subject.portal, subject.volume(2))
    assert subject.export.list(subject.portal) == [subject.volume(1).iqn, subject.volume(2).iqn]


def test_a_target_can_change_its_node(subject: Subject) -> None:
    subject.export.ensure_portal(subject.portal, [subject.volume(1)])
    subject.export.ensure(
        subject.portal, replace(subject.volume(1), initiator="iqn.2024-07.internal.bmi:node-8")
    )
    assert subject.export.list(subject.portal) == [subject.volume(1).iqn]


def test_removing_is_idempotent(subject: Subject) -> None:
    subject.export.ensure_portal(subject.portal, [subject.volume(1), subject.volume(2)])
    for _ in range(2):
        subject.export.remove(subject.portal, subject.volume(1).iqn)
    subject.export.remove(subject.portal, "iqn.2024-07.internal.bmi:never-there")
    assert subject.export.list(subject.portal) == [subject.volume(2).iqn]


def test_a_removed_target_can_come_back(subject: Subject) -> None:
    subject.export.ensure_portal(subject.portal, [subject.volume(1)])
    subject.export.remove(subject.portal, subject.volume(1).iqn)
    subject.export.ensure(subject.portal, subject.volume(1))
    assert subject.export.list(subject.portal) == [subject.volume(1).iqn]


def test_a_dead_portal_comes_back_with_what_it_is_told(subject: Subject) -> None:
    subject.export.ensure_portal(subject.portal, [subject.volume(1), subject.volume(2)])
    subject.kill()
    assert subject.export.ensure_portal(subject.portal, [subject.volume(2), subject.volume(3)])
    assert subject.export.list(subject.portal) == [subject.volume(2).iqn, subject.volume(3).iqn]


def test_a_dead_portal_exports_nothing_and_says_so(subject: Subject) -> None:
    subject.export.ensure_portal(subject.portal, [subject.volume(1)])
    subject.kill()
    assert subject.export.list(subject.portal) == []
    assert subject.export.sessions(subject.portal) == []
    assert subject.export.bytes_served(subject.portal) == {}
    subject.export.remove(subject.portal, subject.volume(1).iqn)
    with pytest.raises(DriverError, match="not running") as caught:
        subject.export.ensure(subject.portal, subject.volume(1))
    assert caught.value.retryable


def test_removing_a_portal_is_idempotent(subject: Subject) -> None:
    subject.export.ensure_portal(subject.portal, [subject.volume(1)])
    for _ in range(2):
        subject.export.remove_portal(subject.portal)
    assert subject.export.list(subject.portal) == []
    assert subject.export.ensure_portal(subject.portal, [])
    assert subject.export.list(subject.portal) == []


def test_nobody_is_logged_in_to_a_new_target(subject: Subject) -> None:
    subject.export.ensure_portal(subject.portal, [subject.volume(1)])
    assert subject.export.sessions(subject.portal) == []
    assert subject.export.bytes_served(subject.portal) == {subject.volume(1).iqn: 0}


def test_a_volume_is_fenced_before_it_is_opened_and_never_after(subject: Subject) -> None:
    fenced: list[str] = []

    def watched(number: int) -> Target:
        target = subject.volume(number)

        def fence() -> None:
            fenced.append(target.iqn)
            target.fence()

        return replace(target, fence=fence)

    one, two = watched(1), watched(2)
    subject.export.ensure_portal(subject.portal, [one])
    assert fenced == [one.iqn]
    subject.export.ensure(subject.portal, two)
    assert fenced == [one.iqn, two.iqn]
    subject.export.ensure(subject.portal, one)
    subject.export.ensure(subject.portal, two)
    subject.export.ensure_portal(subject.portal, [one, two])
    assert fenced == [one.iqn, two.iqn]
    subject.kill()
    subject.export.ensure_portal(subject.portal, [one, two])
    assert sorted(fenced[2:]) == [one.iqn, two.iqn]


def test_a_volume_that_cannot_be_fenced_is_not_exported(subject: Subject) -> None:
    def fence() -> None:
        raise DriverError("The cluster is away.")

    subject.export.ensure_portal(subject.portal, [])
    with pytest.raises(DriverError, match="away"):
        subject.export.ensure(subject.portal, replace(subject.volume(1), fence=fence))
    assert subject.export.list(subject.portal) == []
    subject.export.ensure(subject.portal, subject.volume(1))
    assert subject.export.list(subject.portal) == [subject.volume(1).iqn]


def test_a_portal_whose_store_is_away_stays_down(subject: Subject) -> None:
    """Nodes ask a portal that is down again and again; one that knows no such target may end their patience."""

    def fence() -> None:
        raise TimedOutError("The cluster is away.")

    targets = [subject.volume(1), subject.volume(2)]
    with pytest.raises(TimedOutError, match="away"):
        subject.export.ensure_portal(subject.portal, [replace(target, fence=fence) for target in targets])
    assert subject.export.list(subject.portal) == []
    assert subject.export.ensure_portal(subject.portal, targets)


def test_it_says_what_it_is(subject: Subject) -> None:
    assert subject.export.check().endswith(".")
