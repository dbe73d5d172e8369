"""Compaction: the segments of a past day become one Parquet file, sorted by prediction.

The file appears whole, by one rename, and names what it replaces; only then are those files removed. After a crash in
between readers leave them out, and the next compaction removes them. Segments whose writer lives, and damaged ones,
which somebody has to look at, stay as they are.
"""

import contextlib
import fcntl
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow.parquet as pq

from pipelines.monitoring.forgotten import Forgotten, read_forgotten
from pipelines.monitoring.predictions import SELECT_COLUMNS, STREAM_COLUMNS, connected, refusal
from pipelines.monitoring.segments import (
    COMPACTED,
    REPLACES,
    SAMPLED,
    DamagedSegment,
    DamagedStreamError,
    Files,
    is_held,
    list_files,
    read_stream,
)

if TYPE_CHECKING:
    import duckdb

ROW_GROUP_ROWS = 100_000
MEMORY = "1GB"  # of the sort; what is larger goes through the disk
_LOCK, _SPILL = ".compaction.lock", ".compaction"


class CompactionRunsError(RuntimeError):
    """Another compaction of the same log is at work."""


class CompactionError(RuntimeError):
    """The new file does not have the rows that it should; nothing was replaced."""


@dataclass(frozen=True)
class CompactedDay:
    """What was done with a day, or would be: `merged` files became one of `rows` rows, `removed` were left-overs."""

    day: str
    rows: int
    merged: int
    removed: int
    held: int
    damaged: tuple[DamagedSegment, ...]


@contextlib.contextmanager
def locked(root: Path) -> Iterator[None]:
    """One compaction at a time below `root`. Raises CompactionRunsError at once when there is another."""
    root.mkdir(parents=True, exist_ok=True)
    handle = os.open(root / _LOCK, os.O_CREAT | os.O_RDWR, 0o644)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise CompactionRunsError(f"another compaction works on {root}: let it finish") from None
        yield
    finally:
        os.close(handle)


def compact_day(root: Path, day: str, *, is_dry_run: bool = False) -> CompactedDay:
    """Makes one Parquet file of what `day` has; call it for past days only, and within `locked`.

    Raises:
        CompactionError: the new file is not what it should be.
        OSError: the disk refuses; nothing was replaced.
    """
    files = list_files(root, lambda each: each == day)
    folder = root / f"day={day}"
    if not is_dry_run:
        _remove([*files.replaced, *_left_overs(folder)])
    streams = [path for path in files.streams if not is_held(path)]
    held = len(files.streams) - len(streams)
    counted: dict[Path, int] = {}
    damaged = list(files.damaged)
    tables = [path for path in files.tables if not path.name.startswith(SAMPLED)]
    if streams or len(tables) > 1 or any(not path.name.startswith(COMPACTED) for path in tables):
        for path in (*streams, *tables):
            try:
                counted[path] = _count(path)
            except DamagedStreamError as error:
                damaged.append(DamagedSegment(path.relative_to(root).as_posix(), str(error)))
    rows = sum(counted.values())
    if counted and not is_dry_run:
        sources = Files(
            streams=tuple(path for path in streams if path in counted),
            tables=tuple(path for path in tables if path in counted),
            replaced=(),
            damaged=(),
        )
        rows = count_rows(root, sources, "true") if read_forgotten(root) else rows
        replace(root, folder, COMPACTED, sources, rows=rows, metadata={})
    return CompactedDay(day, rows, len(counted), len(files.replaced), held, tuple(damaged))


def replace(
    root: Path,
    folder: Path,
    prefix: str,
    sources: Files,
    *,
    rows: int,
    metadata: Mapping[str, Any],
    keep: str = "true",
    hidden: Sequence[Forgotten] | None = None,
) -> Path:
    """Writes those rows of `sources` that meet the condition `keep` to a new Parquet file, which takes their place.

    Rows that are `hidden` go with the sources; by default those that are to be forgotten.

    Raises:
        CompactionError: there are not `rows` of them; then nothing was replaced.
        OSError: the disk refuses.
    """
    names = sorted(path.name for path in sources.all)
    final = folder / replacement_name(prefix, names)
    draft = folder / f".{final.name}.draft"
    damaged: list[DamagedSegment] = []
    try:
        with connected(root, sources, damaged, hidden=hidden) as connection:
            _limit(connection, root)
            connection.execute(
                f"COPY (SELECT {SELECT_COLUMNS} FROM predictions WHERE {keep} ORDER BY prediction_id) "
                f"TO {_text(draft)} (FORMAT parquet, COMPRESSION zstd, ROW_GROUP_SIZE {ROW_GROUP_ROWS}, KV_METADATA "
                f"{{{_pairs({REPLACES: names, **metadata})}}})"
            )
        written = pq.ParquetFile(draft).metadata.num_rows
        if damaged or written != rows:
            raise CompactionError(f"{draft.name} has {written} rows, expected {rows}; damaged: {damaged or 'none'}")
        sync(draft)
        draft.rename(final)
        sync(folder)
    finally:
        draft.unlink(missing_ok=True)
    _remove(sources.all)
    sync(folder)
    return final


def replacement_name(prefix: str, names: Sequence[str]) -> str:
    """The name of the file that takes the place of those named."""
    return f"{prefix}{blake2b(json.dumps(sorted(names)).encode(), digest_size=8).hexdigest()}.parquet"


def count_rows(root: Path, sources: Files, condition: str) -> int:
    """How many rows of `sources` meet `condition`."""
    with connected(root, sources, []) as connection:
        found = connection.execute(f"SELECT count(*) FROM predictions WHERE {condition}").fetchone()
    return int(found[0]) if found else 0


def sync(path: Path) -> None:
    """Makes a file, or the names in a folder, durable."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _count(path: Path) -> int:
    """The rows of a file, all of which can be read. Raises DamagedStreamError."""
    if path.suffix == ".arrows":
        return sum(batch.num_rows for batch in read_stream(path, STREAM_COLUMNS))
    if (reason := refusal(path)) is not None:
        raise DamagedStreamError(reason)
    return int(pq.ParquetFile(path).metadata.num_rows)


def _limit(connection: "duckdb.DuckDBPyConnection", root: Path) -> None:
    connection.execute(f"SET memory_limit = '{MEMORY}'")
    connection.execute(f"SET temp_directory = {_text(root / _SPILL)}")


def _left_overs(folder: Path) -> list[Path]:
    """Drafts of writers and compactions that have crashed."""
    return [path for path in folder.glob(".*.draft") if not is_held(path)]


def _remove(paths: Sequence[Path]) -> None:
    for path in paths:
        path.unlink(missing_ok=True)


def _text(value: object) -> str:
    return "'" + str(value).replace("'", "''") + "'"


def _pairs(metadata: Mapping[str, Any]) -> str:
    return ", ".join(f"{_text(key)}: {_text(json.dumps(value))}" for key, value in metadata.items())
