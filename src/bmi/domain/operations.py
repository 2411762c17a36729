"""Operations and their steps: the only link between what is asked and what is done."""

from dataclasses import dataclass
from enum import StrEnum

from bmi.domain.nouns import Json


class OperationState(StrEnum):
    """`queued`, `running` and `undoing` are live; the others are final."""

    QUEUED = "queued"
    RUNNING = "running"
    UNDOING = "undoing"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"


LIVE = (OperationState.QUEUED, OperationState.RUNNING, OperationState.UNDOING)


class StepState(StrEnum):
    PENDING = "pending"
    RUNNING = "running"
    WAITING = "waiting"
    DONE = "done"
    FAILED = "failed"
    UNDONE = "undone"


@dataclass(frozen=True)
class Step:
    """One idempotent piece of an operation. `due_at` says when a pending or waiting step is looked at
    next; `after` names the steps that must be done first.
    """

    operation_id: str
    seq: int
    name: str
    after: tuple[str, ...]
    state: StepState
    attempts: int
    due_at: float
    result: Json | None
    problem: Json | None
    started_at: float | None
    finished_at: float | None


@dataclass(frozen=True)
class Operation:
    """What should happen to one subject. `args` are plain values; secrets stay in the subject's rows."""

    id: str
    kind: str
    state: OperationState
    subject_kind: str
    subject_id: str
    subject_name: str
    project_id: str | None
    actor: str
    args: Json
    problem: Json | None
    cancel_requested: bool
    owner: str | None
    lease_until: float | None
    wake_at: float
    created_at: float
    started_at: float | None
    finished_at: float | None

    @property
    def is_live(self) -> bool:
        return self.state in LIVE


def ready(steps: list[Step], now: float) -> list[Step]:
    """The steps that may run now: not done, due, and everything they come after is done."""
    done = {step.name for step in steps if step.state is StepState.DONE}
    return [
        step
        for step in steps
        if step.state in {StepState.PENDING, StepState.RUNNING, StepState.WAITING}
        and step.due_at <= now
        and done.issuperset(step.after)
    ]


def next_due(steps: list[Step]) -> float | None:
    """When the earliest step whose predecessors are done wants to be looked at; None when none does."""
    return min((step.due_at for step in ready(steps, float("inf"))), default=None)
