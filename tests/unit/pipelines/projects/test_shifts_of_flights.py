"""The rules of flight_delay on its real year: no honest month is stopped, and what is planted is."""

from collections.abc import Callable, Iterator
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest

from pipelines.data import faults, history, shifts
from pipelines.data.profile import Profile, profile
from pipelines.data.rules import Failure
from pipelines.data.schema import PART_COLUMN
from pipelines.data.snapshots import read_events
from pipelines.data.sources import connect
from pipelines.data.windows import Window, Windows, choose_windows
from pipelines.projects import Project, load_project

FOLDER = Path(__file__).resolve().parents[4] / "projects" / "flight_delay"
FIRST = date(2013, 1, 1)
MONTHS = [date(2013, month, 1) for month in range(4, 13)] + [date(2013, 12, 31)]
DEMO = [date(2013, 4, 1), date(2013, 7, 1), date(2013, 7, 8)]
WEATHER = ["temperature_f", "dew_point_f", "humidity_pct", "wind_direction_deg", "wind_speed_mph", "precipitation_in"]
Change = Callable[[pa.Table], pa.Table]


@pytest.fixture(scope="module")
def project() -> Project:
    return load_project(FOLDER)


@pytest.fixture(scope="module")
def year(project: Project, tmp_path_factory: pytest.TempPathFactory) -> Iterator[pa.Table]:
    warehouse, connection = tmp_path_factory.mktemp("warehouse"), connect()
    project.source().ingest(warehouse, lambda _: None)
    events = project.source().events(connection, warehouse)
    yield read_events(events, project.schema, project.label, Window(FIRST, date(2014, 1, 1)))
    connection.disconnect()


class Taken:
    """A snapshot as of a date, of the year as `change` leaves it."""

    def __init__(self, project: Project, year: pa.Table, as_of: date, change: Change = lambda table: table) -> None:
        self.windows: Windows = choose_windows(as_of, project.label, project.split, FIRST)
        whole = self.windows.whole
        days = _days(changed := change(year.filter(_between(_days(year), whole))))
        kept = _between(days, whole)
        days = days[np.asarray(kept)]
        parts = np.select(
            [days < np.datetime64(self.windows.train.end), days < np.datetime64(self.windows.validation.end)],
            ["train", "validation"],
            "test",
        )
        self.table = changed.filter(kept).append_column(PART_COLUMN, pa.array(parts))
        self.profile: Profile = profile(self.table, self.windows, project.schema, project.label)


def _days(table: pa.Table) -> Any:
    return np.asarray(table.column("scheduled").to_numpy(), dtype="datetime64[D]")


def _between(days: Any, window: Window) -> pa.Array:
    return pa.array((days >= np.datetime64(window.start)) & (days < np.datetime64(window.end)))


def judge(project: Project, found: Taken, accepted: Taken | None) -> tuple[Failure, ...]:
    rules = project.validation
    alone = faults.faults(found.table, found.windows, project.schema, project.label, rules)
    if accepted is None:
        return alone
    past = history.rewritten(
        (found.table, found.windows), (accepted.table, accepted.windows), "scheduled", rules.shifts
    )
    return (*alone, *shifts.shifts(found.profile, accepted.profile, rules.shifts), *past)


@pytest.mark.parametrize("dates", [MONTHS, DEMO], ids=["each month", "the demonstration"])
def test_no_honest_snapshot_of_the_year_is_stopped(project: Project, year: pa.Table, dates: list[date]) -> None:
    accepted = None
    for as_of in dates:
        found = Taken(project, year, as_of)
        assert judge(project, found, accepted) == (), as_of
        accepted = found


def test_a_winter_is_not_held_against_the_summer(project: Project, year: pa.Table) -> None:
    july, december = Taken(project, year, date(2013, 8, 1)), Taken(project, year, date(2013, 12, 31))
    for found, accepted in ((december, july), (july, december)):
        assert shifts.shifts(found.profile, accepted.profile, project.validation.shifts) == ()


def scaled(column: str, factor: float, offset: float = 0.0) -> Change:
    def change(table: pa.Table) -> pa.Table:
        values = pc.add(pc.multiply(table.column(column).cast("double"), factor), offset)
        return table.set_column(table.column_names.index(column), column, values)

    return change


def lost(columns: list[str], where: Callable[[pa.Table], Any]) -> Change:
    def change(table: pa.Table) -> pa.Table:
        for name in columns:
            column = table.column(name)
            gaps = pc.if_else(where(table), pa.scalar(None, column.type), column)
            table = table.set_column(table.column_names.index(name), name, gaps)
        return table

    return change


def replaced(column: str, make: Callable[[pa.ChunkedArray], Any]) -> Change:
    return lambda table: table.set_column(table.column_names.index(column), column, make(table.column(column)))


def doubled(table: pa.Table) -> pa.Table:
    twice = np.asarray(pc.equal(table.column("origin"), "EWR")).astype(int) + 1
    return table.take(pa.array(np.repeat(np.arange(table.num_rows), twice)))


PLANTED: dict[str, tuple[Change, str | None, bool]] = {
    # the change, the field that is named, and whether it is found in the newest fortnight alone as well
    "miles become kilometres": (scaled("distance_miles", 1.609), "distance_miles", True),
    "Fahrenheit becomes Celsius": (scaled("temperature_f", 5 / 9, -160 / 9), "temperature_f", True),
    "miles an hour become knots": (scaled("wind_speed_mph", 0.869), "wind_speed_mph", False),
    "minutes become hours": (scaled("scheduled_minutes", 1 / 60), "scheduled_minutes", True),
    "durations forget the zones": (scaled("scheduled_minutes", 1, -60), "scheduled_minutes", True),
    "local time becomes UTC": (
        replaced("scheduled", lambda c: pc.add(c, pa.scalar(timedelta(hours=4)))), "scheduled", True,
    ),
    "an hour of summer time": (
        replaced("scheduled", lambda c: pc.subtract(c, pa.scalar(timedelta(hours=1)))), "scheduled", True,
    ),
    "the weather of an airport is lost": (
        lost(WEATHER, lambda t: pc.equal(t.column("origin"), "LGA")), "humidity_pct", True,
    ),
    "a carrier is lost": (lambda t: t.filter(pc.not_equal(t.column("carrier"), "UA")), "carrier", True),
    "an airport is joined twice": (doubled, "origin", True),
    "airports are mixed up": (
        replaced("origin", lambda c: pc.if_else(pc.equal(c, "JFK"), "LGA", c)), "origin", True,
    ),
    "words lose their capitals": (replaced("dest", pc.utf8_lower), "dest", True),
    "labels are inverted": (replaced("late", pc.invert), None, True),
}  # fmt: skip


@pytest.fixture(scope="module")
def accepted(project: Project, year: pa.Table) -> Taken:
    return Taken(project, year, date(2013, 4, 1))


@pytest.mark.parametrize(("change", "field", "in_newest"), PLANTED.values(), ids=PLANTED.keys())
def test_a_planted_fault_is_found_in_all_rows_and_in_the_newest(
    project: Project, year: pa.Table, accepted: Taken, change: Change, field: str | None, in_newest: bool
) -> None:
    def named(planted: Change) -> set[str | None]:
        failures = judge(project, Taken(project, year, date(2013, 5, 1), planted), accepted)
        return {failure.column for failure in failures if failure.level == "error"}

    def of_newest(table: pa.Table) -> pa.Table:
        is_new = pa.array(_days(table) >= np.datetime64(date(2013, 4, 16)))
        changed = change(table.filter(is_new))
        return pa.concat_tables([table.filter(pc.invert(is_new)), changed], promote_options="permissive")

    assert field in named(change)
    assert (field in named(of_newest)) is in_newest
