"""Cisco NX-OS."""

from bmi.drivers.switch import industry
from bmi.drivers.switch.ssh import Family, creates

FAMILY = Family(
    device_type="cisco_nxos",
    show=("show running-config interface",),
    parse=lambda printed: industry.ports(printed[0]),
    commands=industry.commands,
    save="copy running-config startup-config",
)

create = creates(FAMILY)
