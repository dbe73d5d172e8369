"""The files of the prediction log, and which of them count.

A day's folder has segments (`.arrows`, see `contracts.prediction_row`), and Parquet files: one that a compaction made
of them (`compacted-…`), or one with the sample that the retention kept (`sampled-…`), which name in their metadata the
files that they replace. A replaced file may still be there after a crash, and is not read. No file that can be read is
ever written again: what has been listed either has the rows that it had, or is gone, and then one lists again.
"""

import fcntl
import json
import os
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import pyarrow as pa
import pyarrow.ipc
import pyarrow.parquet as pq

from contracts.prediction_row import END_OF_STREAM

COMPACTED, SAMPLED = "compacted-", "sampled-"
REPLACES, SAMPLING = "paceline.replaces", "paceline.sampling"  # keys of a Parquet file's metadata
_MARK = b"\xff\xff\xff\xff"  # before each message of a stream
_ALIGNMENT = 8
_MAXIMUM_LISTINGS = 20
Result = TypeVar("Result")


@dataclass(frozen=True)
class DamagedSegment:
    """A segment that could not be read: its path below the root, and why."""

    path: str
    reason: str


class DamagedStreamError(ValueError):
    """A stream that cannot be read on, though this is not the torn end of a crashed writer."""


class LogChangesError(RuntimeError):
    """The files of the log came and went faster than they could be read."""


@dataclass(frozen=True)
class Files:
    """The files that count: `streams` and `tables` (Parquet). `replaced` are still there, with nothing of their own."""

    streams: tuple[Path, ...]
    tables: tuple[Path, ...]
    replaced: tuple[Path, ...]
    damaged: tuple[DamagedSegment, ...]

    @property
    def all(self) -> tuple[Path, ...]:
        """All that count."""
        return (*self.streams, *self.tables)


def consistently(read: Callable[[], Result]) -> Result:
    """What `read` gives, which lists files and reads them; again when a compaction has removed one meanwhile."""
    for _ in range(_MAXIMUM_LISTINGS):
        try:
            return read()
        except FileNotFoundError:
            continue
    raise LogChangesError(f"the files of the prediction log were gone {_MAXIMUM_LISTINGS} times before they were read")


def list_files(root: Path, is_wanted: Callable[[str], bool] = lambda day: True) -> Files:
    """The files in the folders of the days (`2013-08-01`) that are wanted.

    Raises:
        FileNotFoundError: a file went while its metadata was read.
    """
    paths = _stable(root, is_wanted)
    replaced: set[Path] = set()
    damaged: list[DamagedSegment] = []
    for path in paths:
        if path.suffix == ".parquet" and path.name.startswith((COMPACTED, SAMPLED)):
            try:
                replaced.update(path.with_name(name) for name in replaces(path))
            except (pa.ArrowException, ValueError) as error:
                damaged.append(DamagedSegment(path.relative_to(root).as_posix(), str(error).splitlines()[0]))
    broken = {root / each.path for each in damaged}
    counting = [path for path in paths if path not in replaced and path not in broken]
    return Files(
        streams=tuple(path for path in counting if path.suffix == ".arrows"),
        tables=tuple(path for path in counting if path.suffix == ".parquet"),
        replaced=tuple(path for path in paths if path in replaced),
        damaged=tuple(damaged),
    )


def replaces(path: Path) -> list[str]:
    """The names of the files that the Parquet file at `path` stands for. Raises ArrowException, OSError, ValueError."""
    found = (pq.read_schema(path).metadata or {}).get(REPLACES.encode(), b"[]")
    names: list[str] = json.loads(found)
    return names


def _stable(root: Path, is_wanted: Callable[[str], bool]) -> list[Path]:
    """A listing that was the same twice: a single one can miss a new file and, later on, the old ones it replaces."""
    before: list[Path] | None = None
    for _ in range(_MAXIMUM_LISTINGS):
        found = sorted(
            path
            for folder in root.glob("day=*")
            if is_wanted(folder.name.removeprefix("day="))
            for path in folder.glob("*")
            if path.suffix in (".arrows", ".parquet") and not path.name.startswith(".") and path.is_file()
        )
        if found == before:
            break
        before = found
    return found


def read_stream(path: Path, schema: pa.Schema) -> Iterator[pa.RecordBatch]:
    """The batches of a segment, also of one that grows meanwhile, with the columns of `schema`, null where it has none.

    The torn last batch of a writer that is still at it, or has crashed, is left out: it was not committed.

    Raises:
        DamagedStreamError: after the batches that can be read.
        FileNotFoundError: the file is gone.
    """
    content = pa.py_buffer(path.read_bytes())
    source = pa.BufferReader(content)
    position = 0
    try:
        reader = pyarrow.ipc.open_stream(source)
        absent = [field.name for field in schema if field.name not in reader.schema.names]
        if required := [name for name in absent if not schema.field(name).nullable]:
            raise DamagedStreamError(f"it lacks the columns {', '.join(required)}")
        while True:
            position = source.tell()
            batch = reader.read_next_batch()
            batch.validate(full=True)  # offsets beyond a buffer's end would be followed
            yield pa.RecordBatch.from_arrays(
                [
                    pa.nulls(batch.num_rows, field.type) if field.name in absent else batch[field.name].cast(field.type)
                    for field in schema
                ],
                schema=schema,
            )
    except StopIteration:
        return
    except (pa.ArrowException, OSError) as error:
        if position and not _goes_on(content, position):
            return
        raise DamagedStreamError(f"from byte {position} on: {str(error).splitlines()[0]}") from error


def _goes_on(content: pa.Buffer, position: int) -> bool:
    """Whether the stream has a whole batch, or its end, somewhere after the one at `position`."""
    text = content.to_pybytes()
    if text.endswith(END_OF_STREAM):
        return True
    while (position := text.find(_MARK, position + 1)) >= 0:
        if position % _ALIGNMENT == 0:
            try:
                if pyarrow.ipc.read_message(content.slice(position)).type == "record batch":
                    return True
            except (pa.ArrowException, OSError, EOFError):
                continue
    return False


def is_held(path: Path) -> bool:
    """Whether the writer of the segment at `path` lives. Raises FileNotFoundError."""
    handle = os.open(path, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(handle)
    return False


def days_of(root: Path, is_wanted: Callable[[str], bool]) -> Collection[str]:
    """The days that have a folder and are wanted, oldest first."""
    return sorted(
        day for folder in root.glob("day=*") if is_wanted(day := folder.name.removeprefix("day=")) and folder.is_dir()
    )
