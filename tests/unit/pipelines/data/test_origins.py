import hashlib
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import ibis
import msgspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from ibis.backends import BaseBackend

from pipelines.data.origins import (
    OriginsError,
    Provenance,
    as_body,
    origins_of,
    refuse_changed,
    trace_query,
    warehouse_files,
)

CSV = {"name": "loans.csv", "sha256": "a" * 64, "bytes": 12, "publisher": "bank 1.2", "feeds": ["loans.parquet"]}


@pytest.fixture
def warehouse(tmp_path: Path) -> Path:
    folder = tmp_path / "warehouse"
    (folder / "years").mkdir(parents=True)
    for name, rows in {"loans": [1, 2], "people": [2, 3], "years/1": [1], "years/2": [2]}.items():
        pq.write_table(pa.table({"id": rows}), folder / f"{name}.parquet")
    (folder / ".draft-1").write_text("half")
    return folder


@pytest.fixture
def connection() -> BaseBackend:
    return ibis.duckdb.connect()


def source(told: Any = None) -> Any:
    return SimpleNamespace() if told is None else SimpleNamespace(origins=lambda warehouse: told)


def joined(connection: BaseBackend, warehouse: Path) -> ibis.Table:
    loans = connection.read_parquet(warehouse / "loans.parquet")
    return loans.semi_join(connection.read_parquet(warehouse / "people.parquet"), "id")


def test_a_query_names_the_files_that_it_reads_with_their_hashes(warehouse: Path, connection: BaseBackend) -> None:
    found = trace_query(connection, joined(connection, warehouse), warehouse, source([CSV]))
    assert [file.path for file in found.files] == ["loans.parquet", "people.parquet"]
    loans = (warehouse / "loans.parquet").read_bytes()
    assert (found.files[0].sha256, found.files[0].bytes) == (hashlib.sha256(loans).hexdigest(), len(loans))
    assert found.query.sha256 == hashlib.sha256(found.query.text.encode()).hexdigest()
    assert [origin.name for origin in found.origins] == ["loans.csv"]


def test_the_text_of_a_query_can_be_run_in_the_warehouses_folder(
    warehouse: Path, connection: BaseBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    import duckdb

    found = trace_query(connection, joined(connection, warehouse), warehouse, source())
    monkeypatch.chdir(warehouse)
    assert duckdb.sql(found.query.text).fetchall() == [(2,)]


def test_two_connections_give_one_provenance(warehouse: Path, connection: BaseBackend) -> None:
    first = trace_query(connection, joined(connection, warehouse), warehouse, source([CSV]))
    other = ibis.duckdb.connect()
    assert trace_query(other, joined(other, warehouse), warehouse, source([CSV])).id == first.id


def test_other_bytes_or_another_question_give_another_provenance(warehouse: Path, connection: BaseBackend) -> None:
    whole = joined(connection, warehouse)
    first = trace_query(connection, whole, warehouse, source())
    assert trace_query(connection, whole.filter(whole.id > 0), warehouse, source()).id != first.id
    pq.write_table(pa.table({"id": [2, 5]}), warehouse / "people.parquet")
    assert trace_query(connection, whole, warehouse, source()).id != first.id


def test_files_that_a_pattern_names_are_read(warehouse: Path, connection: BaseBackend) -> None:
    found = trace_query(connection, connection.read_parquet(warehouse / "years" / "*.parquet"), warehouse, source())
    assert [file.path for file in found.files] == ["years/1.parquet", "years/2.parquet"]


@pytest.mark.parametrize("kind", ["in memory", "a table"])
def test_a_table_that_is_no_file_may_have_read_every_file(kind: str, warehouse: Path, connection: BaseBackend) -> None:
    connection.raw_sql("CREATE TABLE filled AS SELECT 1 AS id")
    table = ibis.memtable(pa.table({"id": [1]})) if kind == "in memory" else connection.table("filled")
    assert trace_query(connection, table, warehouse, source()).files == warehouse_files(warehouse)


def test_drafts_are_no_files_of_a_warehouse(warehouse: Path) -> None:
    assert ".draft-1" not in {file.path for file in warehouse_files(warehouse)}


def test_origins_of_files_that_were_not_read_are_left_out(warehouse: Path, connection: BaseBackend) -> None:
    told = [{**CSV, "name": "years.csv", "feeds": ["years/1.parquet"]}, {**CSV, "name": "anything.csv", "feeds": []}]
    found = trace_query(connection, joined(connection, warehouse), warehouse, source(told))
    assert [origin.name for origin in found.origins] == ["anything.csv"]


@pytest.mark.parametrize(
    ("told", "problem"),
    [
        ([{**CSV, "sha": "1"}], "unknown field `sha`"),
        ([{**CSV, "sha256": "abc"}], "sha256"),
        ([{"name": "loans.csv"}], "missing required field `sha256`"),
        ("loans.csv", "Expected `array`"),
    ],
)
def test_origins_that_are_not_understood_are_refused(told: Any, problem: str, tmp_path: Path) -> None:
    with pytest.raises(OriginsError, match=rf"{problem}.*expected a list of mappings with name, sha256"):
        origins_of(source(told), tmp_path)


def test_a_source_without_origins_has_none(tmp_path: Path) -> None:
    assert origins_of(source(), tmp_path) == ()


def test_a_warehouse_that_changes_under_a_snapshot_is_noticed(warehouse: Path) -> None:
    before = warehouse_files(warehouse)
    refuse_changed(before, warehouse)
    (warehouse / "people.parquet").write_bytes(b"new")
    (warehouse / "loans.parquet").unlink()
    with pytest.raises(OriginsError, match=r"loans\.parquet, people\.parquet in .* changed while"):
        refuse_changed(before, warehouse)


def test_the_ledgers_body_is_the_whole_provenance(warehouse: Path, connection: BaseBackend) -> None:
    found = trace_query(connection, joined(connection, warehouse), warehouse, source([CSV]))
    body = as_body(found)
    assert body.pop("provenance") == found.id
    assert msgspec.convert(body, Provenance) == found
