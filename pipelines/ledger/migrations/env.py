"""What Alembic runs: on the connection that the caller opened, or as SQL text for `alembic upgrade --sql`."""

from alembic import context

from pipelines.ledger.tables import METADATA

connection = context.config.attributes.get("connection")
if connection is None:
    context.configure(
        url=context.config.get_main_option("sqlalchemy.url"), target_metadata=METADATA, literal_binds=True
    )
else:
    context.configure(connection=connection, target_metadata=METADATA)
with context.begin_transaction():
    context.run_migrations()
