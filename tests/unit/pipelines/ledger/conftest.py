"""Every database that may hold the ledger: each test of it runs on all."""

import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest
import sqlalchemy as sa

from tests.fixtures import postgres


@pytest.fixture(scope="session")
def postgresql_url() -> Iterator[str]:
    """A PostgreSQL server; without one a test is skipped, or fails where `PACELINE_REQUIRE_POSTGRESQL` is set."""
    programs = postgres.binaries()
    if programs is None:
        said = "no PostgreSQL server on this machine; on Debian: apt-get install postgresql"
        if postgres.is_required():
            pytest.fail(said)
        pytest.skip(said)
    with postgres.running(programs) as url:
        yield url


@pytest.fixture(params=["sqlite", "postgresql"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """Of a database that has nothing in it yet."""
    if request.param == "sqlite":
        yield f"sqlite:///{tmp_path}/below/ledger.db"
        return
    yield new_database(request.getfixturevalue("postgresql_url"))


@pytest.fixture
def url_without_encoding(postgresql_url: str) -> str:
    """Of a PostgreSQL database of bytes in no encoding, as `initdb` makes them in the locale C."""
    return new_database(postgresql_url, "TEMPLATE template0 ENCODING 'SQL_ASCII' LC_COLLATE 'C' LC_CTYPE 'C'")


def new_database(server_url: str, options: str = "") -> str:
    """Makes a database on the PostgreSQL at `server_url`; returns its own URL."""
    server = sa.make_url(server_url)
    name = f"ledger_{uuid.uuid4().hex}"
    engine = sa.create_engine(server, isolation_level="AUTOCOMMIT")
    with engine.connect() as connection:
        connection.execute(sa.text(f"CREATE DATABASE {name} {options}"))
    engine.dispose()
    return server.set(database=name).render_as_string(hide_password=False)
