"""The stand-in answers as HIL does: each of these runs against the real one as well, where there is one."""

import time
from typing import Any

import httpx
import pytest

from tests.hil.bench import Bench


def _refusal(answer: httpx.Response) -> tuple[int, str, str]:
    return answer.status_code, answer.json()["type"], answer.json()["msg"]


def _ended(either: Bench, action: dict[str, Any]) -> str:
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        status: str = either.do("GET", f"/networking_action/{action['status_id']}")["status"]
        if status != "PENDING":
            return status
        time.sleep(0.05)
    return "PENDING"


def _network(either: Bench, name: str = "net", access: str = "red") -> str:
    project = either.prefix + access if access else ""
    either.do("PUT", f"/network/{either.prefix}{name}", {"owner": "admin", "access": project, "net_id": ""})
    return either.prefix + name


def _own(either: Bench, node: str = "n1", project: str = "red") -> str:
    name = either.prefix + node
    either.do("POST", f"/project/{either.prefix}{project}/connect_node", {"node": name})
    return name


def test_who_calls_without_credentials_is_refused(either: Bench) -> None:
    refused = either.call("GET", "/nodes/all", login=(either.login[0], "wrong"))
    said = "Authentication failed. Authentication is required to use this service."
    assert _refusal(refused) == (401, "AuthorizationError", said)
    unknown = either.call("GET", "/nodes/all", login=("nobody", "x"))
    assert _refusal(unknown) == (404, "NotFoundError", "User nobody does not exist.")


def test_a_body_that_is_not_as_it_should_be(either: Bench) -> None:
    invalid = (400, "ValidationError", "Request arguments are not valid for this request")
    path = f"/project/{either.prefix}red/connect_node"
    assert _refusal(either.call("POST", path, {})) == invalid
    assert _refusal(either.call("POST", path, {"node": "n1", "more": 1})) == invalid
    assert _refusal(either.call("POST", path, {"node": 7})) == invalid
    assert either.call("GET", "/no/such/call").status_code == 404


def test_what_does_not_exist(either: Bench) -> None:
    assert _refusal(either.call("GET", "/node/nope")) == (404, "NotFoundError", "Node nope does not exist.")
    path, body = "/project/nope/connect_node", {"node": "nope"}
    assert _refusal(either.call("POST", path, body)) == (404, "NotFoundError", "Project nope does not exist.")


def test_a_node_as_an_administrator_sees_it(either: Bench) -> None:
    node = f"{either.prefix}n2"
    either.do("PUT", f"/node/{node}/metadata/bmi-project", {"value": "red"})
    assert either.do("GET", f"/node/{node}") == {
        "name": node,
        "project": None,
        "metadata": {"bmi-project": '"red"'},
        "nics": [
            {
                "label": "boot",
                "macaddr": "52:54:00:00:02:01",
                "switch": f"{either.prefix}tor",
                "port": "gi1/2/1",
                "networks": {},
            }
        ],
    }
    either.do("DELETE", f"/node/{node}/metadata/bmi-project")
    gone = either.call("DELETE", f"/node/{node}/metadata/bmi-project")
    assert _refusal(gone)[:2] == (404, "NotFoundError")


def test_a_node_has_one_project(either: Bench) -> None:
    node = _own(either)
    again = either.call("POST", f"/project/{either.prefix}blue/connect_node", {"node": node})
    assert _refusal(again) == (409, "BlockedError", "Node is already owned by a project.")
    assert node not in either.do("GET", "/nodes/free")
    not_there = either.call("POST", f"/project/{either.prefix}blue/detach_node", {"node": node})
    assert _refusal(not_there) == (404, "NotFoundError", "Node not in project")
    either.do("POST", f"/project/{either.prefix}red/detach_node", {"node": node})
    assert node in either.do("GET", "/nodes/free")


def test_a_nic_goes_on_a_network_and_off_it_one_action_at_a_time(either: Bench) -> None:
    node, network = _own(either), _network(either)
    nic = f"/node/{node}/nic/boot"
    begun = either.call("POST", f"{nic}/connect_network", {"network": network})
    second = either.call("POST", f"{nic}/connect_network", {"network": network})
    assert begun.status_code == 202
    assert _refusal(second)[:2] == (409, "BlockedError")
    if either.server:  # the real one may have done it already
        assert _refusal(second)[2] == "A networking operation is already active on the nic."
    shown = either.do("GET", f"/networking_action/{begun.json()['status_id']}")
    about = {"node": node, "nic": "boot", "type": "modify_port", "channel": "vlan/native"}
    assert shown == about | {"new_network": network, "status": shown["status"]}
    assert _ended(either, begun.json()) == "DONE"
    assert either.do("GET", f"/node/{node}")["nics"][0]["networks"] == {"vlan/native": network}
    attached = either.do("GET", f"/network/{network}/attachments")
    about = {"nic": "boot", "channel": "vlan/native", "project": f"{either.prefix}red"}
    assert attached == {node: about}
    in_use = either.call("DELETE", f"/network/{network}")
    assert _refusal(in_use) == (409, "BlockedError", "Network still connected to nodes")
    not_free = either.call("POST", f"/project/{either.prefix}red/detach_node", {"node": node})
    assert _refusal(not_free) == (409, "BlockedError", "Node attached to a network")
    off = either.call("POST", f"{nic}/detach_network", {"network": network})
    assert (off.status_code, _ended(either, off.json())) == (202, "DONE")
    either.do("DELETE", f"/network/{network}")


def test_a_port_is_reverted_as_a_whole(either: Bench) -> None:
    node, network, other = _own(either), _network(either), _network(either, "other")
    nic = f"/node/{node}/nic/boot"
    networks = either.do("GET", "/networks")
    tagged = f"vlan/{networks[other]['network_id']}"
    assert networks[other]["projects"] == [f"{either.prefix}red"]
    for body in ({"network": network}, {"network": other, "channel": tagged}):
        assert _ended(either, either.do("POST", f"{nic}/connect_network", body)) == "DONE"
    reverted = either.call("POST", f"/switch/{either.prefix}tor/port/gi1/1/1/revert")
    assert (reverted.status_code, _ended(either, reverted.json())) == (200, "DONE")
    assert either.do("GET", f"/node/{node}")["nics"][0]["networks"] == {}


def test_whose_network_it_is(either: Bench) -> None:
    node, network = _own(either, "n2", "blue"), _network(either)
    red, blue = f"{either.prefix}red", f"{either.prefix}blue"
    nic = f"/node/{node}/nic/boot"
    refused = either.call("POST", f"{nic}/connect_network", {"network": network})
    said = "Project does not have access to given network."
    assert _refusal(refused) == (409, "ProjectMismatchError", said)
    either.do("PUT", f"/network/{network}/access/{blue}")
    assert _refusal(either.call("PUT", f"/network/{network}/access/{blue}"))[:2] == (409, "DuplicateError")
    assert _ended(either, either.do("POST", f"{nic}/connect_network", {"network": network})) == "DONE"
    attached = either.call("DELETE", f"/network/{network}/access/{blue}")
    assert _refusal(attached)[:2] == (409, "BlockedError")
    either.do("DELETE", f"/network/{network}/access/{red}")
    assert either.do("GET", "/networks")[network]["projects"] == [blue]


def test_who_owns_no_node_attaches_none(either: Bench) -> None:
    network = _network(either)
    nic = f"/node/{either.prefix}n1/nic/boot"
    refused = either.call("POST", f"{nic}/connect_network", {"network": network})
    assert _refusal(refused) == (409, "ProjectMismatchError", "Node not in project")
    _own(either)
    nothing = either.call("POST", f"{nic}/detach_network", {"network": network})
    assert _refusal(nothing) == (400, "BadArgumentError", "The network is not attached to the nic.")
    wrong = either.call("POST", f"{nic}/connect_network", {"network": network, "channel": "vlan/999"})
    assert _refusal(wrong)[:2] == (400, "BadArgumentError")


def test_a_vlan_of_the_pool_is_given_once(either: Bench) -> None:
    network = _network(either)
    vlan = either.do("GET", "/networks")[network]["network_id"]
    body = {"owner": "admin", "access": "", "net_id": vlan}
    taken = either.call("PUT", f"/network/{either.prefix}twin", body)
    assert _refusal(taken)[:2] == (409, "BlockedError")
    wrong = either.call("PUT", f"/network/{either.prefix}twin", body | {"net_id": "5000"})
    assert _refusal(wrong) == (400, "BadArgumentError", "Invalid net_id")


def test_power_is_elsewhere(either: Bench) -> None:
    node = _own(either)
    off = either.call("POST", f"/node/{node}/power_on")
    assert _refusal(off) == (409, "BlockedError", "OBM is not enabled")
    either.do("PUT", f"/node/{node}/obm", {"enabled": True})
    for method, what, body in (
        ("POST", "power_on", None),
        ("GET", "power_status", None),
        ("PUT", "boot_device", {"bootdev": "pxe"}),
    ):
        sent = either.call(method, f"/node/{node}/{what}", body)
        assert sent.status_code == 307
        there = sent.headers["Location"]
        assert there.startswith(f"{either.obm.uri(node)}/{what}?token=")
        assert either.http.request(method, there, json=body).is_success
    assert either.obm.machines[node].boot_device == "pxe"
    blocked = either.call("POST", f"/project/{either.prefix}red/detach_node", {"node": node})
    assert _refusal(blocked) == (409, "BlockedError", "Node's obm is enabled.")
    either.do("PUT", f"/node/{node}/obm", {"enabled": False})
    either.do("POST", f"/project/{either.prefix}red/detach_node", {"node": node})


@pytest.mark.parametrize("what", ["token", "power_on"])
def test_the_obm_service_wants_its_own_credentials(either: Bench, what: str) -> None:
    answer = either.http.post(f"{either.obm.uri(f'{either.prefix}n1')}/{what}")
    assert answer.status_code == (404 if what == "token" else 401)
