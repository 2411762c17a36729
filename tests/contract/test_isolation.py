"""What every driver of a service promises that nodes are taken from."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from bmi.drivers import load
from bmi.drivers.isolation import Isolation, Machine, MachineNic
from bmi.errors import DriverError
from tests.hil.bench import bench


@dataclass
class Subject:
    """A service with a free node n1; `take` has somebody else give it to a project there."""

    isolation: Isolation
    take: Callable[[str], object]

    @property
    def node(self) -> Machine:
        return next(machine for machine in self.isolation.nodes() if machine.name == "n1")


@pytest.fixture(params=["fake", "hil"])
def subject(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Subject]:
    if request.param == "fake":
        fake = load("isolation", "fake")()
        fake.put(
            "n1", nics=[("boot", "52:54:00:00:01:01", "n1/boot"), ("data", "52:54:00:00:01:02", "n1/data")]
        )
        yield Subject(fake, lambda project: fake.put("n1", owner=project, claimed=False))
        return
    with bench("stand-in", tmp_path) as site:
        yield Subject(
            load("isolation", "hil")(**site.options),
            lambda project: site.do("POST", f"/project/{project}/connect_node", {"node": "n1"}),
        )


def test_a_node_is_shown_with_its_nics(subject: Subject) -> None:
    assert (subject.node.owner, subject.node.claimed) == (None, False)
    driver, _, address = subject.node.bmc.partition("+")
    assert load("bmc", driver)
    assert address.startswith("http")
    assert subject.node.nics == (
        MachineNic("boot", "52:54:00:00:01:01", "n1/boot"),
        MachineNic("data", "52:54:00:00:01:02", "n1/data"),
    )


def test_a_node_is_claimed_and_given_back_as_often_as_one_likes(subject: Subject) -> None:
    for project in ("red", "blue"):
        for _ in range(2):
            subject.isolation.claim("n1", project)
            assert (subject.node.owner, subject.node.claimed) == (project, True)
        for _ in range(2):
            subject.isolation.unclaim("n1", project)
            assert (subject.node.owner, subject.node.claimed) == (None, False)


def test_a_node_that_somebody_else_has_stays_theirs(subject: Subject) -> None:
    subject.take("blue")
    for call in (subject.isolation.claim, subject.isolation.unclaim):
        for project in ("red", "blue"):
            with pytest.raises(DriverError, match="blue") as caught:
                call("n1", project)
            assert not caught.value.retryable
    assert (subject.node.owner, subject.node.claimed) == ("blue", False)


def test_a_node_that_is_claimed_stays_its_projects(subject: Subject) -> None:
    subject.isolation.claim("n1", "red")
    for call in (subject.isolation.claim, subject.isolation.unclaim):
        with pytest.raises(DriverError, match="red") as caught:
            call("n1", "blue")
        assert not caught.value.retryable
    assert (subject.node.owner, subject.node.claimed) == ("red", True)


def test_a_node_that_is_not_there_can_only_be_given_back(subject: Subject) -> None:
    with pytest.raises(DriverError) as caught:
        subject.isolation.claim("no-such-node", "red")
    assert not caught.value.retryable
    subject.isolation.unclaim("no-such-node", "red")


def test_check_says_a_sentence(subject: Subject) -> None:
    assert subject.isolation.check().endswith(".")


def test_where_bmi_alone_says_who_has_what_there_is_nobody_to_ask() -> None:
    alone: Isolation = load("isolation", "builtin")()
    alone.claim("n1", "red")
    alone.unclaim("n1", "red")
    assert alone.nodes() == ()
    assert alone.check().endswith(".")
