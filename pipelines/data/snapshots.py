"""Snapshots: immutable, content-addressed extracts of a project's labelled events.

A snapshot is a folder named by the hash of its manifest, and the manifest holds the hash of the Parquet file. Rows are
sorted, so the same events give the same bytes; when and where it was taken is not in it.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import msgspec
import numpy as np
from numpy.typing import NDArray

from contracts.hashing import bytes_id, canonical_json, file_id
from pipelines.data.profile import label_mean
from pipelines.data.schema import PART_COLUMN, DeclaredSchema, Label
from pipelines.data.windows import Window, Windows

if TYPE_CHECKING:
    import ibis
    import pyarrow as pa

FORMAT = 1
MANIFEST, DATA = "manifest.json", "data.parquet"
_ROWS_PER_GROUP = 1 << 16


class SnapshotError(ValueError):
    """A snapshot that cannot be taken or must not be used: what was found, what was expected, and where."""


class SnapshotManifest(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What a snapshot is made of. `columns` maps each column to its Arrow type, `data` is the SHA-256 of the Parquet
    file; a label share is None where the part has no row with a label."""

    format: int = FORMAT
    project: str
    schema_version: int
    time: str
    label: str
    label_delay_days: int
    windows: Windows
    columns: dict[str, str]
    rows: int
    rows_by_part: dict[str, int]
    label_share: dict[str, float | None]
    data: str

    @property
    def rows_per_day(self) -> float:
        """Rows for each day of all windows: comparable between windows of different length."""
        return self.rows / self.windows.whole.days


@dataclass(frozen=True)
class Snapshot:
    """A verified snapshot on disk."""

    id: str
    path: Path
    manifest: SnapshotManifest

    @property
    def data_path(self) -> Path:
        return self.path / DATA

    def table(self, part: str | None = None) -> pa.Table:
        """The rows of `part` ("train", "validation" or "test"), or all rows, in the order of time.

        Raises:
            SnapshotError: there is no such part.
        """
        import pyarrow.parquet as pq

        parts = tuple(self.manifest.windows.by_part())
        if part is not None and part not in parts:
            raise SnapshotError(f"a snapshot has no part {part!r}; its parts are {', '.join(parts)}")
        return pq.read_table(self.data_path, filters=None if part is None else [(PART_COLUMN, "=", part)])

    def records(self, part: str, fields: tuple[str, ...]) -> list[dict[str, Any]]:
        """The rows of `part` as records of `fields`, as the encoder takes them."""
        records: list[dict[str, Any]] = self.table(part).select(list(fields)).to_pylist()
        return records

    def labels(self, part: str) -> NDArray[np.float32]:
        """The labels of `part`, 0 or 1, in the order of its rows."""
        column = self.table(part).column(self.manifest.label)
        return np.asarray(column.to_numpy(zero_copy_only=False), dtype=np.float32)

    def days(self, part: str) -> NDArray[np.int64]:
        """For each row of `part` the day of its event, as days since 1970: the blocks of a bootstrap."""
        column = self.table(part).column(self.manifest.time)
        return np.asarray(column.to_numpy(zero_copy_only=False), dtype="datetime64[D]").astype(np.int64)


def take_snapshot(
    root: Path, events: ibis.Table, windows: Windows, schema: DeclaredSchema, label: Label, project: str
) -> Snapshot:
    """Extracts the events of `windows` below `root`, in a folder named by the snapshot's id.

    A declared column that the source does not give is left out: validation names it. Taking the same content again
    changes nothing.

    Raises:
        SnapshotError: the source has no time column, or no event in the windows.
        OSError: the disk refuses; nothing is left behind then.
    """
    table = _with_parts(read_events(events, schema, label, windows.whole), windows, schema.time)
    if table.num_rows == 0:
        raise SnapshotError(f"the source of {project!r} has no event from {windows.whole}: ingest first")
    root.mkdir(parents=True, exist_ok=True)
    draft = Path(tempfile.mkdtemp(prefix=".draft-", dir=root))
    try:
        _write_parquet(table, draft / DATA)
        manifest = SnapshotManifest(
            project=project,
            schema_version=schema.version,
            time=schema.time,
            label=label.column,
            label_delay_days=label.delay_days,
            windows=windows,
            columns={column.name: str(column.type) for column in table.schema},
            rows=table.num_rows,
            rows_by_part=_rows_by_part(table, windows),
            label_share=_label_share(table, windows, label),
            data=file_id(draft / DATA),
        )
        encoded = canonical_json(manifest)
        final = root / bytes_id(encoded)
        _write_durably(draft / MANIFEST, encoded)
        draft.chmod(0o755)
        try:
            draft.rename(final)
        except OSError:
            if not final.exists():  # the same content is already there, or another writer of it was first
                raise
    finally:
        shutil.rmtree(draft, ignore_errors=True)
    return read_snapshot(root, final.name)


def read_snapshot(root: Path, snapshot_id: str) -> Snapshot:
    """The snapshot `snapshot_id` below `root`, with the hash of its manifest and of its data verified.

    Raises:
        SnapshotError: it is missing, altered, or of another format.
    """
    path = root / snapshot_id
    manifest = read_manifest(root, snapshot_id)
    try:
        found = file_id(path / DATA)
    except OSError as error:
        raise SnapshotError(f"no data at {path / DATA}: {error.strerror}") from error
    if found != manifest.data:
        raise SnapshotError(f"{path / DATA} has the hash {found}, the manifest says {manifest.data}: take it again")
    return Snapshot(id=snapshot_id, path=path, manifest=manifest)


def read_manifest(root: Path, snapshot_id: str) -> SnapshotManifest:
    """The manifest of the snapshot `snapshot_id` below `root`, without reading its data.

    Raises:
        SnapshotError: it is missing, altered, or of another format.
    """
    path = root / snapshot_id / MANIFEST
    try:
        encoded = path.read_bytes()
    except OSError as error:
        raise SnapshotError(f"no snapshot at {path.parent}: {error.strerror}") from error
    if (found := bytes_id(encoded)) != snapshot_id:
        raise SnapshotError(f"the manifest {path} has the hash {found}, expected {snapshot_id}: take it again")
    try:
        found_format = msgspec.json.decode(encoded, type=dict[str, Any]).get("format")
        if found_format != FORMAT:
            raise SnapshotError(f"the snapshot {path.parent} has format {found_format!r}, this version reads {FORMAT}")
        return msgspec.json.decode(encoded, type=SnapshotManifest)
    except msgspec.DecodeError as error:
        raise SnapshotError(f"the manifest {path} cannot be read: {error}") from error


def select_events(events: ibis.Table, schema: DeclaredSchema, label: Label, window: Window) -> ibis.Table:
    """The query for the events of `window`: the declared fields and the label, sorted by time, key and then all else.

    Columns that the source does not give are left out.

    Raises:
        SnapshotError: the source has no time column.
    """
    if schema.time not in events.columns:
        raise SnapshotError(f"the source has no column {schema.time!r} (time); found {', '.join(events.columns)}")
    columns = [name for name in (*schema.names, label.column) if name in events.columns]
    moment = events[schema.time]
    chosen = events.filter(moment >= _midnight(window.start), moment < _midnight(window.end)).select(*columns)
    order = dict.fromkeys(name for name in (schema.time, *schema.key, *columns) if name in columns)
    return chosen.order_by(*order)


def read_events(events: ibis.Table, schema: DeclaredSchema, label: Label, window: Window) -> pa.Table:
    """The rows of `select_events`. Raises what that raises."""
    return select_events(events, schema, label, window).to_pyarrow()


def labelled_events(
    events: ibis.Table, schema: DeclaredSchema, label: Label, start: date, end: date, as_of: date
) -> pa.Table:
    """The outcomes of the events from `start` up to and without `end` that are known at the start of `as_of`.

    Columns: the key of the event, its time, the label; no others are read.

    Raises:
        SnapshotError: the source lacks one of those columns.
    """
    known = _known_events(events, schema, label, start, end, as_of)
    return known.order_by(*dict.fromkeys((schema.time, *schema.key))).to_pyarrow()


def count_labelled_events(
    events: ibis.Table, schema: DeclaredSchema, label: Label, start: date, end: date, as_of: date
) -> int:
    """How many rows `labelled_events` has; counted where the events are. Raises what that raises."""
    return int(_known_events(events, schema, label, start, end, as_of).count().to_pyarrow().as_py())


def _known_events(
    events: ibis.Table, schema: DeclaredSchema, label: Label, start: date, end: date, as_of: date
) -> ibis.Table:
    wanted = list(dict.fromkeys((*schema.key, schema.time, label.column)))
    if lacking := [name for name in wanted if name not in events.columns]:
        raise SnapshotError(f"outcomes need the columns {', '.join(lacking)}; found {', '.join(events.columns)}")
    window, moment = Window(start, max(start, min(end, label.known_before(as_of)))), events[schema.time]
    return events.filter(moment >= _midnight(window.start), moment < _midnight(window.end)).select(*wanted)


def earliest_day(events: ibis.Table, schema: DeclaredSchema) -> date:
    """The day of the first event.

    Raises:
        SnapshotError: the source has no time column, or no event.
    """
    return _day_of(events, schema, "min")


def latest_day(events: ibis.Table, schema: DeclaredSchema) -> date:
    """The day of the last event; raises as `earliest_day`."""
    return _day_of(events, schema, "max")


def _day_of(events: ibis.Table, schema: DeclaredSchema, which: Literal["min", "max"]) -> date:
    if schema.time not in events.columns:
        raise SnapshotError(f"the source has no column {schema.time!r} (time); found {', '.join(events.columns)}")
    moment = getattr(events[schema.time], which)().to_pyarrow().as_py()
    if moment is None:
        raise SnapshotError("the source has no event: ingest first")
    day: date = moment.date()
    return day


def _midnight(day: date) -> Any:
    import ibis

    return ibis.timestamp(day.isoformat() + "T00:00:00")


def _with_parts(table: pa.Table, windows: Windows, time: str) -> pa.Table:
    import pyarrow as pa

    days = np.asarray(table.column(time).to_numpy(zero_copy_only=False), dtype="datetime64[D]")
    ends = np.array([window.end for window in windows.by_part().values()], dtype="datetime64[D]")
    names = np.array(list(windows.by_part()), dtype=object)
    return table.append_column(PART_COLUMN, pa.array(names[np.searchsorted(ends, days, side="right")], pa.string()))


def _rows_by_part(table: pa.Table, windows: Windows) -> dict[str, int]:
    counted = {row["values"]: row["counts"] for row in table.column(PART_COLUMN).value_counts().to_pylist()}
    return {part: counted.get(part, 0) for part in windows.by_part()}


def _label_share(table: pa.Table, windows: Windows, label: Label) -> dict[str, float | None]:
    import pyarrow.compute as pc

    shares: dict[str, float | None] = {}
    for part in windows.by_part():
        rows = table.filter(pc.equal(table.column(PART_COLUMN), part))
        mean = label_mean(rows, label)
        shares[part] = None if mean is None else round(mean, 6)
    return shares


def _write_parquet(table: pa.Table, path: Path) -> None:
    import pyarrow.parquet as pq

    # one chunk and fixed groups: bytes must not depend on how the source's engine cut its result
    pq.write_table(table.combine_chunks(), path, row_group_size=_ROWS_PER_GROUP, compression="zstd", version="2.6")
    with path.open("rb") as file:
        os.fsync(file.fileno())


def _write_durably(path: Path, content: bytes) -> None:
    with path.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
