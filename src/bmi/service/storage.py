"""The store as a whole, for administrators."""

from bmi.domain.nouns import Actor
from bmi.domain.plans import CHECK_STORAGE
from bmi.service.core import Core, OperationView, enqueue, replayed, require_admin

_STORE = ("storage", "storage", "storage")


def check_storage(core: Core, actor: Actor, *, repair: bool = False, key: str | None = None) -> OperationView:
    """Compares rows, store and exports and measures what each disk holds; its first step's result tells of each
    difference. With `repair`, what is BMI's own is mended: left-overs go, what is lost is marked `error`.
    """
    require_admin(actor)
    with core.write() as tx:
        earlier = replayed(tx, actor, key, CHECK_STORAGE.kind, _STORE[2])
        if earlier:
            return earlier
        return enqueue(
            core, tx, actor, CHECK_STORAGE, _STORE, project_id=None, args={"repair": repair}, key=key
        )
