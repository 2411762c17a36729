"""Names and sizes of RBD images, read and changed in the objects that hold them, without opening the image.

Opening one is two dozen requests, and as many for each of its ancestors; opening it for writing commits to the
OSD four times more. What is needed of it here is in (see src/cls/rbd and librbd's RenameRequest in Ceph):

    rbd_id.<name>       the id of the image
    rbd_directory       all names with their ids, and back; changed in one step
    rbd_header.<id>     its size
"""

import struct
from contextlib import suppress
from typing import Any

from bmi.drivers.storage.ceph_cluster import effect, rados, rbd

_DIRECTORY = "rbd_directory"
_CLASS = "rbd"
_NO_SNAPSHOT = struct.pack("<Q", (1 << 64) - 2)  # CEPH_NOSNAP: the image as it is now


def id_behind(ioctx: Any, name: str) -> str | None:
    """The id of the image that `name` leads to."""
    try:
        return _decoded(ioctx.read(_id_object(name)))
    except rados.ObjectNotFound:
        return None


def listed_id(ioctx: Any, name: str) -> str | None:
    """The id of the image that the pool's directory knows by `name`."""
    try:
        _, raw = ioctx.execute(_DIRECTORY, _CLASS, "dir_get_id", _encoded(name))
    except rados.ObjectNotFound:
        return None
    return _decoded(raw)


def size(ioctx: Any, name: str) -> int | None:
    """In bytes; None where there is no such image."""
    image_id = id_behind(ioctx, name)
    return None if image_id is None else _size_of(ioctx, image_id)


def rename(ioctx: Any, name: str, to: str) -> None:
    """Renames an image that nobody has open. Raises rbd.ImageNotFound, rbd.ImageExists.

    These are librbd's own steps in its order; what it does besides is to agree with those that have the image
    open, in a dozen more commits. After each step one of the two names leads to the image: see `mend_rename`.
    """
    image_id = id_behind(ioctx, name)
    if image_id is None or _size_of(ioctx, image_id) is None:
        raise rbd.ImageNotFound(f"There is no image {name}.", errno=2)
    effect("link")
    try:
        with rados.WriteOpCtx() as operation:
            operation.new(rados.LIBRADOS_CREATE_EXCLUSIVE)
            operation.write_full(_encoded(image_id))
            ioctx.operate_write_op(operation, _id_object(to))
    except rados.ObjectExists as error:
        raise rbd.ImageExists(f"There is an image {to} already.", errno=17) from error
    effect("rename")
    with rados.WriteOpCtx() as operation:
        operation.execute(_CLASS, "dir_rename_image", b"".join(map(_encoded, (name, to, image_id))))
        ioctx.operate_write_op(operation, _DIRECTORY)
    _unlink(ioctx, name)


def mend_rename(ioctx: Any, name: str, to: str) -> None:
    """Ends what a death in the middle of `rename` has left, two names that lead to one image: the one that the
    directory does not know goes, so that it has either happened or not.
    """
    image_id = id_behind(ioctx, name)
    if image_id is not None and image_id == id_behind(ioctx, to):
        _unlink(ioctx, to if listed_id(ioctx, to) is None else name)


def _unlink(ioctx: Any, name: str) -> None:
    effect("unlink")
    with suppress(rados.ObjectNotFound):
        ioctx.remove_object(_id_object(name))


def _size_of(ioctx: Any, image_id: str) -> int | None:
    try:
        _, raw = ioctx.execute(f"rbd_header.{image_id}", _CLASS, "get_size", _NO_SNAPSHOT)
    except rados.ObjectNotFound:
        return None
    _order, size_bytes = struct.unpack_from("<BQ", raw)
    return int(size_bytes)


def _id_object(name: str) -> str:
    return f"rbd_id.{name}"


def _encoded(text: str) -> bytes:
    """As Ceph encodes a string: its length and its bytes."""
    raw = text.encode()
    return struct.pack("<I", len(raw)) + raw


def _decoded(raw: bytes) -> str:
    (length,) = struct.unpack_from("<I", raw)
    return raw[4 : 4 + length].decode()
