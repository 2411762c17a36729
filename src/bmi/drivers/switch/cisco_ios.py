"""Cisco IOS and IOS-XE."""

from functools import partial

from bmi.drivers.switch import industry
from bmi.drivers.switch.ssh import Family, creates

FAMILY = Family(
    device_type="cisco_ios",
    show=("show running-config | section ^interface",),
    # A port that nobody has configured negotiates what it is with whatever is plugged in.
    parse=lambda printed: industry.ports(printed[0], default_mode="dynamic"),
    # Some insist on an encapsulation for trunks, the others do not know the word: both go on.
    commands=partial(
        industry.commands,
        before=("switchport trunk encapsulation dot1q",),
        after=("switchport nonegotiate",),
    ),
    save="write memory",
)

create = creates(FAMILY)
