"""Operations and steps as rows: queueing, leases, checkpoints.

A worker owns an operation while its lease lasts; every write of a worker names the owner, so that a
worker that was thought dead and wakes up again changes nothing (a fence).
"""

from collections.abc import Iterable
from typing import Any

from sqlalchemy import ColumnElement, Connection, Row, and_, bindparam, exists, insert, or_, select, update

from bmi.domain.nouns import Actor, Event, Json
from bmi.domain.operations import LIVE, Operation, OperationState, Step, StepState
from bmi.domain.plans import Plan
from bmi.errors import BmiError, BusyError
from bmi.store import schema
from bmi.store.ids import new_id
from bmi.store.records import Gateway

_OPS = schema.operations
_STEPS = schema.steps

# Written out in the statement: a database uses a partial index only where it sees the index's condition.
_IS_LIVE = _OPS.c.state.in_(bindparam("live", LIVE, expanding=True, literal_execute=True))

operations = Gateway(_OPS, Operation, "operation")


class LostLeaseError(BmiError):
    """Another worker has taken the operation over; whoever gets this must stop touching it."""


def live_on(tx: Connection, subject_id: str) -> Operation | None:
    """The live operation on a subject, if there is one."""
    return operations.find(tx, _IS_LIVE, subject_id=subject_id)


def refuse_if_busy(tx: Connection, kind: str, subject_id: str, name: str) -> None:
    """Raises BusyError, naming the operation, when one is live on the subject."""
    live = live_on(tx, subject_id)
    if live:
        raise BusyError(
            f"The {kind} {name!r} is busy: operation {live.id} ({live.kind}) is {live.state}.",
            remedy=f"Wait for it (bmi operation wait {live.id}) or cancel it (bmi operation cancel {live.id}).",
            operation=live.id,
        )


def live_before(tx: Connection, step: str, **args: str) -> Operation | None:
    """A live operation with these arguments that has yet to do this step, on whatever subject it is."""
    to_do = exists().where(_STEPS.c.operation_id == _OPS.c.id, _STEPS.c.name == step)
    given = (_OPS.c.args[name].as_string() == value for name, value in args.items())
    return operations.find(tx, _IS_LIVE, to_do.where(_STEPS.c.state != StepState.DONE), *given)


def enqueue(
    tx: Connection,
    plan: Plan,
    *,
    now: float,
    actor: Actor,
    subject: tuple[str, str, str],
    project_id: str | None,
    args: Json,
    idempotency_key: str | None = None,
) -> Operation:
    """Writes down an operation and its steps. `subject` is (kind, id, name). Raises BusyError."""
    kind, subject_id, name = subject
    refuse_if_busy(tx, kind, subject_id, name)
    operation = Operation(
        id=new_id(),
        kind=plan.kind,
        state=OperationState.QUEUED,
        subject_kind=kind,
        subject_id=subject_id,
        subject_name=name,
        project_id=project_id,
        actor=actor.name,
        args=args,
        problem=None,
        cancel_requested=False,
        owner=None,
        lease_until=None,
        wake_at=now,
        created_at=now,
        started_at=None,
        finished_at=None,
    )
    operations.insert(tx, operation, token_id=actor.token_id, idempotency_key=idempotency_key)
    tx.execute(
        insert(_STEPS),
        [
            {
                "operation_id": operation.id,
                "seq": seq,
                "name": step.name,
                "after": list(step.after),
                "state": StepState.PENDING,
                "attempts": 0,
                "due_at": now,
            }
            for seq, step in enumerate(plan.steps)
        ],
    )
    return operation


def find_by_idempotency_key(tx: Connection, actor: Actor, key: str) -> Operation | None:
    """The operation that an earlier request with the same token and key made."""
    return operations.find(tx, _OPS.c.idempotency_key == key, token_id=actor.token_id)


def steps_of(tx: Connection, operation_id: str) -> list[Step]:
    """The steps of an operation in the order of its plan."""
    rows = tx.execute(select(_STEPS).where(_STEPS.c.operation_id == operation_id).order_by(_STEPS.c.seq))
    return [_step(row) for row in rows]


def steps_of_many(tx: Connection, operation_ids: Iterable[str]) -> dict[str, list[Step]]:
    """The steps of several operations with one query."""
    found: dict[str, list[Step]] = {operation_id: [] for operation_id in operation_ids}
    rows = tx.execute(
        select(_STEPS).where(_STEPS.c.operation_id.in_(found)).order_by(_STEPS.c.operation_id, _STEPS.c.seq)
    )
    for row in rows:
        found[row.operation_id].append(_step(row))
    return found


def _step(row: Row[Any]) -> Step:
    values = dict(row._mapping)  # noqa: SLF001  # SQLAlchemy's public name for it
    return Step(**values | {"after": tuple(values["after"])})


def claim(tx: Connection, *, owner: str, now: float, lease_s: float, limit: int) -> list[str]:
    """Takes operations that are due and returns their ids: up to `limit` that belong to nobody alive,
    and all of the owner's own. A claimed one is due again before its lease ends, or when it is woken.
    """
    due = select(_OPS.c.id).where(_IS_LIVE, _OPS.c.wake_at <= now).order_by(_OPS.c.wake_at)
    own = due.where(_OPS.c.owner == owner)
    free = due.where(or_(_OPS.c.owner.is_(None), and_(_OPS.c.owner != owner, _OPS.c.lease_until < now)))
    # Locks are skipped, not waited for: whoever waits while holding some could make a circle.
    found = [
        *tx.scalars(own.with_for_update(skip_locked=True)),
        *tx.scalars(free.limit(limit).with_for_update(skip_locked=True)),
    ]
    if found:
        until = now + lease_s
        tx.execute(
            update(_OPS).where(_OPS.c.id.in_(found)).values(owner=owner, lease_until=until, wake_at=until)
        )
    return found


def extend_leases(tx: Connection, *, owner: str, until: float) -> None:
    """One heartbeat for everything a worker owns."""
    tx.execute(update(_OPS).where(_IS_LIVE, _OPS.c.owner == owner).values(lease_until=until))


def release_leases(tx: Connection, *, owner: str, now: float) -> None:
    """Gives back everything a worker owns, so that another can go on at once."""
    tx.execute(
        update(_OPS).where(_IS_LIVE, _OPS.c.owner == owner).values(owner=None, lease_until=None, wake_at=now)
    )


def reset_steps(tx: Connection, operation_id: str, *, state: StepState | None = None) -> None:
    """Forgets how often the steps were tried; with `state`, puts all but the done ones there, as new."""
    of_these = [_STEPS.c.operation_id == operation_id]
    values: dict[str, Any] = {"attempts": 0, "due_at": 0.0}
    if state is not None:
        of_these.append(_STEPS.c.state != StepState.DONE)
        values |= {"state": state, "result": None, "problem": None, "started_at": None, "finished_at": None}
    tx.execute(update(_STEPS).where(*of_these).values(values))


def _mine(operation_id: str, owner: str) -> ColumnElement[bool]:
    return and_(_OPS.c.id == operation_id, _OPS.c.owner == owner, _IS_LIVE)


def load_owned(tx: Connection, operation_id: str, owner: str) -> Operation:
    """The operation, locked, if this worker still owns it; raises LostLeaseError."""
    operation = operations.find(tx, _mine(operation_id, owner), lock=True)
    if operation is None:
        raise LostLeaseError(f"Operation {operation_id} is not this worker's any more.")
    return operation


def change(tx: Connection, operation_id: str, me: str, /, **values: Any) -> None:
    """Changes an operation this worker owns; raises LostLeaseError."""
    if not tx.execute(update(_OPS).where(_mine(operation_id, me)).values(values)).rowcount:
        raise LostLeaseError(f"Operation {operation_id} is not this worker's any more.")


def park(tx: Connection, operation_id: str, me: str, wake_at: float) -> None:
    """Gives the operation back until `wake_at`, or until something that it waits for wakes it."""
    change(tx, operation_id, me, wake_at=wake_at, owner=None, lease_until=None)


def get_step(tx: Connection, operation_id: str, seq: int) -> Step:
    """One step as it is now."""
    return _step(
        tx.execute(select(_STEPS).where(_STEPS.c.operation_id == operation_id, _STEPS.c.seq == seq)).one()
    )


def change_step(tx: Connection, operation_id: str, seq: int, **values: Any) -> None:
    """Changes one step; the caller has made sure that it owns the operation."""
    tx.execute(
        update(_STEPS).where(_STEPS.c.operation_id == operation_id, _STEPS.c.seq == seq).values(values)
    )


def wake(tx: Connection, subject_id: str, now: float) -> None:
    """Makes the live operation on a subject be looked at now, waiting steps included."""
    live = live_on(tx, subject_id)
    if live:
        wake_operation(tx, live.id, now)


def wake_operation(tx: Connection, operation_id: str, now: float) -> None:
    """Makes a live operation be looked at now, waiting steps and undos included. A running one that decides to
    wait finds its `due_at` changed, and so does not miss what happened meanwhile.
    """
    # The operation first, as everybody does: rows locked in one order make no circle.
    tx.execute(update(_OPS).where(_OPS.c.id == operation_id, _IS_LIVE).values(wake_at=now))
    of_it = _STEPS.c.operation_id == operation_id
    waits = _STEPS.c.state.in_([StepState.RUNNING, StepState.WAITING])
    undoing = exists().where(_OPS.c.id == operation_id, _OPS.c.state == OperationState.UNDOING)
    # An undo that has failed before is not waiting for news: it is tried again in its own time.
    may_wait = and_(undoing, _STEPS.c.attempts == 0)
    tx.execute(update(_STEPS).where(of_it, or_(waits, may_wait)).values(due_at=now))


def add_event(
    tx: Connection, *, node_id: str, operation_id: str | None, at: float, stage: str, detail: str = ""
) -> None:
    """Adds a moment to a node's timeline."""
    tx.execute(
        insert(schema.events).values(
            node_id=node_id, operation_id=operation_id, at=at, stage=stage, detail=detail
        )
    )


def last_event(tx: Connection, node_id: str, since: float) -> Event | None:
    """The newest moment of a node's timeline not before `since`."""
    table = schema.events
    row = tx.execute(
        select(table)
        .where(table.c.node_id == node_id, table.c.at >= since)
        .order_by(table.c.id.desc())
        .limit(1)
    ).first()
    return Event(**row._mapping) if row else None  # noqa: SLF001  # SQLAlchemy's public name for it
