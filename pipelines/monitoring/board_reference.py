"""What the board of a project watches, and what it is held against: the statistics of each unit of days. Pure.

A *unit* is a day, or as many days as it takes to have enough rows. Each unit gives a row of statistics: for each column
how far its values, and its missing share, lie from the reference; the same for the scores; and the share of positive
outcomes, where they are known. What counts as far is learnt from the reference's own units, each compared with those
that are not near it: see `pipelines.statistics.alarm_budget`.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil
from typing import Literal

import msgspec
import numpy as np
from numpy.typing import NDArray

from pipelines.monitoring.day_summaries import Days, Layout, blocks
from pipelines.monitoring.drift_limits import DriftLimits
from pipelines.statistics.alarm_budget import AlarmLimits, alarm_limits
from pipelines.statistics.distances import jensen_shannon_divergences, stability_indices

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
What = Literal["values", "missing", "scores", "outcomes"]
NEAR_UNITS = 3  # on each side: the weather and the timetable of a week are not those of others
DAYS_PER_YEAR = 365.0
_SAME_ALL_DAY = ("day_of_week", "day_of_year")  # parts of a time that all rows of a day share
_GROUPS = {"values": "inputs", "missing": "inputs", "scores": "scores", "outcomes": "outcomes"}
_PARTS = {"inputs": 0.2, "scores": 0.2, "outcomes": 0.6}  # outcomes are what a model is wrong about
_SMALLEST_SPREAD = 0.25  # of logarithms of distances


class Statistic(msgspec.Struct, frozen=True, kw_only=True):
    """One thing that is watched: of `column` (None: scores, outcomes). `minimum` is the effect from which on it counts.

    `sign` is the direction that counts, of outcomes.
    """

    name: str
    what: What
    column: int | None
    minimum: float
    sign: Literal[-1, 1] = 1


@dataclass(frozen=True)
class Reference:
    """The days that a bundle was trained and tested on, as the board needs them."""

    layout: Layout
    units: Days
    unit_days: int
    statistics: tuple[Statistic, ...]
    limits: AlarmLimits
    season: Days | None


def unit_days(days: Days, limits: DriftLimits) -> int:
    """How many days are one unit: enough for the minimum of rows, by the median day."""
    return 1 if not len(days) else max(1, ceil(limits.minimum_rows / max(1.0, float(np.median(days.rows)))))


def make_reference(
    layout: Layout,
    days: Days,
    ignored: frozenset[str],
    limits: DriftLimits,
    *,
    season: Days | None = None,
    seed: int = 0,
) -> Reference:
    """What live days are held against. `ignored` columns are no statistic; `season` are days of earlier years.

    Raises:
        TooFewUnitsError: the reference has fewer than 14 units.
        ValueError: the limits declare no budget.
    """
    if limits.false_alarms_per_year is None:
        raise ValueError("monitoring.drift.false_alarms_per_year is null: there is no budget to keep")
    length = unit_days(days, limits)
    units = blocks(days, length)
    statistics = _statistics(layout, units, ignored, limits, length)
    return Reference(
        layout=layout,
        units=units,
        unit_days=length,
        statistics=statistics,
        limits=alarm_limits(
            _against_itself(layout, units, statistics),
            [_GROUPS[each.what] for each in statistics],
            _PARTS,
            np.array([each.minimum / 2 if each.what == "outcomes" else _SMALLEST_SPREAD for each in statistics]),
            DAYS_PER_YEAR / length,
            limits.false_alarms_per_year,
            seed,
        ),
        season=season,
    )


def _statistics(
    layout: Layout, units: Days, ignored: frozenset[str], limits: DriftLimits, length: int
) -> tuple[Statistic, ...]:
    found: list[Statistic] = []
    for place, name in enumerate(layout.columns):
        part = name.rpartition(".")[2]
        by_nature = part == "day_of_year" or (part in _SAME_ALL_DAY and length % 7 != 0)
        if name in ignored or by_nature:
            continue
        if units.counts[place].shape[1] > 1 and units.counts[place].sum():
            numeric = layout.edges[place] is not None
            minimum = limits.psi_minimum if numeric else limits.jensen_shannon_minimum
            found.append(Statistic(name=name, what="values", column=place, minimum=minimum))
        missing = limits.missing_share_minimum
        found.append(Statistic(name=f"{name}, missing", what="missing", column=place, minimum=missing))
    if units.score_counts.shape[1] > 1 and units.score_counts.sum():
        found.append(Statistic(name="scores", what="scores", column=None, minimum=limits.score_psi_minimum))
    if units.outcomes.sum():
        directions = {"both": (1, -1), "more": (1,), "fewer": (-1,), "off": ()}[limits.label_shift]
        for sign in directions:
            name = "more positive outcomes" if sign > 0 else "fewer positive outcomes"
            share = limits.label_share_minimum
            found.append(Statistic(name=name, what="outcomes", column=None, minimum=share, sign=1 if sign > 0 else -1))
    return tuple(found)


def _cells_of(units: Days, statistic: Statistic) -> Ints:
    """The counts (units × cells) that a statistic compares."""
    if statistic.what == "values" and statistic.column is not None:
        return units.counts[statistic.column]
    if statistic.what == "missing" and statistic.column is not None:
        missing = units.missing[:, statistic.column]
        return np.column_stack([units.rows - missing, missing])
    return units.score_counts if statistic.what == "scores" else units.outcomes


def _compared(layout: Layout, statistic: Statistic, before: Ints | Floats, now: Ints | Floats) -> Floats:
    """The statistic of each row of counts `now` against the same row of `before`; NaN where a side has no rows.

    Differences below half of what counts are all alike: a column that never changes would have no spread, and the
    first trace of a change in it would be endlessly many standard deviations.
    """
    sizes = _sizes(layout, statistic, before, now)
    return sizes if statistic.what == "outcomes" else np.log(np.maximum(sizes, statistic.minimum / 2))


def _sizes(layout: Layout, statistic: Statistic, before: Ints | Floats, now: Ints | Floats) -> Floats:
    """How large the change from each row of counts `before` to that of `now` is, by the project's own measures."""
    if statistic.what in ("missing", "outcomes"):
        with np.errstate(invalid="ignore"):
            change: Floats = now[:, 1] / now.sum(axis=1) - before[:, 1] / before.sum(axis=1)
        return np.abs(change) if statistic.what == "missing" else statistic.sign * change
    if statistic.what == "values" and statistic.column is not None and layout.edges[statistic.column] is None:
        return jensen_shannon_divergences(before, now)
    return stability_indices(before, now)


def _against_itself(layout: Layout, units: Days, statistics: Sequence[Statistic]) -> Floats:
    """All units of the reference against the sum of it, less those that are near themselves."""
    places = np.arange(len(units))
    low, high = np.maximum(0, places - NEAR_UNITS), np.minimum(len(units), places + NEAR_UNITS + 1)
    columns = []
    for statistic in statistics:
        counts = _cells_of(units, statistic)
        summed = np.vstack([np.zeros(counts.shape[1]), np.cumsum(counts, axis=0)])
        before = summed[-1] - (summed[high] - summed[low])
        columns.append(_compared(layout, statistic, before, counts))
    return np.column_stack(columns)


def measured(reference: Reference, units: Days) -> Floats:
    """The statistics (units × statistics) of live units; NaN where a side has no rows."""
    columns = []
    for statistic in reference.statistics:
        before, now = _cells_of(reference.units, statistic).sum(axis=0), _cells_of(units, statistic)
        columns.append(_compared(reference.layout, statistic, np.repeat(before[None], len(now), axis=0), now))
    return np.column_stack(columns) if len(units) else np.empty((0, len(columns)))


def effects(reference: Reference, unit: Days) -> Floats:
    """How large the changes of one unit are, by the project's own measures: the smaller one where there is a season,
    since what the same season of other years had as well is no news."""
    found = []
    for statistic in reference.statistics:
        now = _cells_of(unit, statistic).sum(axis=0)
        sides = [_cells_of(reference.units, statistic).sum(axis=0)]
        if reference.season is not None and _cells_of(reference.season, statistic).sum():
            sides.append(_cells_of(reference.season, statistic).sum(axis=0))
        sizes = [_sizes(reference.layout, statistic, side[None], now[None])[0] for side in sides]
        found.append(float(np.nan_to_num(min(sizes), nan=0.0)))
    return np.array(found)


def pooled_effects(reference: Reference, live: Days) -> Floats:
    """The same of all days together."""
    if not len(live):
        return np.zeros(len(reference.statistics))
    days = int(live.days[-1] - live.days[0]) + 1
    return effects(reference, blocks(live, days))
