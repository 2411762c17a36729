"""All that the listeners know of the rest of BMI."""

from collections.abc import Sequence
from typing import Protocol

from bmi.domain.boot import Boot, Firmware, Foot, Offer


class Desk(Protocol):
    """Answers what the listeners are asked; `bmi.service.boot.BootDesk` is the real one."""

    def feet(self) -> Sequence[Foot]:
        """The networks to serve now; asked about twice a second."""
        ...

    def offer(self, network_id: str, mac: str, firmware: Firmware) -> Offer | None:
        """The address (and boot token) of a NIC that belongs on this network; None for any other."""
        ...

    def boot(self, token: str, network_id: str, address: str) -> Boot:
        """What a live boot may read, from the address of its node; raises NotFoundError."""
        ...

    def record(self, token: str, network_id: str, address: str, stage: str, detail: str = "") -> None:
        """Notes how far a boot has come, by what its node says; raises NotFoundError."""
        ...
