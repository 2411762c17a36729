"""Cisco NX-OS."""

from bmi.drivers.switch import industry
from bmi.drivers.switch.family import Family
from bmi.drivers.switch.ssh import creates

FAMILY = Family(
    device_type="cisco_nxos",
    show=("show running-config interface",),
    parse=lambda printed: industry.ports(printed[0]),
    commands=industry.commands,
    vlan=industry.vlan,
    save="copy running-config startup-config",
    # Cisco's VLAN guides for Nexus: 3968 to 4094 are for internal use unless `system vlan reserve` says otherwise.
    unused_vlan=3967,
    reserved=range(3968, 4095),
)

create = creates(FAMILY)
