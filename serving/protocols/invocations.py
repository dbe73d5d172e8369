"""SageMaker's container contract, `POST /invocations`: JSON, JSON Lines, CSV or Arrow in, and any of them out.

JSON is the body of `/v1/predict`. JSON Lines has one record a line. CSV has a header line with the names of the fields;
its cells become numbers, booleans and text by the schema, and an empty cell is a missing value.
Specification: https://docs.aws.amazon.com/sagemaker/latest/dg/your-algorithms-inference-code.html
"""

import csv
import io
import re
from collections.abc import Callable, Mapping, Sequence
from itertools import islice
from typing import Any

import msgspec

from contracts.encoder import FieldProblem, InvalidRecordError
from contracts.input_schema import Field, InputSchema
from serving.protocols import arrow_stream, records
from serving.protocols.media_types import ARROW, CSV, JSON, JSON_LINES
from serving.protocols.records import MAXIMUM_COLUMNS, MAXIMUM_RECORDS, MalformedRequestError, PredictResponse, parse

TYPES = (JSON, JSON_LINES, CSV, ARROW)
_NUMBER = re.compile(r"[+-]?(\d+(\.\d*)?|\.\d+)([eE][+-]?\d+)?", re.ASCII)
_BOOLEANS = {"true": True, "false": False}
_record_decoder = msgspec.json.Decoder(dict[str, Any])


def decode(body: bytes, kind: str, schema: InputSchema) -> Sequence[Mapping[str, Any]]:
    """The records in `body`, which has the type `kind` of `TYPES`.

    Raises:
        MalformedRequestError: the body is not of that type, has another shape, or too many records.
        InvalidRecordError: a column of CSV or Arrow is no field of `schema`.
    """
    if kind == JSON:
        return records.decode(body)
    if kind == JSON_LINES:
        return _from_lines(body)
    if kind == ARROW:
        return arrow_stream.decode(body, schema)
    return _from_csv(body, schema)


def encode(answer: PredictResponse, kind: str) -> bytes:
    """The answer as `kind` of `TYPES`; JSON Lines and CSV hold one prediction a line, in the records' order."""
    if kind == JSON:
        return records.encode(answer)
    if kind == ARROW:
        return arrow_stream.encode(answer)
    if kind == JSON_LINES:
        return b"".join(msgspec.json.encode(each) + b"\n" for each in answer.predictions)
    return csv_of([{name: getattr(each, name) for name in records.COLUMNS} for each in answer.predictions]).encode()


def csv_of(rows: Sequence[dict[str, Any]]) -> str:
    """`rows`, which have the same keys, below a header line; numbers and booleans are written as JSON writes them."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    names = list(rows[0]) if rows else []
    writer.writerow(names)
    writer.writerows([_cell_of(row[name]) for name in names] for row in rows)
    return text.getvalue()


def _from_lines(body: bytes) -> list[dict[str, Any]]:
    lines = body.rstrip().split(b"\n", MAXIMUM_RECORDS) if body.strip() else []
    if not 1 <= len(lines) <= MAXIMUM_RECORDS:
        found = "no records" if not lines else f"more than {MAXIMUM_RECORDS} lines"
        raise MalformedRequestError(422, f"found {found}, expected 1 to {MAXIMUM_RECORDS}")
    found_records = []
    for number, line in enumerate(lines, 1):
        try:
            found_records.append(parse(_record_decoder, line))
        except MalformedRequestError as error:
            raise MalformedRequestError(error.status, f"line {number}: {error}") from error
    return found_records


def _from_csv(body: bytes, schema: InputSchema) -> list[dict[str, Any]]:
    try:
        text = body.decode("utf-8-sig").rstrip("\r\n")
    except UnicodeDecodeError as error:
        raise MalformedRequestError(400, f"the body is not UTF-8: {error.reason} at byte {error.start}") from None
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    try:
        names = [name.strip() for name in next(reader, [])]
        rows = list(islice(reader, MAXIMUM_RECORDS + 1))
    except csv.Error as error:
        raise MalformedRequestError(400, f"the body is not CSV: {error}, in line {reader.line_num}") from None
    _check_header(names, schema)
    if not 1 <= len(rows) <= MAXIMUM_RECORDS:
        raise MalformedRequestError(
            422, f"found {'no rows' if not rows else 'more'} below the header line, expected 1 to {MAXIMUM_RECORDS}"
        )
    fields = {field.name: field for field in schema.fields}
    columns = [(name, _value_of(fields[name])) for name in names]
    found = []
    for number, row in enumerate(rows):
        if len(row) != len(names):
            raise MalformedRequestError(
                422, f"row {number} below the header line: found {len(row)} cells, expected {len(names)}"
            )
        found.append({name: value(cell) for (name, value), cell in zip(columns, row, strict=True)})
    return found


def _check_header(names: Sequence[str], schema: InputSchema) -> None:
    """One problem for each column that is wrong, whatever the number of rows below it."""
    if len(names) > MAXIMUM_COLUMNS:
        raise MalformedRequestError(422, f"found {len(names)} columns, expected at most {MAXIMUM_COLUMNS}")
    known = {field.name for field in schema.fields}
    problems: list[FieldProblem] = []
    seen: set[str] = set()
    for name in names:
        if name not in known:
            problems.append(FieldProblem(name[:60], "a column that is not in the schema", "no such column"))
        elif name in seen:
            problems.append(FieldProblem(name, "the column twice", "each column once"))
        seen.add(name)
    if not names:
        problems.append(FieldProblem("header", "nothing", "a header line with the names of the fields"))
    problems.extend(
        FieldProblem(field.name, "no column", f"a {field.kind} column")
        for field in schema.fields
        if field.required and field.name not in seen
    )
    if problems:
        raise InvalidRecordError(problems)


def _value_of(field: Field) -> Callable[[str], Any]:
    """How a cell of `field` is read. One that does not fit stays text, which the encoder refuses by name and row."""
    if field.kind == "number":
        return lambda cell: None if not cell else float(cell) if _NUMBER.fullmatch(cell.strip()) else cell
    if field.kind == "boolean":
        return lambda cell: None if not cell else _BOOLEANS.get(cell.strip().lower(), cell)
    return lambda cell: cell or None


def _cell_of(value: Any) -> str:
    if value is None:
        return ""
    return value if isinstance(value, str) else msgspec.json.encode(value).decode()
