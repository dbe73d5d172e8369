"""Alarm limits for many statistics that are looked at unit after unit (day after day), from a budget of false alarms.

What is unusual is learnt from the spread of the reference's own units, not from a distribution of rows: rows of one day
share its weather and its timetable, so that days differ by far more than as many independent rows would. Two charts
share the budget:

- *sudden*: how improbable the most improbable statistic of one unit is (Shewhart). Each has a tail of its own, taken as
  exponential in standard deviations (of logarithms of distances: a power law of distances; Weissman, "Estimation of
  parameters and large quantiles based on the k largest observations", JASA 73, 1978), and a group of them
  has one limit.
- *lasting*: cumulative sums S ← max(0, S + min(z, most) − slack) (Page, "Continuous inspection schemes",
  Biometrika 41, 1954), for changes that no single unit shows. Groups of statistics have parts of it; within a
  group each sum is measured by what is usual for it: the median of its largest values of a year.

Both limits come from replays without a change. In each the reference is drawn anew from its own blocks of units, and
what is watched comes from all of them, by the stationary bootstrap (Politis and Romano, "The stationary bootstrap",
JASA 89, 1994), which keeps the dependence of units on those before. So a limit allows for how little a short reference
knows of its own centre and spread. No unit is compared with a reference that has it, or its neighbours.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import ceil, log

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Measure = Callable[[Floats], Floats]

MINIMUM_UNITS = 14
GUARD = 0.7  # of the budget is aimed at: replays of few units have shorter tails than the world, see docs/drift.md
SUDDEN_SHARE = 1 / 3  # of the budget; the rest is for lasting changes
SLACK = 0.25  # half of the smallest lasting change worth finding, in standard deviations of a unit
BLOCK_UNITS = 14
MOST = 2.5  # standard deviations that one unit adds to a sum: a storm is no lasting change
REFERENCES = 48
SEQUENCES = 8  # with each of them
_TAIL_SHARE, _TAIL_MINIMUM = 0.1, 6
_PRIOR_VALUES, _PRIOR_SCALE = 4, 0.6  # the excess of a normal variable beyond its largest tenth is 0.5 on average
_STEPS = 7
_LARGEST_SCALE = 2.0
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

    def standardised(self, values: Floats) -> Floats:
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
    measure: Measure,
    groups: Sequence[str],
    parts: Mapping[str, float],
    spreads: Floats,
    units: int,
    units_per_year: float,
    budget: float,
    seed: int = 0,
) -> AlarmLimits:
    """The limits with which all statistics together give at most `budget` false alarms a year.

    Args:
        measure: the statistics of all units (units × statistics) against a reference in which each unit has the given
            weight; a unit is compared with those that are not near it. NaN where a statistic is not known.
        groups: of each statistic.
        parts: how the budget for lasting changes is divided among the groups, in proportion.
        spreads: the smallest standard deviation of each that is believed: one that never changed would have none.
        units: how many the reference has, in the order of time.
        units_per_year: how often one looks.
        budget: false alarms a year, of all statistics together.

    Raises:
        TooFewUnitsError: fewer than `MINIMUM_UNITS`.
        ValueError: the budget is not above 0.
    """
    if units < MINIMUM_UNITS:
        raise TooFewUnitsError(f"the reference has {units} days or blocks of days, {MINIMUM_UNITS} are needed")
    if not budget > 0:
        raise ValueError(f"a budget of false alarms is above 0 a year, found {budget}")
    share = max(_TAIL_SHARE, min(0.5, _TAIL_MINIMUM / units))
    aimed = GUARD * budget
    random = np.random.default_rng(seed)
    surprises, sequences, centers = [], [], []
    for _ in range(REFERENCES):
        weights = _drawn_anew(units, random)
        measured = measure(weights)
        tails = _tails(measured, weights, spreads, share)
        against = tails.standardised(measured)
        centers.append(tails.center)
        surprises.append(tails.surprise(against))
        places = _stationary(units, ceil(units_per_year), SEQUENCES, random)
        sequences.append(against[places].astype(np.float32))
    tails = _tails(measure(np.ones(units)), np.ones(units), spreads, share)
    slack = SLACK + np.std(centers, axis=0) / tails.spread
    years = np.minimum(np.concatenate(sequences), np.float32(MOST)) - slack.astype(np.float32)
    surprise = np.concatenate(surprises)
    sudden, lasting = np.empty(len(groups)), np.empty(len(groups))
    a_year = aimed * (1 - SUDDEN_SHARE) * ceil(units_per_year) / units_per_year
    names = sorted(set(groups))
    for group in names:
        mine = np.array([each == group for each in groups])
        part = parts[group] / sum(parts[each] for each in names)
        lasting[mine] = _lasting(years[:, :, mine], a_year * part)
        chance = aimed * SUDDEN_SHARE / len(names) / units_per_year
        sudden[mine] = _far_quantile(surprise[:, mine].max(axis=1), chance, share)
    return AlarmLimits(
        tails=tails,
        sudden=sudden,
        lasting=lasting,
        slack=slack,
        units=units,
        units_per_year=units_per_year,
        budget=budget,
    )


def _tails(values: Floats, weights: Floats, spreads: Floats, share: float) -> Tails:
    weight = np.where(np.isfinite(values), weights[:, None], 0.0)
    known = np.where(weight > 0, values, 0.0)
    total = np.maximum(1.0, weight.sum(axis=0))
    center = (known * weight).sum(axis=0) / total
    variance = (weight * (known - center) ** 2).sum(axis=0) / np.maximum(1.0, total - 1)
    spread = np.maximum(spreads, np.sqrt(variance))
    standardised = np.where(weight > 0, (known - center) / spread, 0.0)
    starts = np.quantile(np.repeat(standardised, weights.astype(np.int64), axis=0), 1 - share, axis=0)
    excess = weight * np.maximum(0.0, standardised - starts)
    count = (weight * (excess > 0)).sum(axis=0)
    # a few values say little about a tail: as many more of the usual scale are added
    scales = (excess.sum(axis=0) + _PRIOR_VALUES * _PRIOR_SCALE) / (count + _PRIOR_VALUES)
    return Tails(center=center, spread=spread, starts=starts, scales=scales, share=share)


def _drawn_anew(units: int, random: np.random.Generator) -> Floats:
    """How often each unit is in a reference that is put together of whole blocks, drawn with replacement."""
    length = min(BLOCK_UNITS, units // 4)
    block = (np.arange(units) + int(random.integers(length))) // length
    blocks = block[-1] + 1
    drawn = np.bincount(random.integers(blocks, size=blocks), minlength=blocks)
    found: Floats = drawn[block].astype(np.float64)
    return found


def _stationary(units: int, length: int, sequences: int, random: np.random.Generator) -> Ints:
    """Positions of the stationary bootstrap, `sequences` × `length`, in blocks of 7 units on average."""
    starts = random.integers(units, size=(sequences, length))
    is_new = random.random((sequences, length)) < 1 / BLOCK_UNITS
    is_new[:, 0] = True
    places = np.arange(length)
    begun = np.maximum.accumulate(np.where(is_new, places, 0), axis=1)
    found: Ints = (np.take_along_axis(starts, begun, axis=1) + places - begun) % units
    return found


def _far_quantile(values: Floats, chance: float, share: float) -> float:
    """The value that is exceeded with `chance`, by an exponential tail of the largest `share` of `values`."""
    # no surprise is below -ln(share), but for the many that are none
    start = max(float(np.quantile(values, 1 - share)), -log(share))
    beyond = values[values > start] - start
    if len(beyond) <= chance * len(values):
        return start
    # a surprise has the scale 1 by its definition; a few far days must not hide all that is to come
    return start + min(_LARGEST_SCALE, float(beyond.mean())) * log(len(beyond) / len(values) / chance)


def _lasting(years: NDArray[np.float32], budget: float) -> Floats:
    """The smallest limits, in proportion to the usual largest sums, at which the years have `budget` alarms each."""
    usual = np.maximum(1.0, _largest_sums(years))
    low, high = 0.25, 1.0
    while _is_over(years, high * usual, budget) and high < _LARGEST_FACTOR:
        low, high = high, high * 2
    for _ in range(_STEPS):
        middle = (low + high) / 2
        low, high = (middle, high) if _is_over(years, middle * usual, budget) else (low, middle)
    return np.maximum(_FEWEST_UNITS * (MOST - SLACK), high * usual)


def _largest_sums(years: NDArray[np.float32]) -> Floats:
    """The median over the years of the largest sum of each statistic."""
    sums = np.zeros((years.shape[0], years.shape[2]), dtype=np.float32)
    largest = sums.copy()
    for place in range(years.shape[1]):
        np.maximum(sums + years[:, place], 0, out=sums)
        np.maximum(largest, sums, out=largest)
    found: Floats = np.median(largest, axis=0).astype(np.float64)
    return found


def _is_over(years: NDArray[np.float32], limits: Floats, budget: float) -> bool:
    sums = np.zeros((years.shape[0], years.shape[2]), dtype=np.float32)
    alarms = np.zeros(years.shape[0])
    for place in range(years.shape[1]):
        np.maximum(sums + years[:, place], 0, out=sums)
        is_alarm = (sums > limits).any(axis=1)
        alarms += is_alarm
        sums[is_alarm] = 0
    return bool(alarms.mean() > budget)
