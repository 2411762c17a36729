"""Operations as people see and steer them."""

from sqlalchemy import Connection

from bmi.domain.nouns import Actor, Json, NodeState, ObjectState
from bmi.domain.operations import LIVE, Operation, OperationState, StepState
from bmi.domain.plans import PLANS
from bmi.errors import ForbiddenError, InvalidStateError, NotFoundError
from bmi.service.core import Core, OperationView, view
from bmi.store import operations as journal
from bmi.store import ports, records, schema

# The state that the subject is in again while a retried operation runs.
_NODE_RETRYING = {
    "provision": NodeState.PROVISIONING,
    "attach": NodeState.PROVISIONING,
    "release": NodeState.RELEASING,
    "detach": NodeState.RELEASING,
    "register": NodeState.REGISTERED,
    "free": NodeState.RELEASING,
}
_NETWORK_RETRYING = {"open-network": ObjectState.CREATING, "close-network": ObjectState.DELETING}
_RETRIABLE = {
    *_NODE_RETRYING,
    *_NETWORK_RETRYING,
    "unregister",
    "detach-network",
    "delete-image",
    "flatten-image",
    "publish-image",
    "delete-snapshot",
    "delete-volume",
}


# What only an administrator asks for, although a project's members see it.
_OF_ADMINISTRATORS = {"open-network", "close-network", "publish-image"}


def get_operation(core: Core, actor: Actor, operation_id: str) -> OperationView:
    """One operation of the actor's project, or any for an administrator."""
    with core.database.read() as tx:
        return view(tx, _visible(tx, actor, operation_id))


def _visible(tx: Connection, actor: Actor, operation_id: str, *, lock: bool = False) -> Operation:
    found = journal.operations.find(tx, id=operation_id, lock=lock)
    if found is None or not (actor.is_admin or found.project_id == actor.project_id):
        raise NotFoundError(
            "operation", operation_id, remedy="`bmi operation list` shows those that you may see."
        )
    return found


def _steerable(tx: Connection, actor: Actor, operation_id: str) -> Operation:
    found = _visible(tx, actor, operation_id, lock=True)
    if found.kind in _OF_ADMINISTRATORS and not actor.is_admin:
        raise ForbiddenError(
            f"Only an administrator decides about a {found.kind}.", remedy="Ask an administrator."
        )
    return found


def list_operations(
    core: Core,
    actor: Actor,
    *,
    live: bool = False,
    subject: str | None = None,
    limit: int = 100,
    before: str = "",
) -> list[OperationView]:
    """The newest operations first, beginning before the id `before`."""
    table = schema.operations
    where = [] if actor.is_admin else [table.c.project_id == actor.project_id]
    if live:
        where.append(table.c.state.in_(LIVE))
    if subject:
        where.append(table.c.subject_name == subject)
    if before:
        where.append(table.c.id < before)
    with core.database.read() as tx:
        found = journal.operations.list(tx, *where, newest_first=True, limit=limit)
        steps = journal.steps_of_many(tx, [operation.id for operation in found])
    return [OperationView(operation, steps[operation.id]) for operation in found]


def cancel_operation(core: Core, actor: Actor, operation_id: str) -> OperationView:
    """Asks for an end: what was done is undone. An operation that only goes forward refuses."""
    with core.write() as tx:
        operation = _steerable(tx, actor, operation_id)
        if not operation.is_live:
            raise InvalidStateError(
                f"The operation has {operation.state} already.", remedy="There is nothing to cancel."
            )
        if not PLANS[operation.kind].undoable:
            raise InvalidStateError(
                f"A {operation.kind} cannot be cancelled: it only goes forward.", remedy="Let it end."
            )
        journal.operations.update(tx, id=operation_id, values={"cancel_requested": True})
        journal.wake_operation(tx, operation_id, core.now())
        return view(tx, journal.operations.get(tx, operation_id))


def retry_operation(core: Core, actor: Actor, operation_id: str) -> OperationView:
    """Goes on with a failed operation where it failed; what is done stays done."""
    with core.write() as tx:
        operation = _steerable(tx, actor, operation_id)
        if operation.state is not OperationState.FAILED or operation.kind not in _RETRIABLE:
            raise InvalidStateError(
                f"The operation ({operation.kind}) has {operation.state}; only a failed one can be retried."
                if operation.kind in _RETRIABLE
                else f"A {operation.kind} cannot be retried.",
                remedy="Ask for it again.",
            )
        journal.refuse_if_busy(tx, operation.subject_kind, operation.subject_id, operation.subject_name)
        newest = journal.operations.list(tx, subject_id=operation.subject_id, newest_first=True, limit=1)
        if newest[0].id != operation_id:
            raise InvalidStateError(
                f"Operation {newest[0].id} came after it.",
                remedy="Retry that one, or ask for a new operation.",
            )
        now = core.now()
        journal.reset_steps(tx, operation_id, state=StepState.PENDING)
        values = {
            "state": OperationState.QUEUED,
            "problem": None,
            "cancel_requested": False,
            "finished_at": None,
            "wake_at": now,
        }
        journal.operations.update(tx, id=operation_id, values=values)
        _put_back(tx, operation)
        ports.try_again(tx, operation.subject_id, now)
        return view(tx, journal.operations.get(tx, operation_id))


def _put_back(tx: Connection, operation: Operation) -> None:
    """Gives the subject of an operation that runs again the state it had in the beginning."""
    if operation.kind in _NODE_RETRYING:
        of_node: Json = {"state": _NODE_RETRYING[operation.kind], "problem": None}
        records.nodes.update(tx, id=operation.subject_id, values=of_node)
    elif operation.kind in _NETWORK_RETRYING:
        of_network = {"state": _NETWORK_RETRYING[operation.kind]}
        records.networks.update(tx, id=operation.subject_id, values=of_network)
