"""Arista EOS."""

from bmi.drivers.switch import industry
from bmi.drivers.switch.family import Family
from bmi.drivers.switch.ssh import creates

FAMILY = Family(
    device_type="arista_eos",
    show=("show running-config section interface",),
    parse=lambda printed: industry.ports(printed[0]),
    commands=industry.commands,
    vlan=industry.vlan,
    save="write memory",
)

create = creates(FAMILY)
