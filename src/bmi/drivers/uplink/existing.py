"""A foot in a network on an interface that the administrator has prepared, such as `eth1.101`."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from bmi.drivers import netns as namespaces
from bmi.drivers.uplink import Foot
from bmi.errors import DriverError

# Aliases (ip-link(8)) travel with interfaces: the loopback's marks a namespace of ours, that of a moved
# interface holds the name to give it back under.
_MARK = "bmi-uplink"


@dataclass(frozen=True)
class ExistingUplink:
    """Moves the interface of a VLAN into the foot's namespace, and back when the foot is removed."""

    interfaces: Mapping[int, str]

    def ensure(self, foot: Foot) -> None:
        name = self.interfaces.get(foot.vlan)
        if name is None:
            raise DriverError(
                f"No interface is configured for VLAN {foot.vlan}.",
                retryable=False,
                remedy="Prepare one and name it in the uplink's `interfaces`.",
            )
        held = namespaces.links(foot.netns).get(foot.interface, {}).get("ifalias")
        if held != name:
            self._check_present(name)
            if held is not None:
                _give_back(foot.netns, foot.interface, held)
            namespaces.ensure(foot.netns)
            namespaces.ip(foot.netns, "link", "set", "lo", "alias", _MARK)
            namespaces.ip(None, "link", "set", "dev", name, "alias", name)
            namespaces.ip(None, "link", "set", "dev", name, "netns", foot.netns, "name", foot.interface)
        namespaces.set_address(foot.netns, foot.interface, foot.address)

    def remove(self, netns: str) -> None:
        for name, link in namespaces.links(netns).items():
            if name != "lo" and "ifalias" in link:
                _give_back(netns, name, link["ifalias"])
        namespaces.remove(netns)

    def list(self) -> Sequence[str]:
        return [name for name in namespaces.names() if _has_foot(namespaces.links(name))]

    def check(self) -> str:
        moved = {link.get("ifalias") for foot in self.list() for link in namespaces.links(foot).values()}
        for name in set(self.interfaces.values()) - moved:
            self._check_present(name)
        return f"{len(self.interfaces)} prepared interfaces are there."

    def _check_present(self, name: str) -> None:
        if name not in namespaces.links(None):
            raise DriverError(
                f"There is no interface {name!r} on this machine.",
                retryable=False,
                remedy="Prepare it (for a VLAN: ip link add link PARENT name NAME type vlan id VLAN).",
            )


def _has_foot(links: Mapping[str, Mapping[str, Any]]) -> bool:
    marked = links.get("lo", {}).get("ifalias") == _MARK
    return marked and any("ifalias" in link for name, link in links.items() if name != "lo")


def _give_back(netns: str, interface: str, name: str) -> None:
    """Moves the interface to the namespace that this process lives in, under its own name."""
    namespaces.ip(netns, "link", "set", "dev", interface, "netns", str(os.getpid()), "name", name)


def create(*, interfaces: Mapping[str, str]) -> ExistingUplink:
    """Feet on prepared interfaces: `interfaces` names one for each VLAN, such as `{"101": "eth1.101"}`."""
    return ExistingUplink({int(vlan): name for vlan, name in interfaces.items()})
