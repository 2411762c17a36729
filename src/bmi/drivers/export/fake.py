"""Exports that exist in a directory only."""

from collections.abc import Mapping, Sequence

from bmi.drivers.export import Portal, Target
from bmi.drivers.faults import FakeWorld, Table
from bmi.errors import DriverError

# Portals that are up, by name; each holds its targets by IQN.
_PORTALS = "portals"


class FakeExport:
    """Remembers what it was asked to export, and to whom."""

    def __init__(self, world: FakeWorld) -> None:
        self.world = world

    def ensure_portal(self, portal: Portal, targets: Sequence[Target]) -> bool:
        self.world.call("ensure_portal")

        def start(portals: Table) -> bool:
            if portal.name in portals:
                return False
            for target in targets:
                target.fence()
            portals[portal.name] = {target.iqn: _row(target) for target in targets}
            return True

        return self.world.change(_PORTALS, start)

    def remove_portal(self, portal: Portal) -> None:
        self.world.call("remove_portal")
        self.crash(portal)

    def ensure(self, portal: Portal, target: Target) -> None:
        self.world.call("ensure")

        def put(portals: Table) -> None:
            if portal.name not in portals:
                raise DriverError(f"The portal {portal.name} is not running.")
            kept = portals[portal.name].get(target.iqn, {})
            if {name: kept.get(name) for name in _row(target)} != _row(target):
                target.fence()
                portals[portal.name][target.iqn] = _row(target)

        self.world.change(_PORTALS, put)

    def remove(self, portal: Portal, iqn: str) -> None:
        self.world.call("remove")
        self.world.change(_PORTALS, lambda portals: portals.get(portal.name, {}).pop(iqn, None))

    def list(self, portal: Portal) -> Sequence[str]:
        self.world.call("list")
        return sorted(self.targets(portal))

    def sessions(self, portal: Portal, iqn: str) -> Sequence[str]:
        self.world.call("sessions")
        sessions: Sequence[str] = self.targets(portal).get(iqn, {}).get("sessions", [])
        return sessions

    def bytes_served(self, portal: Portal) -> Mapping[str, int]:
        self.world.call("bytes_served")
        return {iqn: row.get("bytes", 0) for iqn, row in self.targets(portal).items()}

    def check(self) -> str:
        self.world.call("check")
        return f"A fake exporter in {self.world.root}."

    def targets(self, portal: Portal) -> Table:
        """What is exported on the portal: `initiator`, `chap_user`, `backing`, `sessions`, `bytes`."""
        targets: Table = self.world.read(_PORTALS).get(portal.name, {})
        return targets

    def log_in(self, portal: Portal, iqn: str, *, bytes_read: int = 0) -> None:
        """The target's initiator logs in and reads."""

        def put(portals: Table) -> None:
            row = portals[portal.name][iqn]
            row |= {"sessions": [row["initiator"]], "bytes": row.get("bytes", 0) + bytes_read}

        self.world.change(_PORTALS, put)

    def crash(self, portal: Portal) -> None:
        """The portal dies and forgets everything."""
        self.world.change(_PORTALS, lambda portals: portals.pop(portal.name, None))


def _row(target: Target) -> Table:
    return {
        "initiator": target.initiator,
        "chap_user": target.chap_user,
        "backing": target.backing.location,
    }


def create(*, root: str = "") -> FakeExport:
    """An exporter whose state is kept in `root` (empty: in a directory of this process)."""
    return FakeExport(FakeWorld(root))
