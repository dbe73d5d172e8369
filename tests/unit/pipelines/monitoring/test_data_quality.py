from dataclasses import replace

import numpy as np
import pytest

from pipelines.monitoring.data_quality import DataQuality, find_faults
from pipelines.monitoring.day_summaries import Days
from pipelines.monitoring.drift_limits import DriftLimits
from tests.fixtures.drifting_days import COLUMNS, MadeRows, made_layout, made_rows, summaries

LIMITS = DriftLimits(sources={"planes": ("engine", "age"), "weather": ("temperature", "pressure")})
HISTORY = made_rows(60)
LAYOUT = made_layout(HISTORY)
REFERENCE = summaries(LAYOUT, HISTORY)


def _found(rows: MadeRows, unseen: dict[str, dict[str, int]] | None = None) -> tuple[DataQuality, ...]:
    return find_faults(LAYOUT, REFERENCE, summaries(LAYOUT, rows), LIMITS, unseen=unseen)


def test_days_of_the_same_world_have_no_faults() -> None:
    later = made_rows(120, seed=4)
    assert [fault for day in range(120) for fault in _found(later.of(day, day + 1))] == []


def test_a_change_of_the_world_is_no_fault_of_the_data() -> None:
    rows = made_rows(1, seed=5)
    rows.column("distance")[:] += 900
    rows.column("carrier")[:400] = 2
    assert _found(rows) == ()


def test_a_column_that_is_suddenly_missing_is_named() -> None:
    rows = made_rows(1, seed=5)
    rows.column("distance")[:] = np.nan
    (fault,) = _found(rows)
    assert (fault.kind, fault.columns, fault.severity) == ("missing", ("distance",), "critical")
    assert "missing in 100.0% of the rows, on the worst reference day in 0.0%" in fault.reason


def test_personal_columns_that_the_log_masks_are_not_missing_and_hide_nothing() -> None:
    rows = made_rows(1, seed=5)
    for name in ("engine", "age", "distance"):
        rows.column(name)[:] = np.nan
    unit = summaries(LAYOUT, rows)
    masked = frozenset({"engine", "age"})
    (fault,) = find_faults(LAYOUT, REFERENCE, unit, LIMITS, masked=masked)
    assert (fault.kind, fault.columns) == ("missing", ("distance",))


def test_columns_that_go_missing_in_the_same_rows_are_a_broken_join_of_their_source() -> None:
    rows = made_rows(1, seed=5)
    rows.features[:400, [COLUMNS.index("engine"), COLUMNS.index("age")]] = np.nan
    (fault,) = _found(rows)
    assert (fault.kind, fault.columns, fault.source) == ("broken_join", ("engine", "age"), "planes")
    assert fault.severity == "critical"


def test_columns_that_go_missing_in_different_rows_are_two_faults() -> None:
    rows = made_rows(1, seed=5)
    rows.column("distance")[:300] = np.nan
    rows.column("minutes")[300:] = np.nan
    assert [(fault.kind, fault.columns) for fault in _found(rows)] == [
        ("missing", ("distance",)),
        ("missing", ("minutes",)),
    ]


@pytest.mark.parametrize(("factor", "name"), [(1.609344, "kilometres for miles"), (1000.0, "a thousand times")])
def test_another_unit_is_named_with_its_factor(factor: float, name: str) -> None:
    rows = made_rows(1, seed=5)
    rows.column("distance")[:] *= factor
    (fault,) = _found(rows)
    assert (fault.kind, fault.columns) == ("unit_change", ("distance",))
    assert f"{name}: the values are {factor:.3g} times" in fault.reason


def test_a_scale_that_has_no_name_is_told_by_its_factor() -> None:
    rows = made_rows(1, seed=5)
    rows.column("distance")[:] *= 7.3
    (fault,) = _found(rows)
    assert fault.kind == "unit_change"
    assert "times what they were" in fault.reason


def test_a_stuck_sensor_is_named_with_its_value_also_where_the_weather_is_ignored() -> None:
    rows = made_rows(1, seed=5)
    rows.column("pressure")[:] = 1013
    (fault,) = _found(rows)
    assert (fault.kind, fault.columns) == ("stuck", ("pressure",))
    assert "are 1013" in fault.reason


def test_two_columns_that_were_exchanged_are_named_together() -> None:
    rows = made_rows(1, seed=5)
    places = [COLUMNS.index("distance"), COLUMNS.index("minutes")]
    rows.features[:, places] = rows.features[:, places[::-1]]
    (fault,) = _found(rows)
    assert (fault.kind, fault.columns) == ("swapped", ("distance", "minutes"))


def _repeated(unit: Days, times: int) -> Days:
    """A day on which each row was seen so many times."""
    counts = {"rows": unit.rows, "missing": unit.missing, "joint_missing": unit.joint_missing}
    many = {name: value * times for name, value in counts.items()}
    return replace(unit, counts=tuple(each * times for each in unit.counts), **many)  # type: ignore[arg-type]


def _humid(days: int, seed: int) -> MadeRows:
    """The pressure is a dew point: some degrees below the temperature, and as changeable."""
    rows = made_rows(days, seed=seed)
    below = np.random.default_rng(seed).uniform(2, 12, days)[rows.days - rows.days[0]]
    rows.column("pressure")[:] = rows.column("temperature") - below
    return rows


@pytest.mark.parametrize("times", [1, 10_000])
def test_columns_that_are_like_each_other_on_strange_days_are_not_swapped_however_many_rows_there_are(
    times: int,
) -> None:
    history, later = _humid(60, seed=0), _humid(120, seed=4)
    layout = made_layout(history)
    reference = summaries(layout, history)
    days = summaries(layout, later)
    units = [_repeated(days.take([place]), times) for place in range(len(days))]
    assert [fault for unit in units for fault in find_faults(layout, reference, unit, LIMITS)] == []


@pytest.mark.parametrize("names", [("distance", "minutes"), ("minutes", "age"), ("age", "pressure")])
def test_exchanged_columns_are_found_on_every_day_however_many_rows_there_are(names: tuple[str, str]) -> None:
    rows = made_rows(30, seed=5)
    places = [COLUMNS.index(name) for name in names]
    rows.features[:, places] = rows.features[:, places[::-1]]
    days = summaries(LAYOUT, rows)
    for place in range(len(days)):
        for times in (1, 10_000):
            faults = find_faults(LAYOUT, REFERENCE, _repeated(days.take([place]), times), LIMITS)
            assert [(fault.kind, fault.columns) for fault in faults if fault.kind == "swapped"] == [("swapped", names)]


def test_words_of_another_column_are_a_swap_and_new_words_are_unseen() -> None:
    rows = made_rows(1, seed=5)
    rows.features[:, :2] = np.nan
    unseen = {"carrier": {"jet": 300, "prop": 300}, "engine": {"AA": 400, "UA": 200}}
    (fault,) = _found(rows, unseen)
    assert (fault.kind, fault.columns) == ("swapped", ("carrier", "engine"))
    rows = made_rows(1, seed=5)
    rows.column("carrier")[:300] = np.nan
    (fault,) = _found(rows, {"carrier": {"Delta": 200, "United": 100}})
    assert (fault.kind, fault.severity) == ("unseen_words", "warning")
    assert "Delta, United" in fault.reason


def test_too_few_rows_say_nothing() -> None:
    rows = made_rows(1, seed=5)
    rows.column("distance")[:] = np.nan
    few = MadeRows(*(column[:100] for column in rows))
    assert _found(few) == ()
