"""HIL's REST calls, one function each, in the order of its own checks."""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import httpx

from tests.hil.state import NATIVE, Action, Answering, Caller, Network, Nic, Node, Refusal, Wire
from tests.hil.web import Answer, as_json


@dataclass(frozen=True)
class Call:
    method: str
    path: re.Pattern[str]
    required: Mapping[str, type]
    optional: Mapping[str, type]
    answer: Answering


CALLS: list[Call] = []


def call(
    method: str, path: str, required: Mapping[str, type] | None = None, **optional: type
) -> Callable[[Answering], Answering]:
    """Registers a call; `<port>` in a path may contain slashes, other names may not."""
    pattern = re.sub(r"<(\w+)>", lambda m: f"(?P<{m[1]}>{'.+' if m[1] == 'port' else '[^/]+'})", path)

    def register(answer: Answering) -> Answering:
        CALLS.append(Call(method, re.compile(f"/v0{pattern}"), required or {}, optional, answer))
        return answer

    return register


def shown(value: Any, status: int = 200) -> Answer:
    return Answer(status, as_json(value))


# ---- projects ---------------------------------------------------------------------------------------


@call("GET", "/projects")
def list_projects(caller: Caller) -> Answer:
    caller.require_admin()
    return shown(sorted(caller.hil.projects))


@call("PUT", "/project/<project>")
def project_create(caller: Caller, project: str) -> Answer:
    caller.require_admin()
    if project in caller.hil.projects:
        raise Refusal("DuplicateError", f"Project {project} already exists.")
    caller.hil.projects.add(project)
    return Answer()


@call("POST", "/project/<project>/connect_node", {"node": str})
def project_connect_node(caller: Caller, project: str, node: str) -> Answer:
    caller.require(caller.project(project))
    found = caller.node(node)
    if found.project is not None:
        raise Refusal("BlockedError", "Node is already owned by a project.")
    found.project = project
    return Answer()


@call("POST", "/project/<project>/detach_node", {"node": str})
def project_detach_node(caller: Caller, project: str, node: str) -> Answer:
    caller.require(caller.project(project))
    found = caller.node(node)
    if found.project != project:
        raise Refusal("NotFoundError", "Node not in project")
    if found.obm_token is not None:
        raise Refusal("BlockedError", "Node's obm is enabled.")
    if any(nic.networks for nic in found.nics.values()):
        raise Refusal("BlockedError", "Node attached to a network")
    if any(nic.action and nic.action.status == "PENDING" for nic in found.nics.values()):
        raise Refusal("BlockedError", "Node has pending network actions")
    found.project = None
    return Answer()


# ---- nodes ------------------------------------------------------------------------------------------


@call("GET", "/nodes/<is_free>")
def list_nodes(caller: Caller, is_free: str) -> Answer:
    nodes = caller.hil.nodes.values()
    return shown(sorted(node.label for node in nodes if is_free != "free" or node.project is None))


@call("GET", "/node/<node>")
def show_node(caller: Caller, node: str) -> Answer:
    found = caller.node(node)
    if found.project is not None:
        caller.require(found.project)
    nics = []
    for nic in found.nics.values():
        place = {"switch": nic.port and nic.port[0], "port": nic.port and nic.port[1]}
        facts = {"label": nic.label, "macaddr": nic.mac, "networks": nic.networks}
        nics.append(facts | (place if caller.user.admin else {}))
    whole: dict[str, Any] = {
        "name": found.label,
        "project": found.project,
        "nics": nics,
        "metadata": found.metadata,
    }
    return shown(whole)


@call("PUT", "/node/<node>", {"obmd": dict})
def node_register(caller: Caller, node: str, obmd: dict[str, str]) -> Answer:
    caller.require_admin()
    if node in caller.hil.nodes:
        raise Refusal("DuplicateError", f"Node {node} already exists.")
    caller.hil.nodes[node] = Node(node, obmd["uri"], obmd["admin_token"])
    return Answer()


@call("PUT", "/node/<node>/nic/<nic>", {"macaddr": str})
def node_register_nic(caller: Caller, node: str, nic: str, macaddr: str) -> Answer:
    caller.require_admin()
    found = caller.node(node)
    if nic in found.nics:
        raise Refusal("DuplicateError", f"Nic {nic} on Node {node} already exists")
    found.nics[nic] = Nic(node, nic, macaddr)
    return Answer()


@call("PUT", "/node/<node>/metadata/<label>", {"value": object})
def node_set_metadata(caller: Caller, node: str, label: str, value: object) -> Answer:
    caller.require_admin()
    caller.node(node).metadata[label] = as_json(value)
    return Answer()


@call("DELETE", "/node/<node>/metadata/<label>")
def node_delete_metadata(caller: Caller, node: str, label: str) -> Answer:
    caller.require_admin()
    if caller.node(node).metadata.pop(label, None) is None:
        raise Refusal("NotFoundError", f"Metadata {label} on Node {node} does not exist.")
    return Answer()


# ---- out-of-band management -------------------------------------------------------------------------


@call("PUT", "/node/<node>/obm", {"enabled": bool})
def node_enable_disable_obm(caller: Caller, node: str, enabled: bool) -> Answer:
    found = caller.node(node)
    caller.require(found.project)
    with httpx.Client(trust_env=False, verify=False) as http:  # there is no TLS
        answer = http.request(
            "POST" if enabled else "DELETE", f"{found.obm_uri}/token", auth=("admin", found.obm_admin_token)
        )
    if answer.is_error:
        return Answer(500, "<title>500 Internal Server Error</title>")
    found.obm_token = answer.json()["token"] if enabled else None
    return Answer()


def _redirected(what: str) -> Answering:
    def answer(caller: Caller, node: str, **_: Any) -> Answer:
        found = caller.node(node)
        caller.require(found.project)
        if found.obm_token is None:
            raise Refusal("BlockedError", "OBM is not enabled")
        return Answer(307, "", {"Location": f"{found.obm_uri}/{what}?token={found.obm_token}"})

    return answer


call("POST", "/node/<node>/power_on")(_redirected("power_on"))
call("POST", "/node/<node>/power_off")(_redirected("power_off"))
call("POST", "/node/<node>/power_cycle", force=bool)(_redirected("power_cycle"))
call("PUT", "/node/<node>/boot_device", {"bootdev": str})(_redirected("boot_device"))
call("GET", "/node/<node>/power_status")(_redirected("power_status"))
call("GET", "/node/<node>/console")(_redirected("console"))


# ---- networks ---------------------------------------------------------------------------------------


@call("GET", "/networks")
def list_networks(caller: Caller) -> Answer:
    return shown(
        {
            name: {"network_id": network.vlan, "projects": sorted(network.access) or None}
            for name, network in caller.hil.networks.items()
            if caller.user.admin or not network.access
        }
    )


@call("PUT", "/network/<network>", {"owner": str, "access": str, "net_id": str})
def network_create(caller: Caller, network: str, owner: str, access: str, net_id: str) -> Answer:
    if network in caller.hil.networks:
        raise Refusal("DuplicateError", f"Network {network} already exists.")
    if owner == "admin":
        caller.require_admin()
    else:
        caller.require(caller.project(owner))
        if access != owner:
            raise Refusal("BadArgumentError", "Project-owned networks must be accessible by the owner.")
        if net_id:
            raise Refusal("BadArgumentError", "Project-owned networks must use network ID allocation")
    may = [caller.project(access)] if access else []
    if net_id and not (net_id.isdigit() and 1 <= int(net_id) <= 4096):
        raise Refusal("BadArgumentError", "Invalid net_id")
    if net_id and caller.hil.is_taken(net_id):
        raise Refusal("BlockedError", "Network ID is not available. Please choose a different ID.")
    vlan = net_id or caller.hil.vlan_from_pool()
    if vlan is None:
        return Answer(500, "<title>500 Internal Server Error</title>")
    caller.hil.networks[network] = Network(None if owner == "admin" else owner, may, vlan)
    return Answer()


@call("DELETE", "/network/<network>")
def network_delete(caller: Caller, network: str) -> Answer:
    caller.require(caller.network(network).owner)
    nics = [nic for node in caller.hil.nodes.values() for nic in node.nics.values()]
    if any(network in nic.networks.values() for nic in nics):
        raise Refusal("BlockedError", "Network still connected to nodes")
    if any(nic.action and nic.action.network == network for nic in nics):
        raise Refusal("BlockedError", "There are pending actions on this network")
    del caller.hil.networks[network]
    return Answer()


@call("GET", "/network/<network>/attachments")
def list_network_attachments(caller: Caller, network: str) -> Answer:
    """One NIC for each node, even of one that is on the network with several."""
    if not caller.may(caller.network(network).owner):
        raise Refusal(
            "AuthorizationError", "Operation requires admin rights or access to network's owning project"
        )
    return shown(
        {
            node.label: {"nic": nic.label, "channel": channel, "project": node.project}
            for node in caller.hil.nodes.values()
            for nic in node.nics.values()
            for channel, name in nic.networks.items()
            if name == network
        }
    )


@call("PUT", "/network/<network>/access/<project>")
def network_grant_project_access(caller: Caller, network: str, project: str) -> Answer:
    found = caller.network(network)
    caller.project(project)
    caller.require(found.owner)
    if project in found.access:
        raise Refusal("DuplicateError", f"Network {network} is already in project {project}")
    found.access.append(project)
    return Answer()


@call("DELETE", "/network/<network>/access/<project>")
def network_revoke_project_access(caller: Caller, network: str, project: str) -> Answer:
    found = caller.network(network)
    caller.project(project)
    if project not in found.access:
        raise Refusal("NotFoundError", f"Network '{network}' is not in project '{project}'")
    if project == found.owner:
        raise Refusal(
            "BlockedError",
            f"Project '{project}' is owner of network '{network}' and its access cannot be removed",
        )
    for node in caller.hil.nodes.values():
        if node.project == project and any(network in nic.networks.values() for nic in node.nics.values()):
            raise Refusal("BlockedError", "Project still has node(s) attached to the network")
    found.access.remove(project)
    return Answer()


# ---- networking actions -----------------------------------------------------------------------------


def _queue(caller: Caller, action: Action, status: int) -> Answer:
    """The earlier action on the NIC is forgotten."""
    actions = caller.hil.actions
    actions[:] = [other for other in actions if other.nic is not action.nic] + [action]
    action.nic.action = action
    return shown({"status_id": action.uuid}, status)


def _refuse_second(nic: Nic) -> None:
    if nic.action and nic.action.status == "PENDING":
        raise Refusal("BlockedError", "A networking operation is already active on the nic.")
    nic.action = None


@call("POST", "/node/<node>/nic/<nic>/connect_network", {"network": str}, channel=str)
def node_connect_network(caller: Caller, node: str, nic: str, network: str, channel: str = NATIVE) -> Answer:
    machine = caller.node(node)
    port, net = caller.nic(machine, nic), caller.network(network)
    if machine.project is None:
        raise Refusal("ProjectMismatchError", "Node not in project")
    caller.require(machine.project)
    if port.port is None:
        raise Refusal("NotFoundError", "No port is connected to given nic.")
    _refuse_second(port)
    if net.access and machine.project not in net.access:
        raise Refusal("ProjectMismatchError", "Project does not have access to given network.")
    if network in port.networks.values():
        raise Refusal("BlockedError", "The network is already attached to the nic.")
    if channel in port.networks:
        raise Refusal("BlockedError", "The channel is already in use on the nic.")
    if channel not in {NATIVE, f"vlan/{net.vlan}"}:
        raise Refusal("BadArgumentError", f"Channel {channel!r}, is not legal for this network.")
    if not caller.hil.weak.nativeless and channel != NATIVE and NATIVE not in port.networks:
        raise Refusal("BlockedError", "Please attach a native network first")
    return _queue(caller, Action("modify_port", port, channel, network), 202)


@call("POST", "/node/<node>/nic/<nic>/detach_network", {"network": str})
def node_detach_network(caller: Caller, node: str, nic: str, network: str) -> Answer:
    machine = caller.node(node)
    caller.network(network)
    port = caller.nic(machine, nic)
    if machine.project is None:
        raise Refusal("ProjectMismatchError", "Node not in project")
    caller.require(machine.project)
    _refuse_second(port)
    channel = next((channel for channel, name in port.networks.items() if name == network), None)
    if channel is None:
        raise Refusal("BadArgumentError", "The network is not attached to the nic.")
    if not caller.hil.weak.nativeless and channel == NATIVE and len(port.networks) > 1:
        raise Refusal("BlockedError", "Please remove all trunked Vlans before removing the native vlan")
    return _queue(caller, Action("modify_port", port, channel, None), 202)


@call("PUT", "/switch/<switch>", {"type": str}, hostname=str, username=str, password=str)
def switch_register(caller: Caller, switch: str, **_: Any) -> Answer:
    caller.require_admin()
    if switch in caller.hil.switches:
        raise Refusal("DuplicateError", f"Switch {switch} already exists.")
    caller.hil.switches[switch] = set()
    return Answer()


def _port(caller: Caller, switch: str, port: str) -> Nic | None:
    """The NIC that is cabled to a port."""
    if switch not in caller.hil.switches:
        raise Refusal("NotFoundError", f"Switch {switch} does not exist.")
    if port not in caller.hil.switches[switch]:
        raise Refusal("NotFoundError", f"Port {port} on Switch {switch} does not exist.")
    nics = [nic for node in caller.hil.nodes.values() for nic in node.nics.values()]
    return next((nic for nic in nics if nic.port == (switch, port)), None)


@call("POST", "/switch/<switch>/port/<port>/connect_nic", {"node": str, "nic": str})
def port_connect_nic(caller: Caller, switch: str, port: str, node: str, nic: str) -> Answer:
    caller.require_admin()
    there = _port(caller, switch, port)
    found = caller.nic(caller.node(node), nic)
    if found.port is not None:
        raise Refusal("DuplicateError", nic)
    if there is not None:
        raise Refusal("DuplicateError", port)
    found.port = switch, port
    return Answer()


@call("POST", "/switch/<switch>/port/<port>/revert")
def port_revert(caller: Caller, switch: str, port: str) -> Answer:
    caller.require_admin()
    nic = _port(caller, switch, port)
    if nic is None:
        raise Refusal("NotFoundError", f"{port} not attached")
    _refuse_second(nic)
    return _queue(caller, Action("revert_port", nic, "", None), 200)


@call("GET", "/networking_action/<status_id>")
def show_networking_action(caller: Caller, status_id: str) -> Answer:
    action = next((action for action in caller.hil.actions if action.uuid == status_id), None)
    if action is None:
        raise Refusal("NotFoundError", "status_id not found")
    caller.require(caller.node(action.nic.node).project)
    return shown(
        {
            "status": action.status,
            "node": action.nic.node,
            "nic": action.nic.label,
            "type": action.kind,
            "channel": action.channel,
            "new_network": action.network,
        }
    )


@call("PUT", "/switch/<switch>/port/<port>")
def switch_register_port(caller: Caller, switch: str, port: str) -> Answer:
    caller.require_admin()
    if port in caller.hil.switches.get(switch, set()):
        raise Refusal("DuplicateError", f"Port {port} on Switch {switch} already exists")
    caller.hil.switches[switch].add(port)
    caller.hil.wires[switch, port] = Wire(1 if caller.hil.weak.falls_back else None)
    return Answer()
