"""Power and boot device of HIL's nodes."""

from dataclasses import replace

import pytest

from bmi.drivers import load
from bmi.drivers.bmc import Bmc, BmcAccess
from bmi.errors import DriverError, TimedOutError
from tests.hil.bench import Bench
from tests.hil.server import HilServer


def _bmc(bench: Bench, **more: float) -> Bmc:
    made: Bmc = load("bmc", "hil")(**bench.options, **more)
    return made


def _access(bench: Bench, node: str = "n1") -> BmcAccess:
    return BmcAccess(f"{bench.url}/node/{bench.prefix}{node}")


def test_a_node_boots_from_the_network_with_the_account_that_bmi_has(either: Bench) -> None:
    bmc, access = _bmc(either), _access(either)
    bmc.boot_network_once(access)
    bmc.power_on(access)
    assert bmc.power_state(access) == "on"
    assert either.obm.machines[f"{either.prefix}n1"].boots == ["pxe"]
    bmc.power_off(access)
    assert bmc.power_state(access) == "off"


def test_a_node_that_stays_on_is_said_to_do_so(stand_in: Bench) -> None:
    bmc, access = _bmc(stand_in, off_timeout_s=0.1), _access(stand_in)
    bmc.power_on(access)
    stand_in.obm.machines["n1"].stuck = True
    with pytest.raises(TimedOutError, match="is on after"):
        bmc.power_off(access)


def test_a_node_that_somebody_else_has_is_not_touched(stand_in: Bench, hil: HilServer) -> None:
    bmc, access = _bmc(stand_in), _access(stand_in)
    bmc.power_on(access)
    hil.nodes["n1"].project = "blue"
    for call in (bmc.power_on, bmc.power_off, bmc.boot_network_once, bmc.power_state):
        with pytest.raises(DriverError, match="belongs to HIL's project blue") as caught:
            call(access)
        assert not caught.value.retryable
    assert stand_in.obm.machines["n1"].power == "on"


@pytest.mark.parametrize(
    "said", ["Chassis Power is on", "on", "Chassis Power is off", "off", "Mock Status", ""]
)
def test_what_the_service_says_of_power(stand_in: Bench, said: str) -> None:
    stand_in.obm.machines["n1"].power = said
    if said.endswith(("on", "off")):
        assert _bmc(stand_in).power_state(_access(stand_in)) == said.rpartition(" ")[2]
        return
    with pytest.raises(DriverError, match="does not say whether"):
        _bmc(stand_in).power_state(_access(stand_in))


@pytest.mark.parametrize("address", ["https://hil.example/nodes/n1", "https://hil.example", "/node/n1"])
def test_an_address_that_names_no_node(stand_in: Bench, address: str) -> None:
    with pytest.raises(DriverError, match="https://HIL/node/NAME"):
        _bmc(stand_in).power_state(BmcAccess(address))


def test_bmis_account_is_for_its_own_hil_only(stand_in: Bench) -> None:
    other = replace(_access(stand_in), address="https://other.example/node/n1")
    with pytest.raises(DriverError, match="no credentials for other"):
        _bmc(stand_in).power_on(other)
