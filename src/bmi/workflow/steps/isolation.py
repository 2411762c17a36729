"""What is done where nodes are taken from a service beside BMI: they are claimed there, given back, and taken over."""

from collections.abc import Mapping

from sqlalchemy import Connection

from bmi.domain.nouns import Json, NodeState
from bmi.domain.operations import Operation
from bmi.drivers.isolation.builtin import BuiltinIsolation
from bmi.errors import BmiError, CancelledError, NotHeldError, from_problem
from bmi.store import operations as journal
from bmi.store import records
from bmi.workflow import inventory
from bmi.workflow.engine import Context, Outcome, StepType
from bmi.workflow.steps.nodes import set_free
from bmi.workflow.steps.volumes import unchanged


def claim_node(ctx: Context) -> Json:
    project = _project(ctx)
    ctx.tools.isolation.claim(ctx.operation.subject_name, project)
    return {"claimed_for": project}


def unclaim_node(ctx: Context) -> Json:
    ctx.tools.isolation.unclaim(ctx.operation.subject_name, _project(ctx))
    return {"shared_with_others": not isinstance(ctx.tools.isolation, BuiltinIsolation)}


def _project(ctx: Context) -> str:
    """What the service calls the operation's project."""
    with ctx.tools.database.read() as tx:
        project = records.projects.get(tx, ctx.operation.project_id or "")
    return project.claims_as or project.name


def undo_claim(ctx: Context) -> None:
    """A provision that has failed leaves the node to its project, as long as nobody releases it."""
    cancelled = isinstance(from_problem(ctx.operation.problem or {}), CancelledError)
    if ctx.operation.kind == "allocate" or cancelled:
        unclaim_node(ctx)


def sync_nodes(ctx: Context) -> Json:
    return inventory.take_over(ctx.tools, actor=ctx.operation.actor)


STEPS = (
    StepType("claim_node", claim_node, undo_claim),
    StepType("unclaim_node", unclaim_node, why="who has it next is the service's business"),
    StepType("sync_nodes", sync_nodes, why="a node that is known does no harm"),
)


def _claimed(tx: Connection, operation: Operation, _results: Mapping[str, Json], _now: float) -> None:
    records.nodes.update(tx, id=operation.subject_id, values={"problem": None})


def _not_claimed(tx: Connection, operation: Operation, error: BmiError, _now: float) -> None:
    """The node is nobody's again. Where the service could not be told, or says that somebody else has the node, it
    stays out of the pool until the sweep has seen that it is free there.
    """
    set_free(tx, operation.subject_id)
    if any((step.problem or {}).get("undo") for step in journal.steps_of(tx, operation.id)):
        _mark(tx, operation, NotHeldError(error.detail, remedy=error.remedy))


def _given_back(tx: Connection, operation: Operation, results: Mapping[str, Json], now: float) -> None:
    set_free(tx, operation.subject_id)
    if results["unclaim_node"]["shared_with_others"]:
        # Whoever had it behind our back may have left its ports as they were.
        inventory.close_anew(tx, operation.subject_id, now)


def _not_given_back(tx: Connection, operation: Operation, error: BmiError, _now: float) -> None:
    """It stays the project's, on no network."""
    _mark(tx, operation, error)


def _mark(tx: Connection, operation: Operation, error: BmiError) -> None:
    problem = error.problem() | {"operation": operation.id}
    records.nodes.update(tx, id=operation.subject_id, values={"state": NodeState.ERROR, "problem": problem})


OUTCOMES = {
    "allocate": Outcome(_claimed, _not_claimed),
    "free": Outcome(_given_back, _not_given_back),
    "sync-nodes": Outcome(unchanged, unchanged),
}
