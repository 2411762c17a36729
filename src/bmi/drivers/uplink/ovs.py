"""A foot in a network through Open vSwitch: a veth pair from an access port into the foot's namespace."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from bmi import process
from bmi.drivers import netns as namespaces
from bmi.drivers.ovsdb import UPLINK_MARK, OvsDatabase, access_columns
from bmi.drivers.uplink import Foot
from bmi.errors import DriverError


@dataclass(frozen=True)
class OvsUplink:
    """Feet on one bridge. The bridge's record of the port, marked with the namespace's name, is written
    before anything else is made and removed after everything else: it is how `remove` finds half-made feet.
    """

    bridge: str
    database: OvsDatabase
    switch_netns: str | None

    def ensure(self, foot: Foot) -> None:
        columns = access_columns(foot.vlan)
        port = f"bmi-v{foot.vlan}"
        for other, owner in self._ports().items():
            if owner == foot.netns and other != port:
                self._remove_port(other)
            elif other == port and owner != foot.netns:
                raise DriverError(
                    f"VLAN {foot.vlan} of bridge {self.bridge} has a foot already, in namespace {owner}.",
                    retryable=False,
                    remedy="Give each network a VLAN of its own.",
                )
        if self._joined({port: foot.netns}) != {foot.netns: foot.interface}:
            self._make(port, foot)
        self.database.run("set", "Port", port, *columns)
        self.database.await_applied()
        namespaces.set_address(foot.netns, foot.interface, foot.address)

    def remove(self, netns: str) -> None:
        for port, owner in self._ports().items():
            if owner == netns:
                _delete_link(self.switch_netns, port)
                namespaces.remove(netns)
                self._remove_port(port)
        namespaces.remove(netns)

    def list(self) -> Sequence[str]:
        return sorted(self._joined(self._ports()))

    def check(self) -> str:
        [bridges] = self.database.rows(Bridge="name")
        if {"name": self.bridge} not in bridges:
            raise DriverError(
                f"Open vSwitch has no bridge {self.bridge!r}.",
                retryable=False,
                remedy="Name an existing bridge.",
            )
        if self.switch_netns is not None and not namespaces.exists(self.switch_netns):
            raise DriverError(
                f"There is no network namespace {self.switch_netns!r}.",
                remedy="Start the switch that lives in it.",
            )
        process.run(["ethtool", "--version"])
        return f"Feet are veth pairs on Open vSwitch bridge {self.bridge}."

    def _ports(self) -> dict[str, str]:
        [rows] = self.database.rows(Port="name,external_ids")
        return {
            row["name"]: row["external_ids"][UPLINK_MARK]
            for row in rows
            if UPLINK_MARK in row["external_ids"]
        }

    def _joined(self, ports: Mapping[str, str]) -> dict[str, str]:
        """The interface of each foot that stands, by namespace, among these ports and their owners: its two
        ends exist, are each other's, and the switch has taken its end in. (The switch's database alone
        proves nothing: it outlives a reboot.)
        """
        [rows] = self.database.rows(Interface="name,ofport")
        taken_in = {row["name"] for row in rows if isinstance(row["ofport"], int) and row["ofport"] > 0}
        ours = namespaces.links(self.switch_netns)
        return {
            owner: interface
            for port, owner in ports.items()
            if port in taken_in and port in ours
            for interface, link in namespaces.links(owner).items()
            if link["ifindex"] == ours[port].get("link_index")
        }

    def _make(self, port: str, foot: Foot) -> None:
        mark = f"external_ids:{UPLINK_MARK}={foot.netns}"
        add = ("add-port", self.bridge, port, *access_columns(foot.vlan), "--", "set", "Port", port, mark)
        # Whole and applied before the new port: the switch would go on with the old interface of that name.
        self._remove_port(port)
        _delete_link(foot.netns, foot.interface)
        self.database.run("--no-wait", *add)
        namespaces.ensure(foot.netns)
        here = ["netns", self.switch_netns] if self.switch_netns else []
        namespaces.ip(
            None, "link", "add", "name", port, *here, "type", "veth", "peer", "name", foot.interface, "netns", foot.netns
        )  # fmt: skip
        # The userspace switch passes on checksums that were left to the hardware: TCP would never connect.
        process.run(["ethtool", "-K", port, "tx", "off"], netns=self.switch_netns)
        process.run(["ethtool", "-K", foot.interface, "tx", "off"], netns=foot.netns)
        # The switch's end is a socket of the switch, not an interface of the machine it runs on.
        process.run(["sysctl", "-eqw", f"net.ipv6.conf.{port}.disable_ipv6=1"], netns=self.switch_netns)
        namespaces.ip(self.switch_netns, "link", "set", "dev", port, "up")
        # Adding it anew makes the switch look at the interface now, and wait for that.
        self.database.run("del-port", self.bridge, port, "--", *add)

    def _remove_port(self, port: str) -> None:
        _delete_link(self.switch_netns, port)
        self.database.run("--if-exists", "del-port", self.bridge, port)


def _delete_link(namespace: str | None, name: str) -> None:
    if name in namespaces.links(namespace):
        namespaces.ip(namespace, "link", "delete", "dev", name)


def create(
    *,
    bridge: str,
    db: str = "unix:/run/openvswitch/db.sock",
    netns: str | None = None,
    timeout_s: float = 5,
) -> OvsUplink:
    """Feet on `bridge`, whose ports live in network namespace `netns` (None: the machine's own)."""
    return OvsUplink(bridge, OvsDatabase(db, timeout_s), netns)
