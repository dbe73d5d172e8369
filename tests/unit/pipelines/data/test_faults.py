"""Each fault of a snapshot by itself, planted in two months of deliveries, and found with its day, part or field."""

from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Any

import ibis
import msgspec
import pyarrow as pa
import pytest

from contracts.input_schema import Field
from pipelines.data.faults import faults
from pipelines.data.rules import Failure, ValidationRules
from pipelines.data.schema import DeclaredSchema, Label
from pipelines.data.snapshots import Snapshot

Rows = list[dict[str, Any]]
Find = Callable[..., tuple[Failure, ...]]


@pytest.fixture
def find(
    as_events: Callable[[Rows], ibis.Table], take: Callable[..., Snapshot], declared: DeclaredSchema, label: Label
) -> Find:
    def found(
        rows: Rows, rules: ValidationRules | None = None, schema: DeclaredSchema = declared
    ) -> tuple[Failure, ...]:
        snapshot = take(as_events(rows))
        return faults(snapshot.table(), snapshot.manifest.windows, schema, label, rules or ValidationRules())

    return found


def told(found: tuple[Failure, ...]) -> list[tuple[str, str | None, str]]:
    return [(failure.expectation, failure.column, failure.level) for failure in found]


def on(row: dict[str, Any], *days: str) -> bool:
    return row["leaves"].date().isoformat() in days


def test_usual_rows_have_only_the_vocabulary_that_is_larger_than_what_is_kept(find: Find, rows: Rows) -> None:
    (failure,) = find(rows)
    assert told((failure,)) == [("room for each word", "town", "warning")]
    assert failure.found == "4 words, the rarest of them in 15.0% of the rows"


def test_days_without_a_row_are_named_where_such_days_usually_have_rows(find: Find, rows: Rows) -> None:
    kept = [row for row in rows if not on(row, "2013-01-16", "2013-02-03")]
    (failure, _) = find(kept)
    assert told((failure,)) == [("rows each day", None, "error")]
    assert failure.found == "no row on 2013-01-16, 2013-02-03"
    assert find(kept, ValidationRules(empty_days="warning"))[0].level == "warning"


def test_a_day_of_the_week_that_never_has_rows_is_no_gap_and_few_rows_are_chance(find: Find, rows: Rows) -> None:
    no_sundays = [row for row in rows if row["leaves"].weekday() != 6]
    assert told(find(no_sundays)) == [("room for each word", "town", "warning")]
    few = [row for row in rows if row["parcel"] % 20 < 8 and not on(row, "2013-01-16")]
    assert "rows each day" not in {failure.expectation for failure in find(few)}


def test_a_day_with_many_times_its_rows_is_named(find: Find, rows: Rows) -> None:
    again = [
        {**row, "parcel": row["parcel"] + 10_000 * copy} for row in rows if on(row, "2013-01-16") for copy in range(6)
    ]
    (failure, _) = find([*rows, *again])
    assert told((failure,)) == [("usual rows each day", None, "error")]
    assert (failure.found, failure.expected) == ("140 rows on 2013-01-16", "at most 5 times the 20 that are usual")


def test_days_whose_labels_are_all_missing_are_named_and_single_missing_labels_are_not_a_day(
    find: Find, rows: Rows
) -> None:
    for row in rows:
        row["late"] = None if on(row, "2013-02-01", "2013-02-02") or row["parcel"] == 7 else row["late"]
    (failure, _) = find(rows)
    assert told((failure,)) == [("labels each day", "late", "error")]
    assert failure.found == "no label at all on 2013-02-01, 2013-02-02"


def test_a_part_with_one_outcome_only_is_named(find: Find, rows: Rows) -> None:
    start = datetime(2013, 2, 12)  # of the validation window
    for row in rows:
        row["late"] = row["late"] and not start <= row["leaves"] < start + timedelta(days=7)
    (failure, _) = find(rows)
    assert told((failure,)) == [("both outcomes", "late", "error")]
    assert failure.found == "0 of 140 validation rows with the outcome 1"
    for row in rows:
        row["late"] = True
    assert [failure.found for failure in find(rows) if failure.expectation == "both outcomes"] == [
        "840 of 840 train rows with the outcome 1",
        "140 of 140 validation rows with the outcome 1",
        "140 of 140 test rows with the outcome 1",
    ]


def test_infinite_numbers_are_counted(find: Find, rows: Rows) -> None:
    rows[3]["wind_kmh"], rows[4]["wind_kmh"] = float("inf"), float("-inf")
    (_, failure) = find(rows)
    assert told((failure,)) == [("finite numbers", "wind_kmh", "error")]
    assert failure.found == "2 of 1,120 rows are infinite"


def test_a_field_with_one_value_is_a_warning_and_a_personal_one_is_not_shown(
    find: Find, rows: Rows, declared: DeclaredSchema
) -> None:
    for row in rows:
        row |= {"distance_km": 12, "express": True, "depot": "north", "wind_kmh": None if row["parcel"] % 2 else 7.5}
    constant = [failure for failure in find(rows) if failure.expectation == "more than one value"]
    assert {failure.column for failure in constant} == {"distance_km", "express", "depot", "wind_kmh"}
    assert {failure.level for failure in constant} == {"warning"}
    assert constant[0].found == "north in all rows that have a value"
    hidden = [Field(name="distance_km", kind="number", personal=True)]
    personal = DeclaredSchema(
        version=1,
        entity="van",
        time="leaves",
        key=("parcel",),
        fields=(*declared.fields[:3], *hidden),
    )
    assert [failure.found for failure in find(rows, schema=personal)] == ["one value in all rows that have a value"]


def test_a_category_of_words_that_occur_once_is_an_identifier(find: Find, rows: Rows) -> None:
    for row in rows[::3]:
        row["town"] = f"order {row['parcel']}"
    (failure,) = find(rows)
    assert told((failure,)) == [("words, not names", "town", "error")]
    assert failure.found == "33.4% of the rows with a word that no other row has"
    allowed = find(rows, ValidationRules(rare_words_share_maximum=0.4))
    assert told(allowed) == [("room for each word", "town", "warning")]


def test_events_after_the_windows_are_never_seen_and_another_time_after_the_as_of_is_a_warning(
    as_events: Callable[[Rows], ibis.Table],
    take: Callable[..., Snapshot],
    rows: Rows,
    declared: DeclaredSchema,
    label: Label,
) -> None:
    future = {**rows[0], "parcel": 99_999, "leaves": datetime(2030, 1, 1)}
    snapshot = take(as_events([*rows, future]))
    table, windows = snapshot.table(), snapshot.manifest.windows
    assert table.num_rows == 1120
    assert max(table.column("leaves").to_pylist()) < datetime(2013, 2, 26)
    promised = [
        moment + timedelta(days=365 * (row < 2)) for row, moment in enumerate(table.column("leaves").to_pylist())
    ]
    schema = msgspec.structs.replace(declared, fields=(*declared.fields, Field(name="promised", kind="timestamp")))
    found = faults(table.append_column("promised", pa.array(promised)), windows, schema, label, ValidationRules())
    (_, failure) = found
    assert told((failure,)) == [("no time after the as-of", "promised", "warning")]
    assert failure.found == "2 of 1,120 rows lie after 2013-02-28"
