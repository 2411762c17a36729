"""Measures what each disk holds in the store, for whoever asks how much is theirs alone."""

from collections.abc import Callable

from sqlalchemy import or_, select

from bmi.domain.nouns import ObjectState
from bmi.drivers.storage import Ref
from bmi.errors import DriverError
from bmi.workflow.objects import TABLES
from bmi.workflow.tools import Tools


def measure(tools: Tools, *, older_than_s: float = 0, stopped: Callable[[], bool] = lambda: False) -> int:
    """Measures what is ready and was not measured in the last `older_than_s`; returns how many. Raises
    DriverError when the store is away.
    """
    measured = 0
    before = tools.database.now() - older_than_s
    for kind, table in TABLES.items():
        old = or_(table.c.measured_at.is_(None), table.c.measured_at <= before)
        with tools.database.read() as tx:
            ids = tx.scalars(select(table.c.id).where(table.c.state == ObjectState.READY, old)).all()
        for object_id in ids:
            if stopped():
                return measured
            try:
                usage = tools.storage.usage(Ref(kind, object_id))
            except DriverError as error:
                if error.retryable:
                    raise
                continue  # deleted meanwhile, or lost: others tell of that
            found = {"unique_bytes": usage.unique_bytes, "measured_at": tools.database.now()}
            with tools.database.write() as tx:
                tx.execute(table.update().where(table.c.id == object_id).values(found))
            measured += 1
    return measured
