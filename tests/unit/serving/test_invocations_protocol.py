import contextlib
import csv
import io
from collections.abc import Mapping
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from contracts.encoder import Encoder, InvalidRecordError
from contracts.input_schema import Field, InputSchema
from serving.protocols import invocations, media_types
from serving.protocols.records import MalformedRequestError, Prediction, PredictResponse
from tests.fixtures.bundles import TINY_SCHEMA, tiny_record

SCHEMA = InputSchema(
    version=1,
    entity="plane",
    time="at",
    key=("at",),
    fields=(
        Field(name="plane", kind="identifier", required=False),
        Field(name="at", kind="timestamp"),
        Field(name="distance", kind="number", required=False),
        Field(name="holiday", kind="boolean", required=False),
    ),
)
ANSWER = PredictResponse(
    predictions=[Prediction("p1", 0.25, False, "7", "champion"), Prediction("p2", 0.75, True, 'a,"b"', "challenger")],
    rollout=None,
    share=0.0,
    model_version="7",
    bundle="0" * 64,
)


def from_csv(text: str, schema: InputSchema = SCHEMA) -> list[Mapping[str, Any]]:
    return list(invocations.decode(text.encode(), media_types.CSV, schema))


def test_cells_become_numbers_booleans_text_and_missing_values_by_the_schema() -> None:
    rows = from_csv("\ufeffplane, at,distance,holiday\r\n14,2013-07-01T08:30,1e3,True\r\n,2013-07-02,,\r\n")
    assert rows == [
        {"plane": "14", "at": "2013-07-01T08:30", "distance": 1000.0, "holiday": True},
        {"plane": None, "at": "2013-07-02", "distance": None, "holiday": None},
    ]


@pytest.mark.parametrize("cell", ["far", "nan", "inf", "1_000", "0x10", "1,5", "١"])
def test_a_cell_that_is_no_number_reaches_the_encoder_which_names_field_and_row(cell: str) -> None:
    rows = from_csv(f'at,distance\n2013-07-01,1\n2013-07-01,"{cell}"')
    with pytest.raises(InvalidRecordError) as refused:
        Encoder(SCHEMA).encode_rows(rows)
    [problem] = refused.value.problems
    assert (problem.field, problem.row, problem.found, problem.expected) == ("distance", 1, repr(cell), "a number")


def test_a_cell_that_is_no_boolean_reaches_the_encoder_as_it_is() -> None:
    with pytest.raises(InvalidRecordError, match="holiday: found 'maybe', expected true or false"):
        Encoder(SCHEMA).encode_rows(from_csv("at,holiday\n2013-07-01,maybe"))


@pytest.mark.parametrize(
    ("text", "field", "found"),
    [
        ("", "header", "nothing"),
        ("at,speed\n2013-07-01,1\n", "speed", "a column that is not in the schema"),
        ("at,at\n2013-07-01,2013-07-01\n", "at", "the column twice"),
        ("distance\n1\n", "at", "no column"),
    ],
)
def test_a_wrong_header_line_is_refused_by_column(text: str, field: str, found: str) -> None:
    with pytest.raises(InvalidRecordError) as refused:
        from_csv(text)
    assert (field, found) in [(problem.field, problem.found) for problem in refused.value.problems]


@pytest.mark.parametrize(
    ("body", "kind", "status", "text"),
    [
        (b"at\n", media_types.CSV, 422, "found no rows below the header line, expected 1 to 1000"),
        (b"at" + b"\nx" * 1001, media_types.CSV, 422, "found more below the header line"),
        (
            b"at,distance\n2013,1\n2013\n",
            media_types.CSV,
            422,
            "row 1 below the header line: found 1 cells, expected 2",
        ),
        (b"at\n2013\n\n2014\n", media_types.CSV, 422, "row 1 below the header line: found 0 cells"),
        (b'at\n"2013\n', media_types.CSV, 400, "not CSV: unexpected end of data, in line 2"),
        (b"at\n\xff\n", media_types.CSV, 400, "not UTF-8: invalid start byte at byte 3"),
        (b"," * 20_000, media_types.CSV, 422, "found 20001 columns, expected at most 10000"),
        (b" \n", media_types.JSON_LINES, 422, "found no records"),
        (b"{}\n" * 1001, media_types.JSON_LINES, 422, "found more than 1000 lines"),
        (b"{}\n{\n", media_types.JSON_LINES, 400, "line 2: the body is not JSON"),
        (b"{}\n\n{}\n", media_types.JSON_LINES, 400, "line 2: the body is not JSON"),
        (b"{}\n1\n", media_types.JSON_LINES, 422, "line 2: .*Expected `object`, got `int`"),
        (b"{}", media_types.JSON, 422, "records"),
    ],
)
def test_a_body_that_does_not_fit_is_refused_with_the_place(body: bytes, kind: str, status: int, text: str) -> None:
    with pytest.raises(MalformedRequestError, match=text) as refused:
        invocations.decode(body, kind, SCHEMA)
    assert refused.value.status == status


def test_the_three_types_give_the_same_records() -> None:
    records = [tiny_record(0), tiny_record(1, humid=None)]
    bodies = {
        media_types.JSON: msgspec.json.encode({"records": records}),
        media_types.JSON_LINES: b"\r\n".join(map(msgspec.json.encode, records)),
        media_types.CSV: invocations.csv_of(records).encode(),
    }
    for kind, body in bodies.items():
        assert invocations.decode(body, kind, TINY_SCHEMA) == records, kind


@given(
    st.lists(
        st.fixed_dictionaries(
            {
                "plane": st.none() | st.text(st.characters(codec="utf-8", exclude_categories=["Cc"]), min_size=1),
                "at": st.just("2013-07-01"),
                "distance": st.none() | st.floats(allow_nan=False, allow_infinity=False),
                "holiday": st.none() | st.booleans(),
            }
        ),
        min_size=1,
        max_size=5,
    )
)
def test_records_survive_the_way_through_csv(rows: list[Mapping[str, Any]]) -> None:
    assert from_csv(invocations.csv_of(rows)) == rows


@given(st.sampled_from(invocations.TYPES), st.binary(max_size=60) | st.text(max_size=60).map(str.encode))
def test_any_body_is_read_or_refused(kind: str, body: bytes) -> None:
    with contextlib.suppress(MalformedRequestError, InvalidRecordError):
        assert len(invocations.decode(body, kind, SCHEMA)) >= 1


def test_the_answer_says_the_same_in_all_types() -> None:
    expected = msgspec.to_builtins(ANSWER.predictions)
    assert msgspec.json.decode(invocations.encode(ANSWER, media_types.JSON))["predictions"] == expected
    lines = invocations.encode(ANSWER, media_types.JSON_LINES).splitlines()
    assert [msgspec.json.decode(line) for line in lines] == expected
    rows = list(csv.DictReader(io.StringIO(invocations.encode(ANSWER, media_types.CSV).decode())))
    assert rows == [
        {**each, "score": str(each["score"]), "decision": str(each["decision"]).lower()} for each in expected
    ]


@pytest.mark.parametrize(
    ("header", "expected"),
    [
        (None, media_types.JSON),
        ("", media_types.JSON),
        ("text/csv", media_types.CSV),
        ("Text/CSV; charset=UTF-8; header=present", media_types.CSV),
        ('application/jsonlines;charset="utf-8"', media_types.JSON_LINES),
    ],
)
def test_the_type_of_a_body_is_read(header: str | None, expected: str) -> None:
    assert media_types.content_type(header, invocations.TYPES) == expected


@pytest.mark.parametrize("header", ["application/x-npy", "text/csv; charset=utf-16", ";", "application/json2"])
def test_another_type_of_body_is_refused(header: str) -> None:
    with pytest.raises(MalformedRequestError, match=r"Content-Type: found .*, expected") as refused:
        media_types.content_type(header, invocations.TYPES)
    assert refused.value.status == 415


@pytest.mark.parametrize(
    ("header", "expected"),
    [
        (None, media_types.JSON),
        ("*/*", media_types.JSON),
        ("text/*", media_types.CSV),
        ("application/jsonlines", media_types.JSON_LINES),
        ("text/html, text/csv;q=0.5, */*;q=0.1", media_types.CSV),
        ("application/json;q=0.2,application/jsonlines;q=0.8", media_types.JSON_LINES),
        ("text/csv;q=0, */*", media_types.JSON),
    ],
)
def test_the_answers_type_is_the_one_that_the_client_prefers(header: str | None, expected: str) -> None:
    assert media_types.answer_type(header, invocations.TYPES) == expected


@pytest.mark.parametrize("header", ["image/png", "text/csv;q=0", "text/csv;q=nan", ","])
def test_an_answer_that_cannot_be_given_is_refused(header: str) -> None:
    with pytest.raises(MalformedRequestError, match=r"Accept: found .*, expected one of application/json") as refused:
        media_types.answer_type(header, invocations.TYPES)
    assert refused.value.status == 406
