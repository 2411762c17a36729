"""An uplink that exists in a directory only."""

from collections.abc import Sequence
from dataclasses import asdict

from bmi.drivers.faults import FakeWorld, Table
from bmi.drivers.uplink import Foot

_FEET = "feet"


class FakeUplink:
    """Remembers the feet it was asked for."""

    def __init__(self, world: FakeWorld) -> None:
        self.world = world

    def ensure(self, foot: Foot) -> None:
        self.world.call("ensure")

        def put(feet: Table) -> None:
            feet[foot.netns] = asdict(foot)

        self.world.change(_FEET, put)

    def remove(self, netns: str) -> None:
        self.world.call("remove")
        self.world.change(_FEET, lambda feet: feet.pop(netns, None))

    def list(self) -> Sequence[str]:
        self.world.call("list")
        return sorted(self.world.read(_FEET))

    def reboot(self) -> None:
        """The machine starts anew: no foot is left."""
        self.world.change(_FEET, lambda feet: feet.clear())

    def check(self) -> str:
        self.world.call("check")
        return f"A fake uplink in {self.world.root}."


def create(*, root: str = "") -> FakeUplink:
    """An uplink whose state is kept in `root` (empty: in a directory of this process)."""
    return FakeUplink(FakeWorld(root))
