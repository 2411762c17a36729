"""Networks: whose they are, who may attach to them, and that the switch ports follow."""

from typing import Any

import pytest

from bmi.domain.nouns import BOOT_NIC, Actor
from bmi.domain.operations import OperationState
from bmi.drivers.switch import CLOSED, PortConfig
from bmi.errors import (
    AlreadyExistsError,
    BmiError,
    BusyError,
    ForbiddenError,
    InUseError,
    InvalidInputError,
    InvalidStateError,
    NotFoundError,
    OverQuotaError,
)
from bmi.service import images, networks, nodes, operations, projects, quotas
from bmi.service.allocation import free_node
from bmi.service.attachments import attach_network, detach_network
from bmi.service.core import OperationView
from bmi.service.image_sources import Source, Told, import_image
from bmi.service.networks import (
    create_network,
    delete_network,
    get_network,
    list_networks,
    share_network,
)
from bmi.service.node_views import OnNetwork
from bmi.store import records
from bmi.workflow.ports import Keeper
from tests.installation import BMC_HOST, BMC_PASSWORD, SITE, Site


@pytest.fixture
def site(site: Site) -> Site:
    """A cabled node n3 of red, with a second NIC."""
    site.add_switch()
    said = nodes.Registration(
        "n3",
        "52:54:00:00:00:03",
        f"fake+https://{BMC_HOST}/n3",
        bmc_username="root",
        bmc_password=BMC_PASSWORD,
        switch="sw1",
        port="port3",
        nics=(nodes.NicSaid("data", "52:54:00:00:01:03", "sw1", "port13"),),
    )
    nodes.register_node(site.core, SITE, said)
    site.settle()
    site.give("red", "n3")
    return site


def done(site: Site, view: OperationView, *came_up: str) -> None:
    site.settle(*came_up)
    operation = site.operation(view.operation.id)
    assert operation.state is OperationState.SUCCEEDED, operation.problem


def ports(site: Site) -> dict[str, PortConfig]:
    return {name: config for name, config in site.switch.list().items() if config is not None}


def seen(site: Site, actor: Actor) -> set[str]:
    return {view.network.name for view in list_networks(site.core, actor)}


def refused(error: type[BmiError], match: str, *calls: Any) -> None:
    for call in calls:
        with pytest.raises(error, match=match):
            call()


# ---- whose ------------------------------------------------------------------------------------------


def test_a_project_makes_networks_beside_its_boot_network(site: Site, red: Actor, blue: Actor) -> None:
    made = create_network(site.core, red, "backend")
    assert (made.project, made.network.vlan, made.network.boot, made.network.address) == (
        "red",
        102,
        False,
        "",
    )
    assert seen(site, red) == {"red", "backend"}
    assert get_network(site.core, red, "red").network.boot
    assert create_network(site.core, blue, "backend").network.vlan == 103, "a name is a project's own"
    refused(AlreadyExistsError, "A network of this name", lambda: create_network(site.core, red, "backend"))
    refused(InvalidInputError, "name", lambda: create_network(site.core, red, "Not a name"))
    refused(
        ForbiddenError,
        "Only an administrator",
        lambda: create_network(site.core, red, "own", vlan=200),
        lambda: create_network(site.core, red, "own", public=True),
    )
    assert create_network(site.core, SITE, "storage", vlan=200).project is None
    refused(AlreadyExistsError, "has this VLAN", lambda: create_network(site.core, SITE, "s", vlan=200))
    refused(AlreadyExistsError, "of this name", lambda: create_network(site.core, SITE, "storage"))
    refused(InvalidInputError, "several projects", lambda: get_network(site.core, SITE, "backend"))
    assert get_network(site.core, SITE, "backend", project="blue").project == "blue"


def test_a_quota_of_networks(site: Site, red: Actor) -> None:
    quotas.set_quota(site.core, SITE, "red", {"networks": 1})
    create_network(site.core, red, "backend")
    refused(
        OverQuotaError, "may have 1 network; it has 1 network", lambda: create_network(site.core, red, "x")
    )


def test_a_project_with_networks_stays(site: Site, red: Actor) -> None:
    create_network(site.core, red, "backend")
    site.give(None, "n1", "n2", "n3")
    refused(InUseError, "still has network backend", lambda: projects.delete_project(site.core, SITE, "red"))
    delete_network(site.core, red, "backend")
    projects.delete_project(site.core, SITE, "red")


def test_the_boot_network_is_nobody_elses_and_goes_with_its_project(site: Site, red: Actor) -> None:
    refused(
        InvalidStateError,
        "boot from",
        lambda: delete_network(site.core, red, "red"),
        lambda: share_network(site.core, red, "red", "blue", shared=True),
        lambda: networks.publish_network(site.core, SITE, "red", public=True),
    )


def test_what_is_not_shared_is_not_there(site: Site, red: Actor, blue: Actor) -> None:
    create_network(site.core, blue, "theirs")
    for name in ("theirs", "blue", "nowhere"):
        refused(
            NotFoundError,
            f"There is no network '{name}'",
            lambda name=name: get_network(site.core, red, name),
            lambda name=name: delete_network(site.core, red, name),
            lambda name=name: share_network(site.core, red, name, "red", shared=True),
            lambda name=name: attach_network(site.core, red, name, "n3", nic="data"),
        )


# ---- shared -----------------------------------------------------------------------------------------


def test_a_shared_network_is_used_but_not_changed(site: Site, red: Actor, blue: Actor) -> None:
    create_network(site.core, blue, "theirs")
    shown = share_network(site.core, blue, "theirs", "red", shared=True)
    assert share_network(site.core, blue, "theirs", "red", shared=True) == shown
    assert shown.shared_with == ("red",)
    assert get_network(site.core, red, "theirs").shared_with == (), "whom else is the owner's business"
    refused(
        ForbiddenError,
        "not your project's",
        lambda: delete_network(site.core, red, "theirs"),
        lambda: share_network(site.core, red, "theirs", "blue", shared=True),
    )
    done(site, attach_network(site.core, red, "theirs", "n3", nic="data"))
    assert get_network(site.core, blue, "theirs").members == (), "whose node it is, but not which"
    [member] = get_network(site.core, red, "theirs").members
    assert (member.node, member.nic, member.tagged) == ("n3", "data", False)
    refused(
        InUseError,
        "used by 1 of project red",
        lambda: share_network(site.core, blue, "theirs", "red", shared=False),
        lambda: delete_network(site.core, blue, "theirs"),
    )
    done(site, detach_network(site.core, red, "theirs", "n3", nic="data"))
    assert share_network(site.core, blue, "theirs", "red", shared=False).shared_with == ()
    refused(NotFoundError, "theirs", lambda: get_network(site.core, red, "theirs"))


def test_a_shared_network_takes_nobody_the_public_one(site: Site, red: Actor, blue: Actor) -> None:
    create_network(site.core, SITE, "data", public=True)
    create_network(site.core, red, "data")
    share_network(site.core, red, "data", "blue", shared=True)
    assert get_network(site.core, blue, "data").network.public


def test_an_administrator_who_names_a_project_changes_nothing_of_another(
    site: Site, red: Actor, blue: Actor
) -> None:
    create_network(site.core, blue, "data")
    share_network(site.core, blue, "data", "red", shared=True)
    refused(
        ForbiddenError,
        "not your project's",
        lambda: delete_network(site.core, SITE, "data", project="red"),
        lambda: share_network(site.core, SITE, "data", "green", shared=True, project="red"),
    )


def shared_by_two(site: Site, blue: Actor) -> None:
    """Blue and green each share a network `data` with red."""
    site.project("green")
    for owner in (blue, site.actor("green-token", "green")):
        create_network(site.core, owner, "data")
        share_network(site.core, owner, "data", "red", shared=True)


def test_whose_network_is_meant_is_said_where_several_have_its_name(
    site: Site, red: Actor, blue: Actor
) -> None:
    shared_by_two(site, blue)
    refused(
        InvalidInputError,
        r"several projects \(blue, green\) share a network 'data'.*--of PROJECT",
        lambda: attach_network(site.core, red, "data", "n3", nic="data"),
    )
    refused(NotFoundError, "data", lambda: attach_network(site.core, red, "data", "n3", nic="data", of="red"))
    for owner, vlan in (("blue", 103), ("green", 104)):
        done(site, attach_network(site.core, red, "data", "n3", nic="data", tagged=True, of=owner))
        assert get_network(site.core, SITE, "data", project=owner).network.vlan == vlan
        assert len(get_network(site.core, SITE, "data", project=owner).members) == 1
    refused(
        InvalidInputError,
        "several projects",
        lambda: detach_network(site.core, red, "data", "n3", nic="data"),
    )
    done(site, detach_network(site.core, red, "data", "n3", nic="data", of="green"))
    assert get_network(site.core, SITE, "data", project="green").members == ()
    create_network(site.core, red, "data")
    done(site, attach_network(site.core, red, "data", "n3", nic="data", tagged=True))
    done(site, detach_network(site.core, red, "data", "n3", nic="data"))
    assert get_network(site.core, red, "data").members == (), "of two, the own one is meant"
    assert len(get_network(site.core, SITE, "data", project="blue").members) == 1


def test_who_gets_a_share_may_do_without_it(site: Site, red: Actor, blue: Actor) -> None:
    shared_by_two(site, blue)
    done(site, attach_network(site.core, red, "data", "n3", nic="data", of="blue"))
    refused(
        InvalidInputError,
        r"several projects \(blue, green\)",
        lambda: share_network(site.core, red, "data", "red", shared=False),
    )
    refused(
        InUseError,
        r"used by node n3 \(data\)",
        lambda: share_network(site.core, red, "data", "red", shared=False, of="blue"),
    )
    refused(
        NotFoundError,
        "There is no network",
        lambda: share_network(site.core, red, "data", "red", shared=False, of="red"),
        lambda: share_network(site.core, red, "nothing", "red", shared=False),
    )
    share_network(site.core, red, "data", "red", shared=False, of="green")
    assert get_network(site.core, red, "data").project == "blue"
    done(site, detach_network(site.core, red, "data", "n3", nic="data"))
    share_network(site.core, SITE, "data", "red", shared=False, project="red")
    refused(NotFoundError, "data", lambda: get_network(site.core, red, "data"))


def test_a_public_network_is_everybodys(site: Site, red: Actor, blue: Actor) -> None:
    create_network(site.core, SITE, "storage", public=True)
    assert "storage" in seen(site, red) & seen(site, blue)
    done(site, attach_network(site.core, red, "storage", "n3", nic="data", tagged=True))
    refused(
        ForbiddenError,
        "Only an administrator",
        lambda: networks.publish_network(site.core, red, "storage", public=False),
    )
    refused(
        InUseError,
        r"used by node n3 \(data\)",
        lambda: networks.publish_network(site.core, SITE, "storage", public=False),
        lambda: delete_network(site.core, SITE, "storage"),
    )
    share_network(site.core, SITE, "storage", "red", shared=True)
    networks.publish_network(site.core, SITE, "storage", public=False)
    assert "storage" not in seen(site, blue)


# ---- attached ---------------------------------------------------------------------------------------


def test_ports_follow_while_a_node_is_active_and_no_longer(site: Site, red: Actor) -> None:
    for name in ("backend", "extra"):
        create_network(site.core, red, name)
    done(site, attach_network(site.core, red, "backend", "n3", nic="data"))
    assert set(ports(site).values()) <= {CLOSED}, "a node without a volume is on nothing"
    site.provision("n3", "red")
    assert ports(site) == {"port3": PortConfig(100), "port13": PortConfig(102)}
    done(site, attach_network(site.core, red, "extra", "n3", nic="data", tagged=True))
    done(site, attach_network(site.core, red, "extra", "n3", tagged=True))
    assert ports(site) == {
        "port3": PortConfig(100, frozenset({103})),
        "port13": PortConfig(102, frozenset({103})),
    }
    done(site, detach_network(site.core, red, "backend", "n3", nic="data"))
    assert ports(site)["port13"] == PortConfig(None, frozenset({103}))
    nodes.release_node(site.core, red, "n3")
    site.settle()
    assert set(ports(site).values()) == {CLOSED}
    refused(InUseError, r"n3 \(boot\), node n3 \(data\)", lambda: delete_network(site.core, red, "extra"))
    done(site, free_node(site.core, red, "n3"))
    delete_network(site.core, red, "extra")


def test_a_network_is_in_use_until_the_switch_says_otherwise(site: Site, red: Actor) -> None:
    create_network(site.core, red, "backend")
    done(site, attach_network(site.core, red, "backend", "n3", nic="data"))
    site.provision("n3", "red")
    site.switch.world.set_fault("apply", error="The switch is away.", retryable=False)
    view = detach_network(site.core, red, "backend", "n3", nic="data")
    refused(BusyError, "n3", lambda: detach_network(site.core, red, "backend", "n3", nic="data"))
    site.settle()
    assert site.operation(view.operation.id).state is OperationState.FAILED
    assert ports(site)["port13"] == PortConfig(102)
    refused(InUseError, "node n3", lambda: delete_network(site.core, red, "backend"))
    site.switch.world.set_fault("apply")
    operations.retry_operation(site.core, red, view.operation.id)
    site.settle()
    assert ports(site)["port13"] == CLOSED
    delete_network(site.core, red, "backend")


def test_an_attachment_that_fails_is_undone(site: Site, red: Actor) -> None:
    create_network(site.core, red, "backend")
    site.provision("n3", "red")
    site.switch.world.set_fault("apply", error="It refuses.", retryable=False, times=1)
    view = attach_network(site.core, red, "backend", "n3", nic="data")
    site.settle()
    assert site.operation(view.operation.id).state is OperationState.FAILED
    assert get_network(site.core, red, "backend").members == ()
    assert ports(site)["port13"] == CLOSED
    delete_network(site.core, red, "backend")


def test_what_cannot_be_attached(site: Site, red: Actor, blue: Actor) -> None:
    for name in ("backend", "extra"):
        create_network(site.core, red, name)
    attach, detach, core = attach_network, detach_network, site.core
    done(site, attach(core, red, "backend", "n3", nic="data"))
    refused(AlreadyExistsError, "on another network", lambda: attach(core, red, "extra", "n3", nic="data"))
    refused(
        AlreadyExistsError, "already", lambda: attach(core, red, "backend", "n3", nic="data", tagged=True)
    )
    refused(
        InvalidStateError,
        "boot network, untagged",
        lambda: attach(core, red, "extra", "n3"),
        lambda: attach(core, red, "red", "n3", nic=BOOT_NIC, tagged=True),
    )
    refused(
        InvalidInputError,
        "no NIC 'eth7'.* It has boot, data",
        lambda: attach(core, red, "extra", "n3", nic="eth7"),
    )
    refused(NotFoundError, "n3", lambda: attach(core, blue, "blue", "n3", nic="data"))
    site.provision("n3", "red")
    refused(InvalidStateError, "boots from the network", lambda: detach(core, red, "red", "n3"))
    refused(InvalidStateError, "not on a network 'extra'", lambda: detach(core, red, "extra", "n3"))
    site.give(None, "n1")
    refused(InvalidStateError, "nobody has it", lambda: attach(core, SITE, "extra", "n1", tagged=True))


def test_a_nic_whose_switch_port_is_not_known_is_put_on_no_network(site: Site, red: Actor) -> None:
    create_network(site.core, red, "backend")
    refused(
        InvalidStateError,
        "no switch port of NIC 'boot' of node 'n1'.*bmi switch cable",
        lambda: attach_network(site.core, red, "backend", "n1", tagged=True),
    )
    assert get_network(site.core, red, "backend").members == ()


def test_what_could_not_be_undone_is_forgotten_when_the_switch_is_back(site: Site, red: Actor) -> None:
    create_network(site.core, red, "backend")
    site.provision("n3", "red")
    site.switch.world.set_fault("apply", error="The switch is away.", retryable=False)
    view = attach_network(site.core, red, "backend", "n3", nic="data")
    site.settle()
    assert site.operation(view.operation.id).state is OperationState.FAILED
    refused(InUseError, "node n3", lambda: delete_network(site.core, red, "backend"))
    site.switch.world.set_fault("apply")
    with site.database.write() as tx:  # instead of waiting for the end of the back-off
        records.ports.update(tx, values={"due_at": 0})
    keeper = Keeper(site.engine._tools, owner="later")
    keeper.look()
    keeper.finish()
    assert ports(site)["port13"] == CLOSED
    delete_network(site.core, red, "backend")


def test_a_key_is_for_one_request(site: Site, red: Actor) -> None:
    for name in ("backend", "extra"):
        create_network(site.core, red, name)
    attach, detach, core = attach_network, detach_network, site.core
    made = attach(core, red, "backend", "n3", nic="data", key="k")
    assert attach(core, red, "backend", "n3", nic="data", key="k").operation.id == made.operation.id
    done(site, made)
    refused(
        InvalidInputError,
        "Idempotency-Key.*another attach-network of n3",
        lambda: attach(core, red, "extra", "n3", nic="data", key="k"),
        lambda: attach(core, red, "backend", "n3", key="k"),
        lambda: attach(core, red, "backend", "n3", nic="data", tagged=True, key="k"),
        lambda: detach(core, red, "backend", "n3", nic="data", key="k"),
    )
    done(site, detach(core, red, "backend", "n3", nic="data", key="l"))
    refused(
        InvalidInputError, "another detach", lambda: detach(core, red, "extra", "n3", nic="data", key="l")
    )


def test_a_node_shows_its_nics_and_what_they_are_on(site: Site, red: Actor, blue: Actor) -> None:
    create_network(site.core, blue, "theirs")
    share_network(site.core, blue, "theirs", "red", shared=True)
    create_network(site.core, red, "backend")
    done(site, attach_network(site.core, red, "theirs", "n3", nic="data", tagged=True))
    done(site, attach_network(site.core, red, "backend", "n3", nic="data"))
    [boot, data] = nodes.get_node(site.core, red, "n3").nics
    assert (boot.nic.name, boot.nic.mac, boot.switch, boot.networks) == (
        "boot",
        "52:54:00:00:00:03",
        "sw1",
        [],
    )
    assert (data.nic.name, data.nic.port) == ("data", "port13")
    assert data.networks == [OnNetwork("backend", "red", False), OnNetwork("theirs", "blue", True)]
    assert [len(view.nics) for view in nodes.list_nodes(site.core, red)] == [1, 1, 2]


def test_nothing_is_made_in_a_project_that_is_being_closed(site: Site, red: Actor, blue: Actor) -> None:
    site.add_image("mine", "blue")
    site.give(None, "n1", "n2", "n3")
    projects.delete_project(site.core, SITE, "red")
    refused(
        InvalidStateError,
        "boot network of project 'red' is deleting",
        lambda: create_network(site.core, red, "late"),
        lambda: import_image(site.core, red, "late", Source(image="debian-12"), Told()),
        lambda: images.move_image(site.core, SITE, "mine", "red", project="blue"),
    )
    site.settle()
    assert [view.project.name for view in projects.list_projects(site.core, SITE)] == ["blue"]
