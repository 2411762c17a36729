"""Nodes: in and out of the pool, provisioned and released, powered, watched."""

from fastapi import APIRouter, Response

from bmi.api.bodies import CreateSnapshot, LabelNode, Power, Provision, RegisterNode, Release, RollBack
from bmi.api.deps import ActorDep, BoundsDep, CoreDep, IdempotencyKey, accepted
from bmi.api.models import EventShown, NodeShown, OperationShown, Page
from bmi.api.problems import documented
from bmi.errors import InvalidInputError
from bmi.service import allocation, nodes, snapshots, volumes

router = APIRouter(prefix="/nodes", tags=["nodes"])

_MAX_EVENT_ID = (1 << 63) - 1


@router.get("", summary="The nodes that the caller may see, by name", responses=documented(401, 422))
def list_nodes(core: CoreDep, actor: ActorDep, bounds: BoundsDep) -> Page[NodeShown]:
    found = nodes.list_nodes(core, actor, after=bounds.after, limit=bounds.fetch)
    return Page[NodeShown].of(
        bounds, found, lambda view: view.node.name, lambda view: NodeShown.of(actor, view)
    )


@router.post(
    "",
    status_code=202,
    summary="Take a node into the pool: close its port, ask its BMC",
    responses=documented(401, 403, 404, 409, 422),
)
def register_node(
    core: CoreDep, actor: ActorDep, body: RegisterNode, response: Response, key: IdempotencyKey = None
) -> OperationShown:
    said = nodes.Registration(
        name=body.name,
        mac=body.mac,
        bmc=body.bmc,
        bmc_username=body.bmc_username,
        bmc_password=body.bmc_password.get_secret_value(),
        bmc_verify_tls=body.bmc_verify_tls,
        switch=body.switch,
        port=body.port,
        labels=tuple(body.labels),
        nics=tuple(nodes.NicSaid(nic.name, nic.mac, nic.switch, nic.port) for nic in body.nics),
    )
    return OperationShown.of(actor, accepted(response, nodes.register_node(core, actor, said, key=key)))


@router.get("/{name}", summary="One node", responses=documented(401, 404))
def get_node(core: CoreDep, actor: ActorDep, name: str) -> NodeShown:
    return NodeShown.of(actor, nodes.get_node(core, actor, name))


@router.delete(
    "/{name}",
    status_code=202,
    summary="Take a node out of the pool",
    responses=documented(401, 403, 404, 409),
)
def delete_node(
    core: CoreDep, actor: ActorDep, name: str, response: Response, key: IdempotencyKey = None
) -> OperationShown:
    return OperationShown.of(actor, accepted(response, nodes.delete_node(core, actor, name, key=key)))


@router.patch(
    "/{name}/labels",
    summary="Change what a node can be asked for by",
    responses=documented(401, 403, 404, 422),
)
def label_node(core: CoreDep, actor: ActorDep, name: str, body: LabelNode) -> NodeShown:
    allocation.label_node(core, actor, name, add=body.add, remove=body.remove)
    return NodeShown.of(actor, nodes.get_node(core, actor, name))


@router.post(
    "/{name}/free",
    status_code=202,
    summary="Give a node without a volume back to the pool",
    responses=documented(401, 403, 404, 409),
)
def free_node(
    core: CoreDep, actor: ActorDep, name: str, response: Response, key: IdempotencyKey = None
) -> OperationShown:
    return OperationShown.of(actor, accepted(response, allocation.free_node(core, actor, name, key=key)))


@router.post(
    "/{name}/provision",
    status_code=202,
    summary="Boot a node of the project from a fresh clone of an image or a snapshot, or from a detached volume",
    responses=documented(401, 403, 404, 409, 422),
)
def provision_node(
    core: CoreDep,
    actor: ActorDep,
    name: str,
    body: Provision,
    response: Response,
    key: IdempotencyKey = None,
) -> OperationShown:
    order = nodes.Order(
        image=body.image,
        snapshot=body.snapshot,
        volume=body.volume,
        size_bytes=body.size_bytes,
        project=body.project,
        hostname=body.hostname,
        ssh_keys=tuple(body.ssh_keys),
        user_data=body.user_data,
    )
    view = nodes.provision_node(core, actor, name, order, key=key)
    return OperationShown.of(actor, accepted(response, view))


@router.post(
    "/{name}/release",
    status_code=202,
    summary="Empty a node: off, its port closed, its volume gone or detached; the project keeps it",
    responses=documented(401, 403, 404, 409, 422),
)
def release_node(
    core: CoreDep,
    actor: ActorDep,
    name: str,
    response: Response,
    body: Release | None = None,
    key: IdempotencyKey = None,
) -> OperationShown:
    said = body or Release()
    view = nodes.release_node(core, actor, name, keep_volume=said.keep_volume, keep_as=said.keep_as, key=key)
    return OperationShown.of(actor, accepted(response, view))


@router.post(
    "/{name}/power",
    status_code=202,
    summary="Power an active node on, off, or off and on",
    responses=documented(401, 403, 404, 409, 422),
)
def power_node(
    core: CoreDep,
    actor: ActorDep,
    name: str,
    body: Power,
    response: Response,
    key: IdempotencyKey = None,
) -> OperationShown:
    view = nodes.power_node(core, actor, name, body.action, key=key)
    return OperationShown.of(actor, accepted(response, view))


@router.get(
    "/{name}/events", summary="A node's timeline, oldest first", responses=documented(401, 403, 404, 422)
)
def list_events(core: CoreDep, actor: ActorDep, name: str, bounds: BoundsDep) -> Page[EventShown]:
    after = bounds.after or "0"
    if not (after.isascii() and after.isdigit() and int(after) <= _MAX_EVENT_ID):
        raise InvalidInputError("after", f"{after!r} is not an event.", remedy="Give `next` of a page.")
    found = nodes.list_events(core, actor, name, after=int(after), limit=bounds.fetch)
    return Page[EventShown].of(bounds, found, lambda event: str(event.id), EventShown.of)


@router.post(
    "/{name}/snapshots",
    status_code=202,
    summary="Freeze the volume of an active node, on or off",
    responses=documented(401, 403, 404, 409, 422),
)
def create_snapshot(
    core: CoreDep,
    actor: ActorDep,
    name: str,
    body: CreateSnapshot,
    response: Response,
    key: IdempotencyKey = None,
) -> OperationShown:
    view = snapshots.create_snapshot(core, actor, name, body.name, key=key)
    return OperationShown.of(actor, accepted(response, view))


@router.post(
    "/{name}/roll-back",
    status_code=202,
    summary="Give the volume of an active node that is off the bytes of a snapshot",
    responses=documented(401, 403, 404, 409, 422),
)
def roll_back_node(
    core: CoreDep,
    actor: ActorDep,
    name: str,
    body: RollBack,
    response: Response,
    key: IdempotencyKey = None,
) -> OperationShown:
    view = volumes.roll_back_node(core, actor, name, body.snapshot, force=body.force, key=key)
    return OperationShown.of(actor, accepted(response, view))
