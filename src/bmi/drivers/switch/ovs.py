"""Open vSwitch as the nodes' switch."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from bmi.drivers import ovsdb
from bmi.drivers.ovsdb import UPLINK_MARK, OvsDatabase, Row, access_columns
from bmi.drivers.switch import CLOSED, FIRST_VLAN, LAST_VLAN, PortConfig, read_back
from bmi.errors import DriverError

# What has to be known of them.
TABLES = {"Bridge": "name,ports", "Port": "_uuid,name,tag,trunks,vlan_mode,protected,external_ids"}


@dataclass(frozen=True)
class OvsSwitch:
    """The ports of one bridge."""

    bridge: str
    database: OvsDatabase

    def apply(self, ports: Mapping[str, PortConfig]) -> Mapping[str, PortConfig | DriverError]:
        """In one transaction: the daemon takes over all of it at once."""
        present = self.list()
        commands = [
            part
            for port, config in ports.items()
            if port in present
            for part in ("--", "set", "Port", port, *columns_of(config))
        ]
        if commands:
            self.database.run(*commands[1:])
            # A change that an earlier, timed-out call has left in the database is no change now.
            self.database.await_applied()
        return read_back(ports, self.list())

    def list(self) -> Mapping[str, PortConfig | None]:
        return ports_of(self.bridge, *self.database.rows(**TABLES))

    def check(self) -> str:
        """Has the switch apply a change of no effect: reading alone proves the database, not the switch."""
        self.database.run("set", "Bridge", self.bridge, f"external_ids:bmi-checked={time.time_ns()}")
        return f"Open vSwitch bridge {self.bridge} answers and has {len(self.list())} node-side ports."


def ports_of(bridge: str, bridges: Sequence[Row], ports: Sequence[Row]) -> dict[str, PortConfig | None]:
    """The node-side ports of one bridge."""
    mine = _port_ids(bridge, bridges)
    return {
        row["name"]: _config(row)
        for row in ports
        if row["_uuid"] in mine and row["name"] != bridge and UPLINK_MARK not in row["external_ids"]
    }


def _port_ids(bridge: str, bridges: Sequence[Row]) -> set[str]:
    for row in bridges:
        if row["name"] == bridge:
            ports = row["ports"]
            return set(ports) if isinstance(ports, list) else {ports}
    raise DriverError(
        f"Open vSwitch has no bridge {bridge!r}.", retryable=False, remedy="Name an existing bridge."
    )


def columns_of(config: PortConfig) -> tuple[str, ...]:
    """The Port columns that make a port so. A trunk takes no untagged frame unless VLAN 0 is among its own."""
    if config == CLOSED:
        return ovsdb.CLOSED
    if not config.tagged:
        return access_columns(config.native or 0)
    trunks = f"trunks={','.join(map(str, sorted(config.vlans)))}"
    if config.native is None:
        return ("tag=[]", trunks, "vlan_mode=trunk", "protected=false")
    return (f"tag={config.native}", trunks, "vlan_mode=native-untagged", "protected=false")


def _config(port: Row) -> PortConfig | None:
    trunks = frozenset(port["trunks"] if isinstance(port["trunks"], list) else [port["trunks"]])
    tag = port["tag"] if isinstance(port["tag"], int) else None
    if not all(FIRST_VLAN <= vlan <= LAST_VLAN for vlan in trunks | ({tag} if tag is not None else set())):
        return CLOSED if _is_closed(port) else None
    match port["vlan_mode"]:
        case _ if port["protected"]:
            return None
        case "access" | [] if tag and not trunks:
            return PortConfig(tag)
        case "trunk" if trunks and tag is None:
            return PortConfig(None, trunks)
        case "native-untagged" if tag and trunks - {tag}:
            return PortConfig(tag, trunks - {tag})
        case _:
            return None


def _is_closed(port: Row) -> bool:
    return (port["vlan_mode"], port["tag"], port["trunks"], port["protected"]) == ("trunk", [], 4095, True)


def create(*, bridge: str, db: str = "unix:/run/openvswitch/db.sock", timeout_s: float = 5) -> OvsSwitch:
    """The switch whose node-side ports are those of `bridge`; `timeout_s` bounds each question to it."""
    return OvsSwitch(bridge, OvsDatabase(db, timeout_s))
