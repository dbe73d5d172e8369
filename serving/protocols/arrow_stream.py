"""Arrow's IPC stream format, `application/vnd.apache.arrow.stream`: record batches in, one record batch out.

The columns of a request are the fields of the schema. Numbers may have any width, texts any of Arrow's text types or a
dictionary of them; timestamps are texts, or Arrow's timestamps and dates without a time zone. A null stands for a
missing value, and so does a NaN, as in a binary tensor.
Specification: https://arrow.apache.org/docs/format/Columnar.html#ipc-streaming-format

What comes in is not trusted: nothing is read from a batch before Arrow has validated it in full, and compressed buffers
are refused unread, since a few bytes of them may stand for gigabytes. Arrays are read from and made of buffers where
pyarrow would import pandas to do it.
"""

import struct
from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow
import pyarrow.ipc
from numpy.typing import NDArray

from contracts.encoder import FieldProblem, InvalidRecordError
from contracts.input_schema import Field, InputSchema
from serving.columns import Column, Columns, nan_as_missing
from serving.protocols.records import MAXIMUM_COLUMNS, MalformedRequestError, PredictResponse

MAXIMUM_ROWS = 10_000  # answered in tens of milliseconds, in pieces that let other requests in between
MAXIMUM_BATCHES = 32
MAXIMUM_MESSAGES = 512  # a dictionary that grows piece by piece is copied for each piece
MAXIMUM_TEXT_CHARACTERS = 4 << 20  # of all rows: a dictionary can stand for more than a body can hold
_types = pyarrow.types
_EXPECTED = {
    "number": "an integer or floating-point column",
    "boolean": "a boolean column",
    "category": "a text column, or a dictionary of texts",
    "identifier": "a text or integer column, or a dictionary of texts",
    "timestamp": "a text column, or timestamps or dates without a time zone",
}
_ANSWER = pyarrow.schema(
    [
        ("prediction_id", pyarrow.string()),
        ("score", pyarrow.float64()),
        ("decision", pyarrow.bool_()),
        ("model_version", pyarrow.string()),
        ("slot", pyarrow.string()),
    ]
)
_REFUSED = (pyarrow.ArrowException, OSError, ValueError, OverflowError, struct.error)
# the tables of Arrow's messages, by the place of their fields in the vtable: Message.fbs of the specification
_HEADER_TYPE, _HEADER, _DATA, _COMPRESSION = 6, 8, 6, 10
_DICTIONARY_BATCH, _RECORD_BATCH = 2, 3
_MICROSECOND_DIGITS = 6


def decode(body: bytes, schema: InputSchema) -> Columns:
    """The rows of the stream in `body`.

    Raises:
        MalformedRequestError: it is no such stream, its buffers are compressed, or it has too many rows or batches.
        InvalidRecordError: a column is unknown, missing, given twice, or of another type than its field.
    """
    _refuse_compressed(body)
    try:
        with pyarrow.ipc.open_stream(body) as reader:
            _check_types(reader.schema, schema)
            batches = _batches(reader)
    except InvalidRecordError:
        raise
    except _REFUSED as error:
        raise _malformed(error) from error
    rows = sum(batch.num_rows for batch in batches)
    if not rows >= 1:
        raise MalformedRequestError(422, f"found no rows, expected 1 to {MAXIMUM_ROWS}")
    fields = {field.name: field for field in schema.fields}
    names = list(batches[0].schema.names)
    by_name = {
        name: _joined([_column(fields[name], batch.column(place)) for batch in batches])
        for place, name in enumerate(names)
    }
    _refuse_long_texts(by_name)
    return Columns(by_name, rows)


def encode(answer: PredictResponse) -> bytes:
    """The answer as one record batch; what is said once about all rows is in the schema's metadata."""
    predictions = answer.predictions
    rows = len(predictions)
    columns = [
        _texts([each.prediction_id for each in predictions]),
        pyarrow.Array.from_buffers(
            pyarrow.float64(), rows, [None, _buffer(np.array([each.score for each in predictions], dtype=np.float64))]
        ),
        _booleans([each.decision for each in predictions]),
        _texts([each.model_version for each in predictions]),
        _texts([each.slot for each in predictions]),
    ]
    said = {
        "rollout": answer.rollout or "",
        "share": str(answer.share),
        "model_version": answer.model_version,
        "bundle": answer.bundle,
        "api_version": answer.api_version,
    }
    schema = _ANSWER.with_metadata(said)
    sink = pyarrow.BufferOutputStream()
    with pyarrow.ipc.new_stream(sink, schema) as writer:
        writer.write_batch(pyarrow.RecordBatch.from_arrays(columns, schema=schema))
    found: bytes = sink.getvalue().to_pybytes()
    return found


# -- what comes in -----------------------------------------------------------------------------------------------------


def _malformed(error: Exception) -> MalformedRequestError:
    return MalformedRequestError(400, f"the body is no Arrow IPC stream: {str(error)[:300]}")


def _refuse_compressed(body: bytes) -> None:
    """Looks at each message's head alone."""
    batches = messages = 0
    try:
        for message in pyarrow.ipc.MessageReader.open_stream(body):
            messages += 1
            if messages > MAXIMUM_MESSAGES:
                raise MalformedRequestError(
                    422, f"found more than {MAXIMUM_MESSAGES} messages: combine batches and dictionaries to fewer"
                )
            head = message.metadata.to_pybytes()
            kind, table = _header(head)
            if kind == _DICTIONARY_BATCH:
                table = _at(head, table, _DATA)
            elif kind == _RECORD_BATCH:
                batches += 1
            else:
                continue
            if table is not None and _field(head, table, _COMPRESSION):
                raise MalformedRequestError(
                    415, "the stream's buffers are compressed: write it without compression (pyarrow's default)"
                )
    except _REFUSED as error:
        if isinstance(error, MalformedRequestError):
            raise
        raise _malformed(error) from error
    if batches > MAXIMUM_BATCHES:
        raise MalformedRequestError(
            422, f"found {batches} record batches, expected at most {MAXIMUM_BATCHES}: combine them to fewer"
        )


def _header(head: bytes) -> tuple[int, int | None]:
    """The type of a message, and where the table of its header is. `head` was verified by Arrow."""
    root = struct.unpack_from("<I", head)[0]
    kind = _field(head, root, _HEADER_TYPE)
    return (head[root + kind] if kind else 0), _at(head, root, _HEADER)


def _field(head: bytes, table: int, place: int) -> int:
    """How far behind the start of `table` the field is; 0 where it has its default."""
    vtable = table - struct.unpack_from("<i", head, table)[0]
    if place >= struct.unpack_from("<H", head, vtable)[0]:
        return 0
    offset: int = struct.unpack_from("<H", head, vtable + place)[0]
    return offset


def _at(head: bytes, table: int | None, place: int) -> int | None:
    """Where the table is that the field refers to."""
    if table is None or not (offset := _field(head, table, place)):
        return None
    position: int = table + offset + struct.unpack_from("<I", head, table + offset)[0]
    return position


def _batches(reader: Any) -> list[Any]:
    found = []
    rows = 0
    for batch in reader:
        rows += batch.num_rows
        if rows > MAXIMUM_ROWS:
            raise MalformedRequestError(422, f"found more than {MAXIMUM_ROWS} rows, expected 1 to {MAXIMUM_ROWS}")
        batch.validate(full=True)
        found.append(batch)
    return found


def _check_types(given: Any, schema: InputSchema) -> None:
    if len(given) > MAXIMUM_COLUMNS:
        raise MalformedRequestError(422, f"found {len(given)} columns, expected at most {MAXIMUM_COLUMNS}")
    fields = {field.name: field for field in schema.fields}
    problems: list[FieldProblem] = []
    seen: set[str] = set()
    for column in given:
        field = fields.get(column.name)
        if field is None:
            problems.append(FieldProblem(column.name[:60], "a column that is not in the schema", "no such column"))
        elif column.name in seen:
            problems.append(FieldProblem(column.name, "the column twice", "each column once"))
        elif not _fits(field, column.type):
            problems.append(FieldProblem(field.name, f"a column of {str(column.type)[:60]}", _EXPECTED[field.kind]))
        seen.add(column.name)
    problems.extend(
        FieldProblem(field.name, "no column", _EXPECTED[field.kind])
        for field in schema.fields
        if field.required and field.name not in seen
    )
    if problems:
        raise InvalidRecordError(problems)


def _fits(field: Field, kind: Any) -> bool:
    if _types.is_null(kind):
        return True
    if field.kind == "number":
        return bool(_types.is_integer(kind) or _types.is_floating(kind))
    if field.kind == "boolean":
        return bool(_types.is_boolean(kind))
    if field.kind == "timestamp" and (_types.is_date32(kind) or _types.is_timestamp(kind)):
        return _types.is_date32(kind) or kind.tz is None
    if field.kind == "identifier" and _types.is_integer(kind):
        return True
    return _is_text(kind.value_type if _types.is_dictionary(kind) else kind)


def _is_text(kind: Any) -> bool:
    return bool(_types.is_string(kind) or _types.is_large_string(kind) or _types.is_string_view(kind))


def _column(field: Field, array: Any) -> Column:
    """The values of `array`, which is valid and of a type that `field` takes."""
    kind = array.type
    if _types.is_timestamp(kind) or _types.is_date32(kind):
        return _local_times(array)
    if _types.is_dictionary(kind):
        # only words that occur, and each once: rows then share them
        places = array.indices.to_pylist()
        words = {place: array.dictionary[place].as_py() for place in {*places} - {None}}
        return [None if place is None else words[place] for place in places]
    if array.null_count or not (_types.is_floating(kind) or _types.is_integer(kind)):
        values: list[Any] = array.to_pylist()
        return [None if value != value else value for value in values] if _types.is_floating(kind) else values
    letter = "f" if _types.is_floating(kind) else "i" if _types.is_signed_integer(kind) else "u"
    numbers = _numbers(array, np.dtype(f"<{letter}{kind.bit_width // 8}"))
    return nan_as_missing(numbers) if _types.is_floating(kind) else numbers


def _local_times(array: Any) -> list[str | None]:
    """ISO 8601 texts, as every other protocol has them: an entity or a masked value must not depend on the protocol."""
    kind = "datetime64[D]" if _types.is_date32(array.type) else f"datetime64[{array.type.unit}]"
    whole = _numbers(array, np.dtype(np.int32 if _types.is_date32(array.type) else np.int64))
    texts = np.datetime_as_string(whole.astype(np.int64).view(kind)).tolist()
    missing = array.is_null().to_pylist()
    return [None if is_missing else _shortest(text) for text, is_missing in zip(texts, missing, strict=True)]


def _numbers(array: Any, dtype: np.dtype[Any]) -> NDArray[Any]:
    """The values of `array` without a copy, anything where it has a null; Arrow's own `to_numpy` imports pandas."""
    if not len(array):
        return np.empty(0, dtype=dtype)
    return np.frombuffer(array.buffers()[1], dtype=dtype, count=len(array), offset=array.offset * dtype.itemsize)


def _shortest(text: str) -> str:
    """A time as `datetime.isoformat` writes it: microseconds where there are any."""
    whole, point, fraction = text.partition(".")
    fraction = fraction[:_MICROSECOND_DIGITS].ljust(_MICROSECOND_DIGITS, "0")
    return f"{whole}.{fraction}" if point and fraction.strip("0") else whole


def _joined(parts: Sequence[Column]) -> Column:
    if len(parts) == 1:
        return parts[0]
    if all(isinstance(part, np.ndarray) for part in parts):
        return np.concatenate(parts)
    return [value for part in parts for value in (part.tolist() if isinstance(part, np.ndarray) else part)]


def _refuse_long_texts(by_name: dict[str, Column]) -> None:
    characters = sum(
        len(value)
        for column in by_name.values()
        if not isinstance(column, np.ndarray)
        for value in column
        if value.__class__ is str
    )
    if characters > MAXIMUM_TEXT_CHARACTERS:
        raise MalformedRequestError(
            422, f"the texts of all rows have {characters:,} characters, expected at most {MAXIMUM_TEXT_CHARACTERS:,}"
        )


# -- what goes out -----------------------------------------------------------------------------------------------------


def _texts(values: Sequence[str]) -> Any:
    pieces = [value.encode() for value in values]
    offsets = np.zeros(len(pieces) + 1, dtype=np.int32)
    np.cumsum([len(piece) for piece in pieces], out=offsets[1:])
    return pyarrow.Array.from_buffers(
        pyarrow.string(), len(pieces), [None, _buffer(offsets), pyarrow.py_buffer(b"".join(pieces))]
    )


def _booleans(values: Sequence[bool]) -> Any:
    bits = np.packbits(np.array(values, dtype=np.bool_), bitorder="little")
    return pyarrow.Array.from_buffers(pyarrow.bool_(), len(values), [None, _buffer(bits)])


def _buffer(values: NDArray[Any]) -> Any:
    return pyarrow.py_buffer(values)
