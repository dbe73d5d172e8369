"""What each day's rows look like in counts: columns in the baseline's cells, missing values, moments, scores, a sample.

Every question of the drift watch is asked of these counts, so that a day of a million predictions costs as much memory
as one of a thousand. Rows are taken in chunks, in any order; the same rows give the same summary. Pure.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from contracts.bundle import Baseline, CategoryBaseline
from contracts.input_schema import InputSchema

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]
SAMPLE_ROWS = 1000  # of each day: quartiles within 1.4 % of a rank, and enough for a classifier of many days
_SAMPLED = np.iinfo(np.uint64)


@dataclass(frozen=True)
class Layout:
    """How the columns are counted: for each the edges of its cells (numbers) or how many words it has (categories)."""

    columns: tuple[str, ...]
    edges: tuple[Floats | None, ...]
    words: tuple[tuple[str, ...], ...]
    score_bins: int

    @property
    def sizes(self) -> tuple[int, ...]:
        """How many cells each column has: those of numbers with one on each side for what training never saw."""
        return tuple(
            len(words) if edges is None else len(edges) + 1 for edges, words in zip(self.edges, self.words, strict=True)
        )


@dataclass(frozen=True)
class Days:
    """The summaries of some days, in order. The first axis of each array is the day.

    `days` counts since 1970. `counts[column]` has a row of cells for each day, `missing` the rows without a value
    (days × columns), `sums` and `squares` are of the values, `lows` and `highs` their range, `joint_missing` the rows
    in which two columns are missing together (days × columns × columns), `outcomes` the rows with outcome 0 and with
    outcome 1, as far as they are known. `sample` has encoded rows with their score in
    the last column, `sample_places` the position of the day of each, `sample_keys` the priority by which it was drawn.
    """

    days: Ints
    rows: Ints
    counts: tuple[Ints, ...]
    missing: Ints
    sums: Floats
    squares: Floats
    lows: Floats
    highs: Floats
    joint_missing: Ints
    score_counts: Ints
    outcomes: Ints
    sample: NDArray[np.float32]
    sample_places: Ints
    sample_keys: NDArray[np.uint64]

    def __len__(self) -> int:
        return len(self.days)

    def take(self, places: Sequence[int] | Ints) -> "Days":
        """The summaries at `places`, ascending."""
        at = np.asarray(places, dtype=np.int64)
        kept = np.isin(self.sample_places, at)
        return Days(
            days=self.days[at],
            rows=self.rows[at],
            counts=tuple(each[at] for each in self.counts),
            missing=self.missing[at],
            sums=self.sums[at],
            squares=self.squares[at],
            lows=self.lows[at],
            highs=self.highs[at],
            joint_missing=self.joint_missing[at],
            score_counts=self.score_counts[at],
            outcomes=self.outcomes[at],
            sample=self.sample[kept],
            sample_places=np.searchsorted(at, self.sample_places[kept]),
            sample_keys=self.sample_keys[kept],
        )

    def values(self, column: int) -> Floats:
        """The sampled values of a column that are there, of all days; those of -1 are the scores."""
        found = self.sample[:, column].astype(np.float64)
        return found[np.isfinite(found)]


def layout_of(baseline: Baseline, schema: InputSchema) -> Layout:
    """The cells of the bundle's baseline. A column that the baseline lacks, or never saw, has cells without an edge."""
    vocabularies = {field.name: field.vocabulary for field in schema.fields if field.kind == "category"}
    edges: list[Floats | None] = []
    for name in schema.columns:
        if name in vocabularies:
            edges.append(None)
        else:
            known = baseline.numbers.get(name)
            edges.append(np.array(known.edges if known else (), dtype=np.float64))
    return Layout(
        columns=schema.columns,
        edges=tuple(edges),
        words=tuple(vocabularies.get(name, ()) for name in schema.columns),
        score_bins=len(baseline.score_counts),
    )


def baseline_counts(baseline: Baseline, layout: Layout) -> list[Ints]:
    """The training rows of each column in the cells of `layout`."""
    found: list[Ints] = []
    for name, edges, words in zip(layout.columns, layout.edges, layout.words, strict=True):
        if edges is None:
            known = baseline.categories.get(name) or CategoryBaseline(missing=0, counts={})
            found.append(np.array([known.counts.get(word, 0) for word in words], dtype=np.int64))
        else:
            counts = baseline.numbers[name].counts if name in baseline.numbers else ()
            found.append(np.array([0, *counts, 0] if counts else [0], dtype=np.int64))
    return found


def cells(values: Floats, edges: Floats) -> Ints:
    """The cell of each value: 0 below all edges, the last beyond them; the last one between edges is closed."""
    places = np.searchsorted(edges, values, side="right")
    if len(edges):
        places[values == edges[-1]] = len(edges) - 1
    return places.astype(np.int64)


class Summary:
    """Takes rows in chunks, and tells the summaries of their days. Holds memory for days, not for rows."""

    def __init__(self, layout: Layout) -> None:
        self._layout = layout
        self._parts: dict[int, Days] = {}

    def add(
        self, features: NDArray[np.float32], scores: NDArray[np.float32], days: Ints, keys: NDArray[np.uint64]
    ) -> None:
        """Takes `features` (rows × columns) with their scores (NaN where there is none), days since 1970 and
        priorities: the rows with the smallest of a day are its sample, whatever the order they come in."""
        for day in np.unique(days).tolist():
            mine = days == day
            is_all = bool(mine.all())
            part = _summarise_day(
                self._layout,
                int(day),
                features if is_all else features[mine],
                scores if is_all else scores[mine],
                keys if is_all else keys[mine],
            )
            known = self._parts.get(int(day))
            self._parts[int(day)] = part if known is None else _merge(known, part)

    def days(self) -> Days:
        """The summaries so far, the oldest first."""
        return concatenate([self._parts[day] for day in sorted(self._parts)], self._layout)


def summarise(
    layout: Layout, features: NDArray[np.float32], scores: NDArray[np.float32], days: Ints, seed: int = 0
) -> Days:
    """The summaries of rows that are all at hand; which ones are sampled depends on their positions and `seed` only."""
    keys = np.random.default_rng(seed).integers(0, _SAMPLED.max, len(days), dtype=np.uint64)
    summary = Summary(layout)
    summary.add(features, scores, days, keys)
    return summary.days()


def concatenate(parts: Iterable[Days], layout: Layout) -> Days:
    """Summaries of different days as one, the oldest first."""
    each = list(parts) or [_empty(layout)]
    starts = np.cumsum([0, *(len(part) for part in each[:-1])])
    whole = Days(
        days=np.concatenate([part.days for part in each]),
        rows=np.concatenate([part.rows for part in each]),
        counts=tuple(np.concatenate(column) for column in zip(*(part.counts for part in each), strict=True)),
        missing=np.concatenate([part.missing for part in each]),
        sums=np.concatenate([part.sums for part in each]),
        squares=np.concatenate([part.squares for part in each]),
        lows=np.concatenate([part.lows for part in each]),
        highs=np.concatenate([part.highs for part in each]),
        joint_missing=np.concatenate([part.joint_missing for part in each]),
        score_counts=np.concatenate([part.score_counts for part in each]),
        outcomes=np.concatenate([part.outcomes for part in each]),
        sample=np.concatenate([part.sample for part in each]),
        sample_places=np.concatenate([part.sample_places + start for part, start in zip(each, starts, strict=True)]),
        sample_keys=np.concatenate([part.sample_keys for part in each]),
    )
    order = np.argsort(whole.days, kind="stable")
    return whole if (order == np.arange(len(order))).all() else _reordered(whole, order)


def with_outcomes(found: Days, days: Ints, outcomes: NDArray[np.bool_]) -> Days:
    """`found` with the `outcomes` of events on `days` (one each, known ones only) counted in addition."""
    places = np.searchsorted(found.days, days)
    inside = places < len(found)
    inside[inside] = found.days[places[inside]] == days[inside]
    counted = found.outcomes.copy()
    np.add.at(counted, (places[inside], outcomes[inside].astype(np.int64)), 1)
    return replace(found, outcomes=counted)


def blocks(found: Days, length: int) -> Days:
    """Each `length` consecutive days taken together, named by their last; a rest at the beginning is left out.

    Days without a row are days of a block all the same: blocks are by the calendar, counted back from the last day.
    """
    if length == 1 or not len(found):
        return found
    back = (found.days[-1] - found.days) // length
    full = back <= (found.days[-1] - found.days[0] + 1) // length - 1
    numbers = sorted(set(back[full].tolist()), reverse=True)
    merged = [_together(found.take(np.flatnonzero(back == number))) for number in numbers]
    return _concatenated_like(found, merged, [int(found.days[-1] - number * length) for number in numbers])


def _summarise_day(
    layout: Layout,
    day: int,
    features: NDArray[np.float32],
    scores: NDArray[np.float32],
    keys: NDArray[np.uint64],
) -> Days:
    counts: list[Ints] = []
    width = len(layout.columns)
    sums, squares = np.zeros((1, width)), np.zeros((1, width))
    lows, highs = np.full((1, width), np.inf), np.full((1, width), -np.inf)
    absent = np.isnan(features)
    for place, (edges, size) in enumerate(zip(layout.edges, layout.sizes, strict=True)):
        known = features[~absent[:, place], place].astype(np.float64)
        codes = known.astype(np.int64) if edges is None else cells(known, edges)
        counts.append(np.bincount(codes, minlength=size)[None, :size])
        if len(known):
            sums[0, place], squares[0, place] = known.sum(), np.square(known).sum()
            lows[0, place], highs[0, place] = known.min(), known.max()
    with_gaps = absent[absent.any(axis=1)].astype(np.float32)
    chosen = np.argsort(keys, kind="stable")[:SAMPLE_ROWS]
    scored = scores[np.isfinite(scores)]  # in float32, as those of the baseline
    bins = np.clip((scored * layout.score_bins).astype(np.int64), 0, max(0, layout.score_bins - 1))
    return Days(
        days=np.array([day]),
        rows=np.array([len(features)]),
        counts=tuple(counts),
        missing=absent.sum(axis=0, dtype=np.int64)[None],
        sums=sums,
        squares=squares,
        lows=lows,
        highs=highs,
        joint_missing=np.rint(with_gaps.T @ with_gaps).astype(np.int64)[None],
        score_counts=np.bincount(bins, minlength=layout.score_bins)[None],
        outcomes=np.zeros((1, 2), dtype=np.int64),
        sample=np.column_stack([features[chosen], scores[chosen]]).astype(np.float32),
        sample_places=np.zeros(len(chosen), dtype=np.int64),
        sample_keys=keys[chosen],
    )


def _merge(one: Days, other: Days) -> Days:
    """Two parts of one day."""
    keys = np.concatenate([one.sample_keys, other.sample_keys])
    chosen = np.argsort(keys, kind="stable")[:SAMPLE_ROWS]
    return Days(
        days=one.days,
        rows=one.rows + other.rows,
        counts=tuple(mine + theirs for mine, theirs in zip(one.counts, other.counts, strict=True)),
        missing=one.missing + other.missing,
        sums=one.sums + other.sums,
        squares=one.squares + other.squares,
        lows=np.minimum(one.lows, other.lows),
        highs=np.maximum(one.highs, other.highs),
        joint_missing=one.joint_missing + other.joint_missing,
        score_counts=one.score_counts + other.score_counts,
        outcomes=one.outcomes + other.outcomes,
        sample=np.concatenate([one.sample, other.sample])[chosen],
        sample_places=np.zeros(len(chosen), dtype=np.int64),
        sample_keys=keys[chosen],
    )


def _together(found: Days) -> Days:
    whole = replace(found.take([0]))
    for place in range(1, len(found)):
        whole = _merge(whole, found.take([place]))
    return whole


def _concatenated_like(found: Days, parts: Sequence[Days], days: Sequence[int]) -> Days:
    layout = Layout(
        columns=("",) * len(found.counts),
        edges=(None,) * len(found.counts),
        words=tuple(("",) * each.shape[1] for each in found.counts),
        score_bins=found.score_counts.shape[1],
    )
    named = [replace(part, days=np.array([day])) for part, day in zip(parts, days, strict=True)]
    return concatenate(named, layout)


def _reordered(found: Days, order: Ints) -> Days:
    places = np.empty(len(order), dtype=np.int64)
    places[order] = np.arange(len(order))
    sampled = np.argsort(places[found.sample_places], kind="stable")
    return Days(
        days=found.days[order],
        rows=found.rows[order],
        counts=tuple(each[order] for each in found.counts),
        missing=found.missing[order],
        sums=found.sums[order],
        squares=found.squares[order],
        lows=found.lows[order],
        highs=found.highs[order],
        joint_missing=found.joint_missing[order],
        score_counts=found.score_counts[order],
        outcomes=found.outcomes[order],
        sample=found.sample[sampled],
        sample_places=places[found.sample_places][sampled],
        sample_keys=found.sample_keys[sampled],
    )


def _empty(layout: Layout) -> Days:
    width = len(layout.columns)
    return Days(
        days=np.empty(0, dtype=np.int64),
        rows=np.empty(0, dtype=np.int64),
        counts=tuple(np.empty((0, size), dtype=np.int64) for size in layout.sizes),
        missing=np.empty((0, width), dtype=np.int64),
        sums=np.empty((0, width)),
        squares=np.empty((0, width)),
        lows=np.empty((0, width)),
        highs=np.empty((0, width)),
        joint_missing=np.empty((0, width, width), dtype=np.int64),
        score_counts=np.empty((0, layout.score_bins), dtype=np.int64),
        outcomes=np.empty((0, 2), dtype=np.int64),
        sample=np.empty((0, width + 1), dtype=np.float32),
        sample_places=np.empty(0, dtype=np.int64),
        sample_keys=np.empty(0, dtype=np.uint64),
    )
