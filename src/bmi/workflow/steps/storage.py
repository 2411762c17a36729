"""What is done to the store as a whole: it is compared with the rows, and measured."""

from bmi.domain.nouns import Json
from bmi.workflow import drift, usage
from bmi.workflow.engine import Context, Outcome, StepType
from bmi.workflow.steps.volumes import unchanged

_LONG_S = 3600


def check_storage(ctx: Context) -> Json:
    return drift.check(ctx.tools, repair=ctx.operation.args["repair"])


def measure_usage(ctx: Context) -> Json:
    return {"measured": usage.measure(ctx.tools)}


STEPS = (
    StepType("check_storage", check_storage, why="what it mends is BMI's own", timeout_s=_LONG_S),
    StepType("measure_usage", measure_usage, why="it only looks", timeout_s=_LONG_S),
)
OUTCOMES = {"check-storage": Outcome(unchanged, unchanged)}
