"""The switch that nodes are cabled to: which VLAN a port is on."""

from collections.abc import Mapping
from typing import Protocol


class Switch(Protocol):
    """One switch. All calls are idempotent; all raise DriverError and end within seconds."""

    def set_access(self, port: str, vlan: int) -> None:
        """Makes `port` an untagged member of `vlan` and of nothing else, and reads it back."""
        ...

    def close(self, port: str) -> None:
        """Makes `port` reach nothing at all, not even other closed ports. A port that does not exist is
        closed.
        """
        ...

    def list(self) -> Mapping[str, int | None]:
        """All node-side ports with the VLAN each is on; None is closed, 0 is anything else (a trunk, several
        VLANs, none): a state that BMI does not make, and that is to be corrected.
        """
        ...

    def check(self) -> str:
        """Proves that the switch answers; one sentence."""
        ...
