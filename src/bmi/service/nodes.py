"""Nodes: registered, provisioned, powered, released."""

import secrets
from dataclasses import dataclass
from urllib.parse import urlsplit

from sqlalchemy import Connection

from bmi.domain.addressing import free_address
from bmi.domain.names import label, mac_address
from bmi.domain.nouns import (
    Actor,
    Event,
    Image,
    Json,
    Nic,
    Node,
    NodeState,
    ObjectState,
    Project,
    Snapshot,
    Volume,
)
from bmi.domain.plans import POWER_CYCLE, POWER_OFF, POWER_ON, PROVISION, REGISTER, RELEASE, UNREGISTER
from bmi.errors import InvalidInputError, InvalidStateError, NotFoundError
from bmi.service.core import (
    Core,
    OperationView,
    enqueue,
    locked_image,
    network_of,
    no_such_node,
    own_node,
    project_for,
    replayed,
    require_admin,
    visible_image,
    visible_node,
    visible_snapshot,
)
from bmi.service.node_views import BOOT_NIC, NodeView, find_node_view, list_node_views
from bmi.store import operations as journal
from bmi.store import records, schema
from bmi.store.ids import new_id

# 96 bits at least (RFC 3720, section 8.2.1); hexadecimal digits survive every firmware's parser.
_CHAP_SECRET_BYTES = 12
MAX_USER_DATA_BYTES = 64 * 1024
_POWER_PLANS = {"on": POWER_ON, "off": POWER_OFF, "cycle": POWER_CYCLE}


@dataclass(frozen=True)
class Registration:
    """What an administrator says of a node. `bmc` is `<driver>+<address>`, such as
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


# ---- registering ------------------------------------------------------------------------------------


def register_node(core: Core, actor: Actor, said: Registration, *, key: str | None = None) -> OperationView:
    """Takes a node into the pool. Its port is closed and its BMC asked before it counts as free."""
    require_admin(actor)
    label(said.name)
    mac = mac_address(said.mac)
    driver, address = _parse_bmc(said.bmc)
    if (said.switch is None) != (said.port is None):
        raise InvalidInputError(
            "port" if said.switch else "switch",
            "it is missing.",
            remedy="Give both --switch and --port, or neither.",
        )
    with core.write() as tx:
        earlier = replayed(tx, actor, key, REGISTER.kind, said.name)
        if earlier:
            return earlier
        switch = records.switches.find(tx, name=said.switch) if said.switch else None
        if said.switch and switch is None:
            raise NotFoundError("switch", said.switch, remedy="Register it first: bmi switch register.")
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
        )
        records.nodes.insert(tx, node)
        records.nics.insert(
            tx, Nic(new_id(), node.id, BOOT_NIC, mac, switch.id if switch else None, said.port)
        )
        return enqueue(core, tx, actor, REGISTER, ("node", node.id, node.name), project_id=None, key=key)


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
            raise InvalidStateError(f"The node {name!r} belongs to a project.", remedy=f"bmi release {name}")
        return enqueue(core, tx, actor, UNREGISTER, ("node", node.id, name), project_id=None, key=key)


# ---- provisioning -----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Order:
    """What a provision is asked to bring up: an image or a snapshot, and what the OS is told."""

    image: str | None = None
    snapshot: str | None = None
    project: str | None = None
    hostname: str | None = None
    ssh_keys: tuple[str, ...] = ()
    user_data: str = ""


def provision_node(
    core: Core, actor: Actor, name: str, order: Order, *, key: str | None = None
) -> OperationView:
    """Gives a free node to a project with a fresh clone to boot from."""
    _check_order(order)
    with core.write() as tx:
        earlier = replayed(tx, actor, key, PROVISION.kind, name)
        if earlier:
            return earlier
        project = project_for(tx, actor, order.project)
        node = visible_node(tx, actor, name, lock=True)
        journal.refuse_if_busy(tx, "node", node.id, name)
        if node.state is not NodeState.FREE:
            raise InvalidStateError(
                f"The node {name!r} is {node.state}; only a free node can be provisioned.",
                remedy=_way_out(node),
            )
        image, snapshot = _source(tx, project, order)
        network = network_of(tx, project)
        nic = records.sole_nic(tx, node.id)
        address = free_address(network.interface, records.addresses_in(tx, network.id))
        tx.execute(schema.addresses.insert().values(nic_id=nic.id, network_id=network.id, ip=address))
        volume = Volume(
            id=new_id(),
            name=name,
            project_id=project.id,
            node_id=node.id,
            network_id=network.id,
            image_id=image.id,
            snapshot_id=snapshot.id if snapshot else None,
            state=ObjectState.CREATING,
            size_bytes=image.size_bytes or 0,
            exported=False,
            chap_secret=core.vault.seal(secrets.token_hex(_CHAP_SECRET_BYTES)),
            seed=_seed(order, name),
            created_at=core.now(),
        )
        records.volumes.insert(tx, volume)
        records.nodes.update(
            tx,
            id=node.id,
            values={"state": NodeState.PROVISIONING, "project_id": project.id, "problem": None},
        )
        shown = enqueue(
            core,
            tx,
            actor,
            PROVISION,
            ("node", node.id, name),
            project_id=project.id,
            args={
                "image": image.name,
                "snapshot": snapshot.name if snapshot else None,
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


def _check_order(order: Order) -> None:
    if bool(order.image) == bool(order.snapshot):
        raise InvalidInputError(
            "image", "give exactly one of image and snapshot.", remedy="--image NAME or --snapshot NAME"
        )
    if order.hostname:
        label(order.hostname, "hostname")
    if len(order.user_data.encode()) > MAX_USER_DATA_BYTES:
        raise InvalidInputError(
            "user_data", "it is larger than 64 KiB.", remedy="Let it fetch the rest from a server of yours."
        )
    for ssh_key in order.ssh_keys:
        kind, _, rest = ssh_key.strip().partition(" ")
        if "\n" in ssh_key.strip() or not rest or not kind.startswith(("ssh-", "ecdsa-", "sk-")):
            raise InvalidInputError(
                "ssh_keys",
                f"{ssh_key[:40]!r} is not a public key.",
                remedy="Give the content of a .pub file.",
            )


def _seed(order: Order, node_name: str) -> Json:
    return {
        "hostname": order.hostname or node_name,
        "ssh_keys": [k.strip() for k in order.ssh_keys],
        "user_data": order.user_data,
    }


def _source(tx: Connection, project: Project, order: Order) -> tuple[Image, Snapshot | None]:
    """What the volume is cloned from, locked: a deletion at the same moment waits, and then sees it."""
    snapshot = visible_snapshot(tx, project.id, order.snapshot, lock=True) if order.snapshot else None
    named = (
        records.images.get(tx, snapshot.image_id)
        if snapshot
        else visible_image(tx, project.id, order.image or "")
    )
    image = locked_image(tx, named)
    for kind, thing in (("image", image), ("snapshot", snapshot)):
        if thing is not None and thing.state is not ObjectState.READY:
            raise InvalidStateError(
                f"The {kind} {thing.name!r} is {thing.state}.",
                remedy="Wait until it is ready, or choose another.",
            )
    return image, snapshot


def _way_out(node: Node) -> str:
    if node.state in {NodeState.ACTIVE, NodeState.ERROR} and node.project_id is not None:
        return f"bmi release {node.name} first."
    if node.state is NodeState.ERROR:
        return f"Mend what `bmi node show {node.name}` tells and run bmi operation retry."
    return "Wait until its operation has ended."


def release_node(core: Core, actor: Actor, name: str, *, key: str | None = None) -> OperationView:
    """Takes the node back: off, its port closed, its volume gone."""
    with core.write() as tx:
        earlier = replayed(tx, actor, key, RELEASE.kind, name)
        if earlier:
            return earlier
        node = own_node(tx, actor, name)
        journal.refuse_if_busy(tx, "node", node.id, name)
        if node.project_id is None:
            raise InvalidStateError(
                f"The node {name!r} is {node.state}; nobody has it.", remedy="There is nothing to do."
            )
        records.nodes.update(tx, id=node.id, values={"state": NodeState.RELEASING})
        return enqueue(core, tx, actor, RELEASE, ("node", node.id, name), project_id=node.project_id, key=key)


def power_node(core: Core, actor: Actor, name: str, action: str, *, key: str | None = None) -> OperationView:
    """Power `on`, `off` or `cycle` of an active node; on and cycle boot from its volume again."""
    plan = _POWER_PLANS.get(action)
    if plan is None:
        raise InvalidInputError("action", f"{action!r} is not known.", remedy="Use on, off or cycle.")
    with core.write() as tx:
        earlier = replayed(tx, actor, key, plan.kind, name)
        if earlier:
            return earlier
        node = own_node(tx, actor, name)
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
        node = own_node(tx, actor, name, lock=False)
        since = 0.0
        if not actor.is_admin:
            volume = records.volumes.find(tx, node_id=node.id)
            since = volume.created_at if volume else core.now()
        table = schema.events
        return records.events.list(tx, table.c.id > after, table.c.at >= since, node_id=node.id, limit=limit)
