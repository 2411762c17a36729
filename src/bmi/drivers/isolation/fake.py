"""A service that gives nodes to projects, and exists in a directory only."""

from collections.abc import Sequence
from typing import Any

from bmi.drivers.faults import FakeWorld, Table
from bmi.drivers.isolation import Machine, MachineNic
from bmi.errors import DriverError

_NODES = "machines"


class FakeIsolation:
    """Its nodes are those that `put` made."""

    def __init__(self, world: FakeWorld) -> None:
        self.world = world

    def put(self, name: str, **facts: Any) -> None:
        """Makes or changes a node: `owner`, `claimed`, `bmc`, and `nics` as lists of name, MAC and port."""

        def edit(nodes: Table) -> None:
            untouched: Table = {
                "owner": None,
                "claimed": False,
                "bmc": f"fake+https://bmc.example/{name}",
                "nics": [],
            }
            nodes[name] = untouched | nodes.get(name, {}) | facts

        self.world.change(_NODES, edit)

    def remove(self, name: str) -> None:
        """Forgets a node."""
        self.world.change(_NODES, lambda nodes: nodes.pop(name, None))

    def nodes(self) -> Sequence[Machine]:
        self.world.call("nodes")
        return [
            Machine(
                name,
                node["owner"],
                node["claimed"],
                node["bmc"],
                tuple(MachineNic(*nic) for nic in node["nics"]),
            )
            for name, node in sorted(self.world.read(_NODES).items())
        ]

    def claim(self, node: str, project: str) -> None:
        self.world.call("claim")
        if node not in self.world.read(_NODES):
            raise DriverError(
                f"There is no node {node}.", retryable=False, remedy="Look at the service's nodes."
            )
        self._refuse_unless_of(node, project)
        self.put(node, owner=project, claimed=True)

    def unclaim(self, node: str, project: str) -> None:
        self.world.call("unclaim")
        if node in self.world.read(_NODES):
            self._refuse_unless_of(node, project)
            self.put(node, owner=None, claimed=False)

    def check(self) -> str:
        self.world.call("check")
        return f"A fake isolation service in {self.world.root}."

    def _refuse_unless_of(self, node: str, project: str) -> None:
        facts = self.world.read(_NODES)[node]
        if facts["owner"] is not None and (facts["owner"], facts["claimed"]) != (project, True):
            raise DriverError(
                f"The node {node} belongs to {facts['owner']}.", retryable=False, remedy="Have it given back."
            )


def create(*, root: str = "") -> FakeIsolation:
    """A service whose state is kept in `root` (empty: in a directory of this process)."""
    return FakeIsolation(FakeWorld(root))
