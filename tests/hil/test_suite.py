"""BMI on HIL: a node's whole life, and every error on its way, each of which ends in a clear state."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from bmi.domain.nouns import Json, NodeState
from bmi.domain.operations import Operation, OperationState
from bmi.service import allocation, projects
from bmi.service.inventory import sync_nodes
from tests.hil.bench import Bench
from tests.hil.site import HilSite, opened
from tests.hil.state import Wire
from tests.installation import SITE


@pytest.fixture
def site(stand_in: Bench, migrated_sqlite: Path, tmp_path: Path) -> Iterator[HilSite]:
    """HIL's nodes n1 and n2, taken over and free; red is `red` in HIL, blue is `indigo`."""
    directory = tmp_path / "site"
    directory.mkdir()
    stand_in.project("indigo")
    with opened(directory, migrated_sqlite, stand_in) as made:
        assert made.sync()["added"] == ["n1", "n2"]
        yield made


def _is_whole(site: HilSite, node: str = "n1") -> bool:
    """Whether nothing of the node is left anywhere: free on both sides, off, and on nothing."""
    site.keep_ports()
    there, here = site.hil.nodes[node], site.node(node)
    assert (here.state, here.project_id, here.problem) == (NodeState.FREE, None, None)
    assert (there.project, there.metadata, there.obm_token) == (None, {}, None)
    assert site.hil.obm.machines[node].power == "off"
    assert all(site.hil.wire(node, nic) == Wire() for nic in there.nics)
    assert all(port.applied_revision == port.revision for port in site.ports(node))
    return True


def _problem(found: Operation) -> Json:
    assert found.state is OperationState.FAILED
    assert found.problem is not None
    assert found.problem["remedy"]
    return found.problem


# ---- what goes well ---------------------------------------------------------------------------------


def test_the_inventory_is_hils(site: HilSite) -> None:
    assert [(nic.name, nic.mac, nic.port) for nic in site.nics()] == [
        ("boot", "52:54:00:00:01:01", "n1/boot"),
        ("data", "52:54:00:00:01:02", "n1/data"),
    ]
    node = site.node()
    assert (node.state, node.bmc_driver, node.bmc_username) == (NodeState.FREE, "hil", "")
    assert _is_whole(site)


def test_what_is_known_stays_and_what_somebody_has_is_left(site: HilSite) -> None:
    site.bench.node("n3", 3)
    site.bench.node("Not_A_Name", 4)
    site.bench.node("theirs", 5)
    site.bench.do("POST", "/project/blue/connect_node", {"node": "theirs"})
    found = site.sync()
    assert (found["nodes"], found["added"]) == (5, ["n3"])
    assert found["left"].keys() == {"Not_A_Name", "theirs"}
    assert "belongs to project blue" in found["left"]["theirs"]
    assert site.sync()["added"] == []
    assert _is_whole(site, "n3")


def test_what_is_cabled_anew_there_is_taken_over_when_nobody_has_the_node(site: HilSite) -> None:
    assert site.sync()["changed"] == []
    assert site.allocate().state is OperationState.SUCCEEDED
    site.bench.nic("n1", 1, 3, "storage")
    found = site.sync()
    assert (found["changed"], found["left"].keys()) == ([], {"n1"})
    assert "other NICs" in found["left"]["n1"]
    assert {nic.name for nic in site.nics()} == {"boot", "data"}

    assert site.freed().state is OperationState.SUCCEEDED
    found = site.sync()
    assert (found["changed"], found["left"]) == (["n1"], {})
    assert [(nic.name, nic.mac, nic.port) for nic in site.nics()] == [
        ("boot", "52:54:00:00:01:01", "n1/boot"),
        ("data", "52:54:00:00:01:02", "n1/data"),
        ("storage", "52:54:00:00:01:03", "n1/storage"),
    ]
    assert {port.name for port in site.ports()} == {"n1/boot", "n1/data", "n1/storage"}
    assert _is_whole(site)
    assert site.sync()["changed"] == []


def test_a_nic_that_was_replaced_there_is_replaced_here_and_one_that_is_gone_goes(site: HilSite) -> None:
    there = site.hil.nodes["n1"].nics
    there["boot"].mac = "52:54:00:00:01:09"
    del there["data"]
    assert site.sync()["changed"] == ["n1"]
    assert [(nic.name, nic.mac, nic.port) for nic in site.nics()] == [
        ("boot", "52:54:00:00:01:09", "n1/boot")
    ]
    assert _is_whole(site)

    there["boot"].port = None  # pulled out
    assert site.sync()["changed"] == ["n1"]
    assert [(nic.name, nic.port) for nic in site.nics()] == [("boot", None)]


def test_a_node_is_allocated_booted_powered_released_and_freed(site: HilSite) -> None:
    assert site.allocate().state is OperationState.SUCCEEDED
    there = site.hil.nodes["n1"]
    assert (site.node().state, there.project) == (NodeState.ALLOCATED, "red")
    assert site.hil.wire("n1") == Wire()

    assert site.provisioned().state is OperationState.SUCCEEDED
    assert site.node().state is NodeState.ACTIVE
    assert site.hil.wire("n1") == Wire(site.vlan())
    assert site.hil.wire("n1", "data") == Wire()
    machine = site.hil.obm.machines["n1"]
    assert (machine.power, machine.boots) == ("on", ["pxe"])

    assert site.powered("cycle").state is OperationState.SUCCEEDED
    assert (machine.power, machine.boots) == ("on", ["pxe", "pxe"])
    assert site.powered("off").state is OperationState.SUCCEEDED
    assert machine.power == "off"

    assert site.released().state is OperationState.SUCCEEDED
    assert (site.node().state, there.project) == (NodeState.ALLOCATED, "red")
    assert site.hil.wire("n1") == Wire()
    assert site.freed().state is OperationState.SUCCEEDED
    assert _is_whole(site)
    assert site.hil.networks == {}


def test_a_project_has_its_own_name_in_hil(site: HilSite) -> None:
    assert site.allocate("blue").state is OperationState.SUCCEEDED
    assert site.hil.nodes["n1"].project == "indigo"
    site.look()
    assert site.node().state is NodeState.ALLOCATED
    assert site.freed().state is OperationState.SUCCEEDED
    assert _is_whole(site)


def test_a_free_node_that_is_provisioned_is_claimed_first(site: HilSite) -> None:
    assert site.provisioned().state is OperationState.SUCCEEDED
    assert site.hil.nodes["n1"].project == "red"
    requests = site.hil.service.requests
    connected = requests.index("POST /v0/project/red/connect_node")
    assert connected < next(i for i, call in enumerate(requests) if call.endswith("/power_on"))
    site.released()
    assert site.freed().state is OperationState.SUCCEEDED
    assert _is_whole(site)


# ---- allocating -------------------------------------------------------------------------------------


def test_credentials_that_hil_does_not_take(site: HilSite) -> None:
    site.hil.users["admin"].password = "another"
    problem = _problem(site.allocate())
    assert problem["http_status"] == 401
    assert "credentials" in problem["remedy"]
    node = site.node()
    assert (node.state, node.project_id) == (NodeState.ERROR, None)
    assert "secret" not in str(problem)
    site.hil.users["admin"].password = "secret"
    site.look()
    assert _is_whole(site)


def test_a_project_that_hil_does_not_know(site: HilSite) -> None:
    projects.create_project(site.core, SITE, "green")
    site.settle()
    problem = _problem(site.allocate("green"))
    assert (problem["http_status"], problem["retryable"]) == (404, False)
    assert "Project green does not exist" in problem["detail"]
    assert _is_whole(site)


def test_a_node_that_somebody_took_meanwhile(site: HilSite) -> None:
    site.bench.do("POST", "/project/blue/connect_node", {"node": "n1"})
    problem = _problem(site.allocate())
    assert "belongs to HIL's project blue" in problem["detail"]
    node = site.node()
    assert (node.state, node.project_id, site.hil.nodes["n1"].project) == (NodeState.ERROR, None, "blue")
    # It is out of the pool: the next one is given.
    assert site.allocate().subject_name == "n2"
    site.bench.do("POST", "/project/blue/detach_node", {"node": "n1"})
    site.look()
    assert _is_whole(site)


def test_hil_away_while_a_node_is_allocated(site: HilSite) -> None:
    site.hil.service.go_away()
    assert "cannot be reached" in _problem(site.allocate())["detail"]
    assert (site.node().state, site.node().project_id) == (NodeState.ERROR, None)
    site.hil.service.come_back()
    site.look()
    assert _is_whole(site)


def test_hil_slow_while_a_node_is_allocated(site: HilSite) -> None:
    site.hil.service.slow_s = 30
    problem = _problem(site.allocate())
    assert problem["type"].endswith("timed-out")
    assert (site.node().state, site.node().project_id) == (NodeState.ERROR, None)
    site.hil.service.slow_s = 0
    site.look()
    site.look()
    assert _is_whole(site)


# ---- the boot network -------------------------------------------------------------------------------


def test_an_action_that_ends_in_error_now_and_then(site: HilSite) -> None:
    site.allocate()
    site.hil.weak.errors = 2
    assert site.provisioned().state is OperationState.SUCCEEDED
    assert site.hil.wire("n1") == Wire(site.vlan())


def test_actions_that_all_end_in_error(site: HilSite) -> None:
    site.allocate()
    site.hil.weak.errors = 1000
    problem = _problem(site.provisioned())
    assert "HIL could not change the switch port of n1/boot" in problem["detail"]
    assert site.node().state is NodeState.ERROR
    site.hil.weak.errors = 0
    assert site.released().state is OperationState.SUCCEEDED
    assert site.freed().state is OperationState.SUCCEEDED
    assert _is_whole(site)


def test_a_network_daemon_that_does_nothing(site: HilSite) -> None:
    site.allocate()
    site.hil.weak.stuck = True
    problem = _problem(site.provisioned())
    assert "Port n1/boot is not open after" in problem["detail"]
    site.hil.weak.stuck = False
    assert site.released().state is OperationState.SUCCEEDED
    assert site.freed().state is OperationState.SUCCEEDED
    assert _is_whole(site)


def test_a_vlan_that_is_a_network_of_somebody_else(site: HilSite) -> None:
    site.allocate()
    site.bench.do("PUT", "/network/theirs", {"owner": "admin", "access": "blue", "net_id": str(site.vlan())})
    problem = _problem(site.provisioned())
    assert "is that of HIL's network theirs" in problem["detail"]
    assert site.released().state is OperationState.SUCCEEDED
    assert site.freed().state is OperationState.SUCCEEDED
    assert site.hil.networks.keys() == {"theirs"}


# ---- power ------------------------------------------------------------------------------------------


def test_an_obm_service_in_trouble(site: HilSite) -> None:
    site.allocate()
    site.provisioned()
    site.hil.obm.broken = True
    problem = _problem(site.powered("off"))
    assert "answered 500 for node n1" in problem["detail"]
    assert site.node().state is NodeState.ACTIVE
    site.hil.obm.broken = False
    assert site.powered("off").state is OperationState.SUCCEEDED


def test_a_node_that_stays_on_is_not_released(site: HilSite) -> None:
    site.allocate()
    site.provisioned()
    site.hil.obm.machines["n1"].stuck = True
    failed = site.released()
    assert "is on after" in _problem(failed)["detail"]
    # On nothing, with its volume, and still the project's.
    assert (site.node().state, site.hil.wire("n1")) == (NodeState.ERROR, Wire())
    site.hil.obm.machines["n1"].stuck = False
    assert site.retried(failed).state is OperationState.SUCCEEDED
    assert site.freed().state is OperationState.SUCCEEDED
    assert _is_whole(site)


# ---- releasing --------------------------------------------------------------------------------------


@pytest.mark.parametrize("trouble", ["away", "slow"])
def test_hil_in_trouble_while_a_node_is_released(site: HilSite, trouble: str) -> None:
    site.allocate()
    site.provisioned()
    if trouble == "away":
        site.hil.service.go_away()
    else:
        site.hil.service.slow_s = 30
    failed = site.released()
    assert "cannot be reached" in str(_problem(failed)) or "did not answer" in str(_problem(failed))
    assert site.node().state is NodeState.ERROR
    if trouble == "away":
        site.hil.service.come_back()
    site.hil.service.slow_s = 0
    assert site.retried(failed).state is OperationState.SUCCEEDED
    assert site.freed().state is OperationState.SUCCEEDED
    assert _is_whole(site)


def test_a_port_that_hil_does_not_close_delays_the_freeing_and_not_the_release(site: HilSite) -> None:
    site.allocate()
    site.provisioned()
    site.hil.weak.errors = 1000
    assert site.released().state is OperationState.SUCCEEDED
    begun = allocation.free_node(site.core, SITE, "n1")
    with site.working():
        while not all(port.problem for port in site.ports()):
            assert site.operation(begun.operation.id).is_live
    assert "HIL could not change the switch port" in str(site.ports()[0].problem)
    assert (site.node().state, site.hil.nodes["n1"].project) == (NodeState.RELEASING, "red")
    assert [entry.free for entry in allocation.pool(site.core)] == [1]
    site.hil.weak.errors = 0
    assert site.ended(begun).state is OperationState.SUCCEEDED
    assert _is_whole(site)


# ---- behind our back --------------------------------------------------------------------------------


def _detach_behind_our_back(site: HilSite) -> None:
    """As an administrator of HIL may; the switch port is left on the default VLAN."""
    with site.hil.changing():
        node = site.hil.nodes["n1"]
        node.obm_token, node.project = None, None
        for nic in node.nics.values():
            nic.networks.clear()
        site.hil.wire("n1").native = 1


def test_a_node_that_was_freed_in_hil(site: HilSite) -> None:
    site.allocate()
    site.provisioned()
    _detach_behind_our_back(site)
    site.look()
    node = site.node()
    assert (node.state, node.project_id is None) == (NodeState.ERROR, False)
    assert node.problem is not None
    assert "was taken from project red" in node.problem["detail"]
    assert not any(nic.open for nic in site.nics())
    assert site.hil.wire("n1") == Wire()
    site.look()
    assert site.node() == node
    assert site.released().state is OperationState.SUCCEEDED
    assert site.freed().state is OperationState.SUCCEEDED
    assert _is_whole(site)


def test_a_node_that_was_given_to_somebody_else_in_hil(site: HilSite) -> None:
    site.allocate()
    site.provisioned()
    _detach_behind_our_back(site)
    site.bench.do("POST", "/project/blue/connect_node", {"node": "n1"})
    site.look()
    assert "belongs to project red here, and to blue" in str(site.node().problem)
    failed = site.released()
    assert "belongs to HIL's project blue" in _problem(failed)["detail"]
    # Their node is left alone; ours is not given to anybody.
    assert (site.hil.obm.machines["n1"].power, site.node().state) == ("on", NodeState.ERROR)
    site.bench.do("POST", "/project/blue/detach_node", {"node": "n1"})
    assert site.retried(failed).state is OperationState.SUCCEEDED
    assert site.freed().state is OperationState.SUCCEEDED
    assert _is_whole(site)


def test_a_node_of_the_pool_that_was_given_away_comes_back(site: HilSite) -> None:
    site.bench.do("POST", "/project/blue/connect_node", {"node": "n1"})
    site.look()
    assert "was given to project blue" in str(site.node().problem)
    assert [entry.free for entry in allocation.pool(site.core)] == [1]
    site.bench.do("POST", "/project/blue/detach_node", {"node": "n1"})
    site.look()
    assert _is_whole(site)


def test_a_node_that_is_no_longer_there(site: HilSite) -> None:
    del site.hil.nodes["n1"]
    site.look()
    assert "does not know it any more" in str(site.node().problem)
    assert site.node("n2").state is NodeState.FREE


def test_hil_away_is_no_news_of_its_nodes(site: HilSite) -> None:
    before = site.everything()
    site.hil.service.go_away()
    with pytest.raises(Exception, match="cannot be reached"):
        site.look()
    assert site.everything() == before


def test_what_is_left_of_a_claim_is_given_back(site: HilSite) -> None:
    site.hil.nodes["n1"].project = "red"
    site.hil.nodes["n1"].metadata["bmi-project"] = '"red"'
    site.look()
    assert site.node().state is NodeState.ERROR
    site.look()
    assert _is_whole(site)


def test_only_an_administrator_takes_nodes_over(site: HilSite) -> None:
    member = site.actor("member", "red")
    with pytest.raises(Exception, match="administrator"):
        sync_nodes(site.core, member)
