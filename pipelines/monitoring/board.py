"""All that is watched of a project's predictions, day after day, under one budget of false alarms. Pure.

A watch looks at the units of days that no watch before it has seen, and hands the next one the cumulative sums of the
statistics. A statistic is an alarm where it is beyond what the reference's own days do, by the limits that the budget
gives, and the change is large enough to matter.
"""

from datetime import date, timedelta
from functools import cached_property
from math import exp
from typing import Literal

import msgspec
import numpy as np
from numpy.typing import NDArray

from pipelines.monitoring.board_reference import Floats, Reference, Statistic, What, effects, measured, pooled_effects
from pipelines.monitoring.day_summaries import Days, blocks
from pipelines.monitoring.drift_limits import DriftLimits
from pipelines.statistics.alarm_budget import accumulate

Chart = Literal["sudden", "lasting"]
_EPOCH = date(1970, 1, 1)
_MATURE_SHARE = 0.5  # of a day's rows whose outcomes are known: before, they are not those of the day
_SIZES = {"values": "distance", "missing": "change", "scores": "PSI", "outcomes": "change of the share"}


class BoardState(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What a watch hands to the next one: the cumulative sums of a bundle's statistics, since when each is above 0, and
    the last day of the inputs and of the outcomes that are in them."""

    bundle: str
    last_day: date | None = None
    last_labelled_day: date | None = None
    sums: dict[str, float] = {}
    since: dict[str, date] = {}


class Alarm(msgspec.Struct, frozen=True, kw_only=True):
    """A statistic beyond its limit: `value` and `limit` are of its chart, `effect` is how large the change is (PSI,
    divergence or a difference of shares) and `minimum` from where on that counts. `since` is the first day of it."""

    statistic: str
    what: What
    column: str | None
    chart: Chart
    day: date
    since: date
    value: float
    limit: float
    effect: float
    minimum: float
    p_value: float
    reason: str


class BoardReading(msgspec.Struct, frozen=True, kw_only=True):
    """What a watch saw. `alarms` has the most extreme first, `state` is for the next watch.

    `units` of `unit_days` days were looked at, of `labelled_units` the outcomes, against `reference_units`. `largest`
    is the largest surprise and `highest_sum` the highest cumulative sum, both in parts of their limits.
    """

    alarms: tuple[Alarm, ...]
    state: BoardState
    units: int
    labelled_units: int
    unit_days: int
    reference_units: int
    largest: float | None
    largest_name: str | None
    highest_sum: float | None
    highest_name: str | None
    reason: str = ""


def read_board(
    reference: Reference, live: Days, state: BoardState, limits: DriftLimits, *, known_before: date
) -> BoardReading:
    """Looks at the units of `live` that no earlier watch has seen; `live` has the outcomes known now.

    Args:
        known_before: outcomes of events before this day have matured.
    """
    units = blocks(live, reference.unit_days)
    course = _Course(reference, state, live)
    looked_at = labelled = 0
    is_label = np.array([each.what == "outcomes" for each in reference.statistics])
    for place in range(len(units)):
        seen = _unseen(reference, units, place, state, known_before, limits)
        if seen.any():
            looked_at += int(seen[~is_label].any())
            labelled += int(seen[is_label].any())
            course.step(units.take([place]), seen)
    return course.reading(looked_at, labelled, _last(units, state, reference, known_before, limits))


class _Course:
    """The cumulative sums through the units of one watch."""

    def __init__(self, reference: Reference, state: BoardState, live: Days) -> None:
        self._reference, self._state, self._live = reference, state, live
        self._names = [each.name for each in reference.statistics]
        self._sums = np.array([state.sums.get(name, 0.0) for name in self._names])
        self._since = dict(state.since)
        self._alarms: list[Alarm] = []
        self._largest: tuple[float, str] | None = None
        self._highest: tuple[float, str] | None = None

    @cached_property
    def _recent(self) -> Floats:
        """The effects of all days of the watch together; most watches never ask."""
        return pooled_effects(self._reference, self._live)

    def step(self, unit: Days, known: NDArray[np.bool_]) -> None:
        """One unit; a statistic that is not `known` of it leaves its sum as it is."""
        day = _date(unit.days[0])
        z = np.where(known, self._reference.limits.tails.standardised(measured(self._reference, unit)[0]), 0.0)
        self._sums = np.where(known, accumulate(self._sums, z, self._reference.limits.slack), self._sums)
        first = day - timedelta(days=self._reference.unit_days - 1)
        for name, total in zip(self._names, self._sums.tolist(), strict=True):
            if total > 0:
                self._since.setdefault(name, first)
            else:
                self._since.pop(name, None)
        limits = self._reference.limits
        surprise = limits.tails.surprise(z)
        self._note(known, surprise / limits.sudden)
        is_beyond = known & ((surprise > limits.sudden) | (self._sums > limits.lasting))
        if is_beyond.any() and self._alarms_of(unit, day, surprise, np.flatnonzero(is_beyond)):
            self._sums = np.zeros_like(self._sums)
            self._since = {}

    def _alarms_of(self, unit: Days, day: date, surprise: Floats, places: NDArray[np.int64]) -> bool:
        """Notes the alarms of the statistics at `places`: those whose change is large enough. Whether there are any."""
        limits, before = self._reference.limits, len(self._alarms)
        sizes = effects(self._reference, unit)
        for place in places.tolist():
            statistic = self._reference.statistics[place]
            lasting = max(float(self._recent[place]), float(sizes[place]))
            charts: tuple[tuple[Chart, float, float, float], ...] = (
                ("sudden", float(surprise[place]), float(limits.sudden[place]), float(sizes[place])),
                ("lasting", float(self._sums[place]), float(limits.lasting[place]), lasting),
            )
            for chart, value, limit, effect in charts:
                if value > limit and effect > statistic.minimum:
                    p_value = exp(-float(surprise[place]))
                    self._alarms.append(self._alarm(statistic, chart, day, value, limit, effect, p_value))
        return len(self._alarms) > before

    def _alarm(
        self, statistic: Statistic, chart: Chart, day: date, value: float, limit: float, effect: float, p_value: float
    ) -> Alarm:
        first = day - timedelta(days=self._reference.unit_days - 1)
        since = first if chart == "sudden" else self._since.get(statistic.name, first)
        size = f"{_SIZES[statistic.what]} {effect:.3f} > {statistic.minimum:g}"
        if chart == "sudden":
            usual = f"the reference has such a day with a chance of {exp(-value):.1g} <= {exp(-limit):.1g}"
        else:
            usual = f"a cumulative sum of {value:.1f} > {limit:.1f} since {since}"
        columns = self._reference.layout.columns
        return Alarm(
            statistic=statistic.name,
            what=statistic.what,
            column=None if statistic.column is None else columns[statistic.column],
            chart=chart,
            day=day,
            since=since,
            value=value,
            limit=limit,
            effect=effect,
            minimum=statistic.minimum,
            p_value=p_value,
            reason=f"{statistic.name}: {size}; {usual}",
        )

    def _note(self, known: NDArray[np.bool_], surprise: Floats) -> None:
        sums = self._sums / self._reference.limits.lasting
        for values, name in (
            (np.where(known, surprise, -np.inf), "_largest"),
            (np.where(known, sums, -np.inf), "_highest"),
        ):
            place = int(values.argmax())
            before: tuple[float, str] | None = getattr(self, name)
            if np.isfinite(values[place]) and (before is None or values[place] > before[0]):
                setattr(self, name, (float(values[place]), self._names[place]))

    def reading(self, units: int, labelled: int, last: tuple[date | None, date | None]) -> BoardReading:
        """After the last unit."""
        limits = self._reference.limits
        largest, highest = self._largest or (None, None), self._highest or (None, None)
        sums = {name: total for name, total in zip(self._names, self._sums.tolist(), strict=True) if total > 0}
        state = BoardState(
            bundle=self._state.bundle,
            last_day=last[0],
            last_labelled_day=last[1],
            sums={name: round(total, 6) for name, total in sums.items()},
            since={name: day for name, day in self._since.items() if name in sums},
        )
        return BoardReading(
            alarms=tuple(sorted(self._alarms, key=lambda alarm: -alarm.value / alarm.limit)),
            state=state,
            units=units,
            labelled_units=labelled,
            unit_days=self._reference.unit_days,
            reference_units=limits.units,
            largest=largest[0],
            largest_name=largest[1],
            highest_sum=highest[0],
            highest_name=highest[1],
            reason="" if units else "no new day with enough rows",
        )


def _unseen(
    reference: Reference, units: Days, place: int, state: BoardState, known_before: date, limits: DriftLimits
) -> NDArray[np.bool_]:
    """Which statistics of a unit are known now, and were not looked at yet."""
    day = _date(units.days[place])
    has_rows = units.rows[place] >= limits.minimum_rows
    is_new = has_rows and (state.last_day is None or day > state.last_day)
    known = int(units.outcomes[place].sum())
    is_mature = day < known_before and known >= max(1, _MATURE_SHARE * int(units.rows[place]))
    is_newly_labelled = has_rows and is_mature and (state.last_labelled_day is None or day > state.last_labelled_day)
    return np.array([is_newly_labelled if each.what == "outcomes" else is_new for each in reference.statistics])


def _last(
    units: Days, state: BoardState, reference: Reference, known_before: date, limits: DriftLimits
) -> tuple[date | None, date | None]:
    days = [_date(day) for day in units.days]
    seen = [_unseen(reference, units, place, state, known_before, limits) for place in range(len(units))]
    is_label = np.array([each.what == "outcomes" for each in reference.statistics])
    inputs = [day for day, each in zip(days, seen, strict=True) if each[~is_label].any()]
    labels = [day for day, each in zip(days, seen, strict=True) if each[is_label].any()]
    return (
        max([*inputs, *([state.last_day] if state.last_day else [])], default=None),
        max([*labels, *([state.last_labelled_day] if state.last_labelled_day else [])], default=None),
    )


def _date(day: int) -> date:
    return _EPOCH + timedelta(days=int(day))
