"""The audit log: who did what to which object, from where, and what came of it. Nothing in it ever changes."""

from dataclasses import dataclass

from bmi.domain.nouns import Actor, AuditEntry
from bmi.service.core import Core, project_names, require_admin
from bmi.store import records, schema

# For nobody who is known.
NOBODY = "-"


@dataclass(frozen=True)
class Deed:
    """A call as it is written down. Texts are cut to what the log takes; none may be a secret."""

    actor: str
    user_id: str | None
    token_id: str | None
    project_id: str | None
    address: str
    action: str
    object: str
    project: str | None
    status: int
    problem: str | None
    detail: str | None = None


def write(core: Core, deed: Deed) -> None:
    """Adds one row."""
    with core.database.write() as tx:
        own = project_names(tx, {deed.project_id}).get(deed.project_id)
        tx.execute(
            schema.audit.insert().values(
                at=core.now(),
                actor=_plain(deed.actor, 100),
                user_id=deed.user_id,
                token_id=deed.token_id,
                address=_plain(deed.address, 64),
                action=deed.action,
                object=_plain(deed.object, 200),
                project=own or (_plain(deed.project, 100) if deed.project else None),
                status=deed.status,
                problem=deed.problem,
                detail=_plain(deed.detail, 300) if deed.detail else None,
            )
        )


def _plain(text: str, length: int) -> str:
    """What a terminal and every database takes."""
    return "".join(c if c.isprintable() else "?" for c in text[:length])


def list_entries(
    core: Core, actor: Actor, *, by: str | None, refused: bool, before: int, limit: int = 100
) -> list[AuditEntry]:
    """The newest entries first, before the id `before`; perhaps only of one actor, or only refusals."""
    require_admin(actor)
    table = schema.audit.c
    where = [table.id < before]
    if by is not None:
        where.append(table.actor == by)
    if refused:
        where.append(table.status >= 400)
    with core.database.read() as tx:
        return records.audit.list(tx, *where, newest_first=True, limit=limit)
