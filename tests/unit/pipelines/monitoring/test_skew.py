"""Logged features are held against training's encoding bit by bit, and inputs against the source field by field."""

from collections.abc import Callable, Sequence
from datetime import date, datetime
from typing import Any

import msgspec
import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from contracts.encoder import Encoder
from contracts.input_schema import Field, InputSchema
from pipelines.monitoring.skew import REFUSED, WIDTH, Skew, SkewCount
from pipelines.monitoring.skew_metrics import skew_metrics
from pipelines.monitoring.source_records import SourceRecords

SCHEMA = InputSchema(
    version=1,
    entity="tailnum",
    time="scheduled",
    key=("tailnum", "scheduled"),
    fields=(
        Field(name="tailnum", kind="identifier"),
        Field(name="scheduled", kind="timestamp", parts=("minute_of_day", "day_of_week")),
        Field(name="carrier", kind="category", required=False, vocabulary=("AA", "UA", "WN")),
        Field(name="distance", kind="number", minimum=-10, maximum=5000, outside="clip", nan="missing"),
        Field(name="age", kind="number", required=False, minimum=0, maximum=60, outside="missing"),
        Field(name="is_heavy", kind="boolean", required=False),
        Field(name="income", kind="number", personal=True),
    ),
)
DISTANCE = SCHEMA.columns.index("distance")
KEY: dict[str, Any] = {"tailnum": "identifier", "scheduled": "timestamp"}
FIRST, AS_OF = date(2013, 8, 1), date(2013, 8, 5)
Changed = Callable[[np.ndarray[Any, Any]], None]


def record(number: int = 0, **changes: Any) -> dict[str, Any]:
    found = {
        "tailnum": f"N{number}",
        "scheduled": f"2013-08-0{1 + number % 3}T09:{number % 60:02}:00",
        "carrier": ("AA", "UA", None, "XX")[number % 4],
        "distance": 100.5 + number,
        "age": None if number % 5 == 0 else 7,
        "is_heavy": number % 2 == 0,
        "income": 1234.0,
    }
    return {name: value for name, value in (found | changes).items() if value is not ...}


def batch(
    records: Sequence[dict[str, Any]],
    schema: InputSchema = SCHEMA,
    change: Changed = lambda features: None,
    bundle: str = "b",
    version: str = "7",
) -> pa.RecordBatch:
    """As the log has them: the features that a server encoded by `schema`, with a `change`."""
    features = Encoder(schema).encode_rows(records).copy()
    change(features)
    features[:, SCHEMA.columns.index("income")] = np.nan
    days = [(datetime.fromisoformat(each["scheduled"]).date() - date(1970, 1, 1)).days for each in records]
    return pa.record_batch(
        {
            "prediction_id": [f"p{number:04}" for number in range(len(records))],
            "request_id": [f"r{number:04}" for number in range(len(records))],
            "version": [version] * len(records),
            "bundle": [bundle] * len(records),
            "inputs": [msgspec.json.encode({**each, "income": "masked:1"}).decode() for each in records],
            "features": [row.tobytes() for row in features],
            "day": pa.array(days, pa.int64()),
        }
    )


def skew_of(*batches: pa.RecordBatch, source: SourceRecords | None = None) -> Skew:
    count = SkewCount({"b": SCHEMA}.get, source)
    for each in batches:
        count.add(each)
    return count.result()


def source_of(records: Sequence[dict[str, Any]], known_until: date = AS_OF) -> SourceRecords:
    """As a warehouse has them: times as timestamps."""
    told = [{**each, "scheduled": datetime.fromisoformat(each["scheduled"])} for each in records]
    return SourceRecords(pa.Table.from_pylist(told), KEY, known_until)


RECORDS = [record(number) for number in range(60)]


def test_equal_code_is_equal_in_every_byte_whatever_is_missing() -> None:
    found = skew_of(batch(RECORDS))
    assert (found.sampled, found.encoding.rows, found.encoding.differing) == (60, 60, 0)
    assert found.encoding.columns == ()
    assert found.not_compared == {"income": "personal: the log has it masked"}


@settings(max_examples=60, deadline=None)
@given(row=st.integers(0, 59), column=st.sampled_from(range(len(SCHEMA.columns) - 1)), bit=st.integers(0, 31))
def test_one_flipped_bit_is_found_and_named(row: int, column: int, bit: int) -> None:
    def flip(features: np.ndarray[Any, Any]) -> None:
        features.view(np.uint32)[row, column] ^= np.uint32(1 << bit)

    found = skew_of(batch(RECORDS, change=flip)).encoding
    assert (found.differing, found.versions) == (1, {"7": 1})
    [skewed] = found.columns
    assert (skewed.column, skewed.rows) == (SCHEMA.columns[column], 1)
    [example] = skewed.examples
    assert (example.request_id, example.version) == (f"r{row:04}", "7")
    assert example.found != example.expected


def _reordered(schema: InputSchema) -> InputSchema:
    return _with(schema, "carrier", vocabulary=("WN", "UA", "AA"))


def _with(schema: InputSchema, name: str, **changes: Any) -> InputSchema:
    fields = (msgspec.structs.replace(each, **changes) if each.name == name else each for each in schema.fields)
    return msgspec.structs.replace(schema, fields=tuple(fields))


def test_another_order_of_the_vocabulary_is_found_with_the_words() -> None:
    [skewed] = skew_of(batch(RECORDS, schema=_reordered(SCHEMA))).encoding.columns
    assert (skewed.column, skewed.rows, skewed.one_missing) == ("carrier", 15, 0)  # UA has the same code in both
    assert {(example.found, example.expected) for example in skewed.examples} == {("WN", "AA")}
    assert skewed.largest is None  # codes have no distance


def test_a_scale_is_found_with_its_largest_difference() -> None:
    def scale(features: np.ndarray[Any, Any]) -> None:
        features[:, DISTANCE] *= np.float32(1.609344)

    [skewed] = skew_of(batch(RECORDS, change=scale)).encoding.columns
    assert (skewed.column, skewed.rows) == ("distance", 60)
    assert skewed.largest == pytest.approx(159.5 * 0.609344, rel=1e-5)
    assert [example.prediction_id for example in skewed.examples] == [f"p{number:04}" for number in range(5)]


def test_zeros_of_another_sign_and_nans_of_another_kind_differ_and_are_shown_by_their_bits() -> None:
    def odd(features: np.ndarray[Any, Any]) -> None:
        features[0, DISTANCE] = -0.0
        features.view(np.uint32)[1, DISTANCE] = 0x7FC00001

    rows = [record(0, distance=0.0), record(1, distance=None)]
    # required, and nan: missing: the client sent NaN, which is null in the log
    sent = [rows[0], {**rows[1], "distance": float("nan")}]
    assert skew_of(batch(sent)).encoding.differing == 0
    [skewed] = skew_of(batch(sent, change=odd)).encoding.columns
    assert skewed.one_missing == 0
    assert [(each.found, each.expected) for each in skewed.examples] == [
        ("-0.0", "0.0"),
        ("missing (0x7fc00001)", "missing (0x7fc00000)"),
    ]


def test_a_value_that_only_one_side_has_is_counted_so() -> None:
    def fill(features: np.ndarray[Any, Any]) -> None:
        features[np.isnan(features)] = 0.0

    columns = {each.column: each for each in skew_of(batch(RECORDS, change=fill)).encoding.columns}
    assert (columns["age"].rows, columns["age"].one_missing, columns["age"].largest) == (12, 12, None)


def test_what_training_refuses_and_rows_of_another_width_differ_as_a_whole() -> None:
    rows = batch([record(0), record(1), record(2)]).to_pylist()
    rows[0]["inputs"] = '{"tailnum": "N0", "carier": "AA"}'
    rows[1]["features"] = rows[1]["features"] + b"\0\0\0\0"
    found = skew_of(pa.RecordBatch.from_pylist(rows)).encoding
    assert (found.rows, found.differing) == (3, 2)
    assert {each.column: each.rows for each in found.columns} == {REFUSED: 1, WIDTH: 1}


def test_each_row_is_encoded_by_the_bundle_that_answered_it() -> None:
    schemas = {"b": SCHEMA, "c": _reordered(SCHEMA)}
    count = SkewCount(schemas.get, None)
    for bundle, schema in schemas.items():
        count.add(batch(RECORDS, schema=schema, bundle=bundle))
    count.add(batch(RECORDS, bundle="archived"))
    found = count.result()
    assert (found.sampled, found.encoding.rows, found.encoding.differing) == (180, 120, 0)
    assert found.without_bundle == {"archived": 60}


def test_clients_that_send_what_the_source_has_do_not_differ() -> None:
    found = skew_of(batch(RECORDS), source=source_of(RECORDS))
    assert (found.source.rows, found.source.differing, found.not_due, found.absent) == (60, 0, 0, 0)


def test_a_field_that_clients_send_otherwise_is_named_and_the_encoding_is_not_blamed() -> None:
    sent = [{**each, "carrier": "UA", "age": 7} for each in RECORDS[:10]] + RECORDS[10:]
    found = skew_of(batch(sent), source=source_of(RECORDS))
    assert found.encoding.differing == 0
    columns = {each.column: each for each in found.source.columns}
    assert set(columns) == {"carrier", "age"}
    assert (columns["age"].rows, columns["age"].one_missing) == (2, 2)
    assert (columns["carrier"].examples[0].found, columns["carrier"].examples[0].expected) == ("UA", "AA")


def test_an_hour_that_another_time_zone_shifts_is_found_in_both_parts() -> None:
    told = [{**each, "scheduled": each["scheduled"].replace("T09", "T23")} for each in RECORDS]
    schema = msgspec.structs.replace(SCHEMA, key=("tailnum",))
    source = SourceRecords(
        pa.Table.from_pylist([{**each, "scheduled": datetime.fromisoformat(each["scheduled"])} for each in told]),
        {"tailnum": "identifier"},
        AS_OF,
    )
    count = SkewCount({"b": schema}.get, source)
    count.add(batch(RECORDS))
    [skewed] = count.result().source.columns
    assert (skewed.column, skewed.rows, skewed.largest) == ("scheduled.minute_of_day", 60, 14 * 60.0)


def test_an_event_that_the_source_has_not_yet_is_not_known_and_a_late_one_is_compared_then() -> None:
    there, late = RECORDS[:40], RECORDS[40:]
    sent = batch([*there, *({**each, "distance": 1.0} for each in late)])
    before = skew_of(sent, source=source_of(there))
    assert (before.source.rows, before.source.differing, before.absent) == (40, 0, 20)
    after = skew_of(sent, source=source_of(RECORDS))
    assert (after.source.rows, after.source.differing, after.absent) == (60, 20, 0)


def test_an_event_that_is_not_due_is_no_match_even_if_it_is_there() -> None:
    found = skew_of(batch(RECORDS), source=source_of(RECORDS, known_until=date(2013, 8, 2)))
    assert (found.source.rows, found.not_due) == (20, 40)


def test_an_event_that_the_source_has_twice_is_compared_with_neither() -> None:
    found = skew_of(batch(RECORDS), source=source_of([*RECORDS, {**RECORDS[3], "age": 9}]))
    assert (found.source.rows, found.source.differing, found.ambiguous) == (59, 0, 1)


def test_a_field_that_the_source_lacks_is_said_and_not_compared() -> None:
    source = source_of([{name: value for name, value in each.items() if name != "age"} for each in RECORDS])
    found = skew_of(batch(RECORDS), source=source)
    assert found.source.differing == 0
    assert found.not_compared["age"] == "the source does not have it"


def test_what_the_source_has_and_the_schema_refuses_differs() -> None:
    schema = _with(SCHEMA, "age", outside="reject")
    count = SkewCount({"b": schema}.get, source_of([{**each, "age": 99} for each in RECORDS[:1]]))
    count.add(batch(RECORDS[:1]))
    assert [each.column for each in count.result().source.columns] == [REFUSED]


def test_batches_add_up_and_the_examples_are_the_first_ids_in_whatever_order_they_come() -> None:
    def scale(features: np.ndarray[Any, Any]) -> None:
        features[:, DISTANCE] *= 2

    whole = batch(RECORDS, change=scale)
    pieces = [whole.slice(start, 7) for start in range(0, 60, 7)]
    assert skew_of(whole) == skew_of(*pieces) == skew_of(*reversed(pieces))


def test_what_was_not_compared_has_no_count_of_differences_in_the_metrics() -> None:
    entry = {**msgspec.to_builtins(skew_of(batch(RECORDS))), "damaged": []}
    found = {(metric.name, metric.labels): metric.value for metric in skew_metrics(entry)}
    assert found["paceline_skew_rows_differing", ("encoding",)] == 0
    assert found["paceline_skew_rows_compared", ("source",)] == 0
    assert ("paceline_skew_rows_differing", ("source",)) not in found
