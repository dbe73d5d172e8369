"""What decides of a night whether to retrain: our board, and what others use."""

from collections.abc import Callable
from datetime import date
from typing import NamedTuple

import numpy as np

from pipelines.monitoring.board import Alarm, BoardState, read_board
from pipelines.monitoring.board_reference import make_reference
from pipelines.monitoring.day_summaries import Days, Layout
from pipelines.monitoring.drift_limits import DriftLimits
from pipelines.statistics.distances import homogeneity_p_value, population_stability_index

COOLDOWN_DAYS = 7
WINDOW_DAYS = 7
_NEVER_LATE = date(2100, 1, 1)


class Night(NamedTuple):
    """An alarm: the number of its day, and what the board said (nothing for others)."""

    day: int
    alarms: tuple[Alarm, ...] = ()


Simple = Callable[[Layout, Days, Days, DriftLimits], bool]


def board_alarms(layout: Layout, days: Days, known: int, limits: DriftLimits) -> list[Night]:
    """The nights of the days from number `known` on that retrain; then all days until there are the reference."""
    found: list[Night] = []
    start = known
    while start < len(days):
        reference = make_reference(layout, days.take(np.arange(start)), frozenset(limits.ignored), limits)
        state, hit = BoardState(bundle="b"), None
        for day in range(start, len(days)):
            window = days.take(np.arange(max(start, day - WINDOW_DAYS + 1), day + 1))
            reading = read_board(reference, window, state, limits, known_before=_NEVER_LATE)
            state = reading.state
            if reading.alarms:
                hit = Night(day, reading.alarms)
                break
        if hit is None:
            break
        found.append(hit)
        start = max(hit.day + 1, start + COOLDOWN_DAYS)
    return found


def simple_alarms(rule: Simple, layout: Layout, days: Days, known: int, limits: DriftLimits) -> list[Night]:
    """The same by a rule that looks at one day at a time; after an alarm it looks again a week later."""
    found: list[Night] = []
    reference = days.take(np.arange(known))
    day = known
    while day < len(days):
        if rule(layout, reference, days.take([day]), limits):
            found.append(Night(day))
            reference = days.take(np.arange(day + 1))
            day += COOLDOWN_DAYS
        else:
            day += 1
    return found


def any_p_value(layout: Layout, reference: Days, day: Days, limits: DriftLimits) -> bool:
    """A p-value below 0.05 of any column that counts, or of the scores: rows as if independent."""
    return any(value < 0.05 for value in _p_values(layout, reference, day, limits))


def half_of_p_values(layout: Layout, reference: Days, day: Days, limits: DriftLimits) -> bool:
    """The rule for a whole data set: at least half of the columns have a p-value below 0.05."""
    values = _p_values(layout, reference, day, limits)
    return sum(value < 0.05 for value in values) >= 0.5 * len(values)


def any_index(layout: Layout, reference: Days, day: Days, limits: DriftLimits) -> bool:
    """A population stability index above 0.2 of any column that counts, or of the scores."""
    return any(population_stability_index(before, now) > 0.2 for before, now in _pairs(layout, reference, day, limits))


def always(layout: Layout, reference: Days, day: Days, limits: DriftLimits) -> bool:
    """A retrain a week, whatever happens."""
    return True


def never(layout: Layout, reference: Days, day: Days, limits: DriftLimits) -> bool:
    """None."""
    return False


RULES: dict[str, Simple] = {
    "p < 0.05 of any feature (chi-square)": any_p_value,
    "p < 0.05 of half of the features": half_of_p_values,
    "PSI > 0.2 of any feature": any_index,
    "always fire (weekly)": always,
    "never fire": never,
}
OURS = "the board (ours)"


def _pairs(layout: Layout, reference: Days, day: Days, limits: DriftLimits) -> list[tuple[list[int], list[int]]]:
    ignored = {*limits.ignored, "scheduled.day_of_week"}
    pairs = [
        (reference.counts[place].sum(axis=0).tolist(), day.counts[place].sum(axis=0).tolist())
        for place, name in enumerate(layout.columns)
        if name not in ignored
    ]
    pairs.append((reference.score_counts.sum(axis=0).tolist(), day.score_counts.sum(axis=0).tolist()))
    return [(before, now) for before, now in pairs if sum(before) and sum(now) and len(before) > 1]


def _p_values(layout: Layout, reference: Days, day: Days, limits: DriftLimits) -> list[float]:
    return [homogeneity_p_value(before, now) for before, now in _pairs(layout, reference, day, limits)]
