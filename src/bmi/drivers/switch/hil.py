"""The ports of HIL's switches, through HIL: a port is called `<node>/<NIC>`, a VLAN is a network of HIL.

BMI makes that network (`bmi-vlan-<VLAN>`, owned by HIL's administrators) and keeps its access list to the projects
whose nodes are on it: an empty one would open it to everybody. What HIL does to a port is queued and takes seconds;
a NIC takes one action at a time, so that all ports take their first before any is waited for.
"""

import logging
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace

from bmi.drivers.hil import NATIVE, Hil, HilNetwork, HilNic, HilNode, connect, is_missing
from bmi.drivers.switch import CLOSED, PortConfig, read_back
from bmi.errors import DriverError, TimedOutError

log = logging.getLogger(__name__)

_OURS = "bmi-vlan-"
# What a port says that waits for an action which is not its own.
_BUSY = ""


class _BusyError(Exception):
    """The NIC has an action under way, or had one until now."""


@dataclass
class _Course:
    """A port on its way: the actions that are left, and the one that HIL works on."""

    steps: Iterator[str]
    action: str = _BUSY


@dataclass
class _Change:
    """What one `apply` knows: HIL's networks, the projects it puts on each, and the ones that something leaves."""

    networks: dict[str, HilNetwork]
    entered: dict[str, set[str | None]] = field(default_factory=dict)
    left: set[str] = field(default_factory=set)


class HilSwitch:
    """All switches of one HIL."""

    def __init__(self, hil: Hil, action_timeout_s: float, poll_s: float) -> None:
        self._hil = hil
        self._action_timeout_s = action_timeout_s
        self._poll_s = poll_s

    def apply(self, ports: Mapping[str, PortConfig]) -> Mapping[str, PortConfig | DriverError]:
        nodes = self._hil.find_nodes(port.partition("/")[0] for port in ports)
        change = _Change(self._hil.networks())
        courses = {
            port: _Course(self._steer(nodes[port.partition("/")[0]], port, wanted, change))
            for port, wanted in ports.items()
        }
        failed = self._follow(courses)
        found = self._hil.find_nodes(nodes)
        seen = _configs((node for node in found.values() if isinstance(node, HilNode)), self._hil.networks())
        self._tidy(change.left)
        for port in ports.keys() - failed.keys():
            node = found[port.partition("/")[0]]
            if isinstance(node, DriverError) and not is_missing(node):
                failed[port] = node
        return read_back(ports, seen) | failed

    def list(self) -> Mapping[str, PortConfig | None]:
        """The ports of all nodes but those that HIL has given to others: they are not BMI's to correct."""
        nodes = [node for node in self._hil.nodes() if not node.is_taken]
        return _configs(nodes, self._hil.networks())

    def check(self) -> str:
        return self._hil.check()

    # ---- one port -----------------------------------------------------------------------------------

    def _steer(
        self, node: HilNode | DriverError, port: str, wanted: PortConfig, change: _Change
    ) -> Iterator[str]:
        """Begins one action after the other, and gives the id of each to who waits for it. A NIC that has one
        already, whoever asked for it, is waited for and looked at anew: it may be on other networks then.
        """
        while True:
            if isinstance(node, DriverError) and not is_missing(node):
                raise node
            try:
                yield from self._plan(None if isinstance(node, DriverError) else node, port, wanted, change)
            except _BusyError:
                yield _BUSY
                node = self._hil.find_nodes([port.partition("/")[0]]).popitem()[1]
            else:
                return

    def _plan(self, node: HilNode | None, port: str, wanted: PortConfig, change: _Change) -> Iterator[str]:
        nic = node.nics.get(port.partition("/")[2]) if node else None
        if node is None or nic is None:
            if wanted != CLOSED:
                raise DriverError(
                    f"HIL knows no NIC {port}.", retryable=False, remedy="Compare the node's NICs with HIL's."
                )
            return
        if nic.switch is None or nic.port is None:
            raise DriverError(
                f"HIL does not know which switch port {port} is cabled to.",
                retryable=False,
                remedy="Register and connect the port in HIL: hil switch port connect.",
            )
        if wanted == CLOSED:
            yield from self._close(node, nic, change)
        else:
            yield from self._open(node, nic, wanted, change)

    def _close(self, node: HilNode, nic: HilNic, change: _Change) -> Iterator[str]:
        """Also a port that is on nothing according to HIL: detached, it may have fallen back to VLAN 1. The NIC of
        a node that somebody else has by now loses only what BMI gave it.
        """
        change.left.update(nic.networks.values())
        if node.is_taken:
            for network in [name for name in nic.networks.values() if name.startswith(_OURS)]:
                yield from self._begin(node, nic, "detach_network", network=network)
            return
        yield from self._revert(nic)

    def _open(self, node: HilNode, nic: HilNic, wanted: PortConfig, change: _Change) -> Iterator[str]:
        node.refuse_if_taken()
        if node.project is None:
            raise DriverError(
                f"The node {node.name} belongs to no project of HIL.",
                retryable=False,
                remedy="Free the node in BMI and allocate it again: somebody freed it in HIL.",
            )
        channels = {f"vlan/{vlan}": vlan for vlan in sorted(wanted.tagged)}
        if wanted.native is not None:
            # First: some switches take tagged networks only beside a native one.
            channels = {NATIVE: wanted.native} | channels
        names = {
            channel: self._network(vlan, node.project, change).name for channel, vlan in channels.items()
        }
        there = dict(nic.networks)
        wrong = {channel: name for channel, name in there.items() if names.get(channel) != name}
        change.left.update(wrong.values())
        if NATIVE in wrong or (NATIVE not in names and not there):
            # A port without its native VLAN is not what HIL says it is, so it is closed first.
            yield from self._revert(nic)
            there = {}
        else:
            for channel, name in wrong.items():
                yield from self._begin(node, nic, "detach_network", network=name)
                del there[channel]
        for channel, name in names.items():
            if channel not in there:
                yield from self._begin(node, nic, "connect_network", network=name, channel=channel)

    def _begin(self, node: HilNode, nic: HilNic, what: str, **body: str) -> Iterator[str]:
        yield self._queue("node", node.name, "nic", nic.label, what, body=body)

    def _revert(self, nic: HilNic) -> Iterator[str]:
        # A port's name may contain slashes, which web servers do not like to see encoded.
        yield self._queue("switch", nic.switch or "", "port", *(nic.port or "").split("/"), "revert")

    def _queue(self, *path: str, body: Mapping[str, str] | None = None) -> str:
        try:
            return str(self._hil.call("POST", *path, body=body)["status_id"])
        except DriverError as error:
            # An action is active on it, or has come to its end since it was looked at: a network or a channel is
            # already, or no longer, there.
            if error.detail.endswith(" the nic."):
                raise _BusyError from error
            raise

    # ---- all ports ----------------------------------------------------------------------------------

    def _follow(self, courses: dict[str, _Course]) -> dict[str, DriverError]:
        """Steers all ports to their end; what went wrong with some. The time-out is that of HIL doing anything at
        all: a hundred ports take it minutes.
        """
        failed: dict[str, DriverError] = {}
        moved_at = time.monotonic()
        under_way = dict(courses)
        while under_way:
            idle_s = time.monotonic() - moved_at
            if idle_s > self._action_timeout_s:
                return failed | {port: self._overdue(port) for port in under_way}
            # HIL takes what is queued in turn, and a question costs it as much as an order: behind an action that
            # is pending the others are not asked for, unless that is passed over.
            in_turn = idle_s < self._action_timeout_s / 2
            is_pending = False
            for port, course in [*under_way.items()]:
                try:
                    if course.action != _BUSY and is_pending and in_turn:
                        continue
                    if course.action != _BUSY and not self._is_done(port, course.action):
                        is_pending = True
                        continue
                    if (action := next(course.steps)) != course.action:
                        moved_at = time.monotonic()
                    # Begun last, it is asked for last.
                    under_way[port] = replace(under_way.pop(port), action=action)
                except StopIteration:
                    del under_way[port]
                    moved_at = time.monotonic()
                except DriverError as error:
                    failed[port] = error
                    del under_way[port]
            if under_way:
                time.sleep(self._poll_s)
        return failed

    def _is_done(self, port: str, action: str) -> bool:
        status = self._hil.call("GET", "networking_action", action)["status"]
        if status == "ERROR":
            raise DriverError(
                f"HIL could not change the switch port of {port}.",
                remedy="Look at the log of HIL's network daemon, and at the switch.",
            )
        return bool(status != "PENDING")

    def _overdue(self, port: str) -> DriverError:
        return TimedOutError(
            f"HIL has not changed the switch port of {port} for {self._action_timeout_s:g} s.",
            remedy="See that HIL's network daemon (hil-admin serve-networks) runs and reaches its switches.",
        )

    # ---- networks -----------------------------------------------------------------------------------

    def _network(self, vlan: int, project: str, change: _Change) -> HilNetwork:
        """HIL's one network of this VLAN, which the project may use."""
        found = [network for network in change.networks.values() if network.vlan == vlan]
        if len(found) > 1 or (
            found and not found[0].name.startswith(_OURS) and project not in found[0].projects
        ):
            raise DriverError(
                f"VLAN {vlan} is that of HIL's network {' and '.join(network.name for network in found)}.",
                retryable=False,
                remedy=f"Give project {project} access to it in HIL, or BMI another range of VLANs.",
            )
        if not found:
            name = f"{_OURS}{vlan}"
            body = {"owner": "admin", "access": project, "net_id": str(vlan)}
            self._hil.call("PUT", "network", name, body=body)
            network = HilNetwork(name, vlan, (project,))
        elif project not in found[0].projects:
            network = self._grant(found[0], project, change)
        else:
            network = found[0]
        change.networks[network.name] = network
        change.entered.setdefault(network.name, set()).add(project)
        return network

    def _grant(self, network: HilNetwork, project: str, change: _Change) -> HilNetwork:
        """The project has access, and whoever had it and is there no more has none."""
        self._hil.call("PUT", "network", network.name, "access", project)
        granted = replace(network, projects=(*network.projects, project))
        there = self._users(network.name) | change.entered.get(network.name, set()) | {project}
        return self._revoke(granted, there)

    def _revoke(self, network: HilNetwork, there: set[str | None]) -> HilNetwork:
        """The network without the projects that are not there. Never without all: one that no project has access to is
        open to everybody.
        """
        if there.isdisjoint(network.projects):
            log.warning("HIL's network %s is used by projects that have no access to it", network.name)
            return network
        left = set(network.projects)
        for project in sorted(left - there):
            try:
                self._hil.call("DELETE", "network", network.name, "access", project)
            except DriverError:
                # What was queued for a node of the project may have come to its end since it was looked at.
                if project not in self._users(network.name):
                    raise
            else:
                left.remove(project)
        return replace(network, projects=tuple(known for known in network.projects if known in left))

    def _users(self, network: str) -> set[str | None]:
        """The projects whose nodes are on a network."""
        attached: Mapping[str, Mapping[str, str | None]] = self._hil.call(
            "GET", "network", network, "attachments"
        )
        return {facts["project"] for facts in attached.values()}

    def _tidy(self, left: Iterable[str]) -> None:
        """Takes access from projects that have no node on a network of BMI's any more; what HIL refuses is said."""
        for name in sorted(network for network in left if network.startswith(_OURS)):
            try:
                users = self._users(name)
                network = self._hil.networks().get(name)
                if network and users:
                    self._revoke(network, users)
                elif network:
                    self._hil.call("DELETE", "network", name)
            except DriverError as error:
                log.warning("HIL's network %s could not be tidied: %s", name, error)


def _configs(nodes: Iterable[HilNode], networks: Mapping[str, HilNetwork]) -> dict[str, PortConfig | None]:
    """Every port of these nodes as HIL has it; None for what BMI does not make."""
    return {
        f"{node.name}/{nic.label}": _config(nic, networks)
        for node in nodes
        for nic in node.nics.values()
        if nic.port
    }


def _config(nic: HilNic, networks: Mapping[str, HilNetwork]) -> PortConfig | None:
    native: int | None = None
    tagged: set[int] = set()
    for channel, name in nic.networks.items():
        vlan = networks[name].vlan if name in networks else None
        if vlan is not None and channel == NATIVE:
            native = vlan
        elif vlan is not None and channel == f"vlan/{vlan}":
            tagged.add(vlan)
        else:
            return None
    try:
        return PortConfig(native, frozenset(tagged))
    except DriverError:  # VLAN 1
        return None


def create(
    *,
    url: str,
    username: str,
    password_file: str,
    timeout_s: float = 10,
    action_timeout_s: float = 60,
    poll_s: float = 0.5,
    ca_file: str = "",
) -> HilSwitch:
    """HIL's switches; `url`, `username` and `password_file` are those of [isolation]. HIL may take `timeout_s` to
    answer and `action_timeout_s` to get on with what is queued, which is asked for every `poll_s`.
    """
    hil = connect(url, username, password_file=password_file, timeout_s=timeout_s, ca_file=ca_file)
    return HilSwitch(hil, action_timeout_s, poll_s)
