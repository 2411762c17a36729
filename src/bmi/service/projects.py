"""Projects and their boot networks."""

from dataclasses import dataclass
from ipaddress import IPv4Interface

from bmi.domain.addressing import free_subnet
from bmi.domain.names import label
from bmi.domain.nouns import Actor, Network, ObjectState, Project
from bmi.domain.plans import CLOSE_NETWORK, OPEN_NETWORK
from bmi.errors import InUseError, InvalidInputError, NotFoundError
from bmi.service.core import Core, OperationView, enqueue, replayed, require_admin
from bmi.service.vlans import choose_vlan
from bmi.store import operations as journal
from bmi.store import records, schema
from bmi.store.ids import new_id


@dataclass(frozen=True)
class ProjectView:
    """A project with its boot network."""

    project: Project
    network: Network | None


def create_project(
    core: Core,
    actor: Actor,
    name: str,
    *,
    vlan: int | None = None,
    address: str | None = None,
    claims_as: str | None = None,
    key: str | None = None,
) -> OperationView:
    """A project and its boot network; VLAN and address range (as BMI's own address in it, such as
    `10.96.1.1/24`) are taken from the pools unless given. The operation's end says the network is up.
    """
    require_admin(actor)
    label(name)
    if claims_as is not None and not core.settings.isolation.is_external:
        raise InvalidInputError(
            "claims_as", "BMI takes its nodes from nowhere else.", remedy="Leave it out, or see [isolation]."
        )
    wanted = _interface(address) if address else None
    with core.write() as tx:
        earlier = replayed(tx, actor, key, OPEN_NETWORK.kind, name)
        if earlier:
            return earlier
        number = choose_vlan(core, tx, vlan)  # and nobody else chooses a range of addresses meanwhile
        now, others = core.now(), records.networks.list(tx)
        project = records.projects.insert(tx, Project(new_id(), name, now, claims_as=claims_as))
        pools = core.settings.networks
        foot = wanted or free_subnet(pools.subnets, pools.prefix, (n.address for n in others if n.boot))
        _refuse_overlap(foot, others)
        network = Network(
            id=new_id(),
            name=name,
            project_id=project.id,
            vlan=number,
            address=str(foot),
            netns=f"{pools.netns_prefix}-{number}",
            state=ObjectState.CREATING,
            created_at=now,
        )
        records.networks.insert(tx, network)
        return enqueue(
            core, tx, actor, OPEN_NETWORK, ("network", network.id, name), project_id=project.id, key=key
        )


def _interface(address: str) -> IPv4Interface:
    remedy = "Give BMI's own address in the network with its prefix length, like 10.96.1.1/24."
    try:
        interface = IPv4Interface(address)
    except ValueError as error:
        raise InvalidInputError("address", f"{address!r} is not an address.", remedy=remedy) from error
    if interface.network.prefixlen > 30 or interface.ip in {
        interface.network.network_address,
        interface.network.broadcast_address,
    }:
        raise InvalidInputError("address", f"{address!r} leaves no room for nodes.", remedy=remedy)
    return interface


def _refuse_overlap(foot: IPv4Interface, others: list[Network]) -> None:
    for other in others:
        if other.boot and foot.network.overlaps(other.interface.network):
            raise InvalidInputError(
                "address",
                f"{foot.network} overlaps the network of {other.name}.",
                remedy="Choose another range.",
            )


def get_project(core: Core, actor: Actor, name: str) -> ProjectView:
    """One project that the actor may see."""
    with core.database.read() as tx:
        project = records.projects.find(tx, name=name)
        if project is None or not (actor.is_admin or actor.project_id == project.id):
            raise NotFoundError("project", name, remedy="`bmi project list` shows those there are.")
        return ProjectView(project, records.networks.find(tx, project_id=project.id, boot=True))


def list_projects(core: Core, actor: Actor, *, after: str = "", limit: int = 100) -> list[ProjectView]:
    """All projects for an administrator, the own one for a member; by name, beginning behind `after`."""
    table = schema.projects
    where = [] if actor.is_admin else [table.c.id == actor.project_id]
    with core.database.read() as tx:
        projects = records.projects.list(tx, table.c.name > after, *where, order="name", limit=limit)
        of_these = schema.networks.c.project_id.in_([project.id for project in projects])
        networks = {network.project_id: network for network in records.networks.list(tx, of_these, boot=True)}
    return [ProjectView(project, networks.get(project.id)) for project in projects]


def delete_project(core: Core, actor: Actor, name: str, *, key: str | None = None) -> OperationView:
    """Closes the project's network and forgets the project; refused while it holds anything."""
    require_admin(actor)
    with core.write() as tx:
        earlier = replayed(tx, actor, key, CLOSE_NETWORK.kind, name)
        if earlier:
            return earlier
        project = records.projects.find(tx, name=name)
        # The network first, as a provision does: rows locked in one order make no circle.
        network = records.networks.find(tx, project_id=project.id, boot=True, lock=True) if project else None
        project = records.projects.find(tx, name=name, lock=True)
        if project is None or network is None:
            raise NotFoundError("project", name, remedy="`bmi project list` shows those there are.")
        journal.refuse_if_busy(tx, "project", network.id, name)
        users = [
            *(f"node {node.name}" for node in records.nodes.list(tx, project_id=project.id)),
            *(
                f"volume {volume.name}"
                for volume in records.volumes.list(tx, project_id=project.id)
                if volume.node_id is None
            ),
            *(
                f"network {other.name}"
                for other in records.networks.list(tx, project_id=project.id, boot=False)
            ),
            *(f"image {image.name}" for image in records.images.list(tx, project_id=project.id)),
            *(f"snapshot {snapshot.name}" for snapshot in records.snapshots.list(tx, project_id=project.id)),
        ]
        if users:
            raise InUseError(
                f"The project {name!r} still has {', '.join(users)}.",
                remedy="Free its nodes and delete its networks, volumes, images and snapshots first.",
                users=users,
            )
        records.networks.update(tx, id=network.id, values={"state": ObjectState.DELETING})
        return enqueue(
            core, tx, actor, CLOSE_NETWORK, ("network", network.id, name), project_id=project.id, key=key
        )
