"""Bodies that are read straight to typed rows say what they say when they are read the general way."""

import json
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from contracts.encoder import Encoder, InvalidRecordError
from contracts.input_schema import Field, InputSchema
from contracts.masking import Mask
from serving.columns import Columns
from serving.protocols import records
from serving.protocols.typed_records import TypedRecords
from tests.fixtures.bundles import TINY_SCHEMA, tiny_record

TYPED = TypedRecords(TINY_SCHEMA)
ENCODER = Encoder(TINY_SCHEMA)
FIELDS = [field.name for field in TINY_SCHEMA.fields]

scalars = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(allow_nan=False, allow_infinity=False), st.text(max_size=6)
)
usual = st.integers(0, 50).map(tiny_record)
odd = st.builds(lambda record, name, value: {**record, name: value}, usual, st.sampled_from([*FIELDS, "no"]), scalars)
lacking = st.builds(
    lambda record, name: {key: record[key] for key in record if key != name}, usual, st.sampled_from(FIELDS)
)
bodies = st.lists(usual | odd | lacking, min_size=1, max_size=8).map(lambda some: {"records": some})


def encoded(found: Any) -> Any:
    try:
        is_typed = isinstance(found, Columns)
        features = ENCODER.encode_columns(found.by_name) if is_typed else ENCODER.encode_rows(found)
    except InvalidRecordError as refused:
        return refused.problems
    return features.tobytes()


@given(bodies)
@settings(max_examples=300, deadline=None)
def test_records_are_refused_or_encoded_as_they_are_the_general_way(body: dict[str, Any]) -> None:
    content = msgspec.json.encode(body)
    found = TYPED.decode(content)
    general = records.decode(content)
    if found is None:  # the general way tells
        assert any(record.keys() != set(FIELDS) for record in general) or general != _of_kinds(general)
        return
    assert list(found) == general
    assert [list(map(type, record.values())) for record in found] == [
        [type(record[name]) for name in FIELDS] for record in general
    ]
    assert encoded(found) == encoded(general)
    assert [json.loads(msgspec.json.encode(row)) for row in found.rows()] == general


def _of_kinds(some: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """`some` without the values that are of another kind than their fields'."""
    kinds = {"number": (float, int), "category": (str,), "timestamp": (str,), "boolean": (bool,)}
    of = {field.name: kinds.get(field.kind, (str, int)) for field in TINY_SCHEMA.fields}
    return [
        {name: value for name, value in record.items() if value is None or type(value) in of.get(name, ())}
        for record in some
    ]


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"[]",
        b'{"records": []}',
        b'{"records": [{}]}',
        b'{"records": 1}',
        b'{"records": [], "other": 1}',
        b'{"records": [{"carrier": "\xff"}]}',
        b'{"records": [' + b"[" * 100_000 + b"]}",
        json.dumps({"records": [tiny_record()] * 1001}).encode(),
        json.dumps({"records": [tiny_record()], "more": 1}).encode(),
    ],
)
def test_what_is_no_body_of_records_is_left_to_the_general_way(body: bytes) -> None:
    assert TYPED.decode(body) is None


def test_whole_numbers_stay_whole_in_the_log_and_large_ones_are_refused_by_name() -> None:
    content = json.dumps({"records": [tiny_record(distance=1400), tiny_record(distance=10**30)]}).encode()
    found = TYPED.decode(content)
    assert found is None or json.loads(msgspec.json.encode(found.rows()[0]))["distance"] == 1400
    if found is not None:
        assert encoded(found) == encoded(records.decode(content))


def test_fields_may_have_names_that_are_none_in_python() -> None:
    schema = InputSchema(
        version=1,
        entity="class",
        time="at that time",
        key=("class",),
        fields=(
            Field(name="class", kind="identifier"),
            Field(name="at that time", kind="timestamp", parts=("minute_of_day",)),
        ),
    )
    body = {"records": [{"class": number, "at that time": "2013-07-01T08:30:00"} for number in range(5)]}
    found = TypedRecords(schema).decode(msgspec.json.encode(body))
    assert found is not None
    assert list(found) == body["records"]


def test_personal_values_of_typed_records_are_masked_where_they_are_logged() -> None:
    found = TYPED.decode(msgspec.json.encode({"records": [tiny_record(1), tiny_record(2)]}))
    assert found is not None
    mask = Mask(b"key")
    rows = [json.loads(msgspec.json.encode(row)) for row in found.masked(["passenger", "tailnum"], mask).rows()]
    assert rows == [mask.record(tiny_record(each), ["passenger", "tailnum"]) for each in (1, 2)]
