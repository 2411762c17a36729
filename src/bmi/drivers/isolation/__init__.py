"""Who has which node: BMI alone, or a service beside it that gives nodes to projects of its own."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True)
class MachineNic:
    """A network interface of a machine. `port` is its name as a port of the switch driver of the same service;
    None when it is cabled to nothing that the service knows.
    """

    name: str
    mac: str
    port: str | None


@dataclass(frozen=True)
class Machine:
    """A node as the service knows it: the project of the service that has it, and whether BMI claimed it for
    that. `bmc` is where its power is controlled, as `<driver>+<address>`.
    """

    name: str
    owner: str | None
    claimed: bool
    bmc: str
    nics: tuple[MachineNic, ...]


class Isolation(Protocol):
    """The service that nodes are taken from. All calls are idempotent, and raise DriverError within seconds."""

    def nodes(self) -> Sequence[Machine]:
        """All nodes of the service; none where BMI alone says who has what."""
        ...

    def claim(self, node: str, project: str) -> None:
        """Has the service give a free node to a project of its own. One that somebody else has stays theirs, and
        the error says so.
        """
        ...

    def unclaim(self, node: str, project: str) -> None:
        """Has the service take the node back, whose ports are closed by then. One that it does not know any more
        is nobody's; one that anybody but the project has stays theirs, and the error says so.
        """
        ...

    def check(self) -> str:
        """Proves that the service answers; one sentence."""
        ...
