"""Switches."""

from fastapi import APIRouter

from bmi.api.bodies import RegisterSwitch
from bmi.api.deps import ActorDep, BoundsDep, CoreDep
from bmi.api.models import Page, SwitchShown
from bmi.api.problems import documented
from bmi.service import switches

router = APIRouter(prefix="/switches", tags=["switches"])


@router.get("", summary="The switches, by name", responses=documented(401, 403, 422))
def list_switches(core: CoreDep, actor: ActorDep, bounds: BoundsDep) -> Page[SwitchShown]:
    found = switches.list_switches(core, actor, after=bounds.after, limit=bounds.fetch)
    return Page[SwitchShown].of(bounds, found, lambda switch: switch.name, SwitchShown.of)


@router.post("", status_code=201, summary="Make a switch known", responses=documented(401, 403, 409, 422))
def register_switch(core: CoreDep, actor: ActorDep, body: RegisterSwitch) -> SwitchShown:
    return SwitchShown.of(
        switches.register_switch(core, actor, body.name, driver=body.driver, options=body.options)
    )


@router.delete(
    "/{name}",
    status_code=204,
    summary="Forget a switch that no node is cabled to",
    responses=documented(401, 403, 404, 409),
)
def remove_switch(core: CoreDep, actor: ActorDep, name: str) -> None:
    switches.remove_switch(core, actor, name)
