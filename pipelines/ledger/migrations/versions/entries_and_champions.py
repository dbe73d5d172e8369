"""The first tables: entries, which triggers keep append-only, and the champion of each project."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

_SQLITE_TRIGGER = """
CREATE TRIGGER entries_no_{verb} BEFORE {verb} ON entries
BEGIN SELECT RAISE(ABORT, 'the ledger is append-only: append an entry that corrects the wrong one'); END
"""

_POSTGRESQL_FUNCTION = """
CREATE FUNCTION entries_append_only() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN RAISE EXCEPTION 'the ledger is append-only: append an entry that corrects the wrong one'; END $$
"""

_POSTGRESQL_TRIGGER = """
CREATE TRIGGER entries_append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON entries
FOR EACH STATEMENT EXECUTE FUNCTION entries_append_only()
"""


def upgrade() -> None:
    """Creates both tables with their indexes, and the triggers of the dialect."""
    number = sa.BigInteger().with_variant(sa.Integer, "sqlite")
    op.create_table(
        "entries",
        sa.Column("id", number, primary_key=True, autoincrement=True),
        sa.Column("at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("project", sa.String(200), nullable=False),
        sa.Column("kind", sa.String(100), nullable=False),
        sa.Column("subject", sa.String(500), nullable=False),
        sa.Column("body", sa.JSON().with_variant(postgresql.JSONB(), "postgresql"), nullable=False),
        sa.Column("key", sa.String(1000), nullable=True),
        sqlite_autoincrement=True,
    )
    op.create_index("entries_key", "entries", ["project", "key"], unique=True)
    op.create_index("entries_kind", "entries", ["project", "kind", "id"])
    op.create_index("entries_subject", "entries", ["subject", "id"])
    op.create_table(
        "champions",
        sa.Column("project", sa.String(200), primary_key=True),
        sa.Column("version", sa.String(200), nullable=False),
        sa.Column("bundle", sa.String(200), nullable=False),
        sa.Column("since_entry", number, sa.ForeignKey("entries.id"), nullable=False),
    )
    if op.get_context().dialect.name == "sqlite":
        for verb in ("update", "delete"):
            op.execute(_SQLITE_TRIGGER.format(verb=verb))
    else:
        op.execute(_POSTGRESQL_FUNCTION)
        op.execute(_POSTGRESQL_TRIGGER)


def downgrade() -> None:
    """The ledger is append-only: a migration is undone by another one."""
    raise NotImplementedError("the ledger's first revision is not undone: keep the database, or start another")
