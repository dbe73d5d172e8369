"""The encoder against its rules written down plainly: the same bytes and the same problems, however the rows come."""

import math
import struct
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from contracts.encoder import Encoder, InvalidRecordError
from contracts.input_schema import Field, InputSchema
from tests.fixtures import reference_encoder

KEY = Field(name="id", kind="identifier")
policies = st.sampled_from(["reject", "missing"])
bounds = st.none() | st.sampled_from([-1e300, -5.5, 0.0, 2.0**53, 3.4e38, 1e300])
words = st.lists(st.sampled_from(["UA", "AA", "", "ß" * 40, "9E"]), min_size=1, max_size=4, unique=True).map(tuple)
fields = st.one_of(
    st.builds(
        dict,
        kind=st.just("number"),
        minimum=bounds,
        maximum=bounds,
        outside=st.sampled_from(["reject", "clip", "missing"]),
        nan=policies,
        malformed=policies,
    ),
    st.builds(dict, kind=st.just("category"), vocabulary=words, unseen=policies, malformed=policies),
    st.builds(dict, kind=st.just("boolean"), malformed=policies),
    st.builds(
        dict,
        kind=st.just("timestamp"),
        parts=st.lists(st.sampled_from(["minute_of_day", "day_of_week", "day_of_year"]), unique=True).map(tuple),
        malformed=policies,
    ),
    st.builds(dict, kind=st.just("identifier")),
)
numbers = st.one_of(
    st.floats(),
    st.floats(-6, 3, width=32),
    st.integers(-10, 10),
    st.sampled_from([2**53, 2**53 + 1, -(2**63), 10**39, 10**200, 10**400, math.nan, -0.0, 5e-324, 3.4028235e38]),
)
GOOD: dict[str, st.SearchStrategy[Any]] = {
    "number": st.floats(-5, 0) | st.integers(-5, 0),
    "category": st.sampled_from(["UA", "AA", "9E"]),
    "boolean": st.booleans(),
    "timestamp": st.datetimes().map(lambda moment: moment.isoformat()),
    "identifier": st.text(max_size=4) | st.integers(),
}
anything = st.one_of(
    numbers,
    st.booleans(),
    st.none(),
    st.text(max_size=3),
    st.just("x" * 300),
    st.sampled_from(["UA", "2013-07-01", "2013-07-01T08:30:00Z", "2013-07-01T08:30:00+02:00"]),
    st.lists(st.integers(), max_size=2),
    st.dictionaries(st.text(max_size=2), st.integers(), max_size=2),
)


@st.composite
def cases(draw: st.DrawFn) -> tuple[InputSchema, list[dict[str, Any]]]:
    declared = draw(st.lists(fields, max_size=5))
    more = [Field(name=f"f{i}", required=draw(st.booleans()), **each) for i, each in enumerate(declared)]
    schema = InputSchema(version=1, entity="id", time="id", key=("id",), fields=(KEY, *more))
    sure = draw(st.sampled_from([0, 3, 9]))  # how many of ten values are right
    rows = draw(st.integers(1, 20))
    records = []
    for _ in range(rows):
        record = {}
        for field in schema.fields:
            if field.required or draw(st.integers(0, 9)):
                is_sure = draw(st.integers(0, 9)) <= sure
                record[field.name] = draw(GOOD[field.kind] if is_sure else anything)
        if sure < 9 and draw(st.integers(0, 30)) == 0:
            record[draw(st.sampled_from(["surprise", "f0", "f9"]))] = 1
        records.append(record)
    return schema, records


def _found(schema: InputSchema, records: list[dict[str, Any]]) -> tuple[bytes | None, list[reference_encoder.Problem]]:
    try:
        return Encoder(schema).encode_rows(records).tobytes(), []
    except InvalidRecordError as refused:
        return None, [(each.field, each.expected, each.row) for each in refused.problems]


@settings(max_examples=600, deadline=None)
@given(cases())
@pytest.mark.filterwarnings("ignore:overflow encountered")
def test_rows_have_the_bytes_and_the_problems_of_the_plain_rules(
    case: tuple[InputSchema, list[dict[str, Any]]],
) -> None:
    schema, records = case
    rows, problems = reference_encoder.encode_rows(schema, records)
    found = _found(schema, records)
    assert found == (None if rows is None else rows.tobytes(), problems)
    for record in records:  # and each of them alone
        row, problems = reference_encoder.encode_rows(schema, [record])
        assert _found(schema, [record]) == (None if row is None else row.tobytes(), problems)


@settings(max_examples=300, deadline=None)
@given(cases(), st.booleans())
@pytest.mark.filterwarnings("ignore:overflow encountered")
def test_columns_have_the_bytes_and_the_problems_of_their_rows(
    case: tuple[InputSchema, list[dict[str, Any]]], as_arrays: bool
) -> None:
    schema, records = case
    names = sorted({name for record in records for name in record})
    if not names:
        return
    columns: dict[str, Any] = {name: [record.get(name) for record in records] for name in names}
    if as_arrays:
        for name, column in columns.items():
            kinds = set(map(type, column))
            whole = kinds == {int} and all(abs(value) < 2**63 for value in column)
            if kinds in ({float}, {bool}) or whole:
                columns[name] = np.array(column)
    records = [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]
    records = [{name: _plain(value) for name, value in record.items()} for record in records]
    rows, problems = reference_encoder.encode_rows(schema, records)
    try:
        found: tuple[bytes | None, list[reference_encoder.Problem]] = (
            Encoder(schema).encode_columns(columns).tobytes(),
            [],
        )
    except InvalidRecordError as refused:
        found = None, [(each.field, each.expected, each.row) for each in refused.problems]
    assert found == (None if rows is None else rows.tobytes(), problems)


def _plain(value: Any) -> Any:
    return value.item() if isinstance(value, np.generic) else value


def test_a_missing_value_has_one_pattern_of_bits_wherever_it_comes_from() -> None:
    field = Field(name="x", kind="number", required=False, maximum=1, outside="missing", nan="missing")
    encoder = Encoder(InputSchema(version=1, entity="id", time="id", key=("id",), fields=(KEY, field)))
    odd = struct.unpack("<d", struct.pack("<Q", 0xFFF8_0000_0000_0001))[0]  # another NaN
    rows = [{"id": 1}, {"id": 1, "x": None}, {"id": 1, "x": 2.0}, {"id": 1, "x": math.nan}, {"id": 1, "x": odd}]
    expected = np.array([math.nan], dtype=np.float32).tobytes()
    assert {encoder.encode(row).tobytes() for row in rows} == {expected}
    assert encoder.encode_rows(rows * 10).tobytes() == expected * 50
    assert encoder.encode_columns({"id": [1, 1], "x": np.array([odd, math.nan])}).tobytes() == expected * 2
