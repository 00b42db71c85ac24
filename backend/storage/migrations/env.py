"""Run by Alembic: the connection is passed in by `Database.migrate`."""

from alembic import context

from backend.storage.tables import metadata

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=metadata,
    render_as_batch=True,
    transaction_per_migration=False,
)
context.run_migrations()
