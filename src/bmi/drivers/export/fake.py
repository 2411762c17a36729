"""Exports that exist in a directory only."""

from collections.abc import Mapping, Sequence

from bmi.drivers.export import Portal, Session, Target
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

    def sessions(self, portal: Portal) -> Sequence[Session]:
        self.world.call("sessions")
        return [
            Session(iqn, row["initiator"], address, number)
            for iqn, row in self.targets(portal).items()
            for number, address in reversed(row.get("sessions", []))
        ]

    def end_session(self, portal: Portal, session: Session) -> None:
        self.world.call("end_session")

        def drop(portals: Table) -> None:
            row = portals.get(portal.name, {}).get(session.iqn, {})
            row["sessions"] = [one for one in row.get("sessions", []) if one[0] != session.number]

        self.world.change(_PORTALS, drop)

    def bytes_served(self, portal: Portal) -> Mapping[str, int]:
        self.world.call("bytes_served")
        return {iqn: row.get("bytes", 0) for iqn, row in self.targets(portal).items()}

    def check(self) -> str:
        self.world.call("check")
        return f"A fake exporter in {self.world.root}."

    def targets(self, portal: Portal) -> Table:
        """What is exported on the portal: `initiator`, `chap_user`, `backing`, `sessions` (number and address of
        each), `bytes`.
        """
        targets: Table = self.world.read(_PORTALS).get(portal.name, {})
        return targets

    def log_in(self, portal: Portal, iqn: str, *, address: str = "", bytes_read: int = 0) -> None:
        """The target's initiator logs in and reads."""

        def put(portals: Table) -> None:
            row = portals[portal.name][iqn]
            sessions = row.get("sessions", [])
            number = 1 + max((number for number, _ in sessions), default=0)
            row |= {"sessions": [*sessions, (number, address)], "bytes": row.get("bytes", 0) + bytes_read}

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
