"""How the service machine gets a foot into a project's network."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True)
class Foot:
    """BMI's presence on one network: a network namespace that holds one interface on `vlan` with
    `address` (CIDR notation, e.g. `10.96.1.1/24`). A namespace of its own is what keeps networks apart:
    nothing can cross inside a machine that has no path between them.
    """

    netns: str
    vlan: int
    address: str
    interface: str = "boot0"


class Uplink(Protocol):
    """All calls are idempotent; all raise DriverError."""

    def ensure(self, foot: Foot) -> None:
        """Makes namespace, interface (up, with its address) and the VLAN membership."""
        ...

    def remove(self, netns: str) -> None:
        """Removes the interface and the namespace; what is gone is a success."""
        ...

    def list(self) -> Sequence[str]:
        """The namespaces in which this uplink's feet stand: with an interface that is joined to the network.
        What was recorded somewhere, and did not survive a reboot, is not among them.
        """
        ...

    def check(self) -> str:
        """Proves that the uplink can work here; one sentence."""
        ...
