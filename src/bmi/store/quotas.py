"""How much a project holds and may hold; a request counts and makes under one lock, so no two share the rest."""

from dataclasses import asdict, dataclass, fields

from sqlalchemy import Connection, Table, func, select

from bmi.errors import OverQuotaError
from bmi.store import schema

_WHAT = {"volume_bytes": "volumes", "image_bytes": "images", "unique_bytes": "data of its own"}


@dataclass(frozen=True)
class Amount:
    """What can be limited. `_bytes` are the sizes of the disks, `unique_bytes` is what only the project's own
    objects hold in the store, as last measured.
    """

    nodes: int = 0
    networks: int = 0
    volumes: int = 0
    volume_bytes: int = 0
    snapshots: int = 0
    images: int = 0
    image_bytes: int = 0
    unique_bytes: int = 0


LIMITS = tuple(field.name for field in fields(Amount))


def held(tx: Connection, project_id: str) -> Amount:
    """What the project holds now, what is being made for it included."""

    def sums(table: Table) -> tuple[int, int, int]:
        query = select(
            func.count(),
            func.coalesce(func.sum(table.c.size_bytes), 0),
            func.coalesce(func.sum(table.c.unique_bytes), 0),
        ).where(table.c.project_id == project_id)
        number, size_bytes, unique_bytes = tx.execute(query).one()
        return number, int(size_bytes), int(unique_bytes)

    volumes, volume_bytes, of_volumes = sums(schema.volumes)
    snapshots, _, of_snapshots = sums(schema.snapshots)
    images, image_bytes, of_images = sums(schema.images)
    nodes, networks = schema.nodes.c, schema.networks.c
    of_project = select(func.count()).where(nodes.project_id == project_id)
    # The boot network is part of the project.
    beside = select(func.count()).where(networks.project_id == project_id, networks.boot.is_(False))
    return Amount(
        nodes=tx.execute(of_project).scalar_one(),
        networks=tx.execute(beside).scalar_one(),
        volumes=volumes,
        volume_bytes=volume_bytes,
        snapshots=snapshots,
        images=images,
        image_bytes=image_bytes,
        unique_bytes=of_volumes + of_snapshots + of_images,
    )


def require(tx: Connection, project_id: str | None, asked: Amount) -> None:
    """Raises OverQuotaError if the project may not have `asked` beside what it holds. The site (None) has no
    limits. To be called after all other rows are locked and before anything is made: the project's row stays
    locked until the transaction ends.

    Nothing more is made once the unique bytes reach their limit: they grow by themselves.
    """
    if project_id is None:
        return
    table = schema.projects
    # Not against those who only refer to the project, as every insertion of an object of it does.
    own = select(table.c.name, table.c.quota).where(table.c.id == project_id).with_for_update(key_share=True)
    name, quota = tx.execute(own).one()
    if not quota:
        return
    used = asdict(held(tx, project_id))
    for limit, more in asdict(asked).items():
        allowed = quota.get(limit)
        if allowed is None:
            continue
        full = used[limit] >= allowed if limit == "unique_bytes" else False
        if full or (more and used[limit] + more > allowed):
            raise OverQuotaError(
                f"Project {name!r} may have {_said(limit, allowed)}; it has {_said(limit, used[limit])}"
                + (f" and this asks for {_said(limit, more)} more." if more else "."),
                remedy="Give back what is not needed, or ask an administrator for more (bmi project quota).",
                limit=limit,
                allowed=allowed,
                used=used[limit],
                asked=more,
            )


def _said(limit: str, amount: int) -> str:
    if limit.endswith("_bytes"):
        return f"{_size(amount)} of {_WHAT[limit]}"
    return f"{amount} {limit if amount != 1 else limit.removesuffix('s')}"


def _size(size_bytes: int) -> str:
    for unit, name in ((1 << 40, "TiB"), (1 << 30, "GiB"), (1 << 20, "MiB")):
        if size_bytes >= unit:
            return f"{size_bytes / unit:.1f} {name}"
    return f"{size_bytes} bytes"
