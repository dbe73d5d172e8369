"""Alarm limits for many statistics that are looked at unit after unit (day after day), from a budget of false alarms.

What is unusual is learnt from the spread of the reference's own units, not from a distribution of rows: rows of one day
share its weather and its timetable, so that days differ by far more than as many independent rows would. Two charts
share the budget:

- *sudden*: how improbable the most improbable statistic of one unit is (Shewhart). Each has a tail of its own, taken as
  exponential in standard deviations (of logarithms of distances: a power law of distances; Weissman, "Estimation of
  parameters and large quantiles based on the k largest observations", JASA 73, 1978), and a limit
  of its own.
- *lasting*: cumulative sums S ← max(0, S + min(z, most) − slack) (Page, "Continuous inspection schemes",
  Biometrika 41, 1954), for changes that no single unit shows. The slack is half of the smallest change to be found,
  which is one worth finding that can also be told from the error of the reference's mean. Groups of statistics have
  parts of it; within a group each sum is measured by what is usual for it: the median of its largest values of a
  year.

Both limits come from replays without a change (`pipelines.statistics.quiet_years`). In each a reference of as many
units is made anew, its own mean, spread and tails are estimated, and a year after it is held against these. So a limit
allows for how little a short reference knows of its own centre, spread and dependence: one that is right on average
over references is far too low for those that happened to lie off the middle, and these have most of the alarms.
After an alarm a replay has a new reference, the units up to it, as one has after a retrain.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import ceil, log

import numpy as np
from numpy.typing import NDArray

from pipelines.statistics.quiet_years import quiet_years

Floats = NDArray[np.float64]
Replays = NDArray[np.float32]  # units × replays × statistics

MINIMUM_UNITS = 14
SUDDEN_SHARE = 1 / 3  # of the budget; the rest is for lasting changes
SMALLEST_CHANGE = 0.5  # standard deviations of a unit: the lasting change that is worth finding
TOLD_ERRORS = 2.0  # standard errors of the reference's mean (95 %): what is nearer to it cannot be told from it
MOST = 2.5  # standard deviations that one unit adds to a sum: a storm is no lasting change
REPLAYS = 320
_TAIL_SHARE, _TAIL_MINIMUM = 0.1, 6
_PRIOR_VALUES, _PRIOR_SCALE = 4, 0.6  # the excess of a normal variable beyond its largest tenth is 0.5 on average
_STEPS = 7
_FAR_SHARE = 0.01  # of the replays' units: their tail is known that far
_FEWEST_UNITS = 2  # that a lasting change takes
_LARGEST_FACTOR = 64.0


@dataclass(frozen=True)
class Tails:
    """The usual of each statistic: its mean and standard deviation, and from where on (in standard deviations) with
    which mean excess the largest `share` of its values lie."""

    center: Floats
    spread: Floats
    starts: Floats
    scales: Floats
    share: float

    def standardised(self, values: Floats | NDArray[np.float32]) -> Floats:
        """`values` in standard deviations from the mean; what is not known (NaN) is 0."""
        found: Floats = np.nan_to_num((values - self.center) / self.spread, nan=0.0, posinf=99.0, neginf=-99.0)
        return found

    def surprise(self, standardised: Floats) -> Floats:
        """-ln of the chance of such a value or a larger one; 0 where that is above the tail's share."""
        beyond = (standardised - self.starts) / self.scales
        found: Floats = np.where(beyond > 0, beyond - log(self.share), 0.0)
        return found


@dataclass(frozen=True)
class AlarmLimits:
    """From where on statistics are an alarm: `sudden` limits the surprise of each, `lasting` its cumulative sum,
    of which `slack` is taken at each unit.

    `units` is how many the reference has, `units_per_year` how many looks a year has, `budget` the false alarms a year.
    """

    tails: Tails
    sudden: Floats
    lasting: Floats
    slack: Floats
    units: int
    units_per_year: float
    budget: float


class TooFewUnitsError(ValueError):
    """The reference has too few units to tell what is usual."""


def accumulate(sums: Floats, standardised: Floats, slack: Floats) -> Floats:
    """The cumulative sums after one more unit.

    >>> accumulate(np.array([0.0, 2.0]), np.array([1.5, -1.0]), np.array([0.5, 0.5])).tolist()
    [1.0, 0.5]
    """
    found: Floats = np.maximum(0.0, sums + np.minimum(standardised, MOST) - slack)
    return found


def alarm_limits(
    values: Floats,
    groups: Sequence[str],
    parts: Mapping[str, float],
    spreads: Floats,
    units_per_year: float,
    budget: float,
    seed: int = 0,
) -> AlarmLimits:
    """The limits with which all statistics together give at most `budget` false alarms a year.

    Args:
        values: the statistics of the reference's units (units × statistics) in the order of time, each unit compared
            with those that are not near it. NaN where a statistic is not known.
        groups: of each statistic.
        parts: how the budget for lasting changes is divided among the groups, in proportion.
        spreads: the smallest standard deviation of each that is believed: one that never changed would have none.
        units_per_year: how often one looks.
        budget: false alarms a year, of all statistics together.

    Raises:
        TooFewUnitsError: fewer than `MINIMUM_UNITS`.
        ValueError: the budget is not above 0.
    """
    units = len(values)
    if units < MINIMUM_UNITS:
        raise TooFewUnitsError(f"the reference has {units} days or blocks of days, {MINIMUM_UNITS} are needed")
    if not budget > 0:
        raise ValueError(f"a budget of false alarms is above 0 a year, found {budget}")
    share = max(_TAIL_SHARE, min(0.5, _TAIL_MINIMUM / units))
    tails = _tails(values, spreads, share)
    series = quiet_years(tails.standardised(values), ceil(units_per_year), REPLAYS, np.random.default_rng(seed))
    smallest = spreads / tails.spread
    of_replays = _tails(series[:units], smallest, share)
    surprise = of_replays.surprise(of_replays.standardised(series[units:]))
    slack = (SMALLEST_CHANGE + TOLD_ERRORS * np.std(of_replays.center, axis=0)) / 2
    a_year = budget * (1 - SUDDEN_SHARE) * ceil(units_per_year) / units_per_year
    sudden, lasting = np.empty(len(groups)), np.empty(len(groups))
    names = sorted(set(groups))
    for group in names:
        mine = np.array([each == group for each in groups])
        part = parts[group] / sum(parts[each] for each in names)
        lasting[mine] = _lasting(series[:, :, mine], units, smallest[mine], slack[mine], a_year * part)
        # each has a limit of its own: one that storms are known of must not hide another that never moves
        chance = budget * SUDDEN_SHARE / len(names) / units_per_year / int(mine.sum())
        for place in np.flatnonzero(mine).tolist():
            sudden[place] = _far_quantile(surprise[:, :, place], chance)
    return AlarmLimits(
        tails=tails,
        sudden=sudden,
        lasting=lasting,
        slack=slack,
        units=units,
        units_per_year=units_per_year,
        budget=budget,
    )


def _tails(values: Floats | NDArray[np.float32], spreads: Floats, share: float) -> Tails:
    """Of the statistics in the last axis, over the units in the first."""
    known = np.isfinite(values)
    total = np.maximum(1, known.sum(axis=0))
    center = np.where(known, values, 0.0).sum(axis=0) / total
    off = np.where(known, values - center, 0.0)
    spread = np.maximum(spreads, np.sqrt(np.square(off).sum(axis=0) / np.maximum(1, total - 1)))
    standardised = off / spread
    starts = np.quantile(standardised, 1 - share, axis=0)
    excess = np.maximum(0.0, standardised - starts)
    # a few values say little about a tail: as many more of the usual scale are added
    scales = (excess.sum(axis=0) + _PRIOR_VALUES * _PRIOR_SCALE) / ((excess > 0).sum(axis=0) + _PRIOR_VALUES)
    return Tails(center=center, spread=spread, starts=starts, scales=scales, share=share)


def _far_quantile(values: Floats, chance: float) -> float:
    """The surprise that is exceeded with `chance`, by an exponential tail of the largest hundredth of `values`.

    A surprise is the logarithm of a chance: never less than that of `chance` itself, however quiet the replays.
    """
    share = max(_FAR_SHARE, chance)
    start = float(np.quantile(values, 1 - share))
    beyond = values[values > start] - start
    return max(-log(chance), start + (float(beyond.mean()) * log(share / chance) if len(beyond) else 0.0))


def _lasting(series: Replays, units: int, smallest: Floats, slack: Floats, budget: float) -> Floats:
    """The smallest limits, in proportion to the usual largest sums, at which the years have `budget` alarms each."""
    usual = np.maximum(1.0, np.median(_course(series, units, smallest, slack)[0], axis=0).astype(np.float64))

    def is_over(limits: Floats) -> bool:
        return bool(_course(series, units, smallest, slack, limits)[1].mean() > budget)

    low, high = 0.25, 1.0
    while is_over(high * usual) and high < _LARGEST_FACTOR:
        low, high = high, high * 2
    for _ in range(_STEPS):
        middle = (low + high) / 2
        low, high = (middle, high) if is_over(middle * usual) else (low, middle)
    return np.maximum(_FEWEST_UNITS * (MOST - SMALLEST_CHANGE / 2), high * usual)


def _course(
    series: Replays, units: int, smallest: Floats, slack: Floats, limits: Floats | float = np.inf
) -> tuple[NDArray[np.float32], Floats]:
    """The largest sum of each replay and statistic in the year after the first `units`, and the replay's alarms.

    An alarm is a retrain, after which as many units up to it are the reference: one whose mean was off is so once.
    """
    center, spread = _moments(series[:units], smallest)
    sums, alarms = np.zeros(series.shape[1:], dtype=np.float32), np.zeros(series.shape[1])
    largest, taken = sums.copy(), slack.astype(np.float32)
    for place in range(units, len(series)):
        sums = np.maximum(sums + np.minimum((series[place] - center) / spread, np.float32(MOST)) - taken, 0)
        np.maximum(largest, sums, out=largest)
        is_alarm = (sums > limits).any(axis=1)
        if is_alarm.any():
            alarms += is_alarm
            sums[is_alarm] = 0
            until = place + 1
            center[is_alarm], spread[is_alarm] = _moments(series[until - units : until, is_alarm], smallest)
    return largest, alarms


def _moments(units: Replays, smallest: Floats) -> tuple[Replays, Replays]:
    spread = np.maximum(units.std(axis=0, ddof=1), smallest)
    return units.mean(axis=0), spread.astype(np.float32)
