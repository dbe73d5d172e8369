"""The tables of the ledger, as the migrations leave them."""

from datetime import UTC, datetime

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql

REVISION = "0001"  # of the migrations; an older database is upgraded when it is opened


class Instant(sa.types.TypeDecorator[datetime]):
    """A time with its zone: UTC in, UTC out, also where the database forgets the zone (SQLite)."""

    impl = sa.DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: sa.Dialect) -> datetime | None:
        """UTC, whatever zone `value` is in. Raises ValueError for a time without a zone."""
        if value is None:
            return None
        if value.tzinfo is None:
            raise ValueError(f"a time in the ledger has a zone, found {value.isoformat()} without one")
        return value.astimezone(UTC)

    def process_result_value(self, value: datetime | None, dialect: sa.Dialect) -> datetime | None:
        """The stored time, in UTC."""
        if value is None:
            return None
        return value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)


METADATA = sa.MetaData()
# SQLite numbers rows by itself only in a column of type INTEGER
_ID = sa.BigInteger().with_variant(sa.Integer, "sqlite")
_BODY = sa.JSON().with_variant(postgresql.JSONB(), "postgresql")

ENTRIES = sa.Table(
    "entries",
    METADATA,
    sa.Column("id", _ID, primary_key=True, autoincrement=True),
    sa.Column("at", Instant, nullable=False),
    sa.Column("project", sa.String(200), nullable=False),
    sa.Column("kind", sa.String(100), nullable=False),
    sa.Column("subject", sa.String(500), nullable=False),
    sa.Column("body", _BODY, nullable=False),
    sa.Column("key", sa.String(1000), nullable=True),
    sa.Index("entries_key", "project", "key", unique=True),
    sa.Index("entries_kind", "project", "kind", "id"),
    sa.Index("entries_subject", "subject", "id"),
    sqlite_autoincrement=True,
)

CHAMPIONS = sa.Table(
    "champions",
    METADATA,
    sa.Column("project", sa.String(200), primary_key=True),
    sa.Column("version", sa.String(200), nullable=False),
    sa.Column("bundle", sa.String(200), nullable=False),
    sa.Column("since_entry", _ID, sa.ForeignKey("entries.id"), nullable=False),
)
