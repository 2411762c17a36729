"""What is done to the power of nodes, through their BMCs."""

from bmi.domain.nouns import Json
from bmi.drivers.bmc import Bmc, BmcAccess
from bmi.errors import InvalidStateError
from bmi.store import operations as journal
from bmi.store import records
from bmi.workflow.engine import Context, StepType


def _bmc(ctx: Context) -> tuple[Bmc, BmcAccess]:
    with ctx.tools.database.read() as tx:
        node = records.nodes.get(tx, ctx.operation.subject_id)
    access = BmcAccess(
        address=node.bmc_address,
        username=node.bmc_username,
        password=ctx.tools.vault.open(node.bmc_password),
        verify_tls=node.bmc_verify_tls,
    )
    return ctx.tools.bmc(node.bmc_driver), access


def power_off(ctx: Context) -> Json:
    bmc, access = _bmc(ctx)
    bmc.power_off(access)
    return {}


def power_on(ctx: Context) -> Json:
    bmc, access = _bmc(ctx)
    bmc.power_on(access)
    with ctx.tools.database.write() as tx:
        operation = ctx.operation
        journal.add_event(
            tx,
            node_id=operation.subject_id,
            operation_id=operation.id,
            at=ctx.tools.database.now(),
            stage="power-on",
        )
    # When it was first tried: a worker that died right after turning it on must not move this moment.
    return {"since": ctx.started_at}


def require_off(ctx: Context) -> Json:
    bmc, access = _bmc(ctx)
    if bmc.power_state(access) != "off":
        name = ctx.operation.subject_name
        raise InvalidStateError(
            f"The node {name!r} is on.",
            remedy=f"Shut its system down, or switch it off: bmi node power {name} off",
        )
    return {}


def set_network_boot(ctx: Context) -> Json:
    bmc, access = _bmc(ctx)
    bmc.boot_network_once(access)
    return {}


def check_bmc(ctx: Context) -> Json:
    bmc, access = _bmc(ctx)
    return {"found": bmc.check(access), "power": bmc.power_state(access)}


STEPS = (
    StepType("power_on", power_on, power_off),
    StepType("power_off", power_off, why="what ran before must not run again"),
    StepType("require_off", require_off, why="it only looks"),
    StepType("set_network_boot", set_network_boot, why="the setting is used up by the next boot"),
    StepType("check_bmc", check_bmc, why="it only looks", attempts=2),
)
