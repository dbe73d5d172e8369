"""Reads the prediction log: Parquet segments in `<root>/day=YYYY-MM-DD/`, by DuckDB.

The model server renames a segment into place when it is whole; names that start with a dot are unfinished and are not
read. A segment that cannot be read is named in the answer and skipped: one bad file does not blind the monitor, and
does not go unnoticed either.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import date, datetime
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from contracts.encoder import Encoder, InvalidRecordError
from contracts.input_schema import InputSchema

# the columns of contracts.prediction_row.PredictionRow, as DuckDB types
_TYPES = {
    "prediction_id": "VARCHAR",
    "request_id": "VARCHAR",
    "served_at": "VARCHAR",
    "event_time": "VARCHAR",
    "project": "VARCHAR",
    "version": "VARCHAR",
    "bundle": "VARCHAR",
    "slot": "VARCHAR",
    "rollout": "VARCHAR",
    "share": "DOUBLE",
    "entity": "VARCHAR",
    "score": "DOUBLE",
    "decision": "BOOLEAN",
    "latency_us": "BIGINT",
    "error": "VARCHAR",
    "inputs": "VARCHAR",
}
_ARROW = {"VARCHAR": pa.string(), "DOUBLE": pa.float64(), "BOOLEAN": pa.bool_(), "BIGINT": pa.int64()}
PREDICTION_COLUMNS = pa.schema([(name, _ARROW[kind]) for name, kind in _TYPES.items()])
_SELECT = ", ".join(f'CAST("{name}" AS {kind}) AS "{name}"' for name, kind in _TYPES.items())
# ISO 8601 allows the short form, which DuckDB's cast does not know
_EVENT_TIME = (
    "coalesce(try_cast(event_time AS TIMESTAMP),"
    " try_strptime(event_time, ['%Y%m%dT%H%M', '%Y%m%dT%H%M%S', '%Y-%m-%dT%H', '%Y%m%dT%H%M%S.%f']))"
)


@dataclass(frozen=True)
class DamagedSegment:
    """A segment that could not be read: its path below the root, and why."""

    path: str
    reason: str


@dataclass(frozen=True)
class PredictionLog:
    """Rows of the log in the order of `prediction_id`; `undated` rows have an event time that is no time."""

    table: pa.Table
    segments: int
    damaged: tuple[DamagedSegment, ...]
    undated: int


@dataclass(frozen=True)
class EncodedInputs:
    """The encoded inputs of the rows `kept` of a table; `refused` more were not what the schema takes."""

    rows: NDArray[np.float32]
    kept: NDArray[np.int64]
    refused: int
    first_refusal: str | None


def read_predictions(
    root: Path, start: date | datetime, end: date | datetime, *, served_from: date | None = None
) -> PredictionLog:
    """The predictions for events from `start` up to, and without, `end` (local times, as the records give them).

    `served_from` (UTC) leaves out the folders of earlier days unread: give it where predictions are served near their
    events, and leave it out for a replay of history. A log that does not exist yet is empty.
    """
    parameters = [_moment(start), _moment(end)]
    paths = _segments(root, served_from)
    found, damaged = _query(root, paths, f"WHERE {_EVENT_TIME} >= ? AND {_EVENT_TIME} < ?", parameters)
    readable = [path for path in paths if path.relative_to(root).as_posix() not in {item.path for item in damaged}]
    undated, _ = _query(root, readable, f"WHERE {_EVENT_TIME} IS NULL", [], select="prediction_id")
    return PredictionLog(found, len(paths), damaged, undated.num_rows)


def find_prediction(root: Path, prediction_id: str) -> dict[str, Any] | None:
    """The row of one prediction, by the names of `contracts.prediction_row.PredictionRow`; None if there is none.

    Damaged segments are skipped: None then means "in no segment that can be read".
    """
    found, _ = _query(root, _segments(root, None), "WHERE prediction_id = ?", [prediction_id])
    rows: list[dict[str, Any]] = found.slice(0, 1).to_pylist()
    return rows[0] if rows else None


def encode_inputs(predictions: pa.Table, schema: InputSchema) -> EncodedInputs:
    """The inputs of `predictions` as the model saw them, except that personal fields, masked in the log, are missing.

    Rows whose inputs the schema refuses (the log of another version's schema, say) are left out and counted.
    """
    personal = tuple(field.name for field in schema.fields if field.personal)
    fields = tuple(
        msgspec.structs.replace(field, required=field.required and not field.personal) for field in schema.fields
    )
    encoder = Encoder(msgspec.structs.replace(schema, fields=fields))
    encoded: list[NDArray[np.float32]] = []
    kept: list[int] = []
    first_refusal: str | None = None
    for position, record in enumerate(parse_inputs(predictions)):
        for name in personal:
            record.pop(name, None)
        try:
            encoded.append(encoder.encode(record))
        except InvalidRecordError as error:
            first_refusal = first_refusal or str(error)
        else:
            kept.append(position)
    rows = np.concatenate(encoded) if encoded else np.empty((0, encoder.width), dtype=np.float32)
    return EncodedInputs(rows, np.array(kept, dtype=np.int64), predictions.num_rows - len(kept), first_refusal)


def parse_inputs(predictions: pa.Table) -> list[dict[str, Any]]:
    """The record of each row, from its JSON; what is no JSON object becomes an empty record, which schemas refuse."""
    decoder = msgspec.json.Decoder(dict[str, Any])
    records: list[dict[str, Any]] = []
    for text in predictions.column("inputs").to_pylist():
        try:
            records.append(decoder.decode(text or "{}"))
        except msgspec.DecodeError:
            records.append({})
    return records


def _moment(when: date | datetime) -> datetime:
    if isinstance(when, datetime):
        if when.tzinfo is not None:
            raise ValueError(f"event times are local, without an offset; found {when.isoformat()}")
        return when
    return datetime(when.year, when.month, when.day)


def _segments(root: Path, served_from: date | None) -> list[Path]:
    first = "" if served_from is None else f"day={served_from.isoformat()}"
    return sorted(
        path
        for path in root.glob("day=*/*.parquet")
        if path.parent.name >= first and not path.name.startswith(".") and path.is_file()
    )


def _query(
    root: Path, paths: Sequence[Path], condition: str, parameters: Sequence[Any], select: str = _SELECT
) -> tuple[pa.Table, tuple[DamagedSegment, ...]]:
    """One query over all segments; only if that fails, one after the other, to name those that cannot be read."""
    import duckdb

    if not paths:
        return PREDICTION_COLUMNS.empty_table(), ()
    with duckdb.connect() as connection:

        def run(some: Sequence[Path]) -> pa.Table:
            return connection.sql(
                f"SELECT {select} FROM read_parquet(?, union_by_name=true, hive_partitioning=false) {condition}"
                " ORDER BY prediction_id",
                params=[[str(path) for path in some], *parameters],
            ).to_arrow_table()

        try:
            return run(paths), ()
        except duckdb.Error:
            damaged = tuple(_find_damaged(root, paths, run))
        names = {item.path for item in damaged}
        readable = [path for path in paths if path.relative_to(root).as_posix() not in names]
        return (run(readable) if readable else PREDICTION_COLUMNS.empty_table()), damaged


def _find_damaged(
    root: Path, paths: Sequence[Path], run: Callable[[Sequence[Path]], pa.Table]
) -> Iterator[DamagedSegment]:
    import duckdb

    for path in paths:
        try:
            run([path])
        except duckdb.Error as error:
            yield DamagedSegment(path.relative_to(root).as_posix(), str(error).splitlines()[0])
