"""The switches that nodes are cabled to: which VLANs a port is on."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol

from bmi.errors import DriverError

# IEEE 802.1Q has 0 and 4095 for itself, and 1 is where switches put what nobody has told them about.
FIRST_VLAN, LAST_VLAN = 2, 4094


@dataclass(frozen=True)
class PortConfig:
    """What a port is a member of: of one VLAN untagged (`native`), of any number `tagged`, and of nothing else.
    In none at all, it is closed: it passes no frame, not even to other closed ports.

    Raises DriverError for what is no VLAN of a node: 1 and all that IEEE 802.1Q reserves.
    """

    native: int | None = None
    tagged: frozenset[int] = field(default_factory=frozenset)

    def __post_init__(self) -> None:
        for vlan in self.vlans:
            if not FIRST_VLAN <= vlan <= LAST_VLAN:
                raise DriverError(
                    f"A node's port cannot be on VLAN {vlan}.",
                    retryable=False,
                    remedy=f"Choose one of {FIRST_VLAN} to {LAST_VLAN}.",
                )
        if self.native in self.tagged:
            raise DriverError(
                f"A port cannot be on VLAN {self.native} both tagged and untagged.",
                retryable=False,
                remedy="Take one of them away.",
            )

    @property
    def vlans(self) -> frozenset[int]:
        return self.tagged if self.native is None else self.tagged | {self.native}

    def __str__(self) -> str:
        if not self.vlans:
            return "closed"
        parts = [] if self.native is None else [f"VLAN {self.native}"]
        return " and ".join([*parts, *(f"VLAN {vlan} tagged" for vlan in sorted(self.tagged))])


CLOSED = PortConfig()


class Switch(Protocol):
    """One switch. All calls are idempotent; all raise DriverError when it is away, and end within seconds."""

    def apply(self, ports: Mapping[str, PortConfig]) -> Mapping[str, PortConfig | DriverError]:
        """Makes all these ports so, in one session, and reads back: what each is now, or why it is not as asked.
        Where ports come and go with what is plugged in, one that does not exist is closed. No port is for any
        moment on more than it was or shall be on.
        """
        ...

    def list(self) -> Mapping[str, PortConfig | None]:
        """All node-side ports with what each is on; None is anything that BMI does not make (VLAN 1, all
        VLANs, what the driver does not understand).
        """
        ...

    def check(self) -> str:
        """Proves that the switch answers and would take a change; one sentence."""
        ...


def read_back(
    asked: Mapping[str, PortConfig], seen: Mapping[str, PortConfig | None]
) -> dict[str, PortConfig | DriverError]:
    """What `apply` returns when, after it, `list` shows `seen`."""
    found: dict[str, PortConfig | DriverError] = {}
    for port, config in asked.items():
        now = seen.get(port, CLOSED)
        if now == config:
            found[port] = config
        elif port not in seen:
            found[port] = no_port(port)
        else:
            found[port] = DriverError(
                f"Port {port} should be {config}, and is {now or 'something that BMI does not make'}.",
                remedy="Look at the port on the switch itself: what else is configured there, and by whom?",
            )
    return found


def no_port(port: str) -> DriverError:
    return DriverError(
        f"The switch has no node-side port {port!r}.",
        retryable=False,
        remedy="Compare the node's switch port with the ports of the switch.",
    )
