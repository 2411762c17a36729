"""What should be in the store: images, volumes and snapshots by their rows, and what this database ever made."""

from collections.abc import Collection

from sqlalchemy import Connection, Table, select

from bmi.domain.nouns import ObjectState
from bmi.drivers.storage import ObjectKind, Ref
from bmi.store import schema

TABLES: dict[ObjectKind, Table] = {
    "image": schema.images,
    "volume": schema.volumes,
    "snapshot": schema.snapshots,
}


def rows(tx: Connection) -> dict[Ref, ObjectState]:
    """Everything that should or may be in the store."""
    return {
        Ref(kind, row.id): row.state
        for kind, table in TABLES.items()
        for row in tx.execute(select(table.c.id, table.c.state))
    }


def in_state(tx: Connection, state: ObjectState) -> set[Ref]:
    """What is in this state according to its row."""
    return {ref for ref, found in rows(tx).items() if found is state}


def made_here(tx: Connection, refs: Collection[Ref]) -> list[Ref]:
    """Those that this database's journal knows: they were an operation's subject, or named by it as what it
    makes or uses. Whatever else is in the store may be somebody else's.
    """
    table = schema.operations.c
    made: list[Ref] = []
    for kind in TABLES:
        ids = [ref.id for ref in refs if ref.kind == kind]
        named = table.args[f"{kind}_id"].as_string()
        if ids:
            subjects = select(table.subject_id).where(table.subject_kind == kind, table.subject_id.in_(ids))
            found = {*tx.scalars(subjects), *tx.scalars(select(named).where(named.in_(ids)))}
            made += [Ref(kind, object_id) for object_id in sorted(found)]
    return made
