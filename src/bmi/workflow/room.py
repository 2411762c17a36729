"""Keeps the last room of the store for the nodes: where it is used up, the writes of all of them fail."""

from bmi.errors import InsufficientSpaceError
from bmi.workflow.tools import Tools

_GIB = 1 << 30


def require_room(tools: Tools, needed_bytes: int = 0) -> None:
    """Raises InsufficientSpaceError when taking `needed_bytes` would leave less than the reserve free.

    A clone and a snapshot need nothing at first; they are refused because each lets one more node fill
    the store.
    """
    space = tools.storage.space()
    reserve_bytes = max(tools.reserve_gib * _GIB, space.total_bytes * tools.reserve_percent / 100)
    if space.free_bytes - needed_bytes < reserve_bytes:
        needs = f"; this needs about {needed_bytes / _GIB:.1f} GiB" if needed_bytes else ""
        raise InsufficientSpaceError(
            f"The store has {space.free_bytes / _GIB:.1f} GiB free, of which {reserve_bytes / _GIB:.1f} GiB "
            f"are kept for what the nodes write{needs}.",
            remedy="Delete images or snapshots, release nodes, or enlarge the store; the reserve is "
            "storage.reserve_gib or storage.reserve_percent, whichever is more.",
        )
