"""The summaries of every day of 2013, and years that are put together of them."""

from collections.abc import Callable
from dataclasses import replace
from datetime import date, timedelta

import numpy as np
from numpy.typing import NDArray

from benchmarks.monitoring.installation import PROJECT, events_of
from contracts.bundle import Bundle
from contracts.encoder import Encoder
from pipelines.inference import score
from pipelines.monitoring.day_summaries import Days, Layout, layout_of, summarise, with_outcomes
from pipelines.wiring import find_project

Ints = NDArray[np.int64]
BLOCK_DAYS = 7
FIRST_DAY = 15_706  # 2013-01-01
_CHUNK_ROWS = 16_384


class Flights:
    """All labelled flights as the bundle's model sees them. `days` are their summaries, the samples left out."""

    def __init__(self, bundle: Bundle) -> None:
        project = find_project(PROJECT)
        self.bundle, self.limits = bundle, project.monitoring.drift
        self.layout: Layout = layout_of(bundle.baseline, bundle.schema)
        with events_of(project) as events:
            table = events.order_by(project.schema.time).to_pyarrow()
        names = [field.name for field in bundle.schema.fields]
        encoder = Encoder(bundle.schema)
        batches = table.select(names).to_batches(max_chunksize=_CHUNK_ROWS)
        self.features = np.concatenate([encoder.encode_rows(batch.to_pylist()) for batch in batches])
        self.scores = score(bundle.model_path, self.features)
        moments = table[project.schema.time].to_numpy(zero_copy_only=False)
        self.numbers = moments.astype("datetime64[D]").astype(np.int64)
        self.late = table[project.label.column].to_numpy(zero_copy_only=False).astype(bool)
        self.full = self.summaries(self.features, np.ones(len(self.numbers), dtype=bool))
        self.days = without_samples(self.full)

    def summaries(self, features: NDArray[np.float32], chosen: NDArray[np.bool_]) -> Days:
        """Of the chosen rows, with these features in their places."""
        found = summarise(self.layout, features, self.scores[chosen], self.numbers[chosen])
        return with_outcomes(found, self.numbers[chosen], self.late[chosen])

    def changed(self, day: int, change: Callable[[NDArray[np.float32]], None]) -> Days:
        """Day number `day` of the year with its encoded rows changed, and scored again."""
        chosen = self.numbers == FIRST_DAY + day
        features = self.features[chosen].copy()
        change(features)
        scores = score(self.bundle.model_path, features)
        found = summarise(self.layout, features, scores, self.numbers[chosen])
        return with_outcomes(found, self.numbers[chosen], self.late[chosen])


def without_samples(days: Days) -> Days:
    """Lighter: for what needs counts only."""
    return replace(days, sample=days.sample[:0], sample_places=days.sample_places[:0], sample_keys=days.sample_keys[:0])


def drawn(days: Days, length: int, random: np.random.Generator) -> Ints:
    """Positions of a stationary bootstrap of real days, in blocks of a week on average."""
    found = np.empty(length, dtype=np.int64)
    for place in range(length):
        is_new = place == 0 or random.random() < 1 / BLOCK_DAYS
        found[place] = random.integers(len(days)) if is_new else (found[place - 1] + 1) % len(days)
    return found


def in_order(days: Days, places: Ints) -> Days:
    """The days at `places`, which may come several times, one after the other as the days of a made-up calendar."""
    arrays = {
        name: value[places]
        for name, value in vars(days).items()
        if name not in ("days", "counts", "sample", "sample_places", "sample_keys")
    }
    return Days(
        days=FIRST_DAY + np.arange(len(places)),
        counts=tuple(each[places] for each in days.counts),
        sample=days.sample[:0],
        sample_places=days.sample_places[:0],
        sample_keys=days.sample_keys[:0],
        **arrays,
    )


def named(day: int) -> date:
    """Day number `day` of 2013."""
    return date(2013, 1, 1) + timedelta(days=day)
