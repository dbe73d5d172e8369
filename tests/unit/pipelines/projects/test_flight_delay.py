"""The real source: all flights of 2013, from the files of the package."""

from collections.abc import Iterator
from datetime import date, datetime
from pathlib import Path
from typing import Any

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

FOLDER = Path(__file__).resolve().parents[4] / "projects" / "flight_delay"
YEAR = Window(date(2013, 1, 1), date(2014, 1, 1))


@pytest.fixture(scope="module")
def project() -> Project:
    return load_project(FOLDER)


@pytest.fixture(scope="module")
def warehouse(project: Project, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("warehouse") / "flight_delay"
    rows = project.source().ingest(folder, lambda _: None)
    assert rows == {"flights": 336_776, "weather": 26_115, "planes": 3_322, "airports": 1_458}
    return folder


@pytest.fixture(scope="module")
def events(project: Project, warehouse: Path) -> Iterator[ibis.Table]:
    connection = connect()
    yield project.source().events(connection, warehouse)
    connection.disconnect()


@pytest.fixture(scope="module")
def year(project: Project, events: ibis.Table) -> pa.Table:
    return read_events(events, project.schema, project.label, YEAR)


def test_every_arrived_flight_is_one_event_and_cancelled_ones_are_none(project: Project, year: pa.Table) -> None:
    assert year.num_rows == 336_776 - 9_430
    assert year.select(list(project.schema.key)).group_by(list(project.schema.key)).aggregate([]).num_rows == 327_346
    assert set(year.column_names) == {*project.schema.names, "late"}
    assert year.column("tailnum").null_count == year.column("late").null_count == 0


def test_the_late_share_swings_over_the_year(year: pa.Table) -> None:
    month = pc.month(year.column("scheduled"))
    shares = [pc.mean(year.column("late").filter(pc.equal(month, number))).as_py() for number in (7, 9, 12)]
    assert shares == [pytest.approx(0.322, abs=0.001), pytest.approx(0.137, abs=0.001), pytest.approx(0.335, abs=0.001)]


def test_a_flight_has_the_facts_of_its_own_row_its_plane_and_the_weather_of_the_hour_before(year: pa.Table) -> None:
    chosen = year.filter(pc.and_(pc.equal(year.column("flight"), 1545), pc.equal(year.column("carrier"), "UA")))
    (first,) = [row for row in chosen.to_pylist() if row["scheduled"] == datetime(2013, 1, 1, 5, 15)]
    expected: dict[str, Any] = {
        "tailnum": "N14228", "origin": "EWR", "dest": "IAH", "arrival_minute": 8 * 60 + 19, "distance_miles": 1400,
        "scheduled_minutes": 244, "departures_in_hour": 2, "temperature_f": 39.92, "plane_age_years": 14, "seats": 149,
        "engine": "Turbo-fan", "late": False,
    }  # fmt: skip
    assert {name: first[name] for name in expected} == expected  # it was 39.92 °F at 4, and 39.02 °F at 5


def test_the_scheduled_duration_knows_zones_and_summer_time(year: pa.Table) -> None:
    minutes = year.column("scheduled_minutes")
    assert (pc.min(minutes).as_py(), pc.max(minutes).as_py()) == (50, 700)
    for dest, summer in [("PHX", 7), ("SJU", 7), ("LAX", 7)]:
        of_dest = pc.equal(year.column("dest"), dest)
        by_month = [
            pc.mean(minutes.filter(pc.and_(of_dest, pc.equal(pc.month(year.column("scheduled")), month)))).as_py()
            for month in (1, summer)
        ]
        assert abs(by_month[0] - by_month[1]) < 30, f"{dest}: an hour's jump means a wrong zone, found {by_month}"


def test_the_timetable_counts_cancelled_flights_as_well(warehouse: Path, year: pa.Table) -> None:
    import pyarrow.parquet as pq

    flights = pq.read_table(warehouse / "flights.parquet", columns=["origin", "time_hour", "arr_delay"])
    hours = flights.group_by(["origin", "time_hour"]).aggregate([("arr_delay", "count"), ([], "count_all")])
    assert pc.max(year.column("departures_in_hour")).as_py() == pc.max(hours.column("count_all")).as_py()
    assert pc.sum(hours.column("count_all")).as_py() == 336_776


def test_ingesting_again_writes_nothing_and_repairs_what_is_missing(project: Project, warehouse: Path) -> None:
    def stamps() -> dict[str, int]:
        return {path.name: path.stat().st_mtime_ns for path in warehouse.iterdir()}

    before, told = stamps(), list[str]()
    assert project.source().ingest(warehouse, told.append)["flights"] == 336_776
    assert (stamps(), told) == (before, ["the warehouse is up to date: 336,776 flights"])
    (warehouse / "planes.parquet").unlink()
    assert project.source().ingest(warehouse, told.append)["planes"] == 3_322
    assert (warehouse / "planes.parquet").exists()
    assert not [path for path in warehouse.iterdir() if path.name.startswith(".")]


def test_events_before_any_ingest_say_what_to_do(project: Project, tmp_path: Path) -> None:
    connection = connect()
    with pytest.raises(FileNotFoundError, match="has no flights, weather, planes, airports: ingest the project"):
        project.source().events(connection, tmp_path)
    connection.disconnect()


def test_a_snapshot_of_the_project_encodes_without_a_refused_row(
    project: Project, events: ibis.Table, tmp_path: Path
) -> None:
    windows = choose_windows(date(2013, 4, 1), project.label, project.split, earliest_day(events, project.schema))
    snapshot = take_snapshot(tmp_path, events, windows, project.schema, project.label, project.name)
    assert snapshot.manifest.rows_by_part == {"train": 51_707, "validation": 12_470, "test": 12_842}
    schema = fit_schema(project.schema, snapshot.table("train"))
    encoded = Encoder(schema).encode_rows(snapshot.records("test", project.schema.names))
    assert encoded.shape == (12_842, len(schema.columns))
