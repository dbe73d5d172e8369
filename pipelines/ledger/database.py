"""Opens the ledger's database, SQLite or PostgreSQL, with its schema up to date."""

import fcntl
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import quote

import msgspec
import sqlalchemy as sa
from sqlalchemy.exc import ArgumentError

from contracts.hashing import canonical_json
from pipelines.ledger.tables import ENTRIES, METADATA, REVISION

MIGRATIONS = Path(__file__).parent / "migrations"
BUSY_TIMEOUT_S = 30
_MIGRATION_LOCK = 0x9ACE11  # any number, the same for all who migrate one PostgreSQL database


class LedgerError(ValueError):
    """The ledger cannot be opened, or was asked for something that cannot be: what was found, and what to do."""


class LedgerUnavailableError(LedgerError):
    """The ledger takes or gives nothing now: locked, its disk full, its folder or its server away. Later it may."""


class LedgerMissingError(LedgerUnavailableError):
    """Where the ledger is to be is no file, and none was to be made."""


def open_engine(url: str, *, creates: bool = True) -> sa.Engine:
    """An engine on the database at `url`, migrated; safe to call from many processes at once.

    Without `creates` a SQLite database that is not there is not made: whoever goes on with something that a ledger
    has would go on in an empty one.

    Raises:
        LedgerError: the URL is of a database that is not supported, or without an encoding, or the database is newer
            than this code.
        LedgerMissingError: it is not there, and is not to be made.
        LedgerUnavailableError: it cannot be reached now.
    """
    try:
        parsed = sa.engine.make_url(url)
    except ArgumentError as error:
        raise LedgerError(f"the ledger's URL is like sqlite:////path/ledger.db, found {url!r}") from error
    dialect = parsed.get_backend_name()
    if dialect == "sqlite":
        if not parsed.database or parsed.database == ":memory:":
            raise LedgerError("the ledger outlives its process: name a file, as in sqlite:////path/ledger.db")
        _require_file(Path(parsed.database), creates)
        engine = _sqlite_engine(parsed)
    elif dialect == "postgresql":
        engine = _postgresql_engine(parsed)
    else:
        raise LedgerError(f"the ledger is kept in sqlite or postgresql, found {dialect}")
    if _revision(engine) != REVISION:
        with _migrating(engine, parsed):
            _migrate(engine)
    return engine


def empty_engine() -> sa.Engine:
    """A database with the schema and no row, in the memory of this process."""
    engine = sa.create_engine("sqlite://", poolclass=sa.StaticPool, connect_args={"check_same_thread": False})
    METADATA.create_all(engine)
    return engine


@contextmanager
def reading(engine: sa.Engine) -> Iterator[sa.Connection]:
    """A connection that waits for no writer. Raises LedgerUnavailableError."""
    with _telling_what_is_away(engine), engine.connect().execution_options(reads_only=True) as connection:
        yield connection


@contextmanager
def writing(engine: sa.Engine) -> Iterator[sa.Connection]:
    """A transaction that writes alone, so that ids appear in the order in which they were given.

    Raises LedgerUnavailableError; what was written may be there then, when it was the answer that got lost.
    """
    with _telling_what_is_away(engine), engine.begin() as connection:  # BEGIN IMMEDIATE on SQLite
        if engine.dialect.name == "postgresql":
            connection.execute(sa.text(f"LOCK TABLE {ENTRIES.name} IN SHARE ROW EXCLUSIVE MODE"))
        yield connection


@contextmanager
def _telling_what_is_away(engine: sa.Engine) -> Iterator[None]:
    try:
        yield
    except sa.exc.OperationalError as error:
        raise LedgerUnavailableError(f"the ledger at {engine.url.render_as_string()} is away: {error.orig}") from error


def _require_file(path: Path, creates: bool) -> None:
    try:
        if creates:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch()
        path.stat()
    except FileNotFoundError as error:
        raise LedgerMissingError(
            f"there is no ledger at {path}: is its folder mounted? One that is lost comes back from a backup; "
            "where nothing has run yet, `paceline ingest PROJECT` makes the first"
        ) from error
    except OSError as error:
        raise LedgerUnavailableError(f"the ledger at {path} cannot be opened: {error}") from error


def _to_json(value: Any) -> str:
    return canonical_json(value).decode()


def _postgresql_engine(url: sa.URL) -> sa.Engine:
    engine = sa.create_engine(url, pool_pre_ping=True, json_serializer=_to_json, json_deserializer=msgspec.json.decode)

    @sa.event.listens_for(engine, "connect", insert=True)  # before SQLAlchemy asks for the version, and gets bytes
    def require_text(connection: Any, _record: Any) -> None:
        encoding = connection.info.parameter_status("server_encoding")
        if encoding == "SQL_ASCII":
            raise LedgerError(
                f"the database of the ledger at {url.render_as_string()} has the encoding {encoding}, which knows no "
                f"text: CREATE DATABASE {url.database} TEMPLATE template0 ENCODING 'UTF8', and name that one"
            )

    return engine


def _sqlite_engine(url: sa.URL) -> sa.Engine:
    # a file that is gone must not come back as an empty ledger: SQLite would make it
    file = url.set(database=f"file:{quote(str(Path(url.database or '').resolve()))}")
    engine = sa.create_engine(
        file.update_query_dict({"mode": "rw", "uri": "true"}),
        # a connection a use: nothing is shared over a fork, nor between threads
        poolclass=sa.NullPool,
        connect_args={"timeout": BUSY_TIMEOUT_S},
        json_serializer=_to_json,
        json_deserializer=msgspec.json.decode,
    )

    @sa.event.listens_for(engine, "connect")
    def set_up(connection: Any, _record: Any) -> None:
        connection.isolation_level = None  # the driver would begin lazily, and lose the race for the write lock
        connection.execute("PRAGMA foreign_keys = ON")
        connection.execute("PRAGMA synchronous = FULL")  # an entry that was acknowledged survives a power cut

    @sa.event.listens_for(engine, "begin")
    def begin(connection: sa.Connection) -> None:
        reads_only = connection.get_execution_options().get("reads_only", False)
        connection.exec_driver_sql("BEGIN" if reads_only else "BEGIN IMMEDIATE")

    return engine


def _revision(engine: sa.Engine) -> str | None:
    with reading(engine) as connection:
        if not sa.inspect(connection).has_table("alembic_version"):
            return None
        found: str | None = connection.scalar(sa.text("SELECT version_num FROM alembic_version"))
        return found


@contextmanager
def _migrating(engine: sa.Engine, url: sa.URL) -> Iterator[None]:
    """Holds the right to migrate, among threads, processes and hosts."""
    if engine.dialect.name == "sqlite":
        with Path(f"{url.database}.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            # writers and readers side by side; stays in the file. Not a transaction's work, so not the engine's
            raw = engine.raw_connection()
            try:
                raw.cursor().execute("PRAGMA journal_mode = WAL")
            finally:
                raw.close()
            yield
    else:
        with engine.connect() as connection:
            connection.execute(sa.text(f"SELECT pg_advisory_lock({_MIGRATION_LOCK})"))
            try:
                yield
            finally:
                connection.execute(sa.text(f"SELECT pg_advisory_unlock({_MIGRATION_LOCK})"))


def _migrate(engine: sa.Engine) -> None:
    from alembic import command
    from alembic.config import Config
    from alembic.util import CommandError

    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS).replace("%", "%%"))
    config.set_main_option("path_separator", "os")
    with engine.begin() as connection:
        config.attributes["connection"] = connection
        try:
            command.upgrade(config, "head")
        except CommandError as error:
            raise LedgerError(
                f"the ledger at {engine.url.render_as_string()} cannot be upgraded to revision {REVISION}: {error}; "
                "a newer Paceline has written it: use that one"
            ) from error
