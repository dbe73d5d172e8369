import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from contracts.encoder import MAXIMUM_PROBLEMS, MAXIMUM_UNKNOWN_FIELDS, Encoder, InvalidRecordError
from contracts.field_values import value_encoder
from contracts.input_schema import Field, InputSchema

SCHEMA = InputSchema(
    version=1,
    entity="tailnum",
    time="scheduled",
    key=("tailnum", "scheduled"),
    fields=(
        Field(name="tailnum", kind="identifier"),
        Field(name="scheduled", kind="timestamp", parts=("minute_of_day", "day_of_week", "day_of_year")),
        Field(name="carrier", kind="category", vocabulary=("UA", "AA")),
        Field(name="origin", kind="category", vocabulary=("JFK",), unseen="reject"),
        Field(name="distance", kind="number", minimum=0, maximum=5000),
        Field(name="gust", kind="number", required=False, minimum=0, maximum=100, outside="missing"),
        Field(name="seats", kind="number", minimum=1, maximum=500, outside="clip"),
        Field(name="holiday", kind="boolean"),
    ),
)
RECORD = {
    "tailnum": "N14228",
    "scheduled": "2013-01-01T05:15:00",
    "carrier": "AA",
    "origin": "JFK",
    "distance": 1400,
    "gust": None,
    "seats": 149,
    "holiday": True,
}
records = st.fixed_dictionaries(
    {
        "tailnum": st.text(max_size=8),
        "scheduled": st.datetimes().map(lambda moment: moment.isoformat()),
        "carrier": st.sampled_from(["UA", "AA", "never seen"]),
        "origin": st.just("JFK"),
        "distance": st.floats(0, 5000) | st.integers(0, 5000),
        "gust": st.none() | st.floats(allow_nan=False),
        "seats": st.integers(-1000, 1000),
        "holiday": st.booleans(),
    }
)


def test_a_record_becomes_one_row_in_the_order_of_the_schema() -> None:
    row = Encoder(SCHEMA).encode(RECORD)
    assert row.dtype == np.float32
    np.testing.assert_array_equal(row, [[315, 1, 1, 1, 0, 1400, math.nan, 149, 1]])


@given(st.lists(records, min_size=1, max_size=5))
def test_a_row_has_the_same_bytes_alone_and_in_a_table(rows: list[dict[str, object]]) -> None:
    encoder = Encoder(SCHEMA)
    table = encoder.encode_rows(rows)
    assert b"".join(encoder.encode(row).tobytes() for row in rows) == table.tobytes()


@pytest.mark.parametrize(
    ("field", "value", "expected"),
    [
        ("distance", -1, "a number from 0 to 5000"),
        ("distance", math.nan, "a number from 0 to 5000"),
        ("distance", "far", "a number"),
        ("distance", True, "a number"),
        ("distance", None, "a number"),
        ("origin", "LAX", "one of JFK"),
        ("carrier", 7, "a string"),
        ("holiday", 1, "true or false"),
        ("scheduled", "yesterday", "a local time such as 2013-07-01T08:30:00"),
        ("scheduled", "2013-01-01T05:15:00+02:00", "a local time such as 2013-07-01T08:30:00"),
        ("surprise", 1, "no such field"),
    ],
)
def test_a_wrong_value_is_refused_with_the_field_and_what_was_expected(
    field: str, value: object, expected: str
) -> None:
    with pytest.raises(InvalidRecordError) as refused:
        Encoder(SCHEMA).encode({**RECORD, field: value})
    assert [(problem.field, problem.expected) for problem in refused.value.problems] == [(field, expected)]


@pytest.mark.parametrize(
    ("field", "value", "encoded"), [("seats", 1000, 500), ("gust", 1000.0, math.nan), ("carrier", "ZZ", math.nan)]
)
def test_a_value_outside_is_handled_by_the_policy_of_its_field(field: str, value: object, encoded: float) -> None:
    column = SCHEMA.columns.index(field)
    np.testing.assert_array_equal(Encoder(SCHEMA).encode({**RECORD, field: value})[0, column], encoded)


def _problems(record: dict[str, object]) -> list[tuple[str, str]]:
    with pytest.raises(InvalidRecordError) as refused:
        Encoder(SCHEMA).encode(record)
    assert len(str(refused.value)) < 5000
    return [(problem.field, problem.found) for problem in refused.value.problems]


def test_of_many_unknown_fields_the_first_are_named_and_the_others_counted() -> None:
    surplus = {f"column_{number:05}": number for number in range(10_000)}
    problems = _problems({**RECORD, **surplus})
    assert problems[:2] == [(f"column_0000{n}", "a field that is not in the schema") for n in (0, 1)]
    assert len(problems) == MAXIMUM_UNKNOWN_FIELDS + 1
    assert problems[-1] == ("*", "9,980 more fields that are not in the schema")
    exactly = _problems({**RECORD, **dict(list(surplus.items())[:MAXIMUM_UNKNOWN_FIELDS])})
    assert len(exactly) == MAXIMUM_UNKNOWN_FIELDS


def test_of_many_wrong_rows_the_first_are_told() -> None:
    wrong = {**RECORD, "distance": -1, "holiday": 7}
    with pytest.raises(InvalidRecordError) as refused:
        Encoder(SCHEMA).encode_rows([wrong] * 5000)
    assert [problem.row for problem in refused.value.problems] == [row for row in range(50) for _ in range(2)]
    assert len(refused.value.problems) == MAXIMUM_PROBLEMS


@pytest.mark.parametrize(
    ("value", "found"),
    [
        ([[]] * 1000, "a list of 1000"),
        ({"a": {"b": []}}, "an object of 1"),
        (10**400, "a whole number of 1329 bits"),
        ("x" * 4_000_000, f"'{'x' * 56}..."),
        (math.inf, "inf"),
        (True, "True"),
    ],
    ids=["list", "object", "whole", "text", "infinity", "boolean"],
)
def test_a_huge_value_is_refused_without_being_shown_in_full(value: object, found: str) -> None:
    assert _problems({**RECORD, "distance": value}) == [("distance", found)]


def test_a_value_nested_as_deep_as_json_can_be_is_refused_as_a_list() -> None:
    nested: list[object] = []
    for _ in range(100_000):
        nested = [nested]
    for name in ("tailnum", "scheduled", "carrier", "distance", "holiday"):
        assert _problems({**RECORD, name: nested}) == [(name, "a list of 1")]
    while nested:  # freed level by level: so deep, the interpreter would recurse
        nested = nested.pop()  # type: ignore[assignment]


def test_a_text_longer_than_every_word_is_unseen_and_never_hashed() -> None:
    class Words(dict[str, float]):
        def get(self, word: str, *_: object) -> float:  # type: ignore[override]
            raise AssertionError(f"{len(word)} characters were looked up")

    field = Field(name="carrier", kind="category", vocabulary=("UA", "AA"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("contracts.field_values.word_codes", lambda field: (Words().get, 2))
        encode = value_encoder(field).encode
    appended: list[float] = []
    encode("U" * 4_000_000, appended.append)
    assert math.isnan(appended[0])
    with pytest.raises(AssertionError, match="2 characters were looked up"):
        encode("UA", appended.append)


LENIENT = InputSchema(
    version=1,
    entity="id",
    time="id",
    key=("id",),
    fields=(
        Field(name="id", kind="identifier"),
        Field(name="x", kind="number", maximum=10, outside="clip", nan="missing", malformed="missing"),
        Field(name="word", kind="category", vocabulary=("a",), unseen="reject", malformed="missing"),
        Field(name="yes", kind="boolean", malformed="missing"),
        Field(name="at", kind="timestamp", parts=("minute_of_day", "day_of_week"), malformed="missing"),
    ),
)
GOOD = {"id": 1, "x": 1, "word": "a", "yes": True, "at": "2013-01-01T00:01"}


@pytest.mark.parametrize(
    ("changes", "row"),
    [
        ({}, [1, 0, 1, 1, 1]),
        ({"x": "1"}, [math.nan, 0, 1, 1, 1]),
        ({"x": math.nan}, [math.nan, 0, 1, 1, 1]),
        ({"x": math.inf}, [10, 0, 1, 1, 1]),
        ({"x": 10**400}, [10, 0, 1, 1, 1]),
        ({"word": 7}, [1, math.nan, 1, 1, 1]),
        ({"yes": "true"}, [1, 0, math.nan, 1, 1]),
        ({"at": "yesterday"}, [1, 0, 1, math.nan, math.nan]),
        ({"at": "2013-01-01T00:01Z"}, [1, 0, 1, math.nan, math.nan]),
    ],
)
def test_what_a_schema_takes_as_missing_is_nan_also_where_a_value_is_required(
    changes: dict[str, object], row: list[float]
) -> None:
    encoder = Encoder(LENIENT)
    np.testing.assert_array_equal(encoder.encode({**GOOD, **changes}), [row])
    np.testing.assert_array_equal(encoder.encode_rows([{**GOOD, **changes}] * 30), [row] * 30)


@pytest.mark.parametrize(
    ("changes", "expected"), [({"x": None}, "a number"), ({"word": "b"}, "one of a"), ({"at": None}, "a timestamp")]
)
def test_a_policy_for_wrong_values_is_none_for_absent_or_unseen_ones(changes: dict[str, object], expected: str) -> None:
    with pytest.raises(InvalidRecordError, match=f"expected {expected}"):
        Encoder(LENIENT).encode({**GOOD, **changes})


def test_columns_of_numpy_are_encoded_as_the_records_that_they_hold() -> None:
    encoder = Encoder(SCHEMA)
    columns: dict[str, Any] = {
        "tailnum": ["N1", "N2"],
        "scheduled": ["2013-01-01T05:15:00", "2013-07-01T00:00"],
        "carrier": ["AA", "ZZ"],
        "origin": ["JFK", "JFK"],
        "distance": np.array([1400.5, 2], dtype=np.float32),
        "seats": np.array([149, 900], dtype=np.uint16),
        "holiday": np.array([True, False]),
    }
    expected = [[315, 1, 1, 1, 0, 1400.5, math.nan, 149, 1], [0, 0, 182, math.nan, 0, 2, math.nan, 500, 0]]
    np.testing.assert_array_equal(encoder.encode_columns(columns), expected)
    many = {name: column * 8 if isinstance(column, list) else np.tile(column, 8) for name, column in columns.items()}
    np.testing.assert_array_equal(encoder.encode_columns(many), expected * 8)
    with pytest.raises(InvalidRecordError, match="distance: found nan, expected a number from 0 to 5000"):
        encoder.encode_columns({**columns, "distance": np.array([1, math.nan])})
    with pytest.raises(InvalidRecordError, match="holiday: found 1, expected true or false"):
        encoder.encode_columns({**columns, "holiday": np.array([1, 0])})
    with pytest.raises(InvalidRecordError, match="origin: found nothing"):
        encoder.encode_columns({name: column for name, column in columns.items() if name != "origin"})
    with pytest.raises(ValueError, match=r"columns have the lengths \[1, 2\]"):
        encoder.encode_columns({**columns, "origin": ["JFK"]})


@pytest.mark.parametrize(
    ("field", "refusal"),
    [
        ({"kind": "boolean", "nan": "missing"}, "nan: missing belongs to numbers"),
        ({"kind": "identifier", "malformed": "missing"}, "belongs to what becomes a column"),
    ],
)
def test_a_policy_that_a_kind_cannot_have_is_refused(field: dict[str, object], refusal: str) -> None:
    with pytest.raises(ValueError, match=refusal):
        Field(name="x", **field)  # type: ignore[arg-type]


def test_the_time_of_an_event_cannot_be_taken_as_missing() -> None:
    with pytest.raises(ValueError, match="time names the field 'at': it says what event a row is of"):
        InputSchema(
            version=1,
            entity="id",
            time="at",
            key=("id",),
            fields=(Field(name="id", kind="identifier"), Field(name="at", kind="timestamp", malformed="missing")),
        )
