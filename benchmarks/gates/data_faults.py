"""Faults of data, leaks and labels: what a pipeline upstream does to the events of flights, from a day on.

The champion was made before that day. The faulty rows are those of the challenger's validation and test windows, which
the hard case: what has not changed yet is three quarters of the snapshot.
"""

from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from benchmarks.gates.fault import Change, Fault, in_events

SINCE = datetime(2013, 6, 3)  # the day on which the champion was made: no row that it was judged by is touched
Values = Any


def _set(table: pa.Table, column: str, values: Values) -> pa.Table:
    array = pa.array(values) if isinstance(values, np.ndarray) else values
    return table.set_column(table.column_names.index(column), column, array)


def _late(table: pa.Table) -> pa.ChunkedArray:
    return pc.greater_equal(table["scheduled"], pa.scalar(SINCE, table["scheduled"].type))


def _since(column: str, of: Callable[[Values], Values]) -> Change:
    """Changes a column of the rows since the day."""

    def change(table: pa.Table) -> pa.Table:
        changed = of(table[column])
        return _set(
            table, column, pc.if_else(_late(table), changed.cast(table[column].type, safe=False), table[column])
        )

    return change


def _times(column: str, factor: float, plus: float = 0.0) -> Change:
    def scaled(values: Values) -> Values:
        return pc.add(pc.multiply(values.cast(pa.float64()), factor), plus)

    def change(table: pa.Table) -> pa.Table:
        return _since(column, scaled)(_set(table, column, table[column].cast(pa.float64())))

    return change


def _keep(mask: Callable[[pa.Table], Values]) -> Change:
    """Keeps the rows that `mask` marks, and all rows before the day."""
    return lambda table: table.filter(pc.or_(pc.invert(_late(table)), mask(table)))


def _shift(hours: int) -> Change:
    return _since("scheduled", lambda values: pc.add(values, pa.scalar(timedelta(hours=hours))))


def _swap(first: str, second: str) -> Change:
    def change(table: pa.Table) -> pa.Table:
        late = _late(table)
        both = [table[name].cast(pa.float64()) for name in (first, second)]
        swapped = _set(table, first, pc.if_else(late, both[1], both[0]))
        return _set(swapped, second, pc.if_else(late, both[0], both[1]))

    return change


def _doubled(share: float) -> Change:
    def change(table: pa.Table) -> pa.Table:
        rows = np.flatnonzero(_late(table).to_numpy(zero_copy_only=False))
        chosen = np.random.default_rng(1).random(len(rows)) < share
        return pa.concat_tables([table, table.take(pa.array(rows[chosen]))])

    return change


def _renumbered(table: pa.Table) -> pa.Table:
    """Rows of the training window come again in the test window, as other flights at another time."""
    at = table["scheduled"].to_numpy(zero_copy_only=False)
    old = np.flatnonzero((at >= np.datetime64("2013-05-01")) & (at < np.datetime64("2013-05-12")))
    again = table.take(pa.array(old[::2]))
    again = _set(
        again, "scheduled", pc.add(again["scheduled"], pa.scalar(timedelta(days=42))).cast(again["scheduled"].type)
    )
    return pa.concat_tables([table, again])


def _permuted(*columns: str) -> Change:
    """Facts of other rows: a join by the wrong key."""

    def change(table: pa.Table) -> pa.Table:
        late = np.flatnonzero(_late(table).to_numpy(zero_copy_only=False))
        order = np.arange(table.num_rows)
        order[late] = np.random.default_rng(2).permutation(late)
        for column in columns:
            table = _set(table, column, table[column].take(pa.array(order)))
        return table

    return change


def _from_label(column: str, of: Callable[[np.ndarray, np.ndarray], np.ndarray]) -> Change:
    """The column, in all rows, from what it was (floats) and the label (0 or 1)."""

    def change(table: pa.Table) -> pa.Table:
        before = table[column].cast(pa.float64()).to_numpy(zero_copy_only=False)
        label = table["late"].to_numpy(zero_copy_only=False).astype(float)
        return _set(table, column, pa.array(of(before.copy(), label), from_pandas=True))

    return change


def _noisy_label(before: np.ndarray, label: np.ndarray) -> np.ndarray:
    return np.clip(40 + 60 * label + np.random.default_rng(3).normal(0, 25, len(label)), 0, 100)


def _hidden_when_late(before: np.ndarray, label: np.ndarray) -> np.ndarray:
    hidden = (label == 1) & (np.random.default_rng(4).random(len(label)) < 0.4)
    return np.where(hidden, np.nan, before)


def _mean_of_day(table: pa.Table) -> pa.Table:
    """The share of late flights of the same airport and hour: known when the hour is over."""
    hours = table["scheduled"].to_numpy(zero_copy_only=False).astype("datetime64[h]").astype(str)
    names = np.char.add(hours, np.asarray(table["origin"].to_pylist(), dtype=str))
    _, place = np.unique(names, return_inverse=True)
    label = table["late"].to_numpy(zero_copy_only=False).astype(float)
    share = np.bincount(place, label) / np.bincount(place)
    return _set(table, "humidity_pct", pa.array(100 * share[place]))


def _label(of: Callable[[np.ndarray, pa.Table], np.ndarray], since: bool = True) -> Change:
    def change(table: pa.Table) -> pa.Table:
        label = table["late"].to_numpy(zero_copy_only=False).astype(bool)
        changed = of(label.copy(), table)
        late = _late(table).to_numpy(zero_copy_only=False)
        return _set(table, "late", pa.array(np.where(late, changed, label) if since else changed))

    return change


def _of_day(day: str) -> Callable[[pa.Table], np.ndarray]:
    return lambda table: table["scheduled"].to_numpy(zero_copy_only=False).astype("datetime64[D]") == np.datetime64(day)


def _absent_label(table: pa.Table) -> pa.Table:
    return _set(
        table, "late", pc.if_else(pa.array(_of_day("2013-06-18")(table)), pa.scalar(None, pa.bool_()), table["late"])
    )


def _carrier(name: str) -> Callable[[pa.Table], np.ndarray]:
    return lambda table: np.asarray(table["carrier"].to_pylist()) == name


def _shuffled(label: np.ndarray, table: pa.Table) -> np.ndarray:
    return np.random.default_rng(5).permutation(label)


def _some_infinite(values: Values) -> Values:
    return pa.array(np.where(np.arange(len(values)) % 500 == 0, np.inf, values.to_numpy(zero_copy_only=False)))


DATA = (
    Fault("distance in kilometres", "data", "miles become kilometres", in_events(_times("distance_miles", 1.609))),
    Fault(
        "temperature in °C", "data", "Fahrenheit becomes Celsius", in_events(_times("temperature_f", 5 / 9, -160 / 9))
    ),
    Fault("wind in m/s", "data", "miles an hour become metres a second", in_events(_times("wind_speed_mph", 0.447))),
    Fault("pressure in inHg", "data", "millibars become inches", in_events(_times("pressure_mbar", 0.02953))),
    Fault("duration in hours", "data", "minutes become hours", in_events(_times("scheduled_minutes", 1 / 60))),
    Fault("visibility in kilometres", "data", "miles become kilometres", in_events(_times("visibility_miles", 1.609))),
    Fault("times in UTC", "data", "scheduled departures are 4 hours later", in_events(_shift(4))),
    Fault("summer time twice", "data", "scheduled departures are an hour later", in_events(_shift(1))),
    Fault("a day late", "data", "events carry the date of the next day", in_events(_shift(24))),
    Fault(
        "weather of other hours",
        "data",
        "weather is joined to the wrong rows",
        in_events(
            _permuted(
                "temperature_f", "dew_point_f", "humidity_pct", "wind_speed_mph", "precipitation_in", "visibility_miles"
            )
        ),
    ),
    Fault(
        "weather is gone",
        "data",
        "the join with the weather finds nothing",
        in_events(_since("humidity_pct", lambda values: pa.nulls(len(values), pa.float64()))),
    ),
    Fault(
        "planes of others",
        "data",
        "plane facts are joined by the wrong key",
        in_events(_permuted("plane_age_years", "seats", "engine")),
    ),
    Fault("rows doubled", "data", "a join doubles each row", in_events(_doubled(1.0))),
    Fault("some rows doubled", "data", "a join doubles 3 % of the rows", in_events(_doubled(0.03))),
    Fault(
        "a carrier is gone",
        "data",
        "no row of UA arrives any more",
        in_events(_keep(lambda t: pc.not_equal(t["carrier"], "UA"))),
    ),
    Fault(
        "an airport is gone",
        "data",
        "no row of LGA arrives any more",
        in_events(_keep(lambda t: pc.not_equal(t["origin"], "LGA"))),
    ),
    Fault(
        "half of the rows",
        "data",
        "every other row is lost",
        in_events(_keep(lambda t: pa.array(np.arange(t.num_rows) % 2 == 0))),
    ),
    Fault(
        "three days are gone",
        "data",
        "no row of three days of the test window",
        in_events(
            _keep(
                lambda t: pa.array(
                    ~np.isin(
                        t["scheduled"].to_numpy(zero_copy_only=False).astype("datetime64[D]"),
                        np.array(["2013-06-20", "2013-06-21", "2013-06-22"], dtype="datetime64[D]"),
                    )
                )
            )
        ),
    ),
    Fault("a stuck sensor", "data", "humidity says 70 and nothing else", in_events(_times("humidity_pct", 0.0, 70.0))),
    Fault(
        "zeros for missing",
        "data",
        "a missing plane age becomes 0",
        in_events(lambda table: _set(table, "plane_age_years", pc.fill_null(table["plane_age_years"], 0))),
    ),
    Fault(
        "columns swapped",
        "data",
        "temperature and dew point change places",
        in_events(_swap("temperature_f", "dew_point_f")),
    ),
    Fault(
        "minutes swapped",
        "data",
        "arrival minute and duration change places",
        in_events(_swap("arrival_minute", "scheduled_minutes")),
    ),
    Fault(
        "words renamed", "data", "carriers are written in small letters", in_events(_since("carrier", pc.utf8_lower))
    ),
    Fault(
        "words exploded",
        "data",
        "destinations carry the flight's number",
        in_events(
            lambda table: _set(
                table, "dest", pc.binary_join_element_wise(table["dest"], table["flight"].cast(pa.string()), "-")
            )
        ),
    ),
    Fault(
        "an infinite value",
        "data",
        "a division by zero upstream",
        in_events(_since("wind_speed_mph", _some_infinite)),
    ),
    Fault("rows of the past again", "data", "training rows come again in the test window", in_events(_renumbered)),
)
LEAKS = (
    Fault(
        "the label with noise",
        "leak",
        "a feature is made after the arrival",
        in_events(_from_label("humidity_pct", _noisy_label)),
    ),
    Fault(
        "missing when late",
        "leak",
        "a plane's age is missing for 40 % of late flights",
        in_events(_from_label("plane_age_years", _hidden_when_late)),
    ),
    Fault(
        "a mean over the hour", "leak", "the late share of the same hour, known only after it", in_events(_mean_of_day)
    ),
)
LABELS = (
    Fault("labels inverted", "labels", "late means on time", in_events(_label(lambda label, _: ~label))),
    Fault(
        "labels of a carrier inverted",
        "labels",
        "for UA late means on time",
        in_events(_label(lambda label, table: label ^ _carrier("UA")(table))),
    ),
    Fault("labels shuffled", "labels", "labels belong to other rows", in_events(_label(_shuffled, since=False))),
    Fault(
        "labels not yet known",
        "labels",
        "flights of the last 4 days count as on time",
        in_events(
            _label(
                lambda label, table: (
                    label & (table["scheduled"].to_numpy(zero_copy_only=False) < np.datetime64("2013-06-26"))
                )
            )
        ),
    ),
    Fault("a day without labels", "labels", "all labels of a day are missing", in_events(_absent_label)),
    Fault("one class", "labels", "nothing is late any more", in_events(_label(lambda label, _: label & False))),
    Fault(
        "another definition",
        "labels",
        "every second flight on time counts as late",
        in_events(_label(lambda label, _: label | (np.arange(len(label)) % 2 == 0))),
    ),
)
