"""Runs migrations on the connection that `bmi.store.database.migrate` opened."""

from alembic import context

from bmi.store.schema import metadata

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=metadata,
    render_as_batch=True,
    compare_type=True,
)
context.run_migrations()
