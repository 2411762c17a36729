"""What every exporter keeps, the fake one and tgt."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from bmi.drivers.export import Export, Portal, Target, fake, tgt
from bmi.errors import DriverError
from tests.drivers.export import iscsi


@dataclass
class Subject:
    """An exporter, one portal for it, and how to kill what serves that portal."""

    export: Export
    portal: Portal
    kill: Callable[[], None]
    volume: Callable[[int], Target]


@pytest.fixture(params=["fake", pytest.param("tgt", marks=pytest.mark.real)])
def subject(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Subject]:
    def volume(number: int) -> Target:
        return iscsi.volume(tmp_path, number)

    if request.param == "fake":
        imagined = fake.create(root=str(tmp_path / "world"))
        portal = Portal("red", iscsi.ADDRESS, netns="bmi-red")
        yield Subject(imagined, portal, lambda: imagined.crash(portal), volume)
        return
    with iscsi.namespace() as netns:
        real = tgt.create(run_dir=str(tmp_path / "run"))
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
    assert subject.export.sessions(subject.portal, subject.volume(1).iqn) == []
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
    assert subject.export.sessions(subject.portal, subject.volume(1).iqn) == []
    assert subject.export.sessions(subject.portal, "iqn.2024-07.internal.bmi:never-there") == []
    assert subject.export.bytes_served(subject.portal) == {subject.volume(1).iqn: 0}


def test_it_says_what_it_is(subject: Subject) -> None:
    assert subject.export.check().endswith(".")
