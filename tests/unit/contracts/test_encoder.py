import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from contracts.encoder import Encoder, InvalidRecordError
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
