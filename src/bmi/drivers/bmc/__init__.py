"""The node's management controller: power and next boot device."""

from dataclasses import dataclass, field
from typing import Literal, Protocol

PowerState = Literal["on", "off"]


@dataclass(frozen=True)
class BmcAccess:
    """Where a BMC is and how to get in. `address` is a URL such as `https://10.0.0.5/redfish/v1/Systems/1`;
    `verify_tls` is a path to a CA bundle, True for the system's, or False.
    """

    address: str
    username: str = ""
    password: str = field(default="", repr=False)
    verify_tls: bool | str = True


class Bmc(Protocol):
    """All BMCs of one kind; each call names the one it means. All raise DriverError within seconds.

    Drivers keep bounded pools of sessions; they never retry.
    """

    def power_state(self, access: BmcAccess) -> PowerState:
        """The power state now."""
        ...

    def power_on(self, access: BmcAccess) -> None:
        """Turns the node on; one that is on stays on."""
        ...

    def power_off(self, access: BmcAccess) -> None:
        """Turns the node off at once, without asking its OS; one that is off stays off. Returns when the
        BMC reports it off.
        """
        ...

    def boot_network_once(self, access: BmcAccess) -> None:
        """Makes the next boot, and only that, a network boot."""
        ...

    def check(self, access: BmcAccess) -> str:
        """Proves that the BMC answers with these credentials; one sentence that names the hardware."""
        ...
