"""Folds over the prediction log: batches of a query, so that memory does not grow with the rows."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import date, datetime
from pathlib import Path
from typing import Generic, TypeVar

import pyarrow as pa

from pipelines.monitoring.log_spans import WindowFiles, files_within
from pipelines.monitoring.predictions import connected, without_damaged
from pipelines.monitoring.segments import DamagedSegment, Files, consistently, list_files

BATCH_ROWS = 50_000
Result = TypeVar("Result")
Fold = Callable[[Iterator[pa.RecordBatch]], Result]


@dataclass(frozen=True)
class Folded(Generic[Result]):
    """What a fold came to, the files that were read, and those that could not be."""

    result: Result
    read: WindowFiles
    damaged: tuple[DamagedSegment, ...]


@dataclass(frozen=True)
class Window:
    """Events from `start` until before `end` in the log below `root`; `cache` remembers when those of a file are."""

    root: Path
    start: date
    end: date
    cache: Path | None = None

    @property
    def bounds(self) -> list[datetime]:
        """Both ends as local times."""
        return [datetime(day.year, day.month, day.day) for day in (self.start, self.end)]

    def files(self) -> WindowFiles:
        """The files that may have events of the window. Raises FileNotFoundError when one went meanwhile."""
        if self.cache is not None:
            return files_within(self.root, self.cache, *self.bounds)
        files = list_files(self.root)
        return WindowFiles(files, len(files.all) + len(files.damaged), 0)


def fold_predictions(window: Window, query: str, parameters: Sequence[object], fold: Fold[Result]) -> Folded[Result]:
    """`fold` of the batches of `query` on `predictions`, the log; begun again where a file went, or is damaged.

    The query names the window by itself (`bounds`); rows come in any order. Of a damaged segment the batches before the
    damage are folded, of a damaged Parquet file nothing.

    Raises:
        LogChangesError: the files come and go faster than they can be read.
    """

    def read() -> Folded[Result]:
        import duckdb

        found = window.files()
        damaged = list(found.files.damaged)
        try:
            result = _fold(window.root, found.files, query, parameters, fold, damaged)
        except duckdb.Error:
            readable = without_damaged(window.root, found.files)
            damaged = list(readable.damaged)
            result = _fold(window.root, readable, query, parameters, fold, damaged)
        return Folded(result, found, tuple(sorted(damaged, key=lambda each: each.path)))

    return consistently(read)


def _fold(
    root: Path,
    files: Files,
    query: str,
    parameters: Sequence[object],
    fold: Fold[Result],
    damaged: list[DamagedSegment],
) -> Result:
    with connected(root, files, damaged) as connection:
        connection.execute("SET preserve_insertion_order = false")
        return fold(iter(connection.sql(query, params=list(parameters)).to_arrow_reader(BATCH_ROWS)))
