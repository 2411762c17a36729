"""Cutting a client off from an RBD image for good: a crashed or lost exporter must never write again."""

from typing import Any

from bmi.drivers.storage.ceph_cluster import Pool, effect, rbd

# Longer than any client sits on a write that it still wants to send. (Ceph's own default is an hour.)
_FOR_S = 30 * 24 * 3600


def shut_out_others(pool: Pool, name: str) -> None:
    """Shuts out of the cluster whoever has the image open for writing, except ourselves, and breaks the lock
    that they leave: whoever comes next would wait 30 s for them otherwise. Raises rados.Error, rbd.Error.

    Clients without the lock are shut out too: they would ask for it with their next write.
    """
    with rbd.Image(pool.ioctx, name) as image:
        others = _clients(image) - {pool.address()}
        for address in sorted(others):
            effect("blocklist")
            pool.command("osd blocklist", blocklistop="add", addr=address, expire=float(_FOR_S))
        for owner in list(image.lock_get_owners()):
            if not image.is_exclusive_lock_owner():
                effect("lock_break")
                try:
                    image.lock_break(owner["mode"], owner["owner"])
                except rbd.ImageNotFound:  # let go of meanwhile
                    continue


def _clients(image: Any) -> set[str]:
    """The addresses of those that hold the lock or have the image open for writing."""
    lockers = (image.list_lockers() or {"lockers": []})["lockers"]
    return {address for _, _, address in lockers} | {watcher["addr"] for watcher in image.watchers_list()}
