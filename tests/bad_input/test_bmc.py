"""BMCs that refuse, hang or are something else: a provision is taken back, a release goes on later."""

import threading
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any, Self

import pytest

from bmi.client import Operation
from bmi.drivers import load
from bmi.errors import DriverError, TimedOutError
from tests.bad_input.conftest import Place
from tests.drivers.bmc import misbehaving

SYSTEM = "/redfish/v1/Systems/1"
RESET = f"{SYSTEM}/Actions/ComputerSystem.Reset"
NAME = "n9"

BAD = {
    "refuses the connection": "cannot be reached",
    "is silent": "does not answer",
    "refuses the password": "does not accept the user name and password",
    "refuses everything": "answered 503",
    "is a printer": "does not speak Redfish",
}
# A BMC that hangs only when it is to turn the node on, when everything else is open and exported.
AT_POWER_ON = {"is silent", "refuses everything"}


class Bmc(dict[str, misbehaving.Reply]):
    """One node's BMC on a loopback port of its own, well behaved until told otherwise."""

    def __init__(self, place: Place) -> None:
        super().__init__()
        self._place = place
        self._power = "Off"
        self._mode = ""
        self._bad_at_power_on = ""
        self._ended = threading.Event()
        self._running = ExitStack()
        self._service = misbehaving.Service()
        self._start(0)

    def _start(self, port: int) -> None:
        self._service = self._running.enter_context(misbehaving.serving(self, port=port))

    @property
    def at(self) -> str:
        return self._service.url.removeprefix("http://")

    def behaves(self, mode: str = "") -> None:
        """From now on like this; as it should when nothing is said."""
        self._bad_at_power_on = ""
        if mode == "refuses the connection":
            self._running.close()
        elif self._mode == "refuses the connection":
            self._start(int(self.at.rpartition(":")[2]))
        self._mode = mode

    def behaves_at_power_on(self, mode: str) -> None:
        """Well until it is to turn the node on, then like this."""
        self.behaves()
        self._bad_at_power_on = mode

    def get(self, request: str, default: Any = None) -> Any:
        method, _, path = request.partition(" ")
        wants = self._service.bodies[-1].get("ResetType") if path == RESET else None
        if wants == "On" and self._bad_at_power_on:
            self._mode = self._bad_at_power_on
        match self._mode:
            case "is silent":
                self._ended.wait()
            case "refuses the password":
                return 401, {"error": {"message": "no"}}
            case "refuses everything":
                return 503, {"error": {"message": "Too busy."}}
            case "is a printer":
                return 200, b"<html>Ready to print</html>"
        if wants:
            self._turn(wants)
            return 204, b""
        if path == SYSTEM:
            return (200, misbehaving.system(self._power)) if method == "GET" else (204, b"")
        return default

    def _turn(self, wanted: str) -> None:
        was, self._power = self._power, "On" if wanted == "On" else "Off"
        if (was, self._power) == ("Off", "On"):
            self._place.site._powered_on(NAME)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._running.close()


@pytest.fixture
def bmc(place: Place) -> Iterator[Bmc]:
    redfish = load("bmc", "redfish")(timeout_s=0.3, off_timeout_s=1)
    place.equip(bmc=lambda _driver: redfish)
    with Bmc(place) as made:
        yield made


def register(place: Place, bmc: Bmc) -> Operation:
    return place.client.register_node(
        NAME,
        mac="52:54:00:00:00:09",
        bmc=f"redfish+http://{bmc.at}{SYSTEM}",
        bmc_username="admin",
        bmc_password="secret-of-the-bmc",
        switch="sw1",
        port="port9",
    )


def fails(place: Place, operation: Operation, bmc: Bmc, mode: str) -> None:
    """The operation fails because of the BMC, says so and marks the node."""
    problem = place.fails(operation)
    assert isinstance(problem, DriverError)
    assert isinstance(problem, TimedOutError) == (mode == "is silent")
    assert BAD[mode] in problem.detail
    assert bmc.at in problem.detail
    assert "secret-of-the-bmc" not in str(problem.problem())
    node = place.client.get_node(NAME)
    assert node["state"] == "error"
    assert node["problem"]
    assert node["problem"]["detail"] == problem.detail


@pytest.mark.parametrize("mode", BAD)
def test_registering(place: Place, bmc: Bmc, mode: str) -> None:
    before = place.everything()
    bmc.behaves(mode)
    failed = register(place, bmc)
    fails(place, failed, bmc, mode)

    bmc.behaves()
    place.succeeds(place.client.retry_operation(failed["id"]))
    assert place.client.get_node(NAME)["state"] == "free"
    place.succeeds(place.client.delete_node(NAME))
    assert place.everything() == before

    bmc.behaves(mode)
    place.ended(register(place, bmc))
    place.succeeds(place.client.delete_node(NAME))
    assert place.everything() == before, "a node that cannot be reached can be taken out"


@pytest.mark.parametrize(
    ("mode", "at_power_on"),
    [*((mode, False) for mode in BAD), *((mode, True) for mode in sorted(AT_POWER_ON))],
)
def test_provisioning(place: Place, bmc: Bmc, mode: str, at_power_on: bool) -> None:
    place.succeeds(register(place, bmc))
    before, outside = place.everything(), place.outside()
    (bmc.behaves_at_power_on if at_power_on else bmc.behaves)(mode)

    failed = place.client.provision_node(NAME, image="debian-12", project="red")
    ended = place.ended(failed)
    assert ended["state"] == "failed"
    assert place.outside() == outside, "volume, export and port are as they were"
    assert ended["problem"]
    assert BAD[mode] in ended["problem"]["detail"]
    assert ended["problem"]["step"] == ("power_on" if at_power_on else "power_off")
    assert place.client.get_node(NAME)["state"] == "error"

    bmc.behaves()
    place.succeeds(place.client.retry_operation(failed["id"]), NAME)
    assert place.client.get_node(NAME)["state"] == "active"
    place.succeeds(place.client.release_node(NAME))
    place.succeeds(place.client.free_node(NAME))
    assert place.everything() == before


@pytest.mark.parametrize("mode", BAD)
def test_releasing(place: Place, bmc: Bmc, mode: str) -> None:
    place.succeeds(register(place, bmc))
    before = place.everything()
    place.succeeds(place.client.provision_node(NAME, image="debian-12", project="red"), NAME)

    bmc.behaves(mode)
    failed = place.client.release_node(NAME)
    fails(place, failed, bmc, mode)
    # The node may still run and write; it is cut off, and keeps its disk until it is off for certain.
    assert place.outside()["ports"] == {}
    assert len(place.outside()["store"]) == len(before["store"]) + 1

    bmc.behaves()
    place.succeeds(place.client.retry_operation(failed["id"]))
    place.succeeds(place.client.free_node(NAME))
    assert place.everything() == before


def test_a_release_that_failed_may_be_asked_for_again(place: Place, bmc: Bmc) -> None:
    place.succeeds(register(place, bmc))
    before = place.everything()
    place.succeeds(place.client.provision_node(NAME, image="debian-12", project="red"), NAME)
    bmc.behaves("is silent")
    place.ended(place.client.release_node(NAME))
    bmc.behaves()
    place.succeeds(place.client.release_node(NAME))
    place.succeeds(place.client.free_node(NAME))
    assert place.everything() == before


def test_a_provision_that_failed_may_be_released_instead(place: Place, bmc: Bmc) -> None:
    place.succeeds(register(place, bmc))
    before = place.everything()
    bmc.behaves("refuses everything")
    place.ended(place.client.provision_node(NAME, image="debian-12", project="red"))
    bmc.behaves()
    place.succeeds(place.client.release_node(NAME))
    place.succeeds(place.client.free_node(NAME))
    assert place.everything() == before
