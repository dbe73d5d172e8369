"""The prediction log of some days as summaries: read in batches, so that memory does not grow with the rows."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from contracts.input_schema import InputSchema
from contracts.prediction_row import SYNTHETIC
from pipelines.monitoring.day_summaries import Days, Layout, Summary
from pipelines.monitoring.log_batches import Window, fold_predictions
from pipelines.monitoring.logged_columns import ColumnReader
from pipelines.monitoring.predictions import EVENT_TIME

UNSEEN_WORDS = 200  # of each category and day that are counted by name


@dataclass(frozen=True)
class LoggedDays:
    """What one version answered as champion, by the days of its events.

    `unseen` has for each day (since 1970) and category the words that the vocabulary lacks, `refused` how many rows of
    a day have inputs that the schema does not take; `first_refusal` says why of one of them.
    """

    days: Days
    unseen: dict[int, dict[str, dict[str, int]]]
    refused: dict[int, int]
    first_refusal: str | None

    @property
    def rows(self) -> int:
        """How many rows were summarised."""
        return int(self.days.rows.sum())

    def of(self, day: int) -> "LoggedDays":
        """What is told of one day."""
        places = np.flatnonzero(self.days.days == day)
        refused = {day: self.refused[day]} if day in self.refused else {}
        unseen = {day: self.unseen[day]} if day in self.unseen else {}
        return LoggedDays(self.days.take(places), unseen, refused, self.first_refusal if refused else None)


def summarise_log(window: Window, *, schema: InputSchema, layout: Layout, version: str) -> LoggedDays:
    """The predictions of `version` for the events of `window` (local times of the records).

    Without errors and synthetic requests. Files that cannot be read are left out; whoever reads the log as well names
    them.
    """
    select = f"inputs, score, hash(prediction_id) AS key, epoch_us({EVENT_TIME}) // 86400000000 AS day"
    rest = (
        f"WHERE uncounted IS DISTINCT FROM '{SYNTHETIC}' AND version = ? AND slot = 'champion' AND score IS NOT NULL"
        f" AND {EVENT_TIME} >= ? AND {EVENT_TIME} < ?"
    )

    def fold(batches: Iterator[pa.RecordBatch]) -> LoggedDays:
        return _summarise(batches, schema, layout)

    return fold_predictions(window, f"SELECT {select} FROM predictions {rest}", [version, *window.bounds], fold).result


def _summarise(batches: Iterator[pa.RecordBatch], schema: InputSchema, layout: Layout) -> LoggedDays:
    reader, summary = ColumnReader(schema), Summary(layout)
    unseen: dict[int, dict[str, dict[str, int]]] = {}
    refused: dict[int, int] = {}
    first_refusal: str | None = None
    for batch in batches:
        found = reader.read(batch.column("inputs"))
        all_days = batch.column("day").to_numpy().astype(np.int64)
        days = all_days[found.kept]
        scores = batch.column("score").to_numpy().astype(np.float32)[found.kept]
        keys = batch.column("key").to_numpy()[found.kept]
        if len(days):
            summary.add(found.rows, scores, days, keys)
        for name, (places, words) in found.unseen.items():
            for day in np.unique(days[places]).tolist():
                counted = unseen.setdefault(day, {}).setdefault(name, {})
                _count(counted, words[days[places] == day])
        for day in np.delete(all_days, found.kept).tolist():
            refused[day] = refused.get(day, 0) + 1
        first_refusal = first_refusal or found.first_refusal
    return LoggedDays(summary.days(), unseen, refused, first_refusal)


def _count(counted: dict[str, int], words: np.ndarray[tuple[int], np.dtype[np.str_]]) -> None:
    names, counts = np.unique(words, return_counts=True)
    for name, count in zip(names.tolist(), counts.tolist(), strict=True):
        key = name if name in counted or len(counted) < UNSEEN_WORDS else "…"
        counted[key] = counted.get(key, 0) + count
