"""What a project may have, and what it has."""

from collections.abc import Mapping
from dataclasses import dataclass

from sqlalchemy import Connection, func, select

from bmi.domain.nouns import Actor, Project
from bmi.errors import InvalidInputError, NotFoundError
from bmi.service.core import Core, require_admin
from bmi.store import records, schema
from bmi.store.quotas import LIMITS, Amount, held, require

__all__ = ["Amount", "UsageView", "project_usage", "require", "set_quota"]

_MAX = (1 << 63) - 1


@dataclass(frozen=True)
class UsageView:
    """What a project holds beside what it may; `measured_at` is when the oldest measured part was."""

    project: Project
    held: Amount
    measured_at: float | None


def project_usage(core: Core, actor: Actor, name: str) -> UsageView:
    """What a project that the actor may see holds and may hold."""
    with core.database.read() as tx:
        project = records.projects.find(tx, name=name)
        if project is None or not (actor.is_admin or actor.project_id == project.id):
            raise _no_such_project(name)
        return _view(tx, project)


def set_quota(core: Core, actor: Actor, name: str, limits: Mapping[str, int | None]) -> UsageView:
    """Changes the limits that are named; None lifts one. What the project holds already stays."""
    require_admin(actor)
    for limit, value in limits.items():
        if limit not in LIMITS:
            raise InvalidInputError(limit, "it is no limit.", remedy=f"There are {', '.join(LIMITS)}.")
        if value is not None and not 0 <= value <= _MAX:
            raise InvalidInputError(limit, f"{value} is out of range.", remedy="Give 0 or more.")
    with core.database.write() as tx:
        project = records.projects.find(tx, name=name, lock=True)
        if project is None:
            raise _no_such_project(name)
        quota = {limit: value for limit, value in {**project.quota, **limits}.items() if value is not None}
        records.projects.update(tx, id=project.id, values={"quota": quota})
        return _view(tx, records.projects.get(tx, project.id))


def _view(tx: Connection, project: Project) -> UsageView:
    oldest = [
        tx.execute(select(func.min(table.c.measured_at)).where(table.c.project_id == project.id)).scalar_one()
        for table in (schema.volumes, schema.snapshots, schema.images)
    ]
    return UsageView(project, held(tx, project.id), min((at for at in oldest if at), default=None))


def _no_such_project(name: str) -> NotFoundError:
    return NotFoundError("project", name, remedy="`bmi project list` shows those there are.")
