"""Cisco IOS and IOS-XE."""

from functools import partial

from bmi.drivers.switch import industry
from bmi.drivers.switch.family import Family
from bmi.drivers.switch.ssh import creates

FAMILY = Family(
    device_type="cisco_ios",
    show=("show running-config | section ^interface",),
    # A port that nobody has configured negotiates what it is with whatever is plugged in.
    parse=lambda printed: industry.ports(printed[0], default_mode="dynamic"),
    commands=partial(
        industry.commands,
        before=("switchport trunk encapsulation dot1q",),
        after=("switchport nonegotiate",),
    ),
    vlan=industry.vlan,
    save="write memory",
    # Some insist on an encapsulation for trunks, the others do not know the word; and those that do not route do not
    # know `switchport` alone.
    may_fail=r"switchport( trunk encapsulation dot1q)?",
    # For FDDI and Token Ring; no switch lets go of them.
    reserved=range(1002, 1006),
)

create = creates(FAMILY)
