"""What every BMC driver promises."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from bmi.drivers import load
from bmi.drivers.bmc import Bmc, BmcAccess
from bmi.errors import DriverError
from bmi.lab.lab import Lab
from tests.hil.bench import bench
from tests.wires import short_directory, unique

PASSWORD = "secret-of-the-fake"


@dataclass
class Subject:
    bmc: Bmc
    access: BmcAccess


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    with short_directory() as directory:
        made = Lab.up(directory / "lab", nodes=1, name=unique("bmc"), memory_mib=128)
        yield made
        made.down()


@pytest.fixture(params=["fake", "hil", pytest.param("redfish", marks=pytest.mark.real)])
def subject(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Subject]:
    """A BMC whose node is off."""
    if request.param == "hil":
        with bench("stand-in", tmp_path) as site:
            yield Subject(load("bmc", "hil")(), BmcAccess(f"{site.url}/node/n1", *site.login))
        return
    if request.param == "fake":
        yield Subject(load("bmc", "fake")(password=PASSWORD), BmcAccess("fake://n1", "admin", PASSWORD))
        return
    lab: Lab = request.getfixturevalue("lab")
    access = BmcAccess(
        lab.nodes[0].bmc_url.removeprefix("redfish+"), lab.bmc_username, lab.bmc_password_file.read_text()
    )
    bmc: Bmc = load("bmc", "redfish")()
    yield Subject(bmc, access)
    bmc.power_off(access)


def test_a_node_is_turned_on_and_off(subject: Subject) -> None:
    assert subject.bmc.power_state(subject.access) == "off"
    subject.bmc.power_on(subject.access)
    assert subject.bmc.power_state(subject.access) == "on"
    subject.bmc.power_off(subject.access)
    assert subject.bmc.power_state(subject.access) == "off"


def test_all_calls_can_be_repeated(subject: Subject) -> None:
    for _ in range(2):
        subject.bmc.power_off(subject.access)
    for _ in range(2):
        subject.bmc.boot_network_once(subject.access)
    for _ in range(2):
        subject.bmc.power_on(subject.access)
    assert subject.bmc.power_state(subject.access) == "on"


def test_setting_the_boot_device_does_not_change_the_power(subject: Subject) -> None:
    subject.bmc.boot_network_once(subject.access)
    assert subject.bmc.power_state(subject.access) == "off"


def test_check_says_a_sentence(subject: Subject) -> None:
    assert subject.bmc.check(subject.access).endswith(".")


def test_a_wrong_password_cannot_be_retried_and_is_not_repeated_in_the_error(subject: Subject) -> None:
    wrong = replace(subject.access, password="not-the-password")
    calls = (
        subject.bmc.power_state,
        subject.bmc.power_on,
        subject.bmc.power_off,
        subject.bmc.boot_network_once,
    )
    for call in (*calls, subject.bmc.check):
        with pytest.raises(DriverError) as caught:
            call(wrong)
        assert not caught.value.retryable
        assert "credentials" in caught.value.remedy
        assert "not-the-password" not in repr(caught.value) + str(caught.value.problem())
    assert subject.bmc.power_state(subject.access) == "off"
