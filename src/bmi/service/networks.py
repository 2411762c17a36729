"""Networks that nodes attach to: a project's own, those of the site, and those that others share."""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from sqlalchemy import ColumnElement, Connection, exists, or_, select

from bmi.domain.names import label
from bmi.domain.nouns import Actor, Network, ObjectState, Project
from bmi.errors import ForbiddenError, InUseError, InvalidInputError, InvalidStateError, NotFoundError
from bmi.service import quotas
from bmi.service.core import (
    Core,
    names_of,
    project_for,
    project_names,
    receives,
    require_admin,
    require_open,
    shared_by,
)
from bmi.service.vlans import choose_vlan
from bmi.store import records, schema
from bmi.store.ids import new_id

_NETWORKS, _SHARES, _ATTACHMENTS = schema.networks, schema.network_shares, schema.attachments


@dataclass(frozen=True)
class Member:
    """A NIC that is on a network, and whose node it is of."""

    node: str
    nic: str
    project_id: str | None
    tagged: bool


@dataclass(frozen=True)
class NetworkView:
    """A network with what the actor may know of it: the own nodes on it; to its owner, whom it is shared with."""

    network: Network
    project: str | None
    shared_with: tuple[str, ...]
    members: tuple[Member, ...]


# ---- made and forgotten -----------------------------------------------------------------------------


def create_network(
    core: Core,
    actor: Actor,
    name: str,
    *,
    project: str | None = None,
    vlan: int | None = None,
    public: bool = False,
) -> NetworkView:
    """A network with the lowest free VLAN of the pool: the project's or, when an administrator names none, the
    site's. Only an administrator chooses the VLAN, or makes it public.
    """
    label(name)
    if public or vlan is not None:
        require_admin(actor)
    with core.write() as tx:
        owner = None if actor.is_admin and project is None else project_for(tx, actor, project)
        require_open(tx, owner.id if owner else None)
        quotas.require(tx, owner.id if owner else None, quotas.Amount(networks=1))
        network = Network(
            id=new_id(),
            name=name,
            project_id=owner.id if owner else None,
            vlan=choose_vlan(core, tx, vlan),
            address="",
            netns="",
            state=ObjectState.READY,
            created_at=core.now(),
            boot=False,
            public=public,
        )
        records.networks.insert(tx, network)
        return _views(tx, actor, [network])[0]


def delete_network(core: Core, actor: Actor, name: str, *, project: str | None = None) -> None:
    """Forgets a network that no NIC is on, for certain; its VLAN is free again."""
    with core.database.write() as tx:
        network = _own(tx, actor, name, project)
        _refuse_if_used(tx, actor, network, _members(tx, [network.id])[network.id])
        records.networks.delete(tx, id=network.id)


def _refuse_if_used(tx: Connection, actor: Actor, network: Network, members: Iterable[Member]) -> None:
    users = _told(tx, actor, members)
    if users:
        raise InUseError(
            f"The network {network.name!r} is used by {', '.join(users)}.",
            remedy="Detach them first: bmi network detach.",
            users=users,
        )


def _told(tx: Connection, actor: Actor, members: Iterable[Member]) -> list[str]:
    """Who uses a network: the own nodes by name, of other projects how many."""
    found = list(members)
    others = [one for one in found if not _knows(actor, one)]
    projects = project_names(tx, {one.project_id for one in others})
    own = [f"node {one.node} ({one.nic})" for one in found if _knows(actor, one)]
    counts: dict[str, int] = defaultdict(int)
    for one in others:
        counts[projects[one.project_id]] += 1
    return own + [f"{number} of project {project}" for project, number in sorted(counts.items())]


def _knows(actor: Actor, member: Member) -> bool:
    return actor.is_admin or member.project_id == actor.project_id


# ---- shared -----------------------------------------------------------------------------------------


def share_network(
    core: Core,
    actor: Actor,
    name: str,
    other: str,
    *,
    shared: bool,
    project: str | None = None,
    of: str | None = None,
) -> NetworkView:
    """Lets another project attach to a network, or no more; that is refused while its nodes are on it. That
    project may end it as well, and says whose network is meant (`of`) if several share one of this name.
    """
    with core.database.write() as tx:
        partner = records.projects.find(tx, name=other)
        if partner and not shared and receives(tx, actor, partner, project):
            network = _received(tx, partner, name, of)
        else:
            network = _own(tx, actor, name, project)
        if partner is None:
            raise NotFoundError("project", other, remedy="Ask its members what it is called.")
        if partner.id == network.project_id:
            raise InvalidInputError("other", f"the network is {other}'s own.", remedy="Name another project.")
        there = (_SHARES.c.network_id == network.id, _SHARES.c.project_id == partner.id)
        if not shared:
            using = [one for one in _members(tx, [network.id])[network.id] if one.project_id == partner.id]
            _refuse_if_used(tx, actor, network, [] if network.public else using)
            tx.execute(_SHARES.delete().where(*there))
        elif tx.execute(select(_SHARES.c.network_id).where(*there)).first() is None:
            tx.execute(_SHARES.insert().values(network_id=network.id, project_id=partner.id))
        return _views(tx, actor, [network])[0]


def _received(tx: Connection, receiver: Project, name: str, of: str | None) -> Network:
    """The network that is shared with a project, locked."""
    here = exists().where(_SHARES.c.network_id == _NETWORKS.c.id, _SHARES.c.project_id == receiver.id)
    found = records.networks.list(tx, here, name=name)
    owners = names_of(tx, schema.projects, {network.project_id for network in found})
    owner = shared_by(owners, "network", name, of)
    meant = next((network for network in found if owners.get(network.project_id) == owner), None)
    return _locked(tx, meant, name)


def publish_network(
    core: Core, actor: Actor, name: str, *, public: bool, project: str | None = None
) -> NetworkView:
    """Lets every project attach to a network, or only those that it is shared with."""
    require_admin(actor)
    with core.database.write() as tx:
        network = _own(tx, actor, name, project)
        if not public:
            may = {network.project_id, *_shared_with(tx, [network.id])[network.id]}
            using = [one for one in _members(tx, [network.id])[network.id] if one.project_id not in may]
            _refuse_if_used(tx, actor, network, using)
        records.networks.update(tx, id=network.id, values={"public": public})
        return _views(tx, actor, [records.networks.get(tx, network.id)])[0]


# ---- looking ----------------------------------------------------------------------------------------


def get_network(core: Core, actor: Actor, name: str, *, project: str | None = None) -> NetworkView:
    """One network that the actor may see."""
    with core.database.read() as tx:
        return _views(tx, actor, [_visible(tx, actor, name, project)])[0]


def list_networks(core: Core, actor: Actor, *, after: str = "", limit: int = 100) -> list[NetworkView]:
    """The networks that the actor may attach to, by id, beginning behind the id `after`."""
    where = [] if actor.is_admin else [sees_network(actor.project_id)]
    with core.database.read() as tx:
        found = records.networks.list(tx, *where, _NETWORKS.c.id > after, order="id", limit=limit)
        return _views(tx, actor, found)


def sees_network(project_id: str | None) -> ColumnElement[bool]:
    """Whether a project may attach to a network: it is its own, public, or shared with it."""
    shared = exists().where(_SHARES.c.network_id == _NETWORKS.c.id, _SHARES.c.project_id == project_id)
    return or_(_NETWORKS.c.project_id == project_id, _NETWORKS.c.public, shared)


def _visible(tx: Connection, actor: Actor, name: str, project: str | None) -> Network:
    """The network that the actor means: of an administrator's the project's, or the only one of this name."""
    if actor.is_admin and project is None:
        found = records.networks.list(tx, name=name)
        of_site = [network for network in found if network.project_id is None]
        if len(found) > 1 and not of_site:
            raise InvalidInputError(
                "project", f"several projects have a network {name!r}.", remedy="Say which: --project NAME."
            )
        if not found:
            raise no_such_network(name)
        return (of_site or found)[0]
    return named(tx, project_for(tx, actor, project).id, name)


def named(tx: Connection, project_id: str | None, name: str, of: str | None = None) -> Network:
    """The network that a name means to a project; raises NotFoundError."""
    network = meant(tx, sees_network(project_id), name, project_id, of)
    if network is None:
        raise no_such_network(name)
    return network


def meant(
    tx: Connection, where: ColumnElement[bool], name: str, own: str | None, of: str | None
) -> Network | None:
    """Of these networks the one of the project `of`; or else the own one, that of the site, a public one, or the
    only one: anybody may share one of any name.
    """
    found = records.networks.list(tx, where, name=name)
    owners = names_of(tx, schema.projects, {network.project_id for network in found})
    if of is not None:
        return next((network for network in found if owners.get(network.project_id) == of), None)
    closest = (
        [network for network in found if network.project_id == own]
        or [network for network in found if network.project_id is None]
        or [network for network in found if network.public]
        or found
    )
    if len(closest) > 1:
        sharing = ", ".join(sorted(owners[network.project_id] for network in closest))
        raise InvalidInputError(
            "of",
            f"several projects ({sharing}) share a network {name!r} with yours.",
            remedy="Say whose is meant (--of PROJECT), or drop a share: "
            f"bmi network unshare {name} --with YOURS --of PROJECT",
        )
    return closest[0] if closest else None


def no_such_network(name: str) -> NotFoundError:
    """The refusal of a name that means nothing to who asks."""
    return NotFoundError("network", name, remedy="`bmi network list` shows those that you may use.")


def _own(tx: Connection, actor: Actor, name: str, project: str | None) -> Network:
    """A network that the actor may change, locked; the boot network is changed with its project only."""
    network = _visible(tx, actor, name, project)
    meant = project_for(tx, actor, project).id if project or not actor.is_admin else network.project_id
    if network.project_id != meant:
        raise ForbiddenError(f"The network {name!r} is not your project's.", remedy="Ask its owner.")
    if network.boot:
        raise InvalidStateError(
            f"The network {name!r} is what the project's nodes boot from: it is nobody else's, and goes with the "
            "project.",
            remedy="Make another one: bmi network create.",
        )
    return _locked(tx, network, name)


def _locked(tx: Connection, network: Network | None, name: str) -> Network:
    """The network as it is now and stays until the transaction ends; NotFoundError when there is none."""
    locked = records.networks.find(tx, id=network.id, lock=True) if network else None
    if locked is None:
        raise no_such_network(name)
    return locked


def _members(tx: Connection, ids: Sequence[str]) -> Mapping[str, list[Member]]:
    nics, nodes = schema.nics, schema.nodes
    rows = tx.execute(
        select(
            _ATTACHMENTS.c.network_id, nodes.c.name, nics.c.name, nodes.c.project_id, _ATTACHMENTS.c.tagged
        )
        .join(nics, nics.c.id == _ATTACHMENTS.c.nic_id)
        .join(nodes, nodes.c.id == nics.c.node_id)
        .where(_ATTACHMENTS.c.network_id.in_(ids))
        .order_by(nodes.c.name, nics.c.name)
    )
    found: dict[str, list[Member]] = defaultdict(list)
    for network_id, *member in rows:
        found[network_id].append(Member(*member))
    return found


def _shared_with(tx: Connection, ids: Sequence[str]) -> Mapping[str, list[str]]:
    found: dict[str, list[str]] = defaultdict(list)
    query = select(_SHARES.c.network_id, _SHARES.c.project_id).where(_SHARES.c.network_id.in_(ids))
    for network_id, project_id in tx.execute(query):
        found[network_id].append(project_id)
    return found


def _views(tx: Connection, actor: Actor, networks: Sequence[Network]) -> list[NetworkView]:
    ids = [network.id for network in networks]
    members, shares = _members(tx, ids), _shared_with(tx, ids)
    partners = {project_id for shared in shares.values() for project_id in shared}
    names = names_of(tx, schema.projects, {network.project_id for network in networks} | partners)
    return [
        NetworkView(
            network,
            names.get(network.project_id),
            tuple(sorted(names[partner] for partner in shares[network.id]))
            if actor.is_admin or network.project_id == actor.project_id
            else (),
            tuple(one for one in members[network.id] if _knows(actor, one)),
        )
        for network in networks
    ]
