"""Nodes: registered, provisioned, powered, released."""

from dataclasses import dataclass
from urllib.parse import urlsplit

from sqlalchemy import Connection

from bmi.domain.addressing import free_address
from bmi.domain.names import image_name, label, mac_address
from bmi.domain.nouns import BOOT_NIC, Actor, Event, Nic, Node, NodeState, ObjectState, Project, Volume
from bmi.domain.plans import (
    ATTACH,
    DETACH,
    POWER_CYCLE,
    POWER_OFF,
    POWER_ON,
    PROVISION,
    REGISTER,
    RELEASE,
    UNREGISTER,
    claiming,
)
from bmi.errors import InvalidInputError, InvalidStateError, NotFoundError
from bmi.service.allocation import ALLOCATED, give_free_node, node_labels
from bmi.service.core import (
    Core,
    OperationView,
    enqueue,
    network_of,
    no_such_node,
    project_for,
    replayed,
    require_admin,
    visible_node,
)
from bmi.service.node_views import NodeView, find_node_view, list_node_views
from bmi.service.orders import Order, check_order, make_volume, source_of
from bmi.service.volumes import refuse_while_frozen
from bmi.store import operations as journal
from bmi.store import records, schema
from bmi.store.ids import new_id

__all__ = [
    "Order",
    "Registration",
    "delete_node",
    "get_node",
    "list_events",
    "list_nodes",
    "power_node",
    "provision_node",
    "register_node",
    "release_node",
]

_POWER_PLANS = {"on": POWER_ON, "off": POWER_OFF, "cycle": POWER_CYCLE}


@dataclass(frozen=True)
class NicSaid:
    """What an administrator says of a NIC: its address and, if BMI drives its switch, where it is cabled to."""

    name: str
    mac: str
    switch: str | None = None
    port: str | None = None


@dataclass(frozen=True)
class Registration:
    """What an administrator says of a node: the NIC that it boots from and, in `nics`, the others. `bmc` is `<driver>+<address>`, such as
    `redfish+https://10.0.0.5/redfish/v1/Systems/1`.
    """

    name: str
    mac: str
    bmc: str
    bmc_username: str = ""
    bmc_password: str = ""
    bmc_verify_tls: bool = True
    switch: str | None = None
    port: str | None = None
    labels: tuple[str, ...] = ()
    nics: tuple[NicSaid, ...] = ()


# ---- registering ------------------------------------------------------------------------------------


def register_node(core: Core, actor: Actor, said: Registration, *, key: str | None = None) -> OperationView:
    """Takes a node into the pool. Its port is closed and its BMC asked before it counts as free."""
    require_admin(actor)
    label(said.name)
    nics = [NicSaid(BOOT_NIC, said.mac, said.switch, said.port), *said.nics]
    for nic in nics:
        _check_nic(nic)
    driver, address = _parse_bmc(said.bmc)
    labels = node_labels(said.labels)
    with core.write() as tx:
        earlier = replayed(tx, actor, key, REGISTER.kind, said.name)
        if earlier:
            return earlier
        node = Node(
            id=new_id(),
            name=said.name,
            state=NodeState.REGISTERED,
            project_id=None,
            bmc_driver=driver,
            bmc_address=address,
            bmc_username=said.bmc_username,
            bmc_password=core.vault.seal(said.bmc_password),
            bmc_verify_tls=said.bmc_verify_tls,
            problem=None,
            created_at=core.now(),
            labels=labels,
        )
        records.nodes.insert(tx, node)
        for nic in nics:
            _add_nic(tx, node, nic)
        return enqueue(core, tx, actor, REGISTER, ("node", node.id, node.name), project_id=None, key=key)


def _check_nic(said: NicSaid) -> None:
    label(said.name, "nics")
    mac_address(said.mac)
    if (said.switch is None) != (said.port is None):
        raise InvalidInputError(
            "port" if said.switch else "switch",
            "it is missing.",
            remedy="Give both the switch and the port, or neither.",
        )


def _add_nic(tx: Connection, node: Node, said: NicSaid) -> None:
    switch = records.switches.find(tx, name=said.switch) if said.switch else None
    if said.switch and switch is None:
        raise NotFoundError("switch", said.switch, remedy="Register it first: bmi switch register.")
    nic = Nic(new_id(), node.id, said.name, mac_address(said.mac), switch.id if switch else None, said.port)
    records.nics.insert(tx, nic)


def _parse_bmc(bmc: str) -> tuple[str, str]:
    driver, plus, address = bmc.partition("+")
    parts = urlsplit(address)
    if not plus or parts.scheme not in {"http", "https"} or not parts.hostname:
        raise InvalidInputError(
            "bmc",
            f"{bmc!r} is not a BMC address.",
            remedy="Write <driver>+<URL>, like redfish+https://10.0.0.5.",
        )
    if parts.username or parts.password:
        raise InvalidInputError(
            "bmc", "it contains credentials.", remedy="Give them as --bmc-user and --bmc-password-file."
        )
    label(driver, "bmc")
    return driver, address


def delete_node(core: Core, actor: Actor, name: str, *, key: str | None = None) -> OperationView:
    """Takes a node out of the pool, its port closed; refused while somebody has it."""
    require_admin(actor)
    with core.write() as tx:
        earlier = replayed(tx, actor, key, UNREGISTER.kind, name)
        if earlier:
            return earlier
        node = visible_node(tx, actor, name, lock=True)
        journal.refuse_if_busy(tx, "node", node.id, name)
        if node.project_id is not None:
            raise InvalidStateError(
                f"The node {name!r} belongs to a project.", remedy=f"bmi release {name}, bmi node free {name}"
            )
        return enqueue(core, tx, actor, UNREGISTER, ("node", node.id, name), project_id=None, key=key)


# ---- provisioning -----------------------------------------------------------------------------------


def provision_node(
    core: Core, actor: Actor, name: str, order: Order, *, key: str | None = None
) -> OperationView:
    """Boots a project's node from a fresh clone or a detached volume. An administrator may name a free node, which
    is then given to the project.
    """
    check_order(order)
    plan = ATTACH if order.volume else PROVISION
    with core.write() as tx:
        earlier = replayed(tx, actor, key, plan.kind, name)
        if earlier:
            return earlier
        project = project_for(tx, actor, order.project)
        node = visible_node(tx, actor, name, lock=True)
        journal.refuse_if_busy(tx, "node", node.id, name)
        _require_provisionable(node, project)
        source = source_of(tx, project, order)
        network = network_of(tx, project)
        allocates = node.project_id is None
        if allocates:
            give_free_node(core, tx, node, project)
        volume = make_volume(core, tx, project, node, network, source, order)
        nic = records.boot_nic(tx, node.id)
        address = free_address(network.interface, records.addresses_in(tx, network.id))
        tx.execute(schema.addresses.insert().values(nic_id=nic.id, network_id=network.id, ip=address))
        records.nodes.update(tx, id=node.id, values={"state": NodeState.PROVISIONING})
        shown = enqueue(
            core,
            tx,
            actor,
            claiming(plan) if allocates and core.settings.isolation.is_external else plan,
            ("node", node.id, name),
            project_id=project.id,
            args={
                "allocates": allocates,
                "image": source.image.name,
                "snapshot": source.snapshot.name if source.snapshot else None,
                "volume": volume.name,
                "volume_id": volume.id,
            },
            key=key,
        )
        journal.add_event(
            tx,
            node_id=node.id,
            operation_id=shown.operation.id,
            at=shown.operation.created_at,
            stage="accepted",
        )
    return shown


def _require_provisionable(node: Node, project: Project) -> None:
    if node.project_id not in {project.id, None}:
        raise InvalidStateError(
            f"The node {node.name!r} belongs to another project.",
            remedy="Leave --project out, or free it first.",
        )
    if node.state not in {NodeState.ALLOCATED, NodeState.FREE}:
        raise InvalidStateError(
            f"The node {node.name!r} is {node.state}; only one that is allocated or free can be provisioned.",
            remedy=_way_out(node),
        )


def _way_out(node: Node) -> str:
    if node.state in {NodeState.ACTIVE, NodeState.ERROR} and node.project_id is not None:
        return f"bmi release {node.name} first."
    if node.state is NodeState.ERROR:
        return f"Mend what `bmi node show {node.name}` tells and run bmi operation retry."
    return "Wait until its operation has ended."


def release_node(
    core: Core,
    actor: Actor,
    name: str,
    *,
    keep_volume: bool = False,
    keep_as: str | None = None,
    key: str | None = None,
) -> OperationView:
    """Empties the node: off, its port closed, its volume gone; the project keeps it. With `keep_volume` the volume stays, detached
    once the node is off for certain and nothing of it can be written any more; `keep_as` is its new name.
    """
    plan = DETACH if keep_volume else RELEASE
    if keep_as is not None and not keep_volume:
        raise InvalidInputError("keep_as", "the volume goes.", remedy="Give --keep-volume as well.")
    with core.write() as tx:
        earlier = replayed(tx, actor, key, plan.kind, name)
        if earlier:
            return earlier
        node = visible_node(tx, actor, name, lock=True)
        journal.refuse_if_busy(tx, "node", node.id, name)
        if node.state not in {NodeState.ACTIVE, NodeState.ERROR} or node.project_id is None:
            raise InvalidStateError(
                f"The node {name!r} is {node.state}; there is nothing to release.", remedy=_back(node)
            )
        volume = records.volumes.find(tx, node_id=node.id, lock=True)
        if volume:
            journal.refuse_if_busy(tx, "volume", volume.id, volume.name)
        if keep_volume:
            _keep(tx, volume, keep_as)
        elif volume:
            refuse_while_frozen(tx, volume)
        records.nodes.update(tx, id=node.id, values={"state": NodeState.RELEASING})
        return enqueue(
            core,
            tx,
            actor,
            plan,
            ("node", node.id, name),
            project_id=node.project_id,
            args={"volume_id": volume.id, "volume": keep_as or volume.name} if volume else {},
            key=key,
        )


def _back(node: Node) -> str:
    return f"bmi node free {node.name} gives it back." if node.project_id else "Nobody has it."


def _keep(tx: Connection, volume: Volume | None, keep_as: str | None) -> None:
    """Raises InvalidStateError for a volume that was never whole."""
    if volume is None or volume.state is not ObjectState.READY:
        raise InvalidStateError(
            f"The node's volume is {volume.state if volume else 'missing'}: there is nothing to keep.",
            remedy="Release the node without --keep-volume.",
        )
    if keep_as is not None:
        records.volumes.update(tx, id=volume.id, values={"name": image_name(keep_as, "keep_as")})


def power_node(core: Core, actor: Actor, name: str, action: str, *, key: str | None = None) -> OperationView:
    """Power `on`, `off` or `cycle` of an active node; on and cycle boot from its volume again."""
    plan = _POWER_PLANS.get(action)
    if plan is None:
        raise InvalidInputError("action", f"{action!r} is not known.", remedy="Use on, off or cycle.")
    with core.write() as tx:
        earlier = replayed(tx, actor, key, plan.kind, name)
        if earlier:
            return earlier
        node = visible_node(tx, actor, name, lock=True)
        journal.refuse_if_busy(tx, "node", node.id, name)
        if node.state is not NodeState.ACTIVE:
            raise InvalidStateError(f"The node {name!r} is {node.state}, not active.", remedy=_way_out(node))
        return enqueue(core, tx, actor, plan, ("node", node.id, name), project_id=node.project_id, key=key)


# ---- looking ----------------------------------------------------------------------------------------


def get_node(core: Core, actor: Actor, name: str) -> NodeView:
    """One node that the actor may see."""
    with core.database.read() as tx:
        found = find_node_view(tx, actor, name)
    if found is None:
        raise no_such_node(name)
    return found


def list_nodes(core: Core, actor: Actor, *, after: str = "", limit: int = 100) -> list[NodeView]:
    """The nodes that the actor may see, by name, beginning behind the name `after`."""
    with core.database.read() as tx:
        return list_node_views(tx, actor, after=after, limit=limit)


def list_events(core: Core, actor: Actor, name: str, *, after: int = 0, limit: int = 1000) -> list[Event]:
    """A node's timeline; a member sees what happened since the node came to the project."""
    with core.database.read() as tx:
        node = visible_node(tx, actor, name)
        table = schema.events
        since = 0.0
        if not actor.is_admin:
            # Not since the volume was made: another project may have had the node after that.
            came = records.events.list(tx, node_id=node.id, stage=ALLOCATED, newest_first=True, limit=1)
            since = came[0].at if came else core.now()
        return records.events.list(tx, table.c.id > after, table.c.at >= since, node_id=node.id, limit=limit)
