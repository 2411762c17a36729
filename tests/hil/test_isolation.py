"""HIL as the service that nodes are taken from."""

import pytest

from bmi.drivers import load
from bmi.drivers.isolation import Isolation, Machine, MachineNic
from bmi.errors import DriverError
from tests.hil.bench import Bench
from tests.hil.server import HilServer
from tests.hil.web import Answer, Request


@pytest.fixture
def isolation(either: Bench) -> Isolation:
    made: Isolation = load("isolation", "hil")(**either.options)
    return made


def _machine(either: Bench, isolation: Isolation, name: str = "n1") -> Machine:
    return next(machine for machine in isolation.nodes() if machine.name == either.prefix + name)


def test_the_inventory(either: Bench, isolation: Isolation) -> None:
    node = f"{either.prefix}n1"
    assert _machine(either, isolation) == Machine(
        name=node,
        owner=None,
        claimed=False,
        bmc=f"hil+{either.url}/node/{node}",
        nics=(
            MachineNic("boot", "52:54:00:00:01:01", f"{node}/boot"),
            MachineNic("data", "52:54:00:00:01:02", f"{node}/data"),
        ),
    )


def test_a_node_is_claimed_and_given_back(either: Bench, isolation: Isolation) -> None:
    node, red = f"{either.prefix}n1", f"{either.prefix}red"
    for _ in range(2):
        isolation.claim(node, red)
        machine = _machine(either, isolation)
        assert (machine.owner, machine.claimed) == (red, True)
    for _ in range(2):
        isolation.unclaim(node, red)
        machine = _machine(either, isolation)
        assert (machine.owner, machine.claimed) == (None, False)
    assert either.do("GET", f"/node/{node}")["metadata"] == {}


def test_a_node_whose_management_is_enabled_is_given_back(either: Bench, isolation: Isolation) -> None:
    node = f"{either.prefix}n1"
    red = f"{either.prefix}red"
    isolation.claim(node, red)
    either.do("PUT", f"/node/{node}/obm", {"enabled": True})
    isolation.unclaim(node, red)
    assert _machine(either, isolation).owner is None


def test_a_node_that_somebody_else_has_stays_theirs(either: Bench, isolation: Isolation) -> None:
    node, red, blue = (either.prefix + name for name in ("n1", "red", "blue"))
    either.do("POST", f"/project/{blue}/connect_node", {"node": node})
    for project in (red, blue):
        with pytest.raises(DriverError, match=f"belongs to HIL's project {blue}") as caught:
            isolation.claim(node, project)
        assert not caught.value.retryable
    with pytest.raises(DriverError, match="BMI did not give it"):
        isolation.unclaim(node, red)
    machine = _machine(either, isolation)
    assert (machine.owner, machine.claimed) == (blue, False)


def test_a_node_that_is_held_for_one_project_is_not_claimed_for_another(
    either: Bench, isolation: Isolation
) -> None:
    isolation.claim(f"{either.prefix}n1", f"{either.prefix}red")
    for call in (isolation.claim, isolation.unclaim):
        with pytest.raises(DriverError, match="Free the node in BMI first"):
            call(f"{either.prefix}n1", f"{either.prefix}blue")


def test_somebody_who_is_faster(stand_in: Bench, hil: HilServer) -> None:
    isolation: Isolation = load("isolation", "hil")(**stand_in.options)
    answer = hil.service._answer

    def between(request: Request) -> Answer:
        if request.path.endswith("/connect_node"):
            hil.nodes["n1"].project = "blue"
        return answer(request)

    hil.service._answer = between
    with pytest.raises(DriverError, match="belongs to HIL's project blue"):
        isolation.claim("n1", "red")
    assert hil.nodes["n1"].metadata == {}


def test_a_claim_whose_answer_was_lost_is_one(stand_in: Bench, hil: HilServer) -> None:
    isolation: Isolation = load("isolation", "hil")(**stand_in.options)
    hil.nodes["n1"].metadata["bmi-project"] = '"red"'
    hil.nodes["n1"].project = "red"
    isolation.claim("n1", "red")
    assert hil.nodes["n1"].project == "red"


def test_what_hil_does_not_know(either: Bench, isolation: Isolation) -> None:
    with pytest.raises(DriverError, match="Project nope does not exist") as caught:
        isolation.claim(f"{either.prefix}n1", "nope")
    assert not caught.value.retryable
    assert _machine(either, isolation).owner is None
    with pytest.raises(DriverError, match="Node nope does not exist"):
        isolation.claim("nope", f"{either.prefix}red")
    isolation.unclaim("nope", f"{either.prefix}red")


def test_a_node_on_a_network_is_not_given_back(stand_in: Bench, hil: HilServer) -> None:
    isolation: Isolation = load("isolation", "hil")(**stand_in.options)
    isolation.claim("n1", "red")
    hil.nodes["n1"].nics["boot"].networks["vlan/native"] = "net"
    with pytest.raises(DriverError, match="attached to a network") as caught:
        isolation.unclaim("n1", "red")
    assert caught.value.retryable


def test_check_says_a_sentence(isolation: Isolation) -> None:
    assert isolation.check().endswith("projects.")
