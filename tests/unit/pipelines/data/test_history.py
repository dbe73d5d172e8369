"""Events that an accepted snapshot had as well must be as they were."""

from datetime import date
from itertools import pairwise
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest

from pipelines.data.history import rewritten
from pipelines.data.rules import ShiftRules
from pipelines.data.windows import Window, Windows

RULES = ShiftRules()
FIRST = np.datetime64("2013-01-01T06:00", "us")


def windows(start: int, end: int) -> Windows:
    days = [date.fromordinal(date(2013, 1, 1).toordinal() + day) for day in (start, end - 2, end - 1, end)]
    train, validation, test = (Window(*pair) for pair in pairwise(days))
    return Windows(as_of=days[-1], train=train, validation=validation, test=test)


def events(start: int = 0, end: int = 40) -> tuple[pa.Table, Windows]:
    """Twenty rows a day, from day `start` up to and without `end`; the same day has the same rows in each."""
    days = np.repeat(np.arange(start, end), 20)
    number = np.tile(np.arange(20), end - start)
    random = np.random.default_rng(0).random((60, 20))
    table = pa.table(
        {
            "leaves": FIRST + days.astype("timedelta64[D]") + (30 * number).astype("timedelta64[m]"),
            "distance_km": 10 + 100 * random[days, number],
            "parcels": pa.array(number, mask=number % 9 == 7),
            "depot": pa.array(np.array(["north", "south", None], dtype=object)[number % 3]),
            "late": number % 5 == 0,
            "part": ["test" if day == end - 1 else "train" for day in days],
        }
    )
    return table, windows(start, end)


def changed(name: str, change: Any, *, since: int = 0, start: int = 5, end: int = 45) -> tuple[pa.Table, Windows]:
    table, of = events(start, end)
    column = table.column(name)
    is_new = pa.array(np.repeat(np.arange(start, end), 20) >= since)
    return table.set_column(table.column_names.index(name), name, pc.if_else(is_new, change(column), column)), of


def told(
    found: tuple[pa.Table, Windows], before: tuple[pa.Table, Windows] | None = None
) -> list[tuple[str, str | None]]:
    failures = rewritten(found, before or events(), "leaves", RULES)
    return [(failure.expectation, failure.column) for failure in failures]


def test_a_window_that_moved_on_has_the_same_past_though_its_parts_are_others() -> None:
    assert told(events(5, 45)) == []
    assert told(events(5, 45), events(0, 39)) == []


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("distance_km", lambda c: pc.multiply(c, 1.02)),
        ("distance_km", lambda c: pc.add(c, 0.5)),
        ("depot", pc.utf8_upper),
        ("late", pc.invert),
        ("parcels", lambda c: pc.fill_null(c, 0)),
    ],
    ids=["a unit that is 2 % off", "an offset", "capitals", "labels inverted", "gaps filled"],
)
def test_a_field_that_was_rewritten_is_told_however_little_it_moved(name: str, change: Any) -> None:
    assert told(changed(name, change)) == [("the same past values", name)]


def test_a_change_in_new_days_alone_rewrites_nothing() -> None:
    assert told(changed("distance_km", lambda c: pc.multiply(c, 2), since=40)) == []
    assert told(changed("distance_km", lambda c: pc.multiply(c, 2), since=38)) == [
        ("the same past values", "distance_km")
    ]


def test_float32_in_place_of_float64_is_no_other_value() -> None:
    table, of = events(5, 45)
    position = table.column_names.index("distance_km")
    assert told((table.set_column(position, "distance_km", table.column("distance_km").cast("float32")), of)) == []


def test_days_with_another_number_of_rows_are_counted_and_their_values_not_compared() -> None:
    table, of = events(5, 45)
    (failure,) = rewritten((table.filter(pc.not_equal(table.column("depot"), "north")), of), events(), "leaves", RULES)
    assert (failure.expectation, failure.level) == ("the same past events", "error")
    assert failure.found == "35 of 35 days with another number of rows (245 in all) of 2013-01-06 to 2013-02-09"
    assert failure.expected == "700 rows of the last accepted snapshot (limit 5%)"


def test_snapshots_without_a_day_in_common_have_nothing_to_compare() -> None:
    assert told(changed("distance_km", lambda c: pc.multiply(c, 2), start=41, end=50), events(0, 40)) == []
