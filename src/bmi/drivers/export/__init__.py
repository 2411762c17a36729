"""How a volume is offered to a node as a network disk."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from bmi.drivers.storage import Backing


@dataclass(frozen=True)
class Portal:
    """The place on one network where that network's volumes, and no others, are offered.

    `name` is unique among portals and a valid file name; `netns` is the network namespace it lives in
    (None: the host's own).
    """

    name: str
    address: str
    port: int = 3260
    netns: str | None = None


def _nobody_to_fence() -> None:
    """What only one can have open needs no fence."""


@dataclass(frozen=True)
class Target:
    """One exported volume: only `initiator` with this CHAP user and secret may log in. To an initiator that asks
    for it, the exporter proves in turn, with `target_user` and `target_secret`, that it is no other.

    `fence` is called each time right before the exporter opens the volume, when it certainly has not opened
    it itself: it cuts off whoever else still has (an exporter that was killed).
    """

    iqn: str
    backing: Backing
    initiator: str
    chap_user: str
    chap_secret: str = field(repr=False)
    target_user: str
    target_secret: str = field(repr=False)
    fence: Callable[[], None] = field(default=_nobody_to_fence, repr=False, compare=False)


@dataclass(frozen=True)
class Session:
    """Somebody logged in to a target; `number` tells sessions of one portal apart."""

    iqn: str
    initiator: str
    address: str
    number: int


class Export(Protocol):
    """An iSCSI (or other) exporter. All calls are idempotent; all raise DriverError."""

    def ensure_portal(self, portal: Portal, targets: Sequence[Target]) -> bool:
        """Makes sure that the portal serves, and that all `targets` are exported on it *before* it
        answers if it has to be started. Returns whether it had to be started. Cheap when it runs.
        """
        ...

    def remove_portal(self, portal: Portal) -> None:
        """Ends the portal and everything exported on it."""
        ...

    def ensure(self, portal: Portal, target: Target) -> None:
        """Exports the volume. The same cost however many targets there are."""
        ...

    def remove(self, portal: Portal, iqn: str) -> None:
        """Ends the export, its sessions first, even under I/O. One that is gone is a success."""
        ...

    def list(self, portal: Portal) -> Sequence[str]:
        """The IQNs exported on the portal."""
        ...

    def sessions(self, portal: Portal) -> Sequence[Session]:
        """Everybody who is logged in; of those at one target, the newest first. Cheap while nobody comes."""
        ...

    def end_session(self, portal: Portal, session: Session) -> None:
        """Cuts a session off. Its initiator may log in again, as far as the target lets it."""
        ...

    def bytes_served(self, portal: Portal) -> Mapping[str, int]:
        """Bytes read per IQN by the sessions that are open now (empty where unknown)."""
        ...

    def check(self) -> str:
        """Proves that the exporter can run here; one sentence."""
        ...
