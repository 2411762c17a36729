"""Putting a node's NIC on a network, and taking it off."""

from sqlalchemy import Connection, exists

from bmi.domain.nouns import BOOT_NIC, Actor, Attachment, Json, Network, Nic, Node, ObjectState
from bmi.domain.plans import ATTACH_NETWORK, DETACH_NETWORK, Plan
from bmi.errors import InvalidInputError, InvalidStateError
from bmi.service.core import Core, OperationView, enqueue, replayed, visible_node
from bmi.service.networks import meant, named, no_such_network, sees_network
from bmi.store import operations as journal
from bmi.store import ports, records, schema


def attach_network(
    core: Core,
    actor: Actor,
    name: str,
    node_name: str,
    *,
    nic: str = BOOT_NIC,
    tagged: bool = False,
    of: str | None = None,
    key: str | None = None,
) -> OperationView:
    """Puts a node's NIC on a network of its project, or one that its project may use: where several have the name,
    the project's own, the site's or a public one, or the one of the project `of`. While the node is on its
    networks its switch port follows; else it will when the node is provisioned.
    """
    asked: Json = {"network": name, "nic": nic, "tagged": tagged, "of": of}
    with core.write() as tx:
        earlier = replayed(tx, actor, key, ATTACH_NETWORK.kind, node_name, asked)
        if earlier:
            return earlier
        node, found = _nic(tx, actor, node_name, nic)
        if found.port is None:
            raise InvalidStateError(
                f"BMI knows of no switch port of NIC {nic!r} of node {node_name!r}: it cannot put it on a network.",
                remedy="An administrator says where it is cabled to: bmi switch cable.",
            )
        network = _usable(tx, node, name, of)
        if found.name == BOOT_NIC and (network.boot or not tagged):
            raise InvalidStateError(
                f"The NIC {BOOT_NIC!r} is on the project's boot network, untagged, whenever the node has a volume.",
                remedy="Attach other networks to it with --tagged, or to another NIC.",
            )
        leaving = records.attachments.find(tx, nic_id=found.id, network_id=network.id, leaving=True)
        if leaving:
            records.attachments.delete(tx, nic_id=found.id, network_id=network.id)
        records.attachments.insert(tx, Attachment(found.id, network.id, tagged))
        return _follow(core, tx, actor, ATTACH_NETWORK, node, found, network, asked, key)


def detach_network(
    core: Core,
    actor: Actor,
    name: str,
    node_name: str,
    *,
    nic: str = BOOT_NIC,
    of: str | None = None,
    key: str | None = None,
) -> OperationView:
    """Takes a node's NIC off a network. It counts as on it until its switch says that it is off. Where it is on
    several of the name, the same one is meant as when it was attached.
    """
    asked: Json = {"network": name, "nic": nic, "of": of}
    with core.write() as tx:
        earlier = replayed(tx, actor, key, DETACH_NETWORK.kind, node_name, asked)
        if earlier:
            return earlier
        node, found = _nic(tx, actor, node_name, nic)
        on_it = exists().where(
            schema.attachments.c.network_id == schema.networks.c.id, schema.attachments.c.nic_id == found.id
        )
        network = meant(tx, on_it, name, node.project_id, of)
        if network is None:
            raise InvalidStateError(
                f"The NIC {nic!r} of node {node_name!r} is not on a network {name!r}.",
                remedy="`bmi network list` shows which nodes are on which.",
            )
        if network.boot and found.name == BOOT_NIC:
            raise InvalidStateError(
                f"The node {node_name!r} boots from the network {name!r}.",
                remedy=f"bmi release {node_name} takes it off.",
            )
        leaving = {"leaving": True}
        records.attachments.update(tx, nic_id=found.id, network_id=network.id, values=leaving)
        return _follow(core, tx, actor, DETACH_NETWORK, node, found, network, asked, key)


def _nic(tx: Connection, actor: Actor, node_name: str, nic: str) -> tuple[Node, Nic]:
    node = visible_node(tx, actor, node_name, lock=True)
    journal.refuse_if_busy(tx, "node", node.id, node_name)
    if node.project_id is None:
        raise InvalidStateError(
            f"The node {node_name!r} is {node.state}; nobody has it.",
            remedy="Allocate it first: bmi node allocate",
        )
    found = records.nics.find(tx, node_id=node.id, name=nic)
    if found is None:
        names = ", ".join(one.name for one in records.nics.list(tx, node_id=node.id, order="name"))
        raise InvalidInputError(
            "nic", f"the node {node_name!r} has no NIC {nic!r}.", remedy=f"It has {names}."
        )
    return node, found


def _usable(tx: Connection, node: Node, name: str, of: str | None) -> Network:
    """The network that the node's project means by a name, locked: who deletes it at the same moment waits."""
    network = named(tx, node.project_id, name, of)
    locked = records.networks.find(tx, id=network.id, state=ObjectState.READY, lock=True)
    # Asked again now that nobody can take it back: a share may have ended before the lock was there.
    if locked is None or records.networks.find(tx, sees_network(node.project_id), id=locked.id) is None:
        raise no_such_network(name)
    return locked


def _follow(
    core: Core,
    tx: Connection,
    actor: Actor,
    plan: Plan,
    node: Node,
    nic: Nic,
    network: Network,
    asked: Json,
    key: str | None,
) -> OperationView:
    if nic.open:
        ports.touch(tx, nic, core.now())
    args = {**asked, "network_id": network.id, "nic_id": nic.id}
    subject = ("node", node.id, node.name)
    return enqueue(core, tx, actor, plan, subject, project_id=node.project_id, args=args, key=key)
