"""Reads the prediction log: segments and Parquet files in `<root>/day=YYYY-MM-DD/`, together, by DuckDB.

Also the segment that the model server is writing is read, up to its last commit. A file that cannot be read is named in
the answer: one bad file does not blind the monitor, and does not go unnoticed either. Of a damaged segment the batches
before the damage are used, of a damaged Parquet file nothing.
"""

import json
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from contracts.encoder import Encoder, InvalidRecordError
from contracts.input_schema import InputSchema
from contracts.prediction_row import SYNTHETIC
from pipelines.monitoring.forgotten import Forgotten, read_forgotten, visible
from pipelines.monitoring.segments import (
    SAMPLED,
    SAMPLING,
    DamagedSegment,
    DamagedStreamError,
    Files,
    consistently,
    list_files,
    read_stream,
)

if TYPE_CHECKING:
    import duckdb

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
    "client": "VARCHAR",
    "unusual": "VARCHAR",
    "cached": "BOOLEAN",
    "uncounted": "VARCHAR",
    "features": "BLOB",
}
_LATER = frozenset({"client", "unusual", "cached", "uncounted", "features"})  # columns that older files do not have
_ARROW = {
    "VARCHAR": pa.string(),
    "DOUBLE": pa.float64(),
    "BOOLEAN": pa.bool_(),
    "BIGINT": pa.int64(),
    "BLOB": pa.binary(),
}
PREDICTION_COLUMNS = pa.schema([(name, _ARROW[kind]) for name, kind in _TYPES.items()])
STREAM_COLUMNS = pa.schema([pa.field(name, _ARROW[kind], name in _LATER) for name, kind in _TYPES.items()])


def select_columns(*names: str) -> str:
    """SQL of columns of the log, in their types: a file in which a column is all null has another one."""
    return ", ".join(f'CAST("{name}" AS {_TYPES[name]}) AS "{name}"' for name in names)


SELECT_COLUMNS = select_columns(*_TYPES)
# ISO 8601 allows the short form, which DuckDB's cast does not know
EVENT_TIME = (
    "coalesce(try_cast(event_time AS TIMESTAMP),"
    " try_strptime(event_time, ['%Y%m%dT%H%M', '%Y%m%dT%H%M%S', '%Y-%m-%dT%H', '%Y%m%dT%H%M%S.%f']))"
)


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
    events, and leave it out for a replay of history. A log that does not exist yet is empty. Without
    synthetic requests: of nobody's predictions there is no outcome and no drift.
    """
    condition = (
        f"WHERE uncounted IS DISTINCT FROM '{SYNTHETIC}'"
        f" AND (({EVENT_TIME} >= ? AND {EVENT_TIME} < ?) OR {EVENT_TIME} IS NULL)"
    )
    first = "" if served_from is None else served_from.isoformat()
    found = _read(
        root,
        lambda day: day >= first,
        condition,
        [_moment(start), _moment(end)],
        select=f"{SELECT_COLUMNS}, {EVENT_TIME} IS NULL AS undated",
    )
    undated = found.table["undated"]
    dated = found.table.filter(pc.invert(undated)).drop_columns(["undated"])
    return PredictionLog(dated, found.files, found.damaged, found.table.num_rows - dated.num_rows)


def read_holdout(root: Path, rollout: str, *, new: str, old: str, since: datetime) -> PredictionLog:
    """The rows that chance has given to the champion `new` and to the holdout `old` since the promotion by `rollout`.

    `undated` rows are left out. `since` has its zone.
    """
    first = (since - timedelta(days=1)).date().isoformat()
    found = _read(
        root,
        lambda day: day >= first,
        "WHERE rollout = ? AND uncounted IS NULL"
        " AND ((slot = 'champion' AND version = ?) OR (slot = 'holdout' AND version = ?))",
        [rollout, new, old],
        select=f"{SELECT_COLUMNS}, {EVENT_TIME} IS NULL AS undated",
    )
    dated = found.table.filter(pc.invert(found.table["undated"])).drop_columns(["undated"])
    return PredictionLog(dated, found.files, found.damaged, found.table.num_rows - dated.num_rows)


def find_prediction(root: Path, prediction_id: str) -> dict[str, Any] | None:
    """The row of one prediction, by the names of `contracts.prediction_row.PredictionRow`; None if there is none.

    Damaged files are skipped: None then means "in no file that can be read". `why_absent` may know more.
    """
    days = _days_of(prediction_id)
    found = _read(root, lambda day: not days or day in days, "WHERE prediction_id = ?", [prediction_id])
    rows: list[dict[str, Any]] = found.table.slice(0, 1).to_pylist()
    return rows[0] if rows else None


def find_ids(root: Path, prefix: str, *, at_most: int) -> tuple[str, ...]:
    """The first `at_most` ids of predictions that begin with `prefix`, in their order. Damaged files are skipped."""
    days = _days_of_prefix(prefix)
    found = _read(
        root,
        lambda day: days is None or days[0] <= day <= days[1],
        "WHERE starts_with(prediction_id, ?)",
        [prefix],
        select="prediction_id",
    )
    ids: list[str] = found.table.column("prediction_id").slice(0, at_most).to_pylist()
    return tuple(ids)


def why_absent(root: Path, prediction_id: str) -> str | None:
    """What the log can say about a prediction that `find_prediction` did not find; None: nothing."""
    days = _days_of(prediction_id)
    for path in list_files(root, lambda day: day in days).tables:
        if path.name.startswith(SAMPLED):
            sampling = json.loads((pq.read_schema(path).metadata or {})[SAMPLING.encode()])
            return (
                f"the log of {path.parent.name.removeprefix('day=')}, when it would have been made, was reduced after "
                f"{sampling['keep_days']} days to {sampling['kept_rows']} of {sampling['rows']} rows: those with "
                f"errors or unusual flags, and {sampling['fraction']:.2%} of the others; it may be among the rest"
            )
    return None


def query_predictions(
    root: Path, select: str, rest: str, parameters: Sequence[Any], is_wanted: Callable[[str], bool] = lambda day: True
) -> PredictionLog:
    """`SELECT select FROM predictions rest` (SQL) over the days (`2013-08-01`) that are wanted; `undated` is 0.

    Raises:
        LogChangesError: the files come and go faster than they can be read.
    """
    found = _read(root, is_wanted, rest, parameters, select=select, order="")
    return PredictionLog(found.table, found.files, found.damaged, 0)


@contextmanager
def predictions_table(root: Path, condition: str, parameters: Sequence[Any]) -> "Iterator[duckdb.DuckDBPyConnection]":
    """A DuckDB connection in which the table `predictions` has the rows of the log that meet `condition` (SQL).

    Raises:
        LookupError: the log has no file.
    """
    import duckdb

    found = _read(root, lambda day: True, f"WHERE {condition}", parameters)
    if not found.files:
        raise LookupError(f"no predictions were logged below {root}")
    with duckdb.connect() as connection:
        connection.register("predictions", found.table)
        yield connection


def encode_inputs(predictions: pa.Table, schema: InputSchema) -> EncodedInputs:
    """The inputs of `predictions` as the model saw them, except that personal fields, masked in the log, are missing.

    Rows whose inputs the schema refuses (the log of another version's schema, say) are left out and counted.
    """
    return encode_records(parse_inputs(predictions), schema)


def encode_records(records: Sequence[dict[str, Any]], schema: InputSchema) -> EncodedInputs:
    """`records` encoded as training does, except that their personal fields are taken out, and missing.

    Those that the schema refuses are left out and counted.
    """
    personal = tuple(field.name for field in schema.fields if field.personal)
    fields = tuple(
        msgspec.structs.replace(field, required=field.required and not field.personal) for field in schema.fields
    )
    encoder = Encoder(msgspec.structs.replace(schema, fields=fields))
    for record in records if personal else ():
        for name in personal:
            record.pop(name, None)
    with suppress(InvalidRecordError):  # by column, where nothing is refused
        return EncodedInputs(encoder.encode_rows(records), np.arange(len(records)), 0, None)
    encoded: list[NDArray[np.float32]] = []
    kept: list[int] = []
    first_refusal: str | None = None
    for position, record in enumerate(records):
        try:
            encoded.append(encoder.encode(record))
        except InvalidRecordError as error:
            first_refusal = first_refusal or str(error)
        else:
            kept.append(position)
    rows = np.concatenate(encoded) if encoded else np.empty((0, encoder.width), dtype=np.float32)
    return EncodedInputs(rows, np.array(kept, dtype=np.int64), len(records) - len(kept), first_refusal)


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


def days_of_ids(prediction_ids: Iterable[str]) -> frozenset[str] | None:
    """The days on which predictions of these ids can have been served; None: any, as one of them does not say."""
    days: set[str] = set()
    for prediction_id in prediction_ids:
        found = _days_of(prediction_id)
        if not found:
            return None
        days |= found
    return frozenset(days)


def _days_of(prediction_id: str) -> frozenset[str]:
    """The days on which a prediction of this id was served, by the time in it; empty where it has none."""
    parts = prediction_id.split("-")
    if [len(part) for part in parts] != [8, 4, 4, 4, 12] or parts[2][0] != "7":
        return frozenset()
    try:
        made = datetime.fromtimestamp(int(parts[0] + parts[1], 16) / 1000, UTC)
        return frozenset((made + timedelta(days=days)).date().isoformat() for days in (-1, 0, 1))
    except (ValueError, OverflowError):
        return frozenset()


def _days_of_prefix(prefix: str) -> tuple[str, str] | None:
    """The first and the last day on which a prediction can have been served whose id begins so; None: any."""
    digits = prefix.replace("-", "")[:12]
    if not re.fullmatch(r"[0-9a-f]{8,12}", digits):
        return None
    try:
        first, last = (datetime.fromtimestamp(int(digits.ljust(12, fill), 16) / 1000, UTC) for fill in "0f")
        return (first - timedelta(days=1)).date().isoformat(), (last + timedelta(days=1)).date().isoformat()
    except (ValueError, OverflowError, OSError):
        return None


@dataclass(frozen=True)
class _Read:
    table: pa.Table
    files: int
    damaged: tuple[DamagedSegment, ...]


def _read(
    root: Path,
    is_wanted: Callable[[str], bool],
    condition: str,
    parameters: Sequence[Any],
    select: str = SELECT_COLUMNS,
    order: str = " ORDER BY prediction_id",
) -> _Read:
    """One query over all files; only if that fails, one after the other, to name those that cannot be read."""

    def read() -> _Read:
        import duckdb

        files = list_files(root, is_wanted)
        damaged = list(files.damaged)
        query = f"{condition}{order}"
        try:
            table = _run(root, files, query, parameters, select, damaged)
        except duckdb.Error:
            readable = without_damaged(root, files)
            damaged = list(readable.damaged)
            table = _run(root, readable, query, parameters, select, damaged)
        return _Read(table, len(files.all) + len(files.damaged), tuple(sorted(damaged, key=lambda each: each.path)))

    return consistently(read)


def _run(
    root: Path,
    files: Files,
    query: str,
    parameters: Sequence[Any],
    select: str,
    damaged: list[DamagedSegment],
) -> pa.Table:
    """`query` over `files`; adds streams with a damage to `damaged`. Raises duckdb.Error, FileNotFoundError."""
    with connected(root, files, damaged) as connection:
        return connection.sql(f"SELECT {select} FROM predictions {query}", params=parameters).to_arrow_table()


@contextmanager
def connected(
    root: Path, files: Files, damaged: list[DamagedSegment], *, hidden: Sequence[Forgotten] | None = None
) -> "Iterator[duckdb.DuckDBPyConnection]":
    """A DuckDB connection with the view `predictions` over `files`; where those have streams, for one query only.

    Rows that are `hidden` are not in it; by default those that are to be forgotten.

    Adds streams with a damage to `damaged`. Raises FileNotFoundError at the end when a file went meanwhile.
    """
    import duckdb

    gone: list[Path] = []

    def batches() -> Iterator[pa.RecordBatch]:
        for path in files.streams:
            try:
                for batch in read_stream(path, STREAM_COLUMNS):
                    yield batch.cast(PREDICTION_COLUMNS)
            except DamagedStreamError as error:
                damaged.append(DamagedSegment(path.relative_to(root).as_posix(), str(error)))
            except FileNotFoundError:
                gone.append(path)

    with duckdb.connect() as connection:
        empty = PREDICTION_COLUMNS.empty_table()
        streams = pa.RecordBatchReader.from_batches(PREDICTION_COLUMNS, batches()) if files.streams else empty
        connection.register("streams", streams)
        union = "SELECT * FROM streams"
        if files.tables:
            names = ", ".join("'" + str(path).replace("'", "''") + "'" for path in files.tables)  # a view binds nothing
            union += (
                f" UNION ALL BY NAME SELECT * FROM read_parquet([{names}], union_by_name=true, hive_partitioning=false)"
            )
        seen = visible(read_forgotten(root) if hidden is None else hidden)
        connection.execute(f"CREATE TEMP VIEW predictions AS SELECT * FROM ({union}) WHERE {seen}")
        try:
            yield connection
        except duckdb.Error:
            for path in files.tables:
                path.stat()
            raise
    for path in gone:
        raise FileNotFoundError(path)


def without_damaged(root: Path, files: Files) -> Files:
    """`files` without the tables that cannot be read, which are among the damaged ones then.

    Raises:
        FileNotFoundError: one went meanwhile.
    """
    refused = {path: reason for path in files.tables if (reason := refusal(path)) is not None}
    named = (DamagedSegment(path.relative_to(root).as_posix(), reason) for path, reason in refused.items())
    return Files(
        streams=files.streams,
        tables=tuple(path for path in files.tables if path not in refused),
        replaced=files.replaced,
        damaged=(*files.damaged, *named),
    )


def refusal(path: Path) -> str | None:
    """Why the Parquet file at `path` cannot be read as predictions; None if it can. Raises FileNotFoundError."""
    import duckdb

    try:
        names = pq.read_schema(path).names
        if lacking := [name for name in _TYPES if name not in names and name not in _LATER]:
            return f"it lacks the columns {', '.join(lacking)}"
        with duckdb.connect() as connection:
            every = ", ".join(f'max(CAST("{name}" AS {kind}))' for name, kind in _TYPES.items() if name in names)
            connection.execute(f"SELECT {every} FROM read_parquet(?, hive_partitioning=false)", [str(path)]).fetchall()
    except FileNotFoundError:
        raise
    except (pa.ArrowException, OSError, duckdb.Error) as error:
        return str(error).splitlines()[0]
    return None
