import subprocess
import sys
from datetime import UTC, date, datetime
from typing import Any

import numpy as np
import pyarrow
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from contracts.encoder import Encoder, InvalidRecordError
from contracts.input_schema import Field, InputSchema
from serving.protocols import arrow_stream
from serving.protocols.records import MalformedRequestError, Prediction, PredictResponse
from tests.fixtures.arrow_bodies import arrow_body, arrow_table
from tests.fixtures.bundles import TINY_SCHEMA, tiny_record

SCHEMA = InputSchema(
    version=1,
    entity="plane",
    time="at",
    key=("at",),
    fields=(
        Field(name="plane", kind="identifier", required=False),
        Field(name="at", kind="timestamp", parts=("minute_of_day", "day_of_week", "day_of_year")),
        Field(name="carrier", kind="category", vocabulary=("AA", "UA"), required=False),
        Field(name="speed", kind="number", minimum=0, maximum=1000, outside="clip", required=False),
        Field(name="holiday", kind="boolean", required=False),
    ),
)
ANSWER = PredictResponse(
    predictions=[Prediction("p1", 0.25, False, "7", "champion"), Prediction("é2", 0.75, True, "8", "challenger")],
    rollout="r1",
    share=0.5,
    model_version="7",
    bundle="0" * 64,
)
RECORDS = st.lists(
    st.fixed_dictionaries(
        {
            "plane": st.none() | st.text(max_size=6),
            "at": st.datetimes(datetime(1, 1, 1), datetime(9999, 12, 31)).map(datetime.isoformat),
            "carrier": st.none() | st.sampled_from(["AA", "UA", "ZZ", "é"]),
            "speed": st.none() | st.floats(-10, 2000, width=16),
            "holiday": st.none() | st.booleans(),
        }
    ),
    min_size=1,
    max_size=12,
)
TEXT_TYPES = st.sampled_from(
    [
        pyarrow.string(),
        pyarrow.large_string(),
        pyarrow.string_view(),
        pyarrow.dictionary(pyarrow.int8(), pyarrow.string()),
        pyarrow.dictionary(pyarrow.uint32(), pyarrow.large_string()),
    ]
)
NUMBER_TYPES = st.sampled_from([pyarrow.float16(), pyarrow.float32(), pyarrow.float64()])


def refusal(body: bytes, schema: InputSchema = TINY_SCHEMA) -> MalformedRequestError:
    with pytest.raises(MalformedRequestError) as refused:
        arrow_stream.decode(body, schema)
    return refused.value


def typed(records: list[dict[str, Any]], types: dict[str, pyarrow.DataType]) -> pyarrow.Table:
    return pyarrow.table(
        {
            name: pyarrow.array([record[name] for record in records], type=kind)
            if not pyarrow.types.is_dictionary(kind)
            else pyarrow.array([record[name] for record in records], type=kind.value_type).cast(kind)
            for name, kind in types.items()
        }
    )


@settings(deadline=None)
@given(records=RECORDS, texts=st.tuples(TEXT_TYPES, TEXT_TYPES, TEXT_TYPES), number=NUMBER_TYPES, data=st.data())
def test_columns_of_any_type_are_the_records_and_have_their_bytes(
    records: list[dict[str, Any]], texts: tuple[Any, Any, Any], number: Any, data: st.DataObject
) -> None:
    types = dict(zip(("plane", "at", "carrier"), texts, strict=True)) | {"speed": number, "holiday": pyarrow.bool_()}
    table = typed(records, types)
    rows_per_batch = data.draw(st.integers(1, len(records)))
    found = arrow_stream.decode(arrow_body(table, rows_per_batch), SCHEMA)
    assert list(found) == records
    encoder = Encoder(SCHEMA)
    assert encoder.encode_columns(found.by_name).tobytes() == encoder.encode_rows(records).tobytes()


@settings(deadline=None)
@given(
    moments=st.lists(st.none() | st.datetimes(datetime(1678, 1, 1), datetime(2261, 1, 1)), min_size=1, max_size=8),
    unit=st.sampled_from(["s", "ms", "us", "ns"]),
)
def test_timestamps_become_the_texts_that_other_protocols_send(moments: list[datetime | None], unit: str) -> None:
    steps = {"s": 1_000_000, "ms": 1_000}.get(unit, 1)
    exact = [
        None if each is None else each.replace(microsecond=each.microsecond // steps * steps % 1_000_000)
        for each in moments
    ]
    column = pyarrow.array(exact, type=pyarrow.timestamp(unit))
    found = arrow_stream.decode(arrow_body(pyarrow.table({"at": column})), SCHEMA)
    assert found.by_name["at"] == [None if each is None else each.isoformat() for each in exact]


def test_whole_numbers_of_any_width_and_dates_are_taken() -> None:
    for kind in (*(f"int{size}" for size in (8, 16, 32, 64)), *(f"uint{size}" for size in (8, 16, 32, 64))):
        column = pyarrow.array([1, None, 100], type=kind)
        table = arrow_table([{"at": "2013-07-01"}] * 3, speed=column, plane=column)
        assert [row["speed"] for row in arrow_stream.decode(arrow_body(table), SCHEMA)] == [1, None, 100]
    table = pyarrow.table({"at": pyarrow.array([date(2013, 7, 1)]), "carrier": pyarrow.nulls(1)})
    assert list(arrow_stream.decode(arrow_body(table), SCHEMA)) == [{"at": "2013-07-01", "carrier": None}]


def test_a_time_that_no_calendar_has_is_refused_by_its_row_and_not_taken_for_another() -> None:
    column = pyarrow.array([0, 2**62, -(2**63)], type=pyarrow.int64()).cast(pyarrow.timestamp("s"))
    found = arrow_stream.decode(arrow_body(pyarrow.table({"at": column})), SCHEMA)
    with pytest.raises(InvalidRecordError) as refused:
        Encoder(SCHEMA).encode_columns(found.by_name)
    assert [(each.field, each.row) for each in refused.value.problems] == [("at", 1), ("at", 2)]


def test_wrong_columns_are_refused_by_name() -> None:
    records = [tiny_record(0), tiny_record(1)]
    utc = pyarrow.array([datetime(2013, 7, 1, tzinfo=UTC)] * 2)
    table = arrow_table(records, scheduled=utc, distance=None, humid=pyarrow.array(["far", "near"]), speed=utc)
    doubled = table.append_column("carrier", table["carrier"])
    with pytest.raises(InvalidRecordError) as refused:
        arrow_stream.decode(arrow_body(doubled), TINY_SCHEMA)
    assert {each.field: each.found for each in refused.value.problems} == {
        "scheduled": "a column of timestamp[us, tz=UTC]",
        "humid": "a column of string",
        "speed": "a column that is not in the schema",
        "carrier": "the column twice",
        "distance": "no column",
    }


@pytest.mark.parametrize("compression", ["zstd", "lz4"])
def test_compressed_buffers_are_refused_unread(compression: str) -> None:
    zeros = pyarrow.array(np.zeros(500_000))
    bomb = arrow_body(pyarrow.table({"distance": zeros}), compression=compression)
    assert len(bomb) < 100_000
    words = pyarrow.array(["A" * 100_000]).dictionary_encode()
    for body in (bomb, arrow_body(pyarrow.table({"carrier": words}), compression=compression)):
        refused = refusal(body)
        assert refused.status == 415
        assert "write it without compression" in str(refused)


def test_rows_batches_messages_and_texts_have_limits() -> None:
    def at(rows: int) -> pyarrow.Table:
        return pyarrow.table({"at": pyarrow.array(["2013-07-01"] * rows)})

    assert len(arrow_stream.decode(arrow_body(at(10_000), 400), SCHEMA)) == 10_000
    assert "more than 10000 rows" in str(refusal(arrow_body(at(10_001)), SCHEMA))
    assert "found no rows" in str(refusal(arrow_body(at(0)), SCHEMA))
    assert "found 33 record batches" in str(refusal(arrow_body(at(33), 1), SCHEMA))
    assert "more than 512 messages" in str(refusal(arrow_body(at(600), 1), SCHEMA))
    word = pyarrow.array(["x" * 1_000_000]).dictionary_encode()
    large = pyarrow.DictionaryArray.from_arrays(pyarrow.array([0] * 9_000), word.dictionary)
    text = str(refusal(arrow_body(at(9_000).append_column("carrier", large)), SCHEMA))
    assert "9,000,090,000 characters, expected at most 4,194,304" in text


@pytest.mark.parametrize("body", [b"", b"{}", b"ARROW1\0\0" * 9, b"\xff" * 64, b"\xff\xff\xff\xff\x00\x00\x00\x00"])
def test_what_is_no_stream_is_refused(body: bytes) -> None:
    refused = refusal(body)
    assert refused.status == 400
    assert "no Arrow IPC stream" in str(refused)


@settings(max_examples=400, deadline=None)
@given(changes=st.lists(st.tuples(st.integers(0, 10**6), st.integers(0, 255)), max_size=5), cut=st.integers(0, 3000))
def test_a_damaged_stream_is_read_or_refused(changes: list[tuple[int, int]], cut: int) -> None:
    table = arrow_table([tiny_record(number) for number in range(3)])
    carriers = table["carrier"].combine_chunks().dictionary_encode()
    body = bytearray(arrow_body(table.set_column(2, "carrier", carriers), 2))
    for place, value in changes:
        body[place % len(body)] = value
    try:
        found = arrow_stream.decode(bytes(body[: len(body) - cut]), TINY_SCHEMA)
        Encoder(TINY_SCHEMA).encode_columns(found.by_name)
    except (MalformedRequestError, InvalidRecordError):
        return
    assert 1 <= len(found) <= 10_000


def test_the_answer_is_one_batch_with_what_is_said_once_in_its_metadata() -> None:
    table = pyarrow.ipc.open_stream(arrow_stream.encode(ANSWER)).read_all()
    table.validate(full=True)
    assert table.to_pydict() == {
        "prediction_id": ["p1", "é2"],
        "score": [0.25, 0.75],
        "decision": [False, True],
        "model_version": ["7", "8"],
        "slot": ["champion", "challenger"],
    }
    assert table.schema.metadata == {
        b"rollout": b"r1",
        b"share": b"0.5",
        b"model_version": b"7",
        b"bundle": b"0" * 64,
        b"api_version": ANSWER.api_version.encode(),
    }


_READS = """
import sys
from contracts.input_schema import Field, InputSchema
from serving.protocols import arrow_stream
from serving.protocols.records import Prediction, PredictResponse
schema = InputSchema(version=1, entity="a", time="t", key=("t",), fields=(
    Field(name="a", kind="identifier"), Field(name="t", kind="timestamp"), Field(name="n", kind="number"),
    Field(name="m", kind="number"), Field(name="b", kind="boolean"),
    Field(name="c", kind="category", vocabulary=("x",))))
assert len(list(arrow_stream.decode(sys.stdin.buffer.read(), schema))) == 2
arrow_stream.encode(PredictResponse(predictions=[Prediction("p", 0.5, True, "1", "champion")], rollout=None,
    share=0.0, model_version="1", bundle="b"))
print("pandas" in sys.modules)
"""


def test_reading_and_writing_streams_loads_no_pandas() -> None:
    table = pyarrow.table(
        {
            "a": pyarrow.array([1, 2]),
            "t": pyarrow.array([datetime(2013, 7, 1), None], type=pyarrow.timestamp("ns")),
            "m": pyarrow.array([1.5, 2.5]),
            "n": pyarrow.array([1.5, None]),
            "b": pyarrow.array([True, None]),
            "c": pyarrow.array(["x", None]).dictionary_encode(),
        }
    )
    finished = subprocess.run([sys.executable, "-c", _READS], input=arrow_body(table), capture_output=True, check=False)
    assert (finished.returncode, finished.stdout.strip()) == (0, b"False"), finished.stderr.decode()
