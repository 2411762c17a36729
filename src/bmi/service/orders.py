"""What a node is provisioned with: a clone of an image or a snapshot, or a volume that exists."""

import secrets
from dataclasses import dataclass

from sqlalchemy import Connection

from bmi.domain.names import label
from bmi.domain.nouns import Image, Network, Node, ObjectState, Project, Snapshot, Volume
from bmi.errors import InvalidInputError
from bmi.service import quotas
from bmi.service.core import Core, locked_image, visible_image, visible_snapshot
from bmi.service.volumes import detached_volume, free_name, require_ready
from bmi.store import records
from bmi.store.ids import new_id

# 96 bits at least (RFC 3720, section 8.2.1); hexadecimal digits survive every firmware's parser.
_CHAP_SECRET_BYTES = 12
MAX_USER_DATA_BYTES = 64 * 1024
# What every exporter and file system can count in.
_SECTOR_BYTES = 4096
_MAX_SIZE_BYTES = 1 << 50


@dataclass(frozen=True)
class Order:
    """What a provision is asked to bring up: exactly one of image, snapshot and volume, and what the OS is told.
    A volume has been told already, and has its size.
    """

    image: str | None = None
    snapshot: str | None = None
    volume: str | None = None
    size_bytes: int | None = None
    project: str | None = None
    hostname: str | None = None
    ssh_keys: tuple[str, ...] = ()
    user_data: str = ""


def check_order(order: Order) -> None:
    """Raises InvalidInputError for what can never be right."""
    if [order.image, order.snapshot, order.volume].count(None) != 2:
        raise InvalidInputError(
            "image",
            "give exactly one of image, snapshot and volume.",
            remedy="--image NAME, --snapshot NAME or --volume NAME",
        )
    told = {"size_bytes": order.size_bytes, "hostname": order.hostname, "ssh_keys": order.ssh_keys}
    for field, value in {**told, "user_data": order.user_data}.items():
        if order.volume and value:
            raise InvalidInputError(
                field,
                "a volume that exists keeps its own.",
                remedy="Leave it out, or provision a fresh clone.",
            )
    if order.size_bytes is not None and not 0 < order.size_bytes <= _MAX_SIZE_BYTES:
        raise InvalidInputError("size_bytes", "it is out of range.", remedy="Give up to 1024 TiB.")
    if order.hostname:
        label(order.hostname, "hostname")
    if len(order.user_data.encode()) > MAX_USER_DATA_BYTES:
        raise InvalidInputError(
            "user_data", "it is larger than 64 KiB.", remedy="Let it fetch the rest from a server of yours."
        )
    for ssh_key in order.ssh_keys:
        kind, _, rest = ssh_key.strip().partition(" ")
        if "\n" in ssh_key.strip() or not rest or not kind.startswith(("ssh-", "ecdsa-", "sk-")):
            raise InvalidInputError(
                "ssh_keys",
                f"{ssh_key[:40]!r} is not a public key.",
                remedy="Give the content of a .pub file.",
            )


@dataclass(frozen=True)
class Source:
    """What a volume comes of, locked: a deletion at the same moment waits, and then sees it."""

    image: Image
    snapshot: Snapshot | None = None
    volume: Volume | None = None


def source_of(tx: Connection, project: Project, order: Order) -> Source:
    """What the order names; raises NotFoundError, InvalidStateError."""
    if order.volume:
        volume = detached_volume(tx, project, order.volume)
        require_ready("volume", volume)
        return Source(records.images.get(tx, volume.image_id), volume=volume)
    snapshot = visible_snapshot(tx, project.id, order.snapshot, lock=True) if order.snapshot else None
    named = (
        records.images.get(tx, snapshot.image_id)
        if snapshot
        else visible_image(tx, project.id, order.image or "")
    )
    image = locked_image(tx, named)
    require_ready("image", image)
    if snapshot:
        require_ready("snapshot", snapshot)
    return Source(image, snapshot)


def make_volume(
    core: Core, tx: Connection, project: Project, node: Node, network: Network, source: Source, order: Order
) -> Volume:
    """Writes the clone down, or to whom the volume belongs now; nobody who had it before knows its secret."""
    chap_secret = core.vault.seal(secrets.token_hex(_CHAP_SECRET_BYTES))
    if source.volume:
        records.volumes.update(
            tx, id=source.volume.id, values={"node_id": node.id, "chap_secret": chap_secret}
        )
        return source.volume
    size_bytes = _size(source, order)
    quotas.require(tx, project.id, quotas.Amount(volumes=1, volume_bytes=size_bytes))
    seed = {
        "hostname": order.hostname or node.name,
        "ssh_keys": [key.strip() for key in order.ssh_keys],
        "user_data": order.user_data,
    }
    volume = Volume(
        id=new_id(),
        name=free_name(tx, project.id, node.name),
        project_id=project.id,
        node_id=node.id,
        network_id=network.id,
        image_id=source.image.id,
        snapshot_id=source.snapshot.id if source.snapshot else None,
        state=ObjectState.CREATING,
        size_bytes=size_bytes,
        exported=False,
        chap_secret=chap_secret,
        seed=seed,
        created_at=core.now(),
    )
    return records.volumes.insert(tx, volume)


def _size(source: Source, order: Order) -> int:
    least = (source.snapshot.size_bytes if source.snapshot else source.image.size_bytes) or 0
    if order.size_bytes is None:
        return least
    if order.size_bytes < least:
        raise InvalidInputError(
            "size_bytes",
            f"{order.size_bytes} is less than the {least} bytes of what it is cloned from.",
            remedy="Give more, or leave it out.",
        )
    return -(-order.size_bytes // _SECTOR_BYTES) * _SECTOR_BYTES
