"""The fake BMC: what it remembers and how it is told to fail."""

from pathlib import Path

import pytest

from bmi.drivers.bmc import BmcAccess, fake
from bmi.errors import DriverError

ACCESS = BmcAccess("fake://n1")


def test_it_remembers_what_the_node_booted_from() -> None:
    bmc = fake.create()
    bmc.boot_network_once(ACCESS)
    bmc.power_on(ACCESS)
    assert bmc.node(ACCESS.address) == {"power": "on", "network_once": False, "booted": "network", "boots": 1}
    bmc.power_off(ACCESS)
    bmc.power_on(ACCESS)
    assert bmc.node(ACCESS.address)["booted"] == "default"


def test_its_state_outlives_the_process(tmp_path: Path) -> None:
    fake.create(root=str(tmp_path)).power_on(ACCESS)
    assert fake.create(root=str(tmp_path)).power_state(ACCESS) == "on"


def test_it_fails_when_told_to(tmp_path: Path) -> None:
    bmc = fake.create(root=str(tmp_path))
    bmc.world.set_fault("power_on", error="The fuse is blown.", times=1)
    with pytest.raises(DriverError, match="fuse"):
        bmc.power_on(ACCESS)
    assert bmc.power_state(ACCESS) == "off"
    bmc.power_on(ACCESS)
    assert bmc.power_state(ACCESS) == "on"
