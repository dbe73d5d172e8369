"""Evidently's default drift methods as a rule of a night: on the rows themselves, which it needs and ours does not."""

from typing import Any

import numpy as np
import pandas as pd
from evidently.legacy.calculations.stattests import get_stattest
from evidently.legacy.core import ColumnType

from benchmarks.monitoring.flights import FIRST_DAY, Flights, Ints
from benchmarks.monitoring.rules import Simple
from pipelines.monitoring.day_summaries import Days, Layout
from pipelines.monitoring.drift_limits import DriftLimits

ANY = "Evidently's methods, any feature"
HALF = "Evidently's default (half of the features)"
SHARES = {ANY: 1e-9, HALF: 0.5}


def evidently_rule(flights: Flights, places: Ints, share: float) -> Simple:
    """Whether at least `share` of the columns have drifted, by what `DataDriftPreset()` takes for their kind and rows.

    Args:
        places: which day of 2013 each day of the made-up calendar is.
    """
    by_day = [np.flatnonzero(flights.numbers == FIRST_DAY + place) for place in range(len(flights.days))]

    def rows(days: Days) -> Ints:
        found: Ints = np.concatenate([by_day[places[day - FIRST_DAY]] for day in days.days.tolist()])
        return found

    def rule(layout: Layout, reference: Days, day: Days, limits: DriftLimits) -> bool:
        found = drifted(flights, rows(reference), rows(day))
        return sum(found.values()) >= share * len(found)

    return rule


def drifted(flights: Flights, before: Ints, now: Ints) -> dict[str, bool]:
    """For each column that counts, and the scores: whether the rows `now` have drifted from those `before`."""
    ignored = {*flights.limits.ignored, "scheduled.day_of_week"}
    found = {
        name: _is_drifted(flights.features[:, place], before, now, edges is None)
        for place, (name, edges) in enumerate(zip(flights.layout.columns, flights.layout.edges, strict=True))
        if name not in ignored
    }
    return {**found, "score": _is_drifted(flights.scores, before, now, is_word=False)}


def _is_drifted(values: Any, before: Ints, now: Ints, is_word: bool) -> bool:
    sides = [pd.Series(values[rows][np.isfinite(values[rows])].astype(np.float64)) for rows in (before, now)]
    kind = ColumnType.Categorical if is_word else ColumnType.Numerical
    if is_word:
        sides = [side.astype(int).astype(str) for side in sides]
    method = get_stattest(sides[0], sides[1], kind, None)
    return bool(method(sides[0], sides[1], kind, None).drifted)
