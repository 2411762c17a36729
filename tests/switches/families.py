"""All families of CLI switches with a simulator of each, and how its ports are called."""

from collections.abc import Callable

from bmi.drivers.switch import CLOSED, PortConfig
from tests.switches.candidate import Junos, Nvue, Sonic
from tests.switches.server import Simulator
from tests.switches.stanza import Eos, Ios, Nxos, Os9, Os10

NATIVE = PortConfig(101)
TAGGED = PortConfig(None, frozenset({102, 3900}))
BOTH = PortConfig(101, frozenset({2, 103}))
# What a port is made, one after the other: each from each.
COURSE = (
    *(NATIVE, TAGGED, BOTH, NATIVE, BOTH, TAGGED, NATIVE),
    *(PortConfig(2), CLOSED, TAGGED, CLOSED, BOTH, CLOSED),
)

_FAMILIES: dict[str, tuple[Callable[[tuple[str, ...]], Simulator], str]] = {
    "cisco_ios": (Ios, "GigabitEthernet1/0/"),
    "cisco_nxos": (Nxos, "Ethernet1/"),
    "arista_eos": (Eos, "Ethernet"),
    "dell_os9": (Os9, "TenGigabitEthernet 0/"),
    "dell_os10": (Os10, "ethernet1/1/"),
    "juniper_junos": (Junos, "ge-0/0/"),
    "cumulus_nvue": (Nvue, "swp"),
    "sonic": (Sonic, "Ethernet"),
}
FAMILIES = tuple(_FAMILIES)


def simulator(family: str, ports: int = 3) -> Simulator:
    """A switch of this family as it comes from the factory."""
    make, prefix = _FAMILIES[family]
    return make(tuple(f"{prefix}{number}" for number in range(1, ports + 1)))
