import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime

import msgspec
import pytest
import sqlalchemy as sa
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory

from pipelines.ledger import Ledger, LedgerError
from pipelines.ledger.database import MIGRATIONS, open_engine
from pipelines.ledger.tables import METADATA, REVISION

AT = datetime(2013, 7, 1, 12, tzinfo=UTC)


@pytest.fixture
def ledger(url: str) -> Iterator[Ledger]:
    with Ledger.open(url, clock=lambda: AT) as opened:
        yield opened


def test_what_was_appended_is_read_back_in_order(ledger: Ledger) -> None:
    first = ledger.append("flight_delay", "gate", "run-1", {"name": "auc", "passed": True, "numbers": [0.7, None]})
    second = ledger.append("flight_delay", "trigger", "run-2", {"trigger": "drift"}, key="run-2")
    assert ledger.entries() == [first, second]
    assert first.body == {"name": "auc", "passed": True, "numbers": [0.7, None]}
    assert (first.at, second.key, second.id > first.id) == (AT, "run-2", True)


def test_entries_are_selected_by_project_kind_subject_and_position(ledger: Ledger) -> None:
    a = ledger.append("a", "gate", "run-1", {})
    b = ledger.append("b", "gate", "run-1", {})
    c = ledger.append("a", "verdict", "run-2", {})
    assert ledger.entries(project="a") == [a, c]
    assert ledger.entries(kinds=["gate"]) == [a, b]
    assert ledger.entries(subject="run-2") == [c]
    assert ledger.entries(after=a.id) == [b, c]
    assert ledger.entries(limit=1) == [a]
    assert ledger.entries(kinds=[]) == []


def test_structs_and_times_in_a_body_become_json(ledger: Ledger) -> None:
    class Gate(msgspec.Struct):
        name: str

    assert ledger.append("a", "gate", "run", {"gate": Gate("auc"), "at": AT}).body == {
        "gate": {"name": "auc"},
        "at": "2013-07-01T12:00:00Z",
    }


def test_the_same_key_is_appended_once_and_answers_with_the_first_entry(ledger: Ledger) -> None:
    first = ledger.append("a", "trigger", "run", {"n": 1}, key="k")
    assert ledger.append("a", "trigger", "run", {"n": 2}, key="k") == first
    assert ledger.append("b", "trigger", "run", {"n": 3}, key="k").body == {"n": 3}  # keys are a project's own
    assert len(ledger.entries()) == 2


@pytest.mark.parametrize("statement", ["UPDATE entries SET kind = 'gate'", "DELETE FROM entries"])
def test_an_entry_cannot_be_changed_or_deleted_by_anybody(ledger: Ledger, url: str, statement: str) -> None:
    written = ledger.append("a", "verdict", "run", {"verdict": "rollback"})
    engine = sa.create_engine(url)
    with engine.connect() as connection, pytest.raises(sa.exc.DBAPIError, match="append-only"):
        connection.execute(sa.text(statement))
    engine.dispose()
    assert ledger.entries() == [written]


def test_the_first_champion_needs_no_one_to_replace(ledger: Ledger) -> None:
    assert ledger.champion("a") is None
    assert not ledger.swap_champion("a", "7", "8", "b8", "rollout-1", "won")
    assert ledger.swap_champion("a", None, "1", "b1", "rollout-2", "bootstrap")
    champion, entry = ledger.champion("a"), ledger.entries()[-1]
    assert champion is not None
    assert (champion.version, champion.bundle, champion.since_entry) == ("1", "b1", entry.id)
    assert (entry.kind, entry.subject, entry.body["previous"]) == ("champion.swapped", "rollout-2", None)
    assert ledger.champion("b") is None


def test_a_swap_that_expected_another_champion_changes_and_writes_nothing(ledger: Ledger) -> None:
    ledger.swap_champion("a", None, "1", "b1", "r1", "bootstrap")
    before = ledger.entries()
    assert not ledger.swap_champion("a", None, "2", "b2", "r2", "won")
    assert not ledger.swap_champion("a", "0", "2", "b2", "r2", "won")
    assert (ledger.champion("a").version, ledger.entries()) == ("1", before)  # type: ignore[union-attr]


def test_a_repeated_swap_succeeds_without_a_second_entry(ledger: Ledger) -> None:
    for _ in range(2):
        assert ledger.swap_champion("a", None, "1", "b1", "r1", "bootstrap")
    assert len(ledger.entries()) == 1


def test_a_swap_that_was_superseded_is_not_repeated(ledger: Ledger) -> None:
    ledger.swap_champion("a", None, "1", "b1", "r1", "bootstrap")
    ledger.swap_champion("a", "1", "2", "b2", "r2", "won")
    ledger.swap_champion("a", "2", "1", "b1", "rollback-1", "by hand")
    assert not ledger.swap_champion("a", "1", "2", "b2", "r2", "won")  # expected fits again, and yet it was undone
    assert ledger.champion("a").version == "1"  # type: ignore[union-attr]


def test_restoring_brings_the_champion_before_back_once(ledger: Ledger) -> None:
    ledger.swap_champion("a", None, "1", "b1", "r1", "bootstrap")
    ledger.swap_champion("a", "1", "2", "b2", "r2", "won")
    assert ledger.restore_champion("a", "2", "r2", "the server refused")
    assert not ledger.restore_champion("a", "2", "r2", "the server refused")
    champion = ledger.champion("a")
    assert champion is not None
    assert (champion.version, champion.bundle) == ("1", "b1")
    assert ledger.entries()[-1].kind == "champion.restored"
    assert not ledger.swap_champion("a", "1", "2", "b2", "r2", "won")


def test_restoring_the_first_champion_leaves_none(ledger: Ledger) -> None:
    ledger.swap_champion("a", None, "1", "b1", "r1", "bootstrap")
    assert ledger.restore_champion("a", "1", "r1", "the server refused")
    assert ledger.champion("a") is None


def test_the_reigns_are_those_of_all_champions_without_what_was_undone(ledger: Ledger) -> None:
    assert ledger.reigns("a") == []
    ledger.swap_champion("a", None, "1", "b1", "r1", "bootstrap")
    ledger.swap_champion("a", "1", "2", "b2", "r2", "won")
    ledger.restore_champion("a", "2", "r2", "the server refused")
    ledger.swap_champion("a", "1", "3", "b3", "r3", "won")
    ledger.swap_champion("a", "3", "1", "b1", "rollback", "by hand")
    assert ledger.reigns("a") == ["1", "3", "1"]


def test_a_swap_that_is_not_in_force_is_not_restored(ledger: Ledger) -> None:
    ledger.swap_champion("a", None, "1", "b1", "r1", "bootstrap")
    ledger.swap_champion("a", "1", "2", "b2", "r2", "won")
    assert not ledger.restore_champion("a", "1", "r1", "late")
    assert ledger.champion("a").version == "2"  # type: ignore[union-attr]


def test_of_many_threads_that_swap_at_once_one_wins(ledger: Ledger) -> None:
    ledger.swap_champion("a", None, "0", "b0", "start", "bootstrap")
    with ThreadPoolExecutor(12) as pool:
        won = list(pool.map(lambda n: ledger.swap_champion("a", "0", str(n), f"b{n}", f"r{n}", "won"), range(1, 13)))
    assert sum(won) == 1
    assert ledger.champion("a").version == str(won.index(True) + 1)  # type: ignore[union-attr]
    assert len(ledger.entries()) == 2


def test_of_many_threads_that_append_one_key_all_get_the_same_entry(ledger: Ledger) -> None:
    with ThreadPoolExecutor(12) as pool:
        entries = list(pool.map(lambda n: ledger.append("a", "trigger", "run", {"n": n}, key="k"), range(24)))
    assert all(entry == entries[0] for entry in entries)
    assert ledger.entries() == entries[:1]


_WRITER = """
import sys
from pipelines.ledger import Ledger
url, name = sys.argv[1:]
with Ledger.open(url) as ledger:
    for n in range(40):
        ledger.append("a", "gate", name, {"n": n})
    print(ledger.swap_champion("a", None, name, "b", name, "won"))
"""


def test_processes_that_create_and_write_one_ledger_lose_nothing(url: str) -> None:
    writers = [
        subprocess.Popen([sys.executable, "-c", _WRITER, url, f"writer-{n}"], stdout=subprocess.PIPE, text=True)
        for n in range(4)
    ]
    answers = [writer.communicate(timeout=60)[0].strip() for writer in writers]
    assert [writer.returncode for writer in writers] == [0] * 4
    assert sorted(answers) == ["False", "False", "False", "True"]
    with Ledger.open(url) as ledger:
        for n in range(4):
            numbers = [entry.body["n"] for entry in ledger.entries(subject=f"writer-{n}", kinds=["gate"])]
            assert numbers == list(range(40))


def test_a_reader_does_not_wait_for_a_writer(ledger: Ledger, url: str) -> None:
    written = ledger.append("a", "gate", "run", {})
    engine = sa.create_engine(url, isolation_level="AUTOCOMMIT")
    with engine.connect() as writer:
        begin = (
            "BEGIN EXCLUSIVE" if url.startswith("sqlite") else "BEGIN; LOCK TABLE entries IN SHARE ROW EXCLUSIVE MODE"
        )
        writer.exec_driver_sql(begin)
        assert ledger.entries() == [written]
    engine.dispose()


def test_the_migrations_lead_to_the_declared_tables_and_revision(url: str) -> None:
    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS))
    config.set_main_option("path_separator", "os")
    assert ScriptDirectory.from_config(config).get_current_head() == REVISION
    engine = open_engine(url)
    with engine.connect() as connection:
        assert compare_metadata(MigrationContext.configure(connection), METADATA) == []


def test_a_ledger_that_newer_code_has_written_is_refused(url: str) -> None:
    engine = open_engine(url)
    with engine.begin() as connection:
        connection.execute(sa.text("UPDATE alembic_version SET version_num = 'future'"))
    with pytest.raises(LedgerError, match="newer Paceline"):
        Ledger.open(url)


@pytest.mark.parametrize("wrong", ["sqlite://", "sqlite:///:memory:", "mysql+pymysql://host/db", "ledger.db"])
def test_a_url_that_cannot_hold_the_ledger_is_refused(wrong: str) -> None:
    with pytest.raises(LedgerError, match=r"ledger"):
        Ledger.open(wrong)


def test_a_time_without_a_zone_is_refused(url: str) -> None:
    with (
        Ledger.open(url, clock=lambda: datetime(2013, 7, 1)) as naive,
        pytest.raises(sa.exc.StatementError, match="without one"),
    ):
        naive.append("a", "gate", "run", {})


def test_a_database_without_an_encoding_is_refused_with_its_remedy(url_without_encoding: str) -> None:
    name = sa.make_url(url_without_encoding).database
    remedy = f"has the encoding SQL_ASCII, .* CREATE DATABASE {name} TEMPLATE template0 ENCODING 'UTF8'"
    with pytest.raises(LedgerError, match=remedy):
        Ledger.open(url_without_encoding)
