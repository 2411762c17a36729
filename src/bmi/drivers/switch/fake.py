"""A switch that exists in a directory only."""

from collections.abc import Mapping

from bmi.drivers.faults import FakeWorld, Table
from bmi.errors import DriverError

_PORTS = "ports"


class FakeSwitch:
    """Every port that was ever named exists; one that was never opened is closed."""

    def __init__(self, world: FakeWorld) -> None:
        self.world = world

    def set_access(self, port: str, vlan: int) -> None:
        self.world.call("set_access")
        if not 1 <= vlan <= 4094:
            raise DriverError(f"There is no VLAN {vlan}.", retryable=False, remedy="Choose one of 1 to 4094.")
        self._put(port, vlan)

    def close(self, port: str) -> None:
        self.world.call("close")
        self._put(port, None)

    def list(self) -> Mapping[str, int | None]:
        self.world.call("list")
        return self.world.read(_PORTS)

    def check(self) -> str:
        self.world.call("check")
        return f"A fake switch in {self.world.root}."

    def _put(self, port: str, vlan: int | None) -> None:
        def edit(ports: Table) -> None:
            ports[port] = vlan

        self.world.change(_PORTS, edit)


def create(*, root: str = "") -> FakeSwitch:
    """A switch whose state is kept in `root` (empty: in a directory of this process)."""
    return FakeSwitch(FakeWorld(root))
