"""Open vSwitch as the nodes' switch."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from bmi.drivers.ovsdb import CLOSED, UPLINK_MARK, OvsDatabase, Row, access_columns
from bmi.errors import DriverError

# What `list` says of a port that is neither closed nor a member of one VLAN.
SOMETHING_ELSE = 0


@dataclass(frozen=True)
class OvsSwitch:
    """The ports of one bridge."""

    bridge: str
    database: OvsDatabase

    def set_access(self, port: str, vlan: int) -> None:
        columns = access_columns(vlan)
        if port not in self.list():
            raise DriverError(
                f"Bridge {self.bridge} has no node-side port {port!r}.",
                retryable=False,
                remedy="Compare the node's switch port with the ports of the switch.",
            )
        self._set(port, columns, vlan)

    def close(self, port: str) -> None:
        if port in self.list():
            self._set(port, CLOSED, None)

    def list(self) -> Mapping[str, int | None]:
        bridges, ports = self.database.rows(
            Bridge="name,ports", Port="_uuid,name,tag,trunks,vlan_mode,protected,external_ids"
        )
        mine = self._port_ids(bridges)
        return {
            row["name"]: _vlan(row)
            for row in ports
            if row["_uuid"] in mine and row["name"] != self.bridge and UPLINK_MARK not in row["external_ids"]
        }

    def check(self) -> str:
        """Has the switch apply a change of no effect: reading alone proves the database, not the switch."""
        self.database.run("set", "Bridge", self.bridge, f"external_ids:bmi-checked={time.time_ns()}")
        return f"Open vSwitch bridge {self.bridge} answers and has {len(self.list())} node-side ports."

    def _set(self, port: str, columns: tuple[str, ...], vlan: int | None) -> None:
        self.database.run("set", "Port", port, *columns)
        # A change that an earlier, timed-out call has left in the database is no change now.
        self.database.await_applied()
        if self.list().get(port, vlan) != vlan:
            raise DriverError(
                f"Port {port} of bridge {self.bridge} does not keep its VLAN.",
                remedy="See what else configures this switch.",
            )

    def _port_ids(self, bridges: Sequence[Row]) -> set[str]:
        for row in bridges:
            if row["name"] == self.bridge:
                ports = row["ports"]
                return set(ports) if isinstance(ports, list) else {ports}
        raise DriverError(
            f"Open vSwitch has no bridge {self.bridge!r}.", retryable=False, remedy="Name an existing bridge."
        )


def _vlan(port: Row) -> int | None:
    match port:
        case {"vlan_mode": "trunk", "tag": [], "trunks": 4095, "protected": True}:
            return None
        case {"vlan_mode": "access" | [], "tag": int(tag), "trunks": [], "protected": False} if (
            1 <= tag <= 4094
        ):
            return tag
        case _:
            return SOMETHING_ELSE


def create(*, bridge: str, db: str = "unix:/run/openvswitch/db.sock", timeout_s: float = 5) -> OvsSwitch:
    """The switch whose node-side ports are those of `bridge`; `timeout_s` bounds each question to it."""
    return OvsSwitch(bridge, OvsDatabase(db, timeout_s))
