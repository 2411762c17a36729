"""A switch that exists in a directory only."""

from collections.abc import Mapping

from bmi.drivers.faults import FakeWorld, Table
from bmi.drivers.switch import PortConfig
from bmi.errors import DriverError

_PORTS = "ports"


class FakeSwitch:
    """Every port that was ever named exists; one that was never opened is closed.

    A fault of `apply` is one of the whole session; of `apply <port>`, of that port.
    """

    def __init__(self, world: FakeWorld) -> None:
        self.world = world

    def apply(self, ports: Mapping[str, PortConfig]) -> Mapping[str, PortConfig | DriverError]:
        self.world.call("apply")
        found: dict[str, PortConfig | DriverError] = {}
        for port, config in ports.items():
            try:
                self.world.call(f"apply {port}")
            except DriverError as error:
                found[port] = error
            else:
                found[port] = config

        def edit(table: Table) -> None:
            for port, config in found.items():
                if isinstance(config, PortConfig):
                    table[port] = {"native": config.native, "tagged": sorted(config.tagged)}

        self.world.change(_PORTS, edit)
        return found

    def list(self) -> Mapping[str, PortConfig | None]:
        """A port that was put into the file as null is of the kind that BMI does not make."""
        self.world.call("list")
        return {
            port: state and PortConfig(state["native"], frozenset(state["tagged"]))
            for port, state in self.world.read(_PORTS).items()
        }

    def check(self) -> str:
        self.world.call("check")
        return f"A fake switch in {self.world.root}."


def create(*, root: str = "") -> FakeSwitch:
    """A switch whose state is kept in `root` (empty: in a directory of this process)."""
    return FakeSwitch(FakeWorld(root))
