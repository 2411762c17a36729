"""Switches."""

from typing import Annotated

from fastapi import APIRouter, Query, Response

from bmi.api.bodies import Cables, ChangeSwitch, CheckSwitch, RegisterSwitch
from bmi.api.deps import ActorDep, BoundsDep, CoreDep, IdempotencyKey, accepted
from bmi.api.models import CablesShown, OperationShown, Page, PortShown, SwitchShown
from bmi.api.problems import documented
from bmi.service import switches

router = APIRouter(prefix="/switches", tags=["switches"])

ForceQuery = Annotated[
    bool,
    Query(
        description="Even with nodes cabled to it, or ports that were not seen closed: the hardware is gone."
    ),
]


@router.get("", summary="The switches, by name", responses=documented(401, 403, 422))
def list_switches(core: CoreDep, actor: ActorDep, bounds: BoundsDep) -> Page[SwitchShown]:
    found = switches.list_switches(core, actor, after=bounds.after, limit=bounds.fetch)
    return Page[SwitchShown].of(bounds, found, lambda switch: switch.name, SwitchShown.of)


@router.post("", status_code=201, summary="Make a switch known", responses=documented(401, 403, 409, 422))
def register_switch(core: CoreDep, actor: ActorDep, body: RegisterSwitch) -> SwitchShown:
    return SwitchShown.of(
        switches.register_switch(core, actor, body.name, driver=body.driver, options=body.options)
    )


@router.post(
    "/cables",
    summary="Say what is cabled to which port, all or nothing",
    responses=documented(401, 403, 404, 409, 422),
)
def cable(core: CoreDep, actor: ActorDep, body: Cables) -> CablesShown:
    cables = [switches.Cable(**said.model_dump()) for said in body.cables]
    return CablesShown(cables=switches.cable(core, actor, cables, force=body.force))


@router.get("/{name}", summary="One switch", responses=documented(401, 403, 404))
def get_switch(core: CoreDep, actor: ActorDep, name: str) -> SwitchShown:
    return SwitchShown.of(switches.get_switch(core, actor, name))


@router.patch("/{name}", summary="Say anew how a switch is reached", responses=documented(401, 403, 404, 422))
def change_switch(core: CoreDep, actor: ActorDep, name: str, body: ChangeSwitch) -> SwitchShown:
    return SwitchShown.of(switches.change_switch(core, actor, name, options=body.options))


@router.get(
    "/{name}/ports",
    summary="The ports that BMI manages, by name",
    responses=documented(401, 403, 404, 422),
)
def list_ports(core: CoreDep, actor: ActorDep, bounds: BoundsDep, name: str) -> Page[PortShown]:
    found = switches.list_ports(core, actor, name, after=bounds.after, limit=bounds.fetch)
    return Page[PortShown].of(bounds, found, lambda view: view.port.name, PortShown.of)


@router.post(
    "/{name}/check",
    status_code=202,
    summary="Ask the switch, and compare its ports; the operation's last step has the result",
    responses=documented(401, 403, 404, 409, 422),
)
def check_switch(
    core: CoreDep,
    actor: ActorDep,
    name: str,
    body: CheckSwitch,
    response: Response,
    key: IdempotencyKey = None,
) -> OperationShown:
    view = switches.check_switch(core, actor, name, repair=body.repair, widen=body.widen, key=key)
    return OperationShown.of(actor, accepted(response, view))


@router.delete(
    "/{name}",
    status_code=204,
    summary="Forget a switch that no node is cabled to",
    responses=documented(401, 403, 404, 409, 422),
)
def remove_switch(core: CoreDep, actor: ActorDep, name: str, *, force: ForceQuery = False) -> None:
    switches.remove_switch(core, actor, name, force=force)
