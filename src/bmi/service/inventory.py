"""The service beside BMI that nodes are taken from, where there is one."""

from bmi.domain.nouns import Actor
from bmi.domain.plans import SYNC_NODES
from bmi.errors import InvalidStateError
from bmi.service.core import Core, OperationView, enqueue, replayed, require_admin

_INVENTORY = ("inventory", "inventory", "inventory")


def sync_nodes(core: Core, actor: Actor, *, key: str | None = None) -> OperationView:
    """Registers the free nodes of that service that BMI does not know yet; the step's result says which."""
    require_admin(actor)
    if not core.settings.isolation.is_external:
        raise InvalidStateError(
            "BMI takes its nodes from nowhere else.",
            remedy="Register them one by one (bmi node register), or name a service in [isolation].",
        )
    with core.write() as tx:
        earlier = replayed(tx, actor, key, SYNC_NODES.kind, _INVENTORY[2])
        if earlier:
            return earlier
        return enqueue(core, tx, actor, SYNC_NODES, _INVENTORY, project_id=None, key=key)
