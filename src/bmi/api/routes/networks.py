"""Networks and what is attached to them."""

from fastapi import APIRouter, Response

from bmi.api.bodies import AttachNetwork, ChangeNetwork, CreateNetwork, DetachNetwork
from bmi.api.deps import ActorDep, BoundsDep, CoreDep, IdempotencyKey, OwnerQuery, ProjectQuery, accepted
from bmi.api.models import OperationShown, Page, TenantNetworkShown
from bmi.api.problems import documented
from bmi.service import attachments, networks

router = APIRouter(prefix="/networks", tags=["networks"])


@router.get("", summary="The networks that the caller may attach to", responses=documented(401, 422))
def list_networks(core: CoreDep, actor: ActorDep, bounds: BoundsDep) -> Page[TenantNetworkShown]:
    found = networks.list_networks(core, actor, after=bounds.after, limit=bounds.fetch)
    return Page[TenantNetworkShown].of(bounds, found, lambda view: view.network.id, TenantNetworkShown.of)


@router.post(
    "",
    status_code=201,
    summary="Make a network with a VLAN of the pool",
    responses=documented(401, 403, 404, 409, 422),
)
def create_network(core: CoreDep, actor: ActorDep, body: CreateNetwork) -> TenantNetworkShown:
    return TenantNetworkShown.of(
        networks.create_network(
            core, actor, body.name, project=body.project, vlan=body.vlan, public=body.public
        )
    )


@router.get("/{name}", summary="One network", responses=documented(401, 403, 404, 422))
def get_network(
    core: CoreDep, actor: ActorDep, name: str, project: ProjectQuery = None
) -> TenantNetworkShown:
    return TenantNetworkShown.of(networks.get_network(core, actor, name, project=project))


@router.patch(
    "/{name}", summary="Make a network public, or no more", responses=documented(401, 403, 404, 409, 422)
)
def publish_network(
    core: CoreDep, actor: ActorDep, name: str, body: ChangeNetwork, project: ProjectQuery = None
) -> TenantNetworkShown:
    return TenantNetworkShown.of(
        networks.publish_network(core, actor, name, public=body.public, project=project)
    )


@router.delete(
    "/{name}",
    status_code=204,
    summary="Forget a network that no NIC is on",
    responses=documented(401, 403, 404, 409, 422),
)
def delete_network(core: CoreDep, actor: ActorDep, name: str, project: ProjectQuery = None) -> None:
    networks.delete_network(core, actor, name, project=project)


@router.put(
    "/{name}/shares/{other}",
    summary="Let the project `other` attach to a network",
    responses=documented(401, 403, 404, 409, 422),
)
def share_network(
    core: CoreDep, actor: ActorDep, name: str, other: str, project: ProjectQuery = None
) -> TenantNetworkShown:
    return TenantNetworkShown.of(
        networks.share_network(core, actor, name, other, shared=True, project=project)
    )


@router.delete(
    "/{name}/shares/{other}",
    summary="Let the project `other`, perhaps the own one, attach to a network no more; refused while its nodes are on it",
    responses=documented(401, 403, 404, 409, 422),
)
def unshare_network(
    core: CoreDep, actor: ActorDep, name: str, other: str, project: ProjectQuery = None, of: OwnerQuery = None
) -> TenantNetworkShown:
    return TenantNetworkShown.of(
        networks.share_network(core, actor, name, other, shared=False, project=project, of=of)
    )


@router.post(
    "/{name}/attach",
    status_code=202,
    summary="Put a NIC of a node on a network that its project may use",
    responses=documented(401, 404, 409, 422),
)
def attach_network(
    core: CoreDep,
    actor: ActorDep,
    name: str,
    body: AttachNetwork,
    response: Response,
    key: IdempotencyKey = None,
) -> OperationShown:
    view = attachments.attach_network(
        core, actor, name, body.node, nic=body.nic, tagged=body.tagged, of=body.of, key=key
    )
    return OperationShown.of(actor, accepted(response, view))


@router.post(
    "/{name}/detach",
    status_code=202,
    summary="Take a NIC of a node off a network",
    responses=documented(401, 404, 409, 422),
)
def detach_network(
    core: CoreDep,
    actor: ActorDep,
    name: str,
    body: DetachNetwork,
    response: Response,
    key: IdempotencyKey = None,
) -> OperationShown:
    view = attachments.detach_network(core, actor, name, body.node, nic=body.nic, of=body.of, key=key)
    return OperationShown.of(actor, accepted(response, view))
