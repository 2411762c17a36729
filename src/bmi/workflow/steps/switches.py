"""What is asked of a switch as a whole."""

from bmi.domain.nouns import Json, Switch
from bmi.store import records
from bmi.workflow import cabling
from bmi.workflow.engine import Context, Outcome, StepType
from bmi.workflow.steps.volumes import unchanged


def _switch(ctx: Context) -> Switch:
    with ctx.tools.database.read() as tx:
        return records.switches.get(tx, ctx.operation.subject_id)


def ask_switch(ctx: Context) -> Json:
    switch = _switch(ctx)
    return {"found": ctx.tools.switch(switch.driver, switch.options).check()}


def compare_ports(ctx: Context) -> Json:
    args = ctx.operation.args
    return cabling.compare(ctx.tools, _switch(ctx), repair=args["repair"], widen=args["widen"])


STEPS = (
    StepType("ask_switch", ask_switch, why="it only looks", attempts=2),
    StepType("compare_ports", compare_ports, why="it takes nothing that should be there"),
)
OUTCOMES = {"check-switch": Outcome(unchanged, unchanged)}
