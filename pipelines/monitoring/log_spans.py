"""When the events of each file of the log are, found out once a file: a watch reads only those of its days.

The folders of the log are by the day of serving, and a watch asks for days of events, which may be any others (a replay
of history). The cache has spans by a file's name, size and time of writing, since no file is ever written again, and a
segment that is being written grows; without it they are found out anew. A file with a damage is asked again each time.
"""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import msgspec

from contracts.durable_files import write_whole
from contracts.hashing import content_id
from contracts.prediction_row import SYNTHETIC
from pipelines.monitoring.forgotten import read_forgotten
from pipelines.monitoring.predictions import EVENT_TIME, connected, refusal
from pipelines.monitoring.segments import DamagedSegment, Files, list_files


class Span(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The first and the last event of a file (local times; None without one), and its rows whose time is none."""

    size: int
    written_ns: int
    first: datetime | None
    last: datetime | None
    undated: int

    def is_of(self, file: os.stat_result) -> bool:
        """Whether the file is still the one that was read."""
        return (self.size, self.written_ns) == (file.st_size, file.st_mtime_ns)

    def meets(self, start: datetime, end: datetime) -> bool:
        """Whether an event of the file may be from `start` on and before `end`."""
        return self.first is not None and self.last is not None and self.first < end and self.last >= start


Spans = dict[str, Span]


@dataclass(frozen=True)
class WindowFiles:
    """The `files` with events of a window, of `listed` in all; `undated` rows are in others, which are not read.

    `spans` has the files that are read by their names; None where one of them has none, since it is damaged.
    """

    files: Files
    listed: int
    undated: int
    spans: Mapping[str, Span] | None = None

    def name(self, start: datetime, end: datetime, *also: str) -> str | None:
        """Names what the log has of the events from `start` on and before `end`, and `also`: the same name as long
        as no file is another one. None where that cannot be told."""
        if self.spans is None:
            return None
        mine = sorted((name, each.size, each.written_ns) for name, each in self.spans.items() if each.meets(start, end))
        return content_id((start.isoformat(), end.isoformat(), mine, also))


def files_within(root: Path, cache: Path, start: datetime, end: datetime) -> WindowFiles:
    """The files of the log below `root` with events from `start` up to, and without, `end`, by the spans in `cache`.

    A file that cannot be read is among the damaged ones, whatever its events; a damaged segment is to be read.

    Raises:
        FileNotFoundError: a file went meanwhile, and another listing is wanted.
    """
    files = list_files(root)
    known, spans, damaged = _read(cache), Spans(), list(files.damaged)
    has_hidden = bool(read_forgotten(root))
    chosen: dict[Path, None] = {}
    undated = 0
    for path in files.all:
        name, found = path.relative_to(root).as_posix(), path.stat()
        span: Span | DamagedSegment | None = known.get(name)
        if not isinstance(span, Span) or not span.is_of(found) or (has_hidden and span.undated):
            span = _span(root, path, found)
        if isinstance(span, Span):
            spans[name] = span
            undated += 0 if span.meets(start, end) else span.undated
        elif path.suffix == ".parquet":
            damaged.append(span)
        if path.suffix == ".arrows" if isinstance(span, DamagedSegment) else span.meets(start, end):
            chosen[path] = None
    if spans != known:
        write_whole(cache, msgspec.json.encode(spans))
    window = Files(
        streams=tuple(path for path in files.streams if path in chosen),
        tables=tuple(path for path in files.tables if path in chosen),
        replaced=files.replaced,
        damaged=tuple(damaged),
    )
    names = [path.relative_to(root).as_posix() for path in chosen]
    told = {name: spans[name] for name in names} if spans.keys() >= set(names) else None
    return WindowFiles(window, len(files.all) + len(files.damaged), undated, told)


def _span(root: Path, path: Path, found: os.stat_result) -> Span | DamagedSegment:
    import duckdb

    query = (
        f"SELECT min(moment), max(moment), count(*) FILTER (moment IS NULL) FROM (SELECT {EVENT_TIME} AS moment"
        f" FROM predictions WHERE uncounted IS DISTINCT FROM '{SYNTHETIC}')"
    )
    is_stream, damaged = path.suffix == ".arrows", list[DamagedSegment]()
    files = Files((path,) if is_stream else (), () if is_stream else (path,), (), ())
    try:
        with connected(root, files, damaged) as connection:
            ((first, last, undated),) = connection.execute(query).fetchall()
    except duckdb.Error as error:
        said = refusal(path) or str(error).splitlines()[0]
        return DamagedSegment(path.relative_to(root).as_posix(), said)
    if damaged:
        return damaged[0]
    return Span(size=found.st_size, written_ns=found.st_mtime_ns, first=first, last=last, undated=undated)


def _read(cache: Path) -> Spans:
    try:
        return msgspec.json.decode(cache.read_bytes(), type=Spans)
    except (FileNotFoundError, msgspec.DecodeError):
        return {}
