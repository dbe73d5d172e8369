from collections.abc import Callable

import numpy as np
import pytest
from numpy.typing import NDArray

from pipelines.statistics.alarm_budget import MINIMUM_UNITS, AlarmLimits, TooFewUnitsError, accumulate, alarm_limits

Floats = NDArray[np.float64]
Process = Callable[[int, int], Floats]
UNITS, STATISTICS = 90, 4
PARTS = {"a": 1.0, "b": 1.0, "c": 1.0}
ORDINARY = np.full(STATISTICS, 0.1)


def _walk(units: int, seed: int, dependence: float = 0.5) -> Floats:
    random = np.random.default_rng(seed)
    found = np.zeros((units, STATISTICS))
    for unit in range(1, units):
        found[unit] = dependence * found[unit - 1] + random.normal(0, np.sqrt(1 - dependence**2), STATISTICS)
    return found


def _week_and_memory(units: int, seed: int) -> Floats:
    cycle = 0.7 * np.sin(2 * np.pi * np.arange(units) / 7)[:, None]
    return (_walk(units, seed, 0.7) + cycle) / np.sqrt(1 + 0.7**2 / 2)


def _slow_beneath_noise(units: int, seed: int) -> Floats:
    own = np.random.default_rng(10_000 + seed).normal(size=(units, STATISTICS))
    return np.sqrt(0.3) * _walk(units, seed, 0.8) + np.sqrt(0.7) * own


def _alarms(values: Floats, reference: Floats, budget: float) -> int:
    """How often one would retrain: after an alarm what was seen until then belongs to the reference."""
    alarms = start = 0
    while start < len(values):
        seen = np.concatenate([reference, values[:start]])
        found = _first_alarm(_limits(seen, budget), values[start:])
        if found is None:
            break
        alarms, start = alarms + 1, start + found + 1
    return alarms


def _limits(seen: Floats, budget: float) -> AlarmLimits:
    return alarm_limits(seen, ["a", "a", "b", "c"], PARTS, ORDINARY, 365.0, budget)


def _first_alarm(limits: AlarmLimits, values: Floats) -> int | None:
    sums = np.zeros(STATISTICS)
    for place, unit in enumerate(limits.tails.standardised(values)):
        sums = accumulate(sums, unit, limits.slack)
        if (limits.tails.surprise(unit) > limits.sudden).any() or (sums > limits.lasting).any():
            return place
    return None


@pytest.mark.parametrize(
    ("process", "units"), [(_walk, UNITS), (_week_and_memory, UNITS), (_slow_beneath_noise, 2 * UNITS)]
)
def test_dependent_units_without_a_change_keep_the_budget_over_many_years(process: Process, units: int) -> None:
    found = []
    for seed in range(8):
        whole = process(units + 365, seed)
        found.append(_alarms(whole[units:], whole[:units], 2.0))
    assert np.mean(found) <= 2.0  # without the effect that the board asks for as well


def test_a_change_of_one_unit_and_one_that_lasts_are_found() -> None:
    sudden, lasting = _walk(30, 7), _walk(60, 7)
    sudden[10, 2] += 12
    lasting[20:, 1] += 2.0
    assert _alarms(sudden, _walk(UNITS, 0), 2.0) >= 1
    assert _alarms(lasting, _walk(UNITS, 0), 2.0) >= 1


def test_a_smaller_budget_gives_higher_limits() -> None:
    reference = _walk(UNITS, 1)
    few, many = (alarm_limits(reference, ["a"] * STATISTICS, PARTS, ORDINARY, 365.0, budget) for budget in (0.5, 12.0))
    assert (few.sudden > many.sudden).all()
    assert (few.lasting > many.lasting).all()


def test_a_statistic_that_never_changes_has_the_spread_that_is_believed() -> None:
    limits = alarm_limits(np.ones((UNITS, 1)), ["a"], PARTS, np.array([0.25]), 365.0, 2.0)
    assert limits.tails.standardised(np.array([[1.5]])).tolist() == [[2.0]]
    assert limits.tails.standardised(np.array([[np.nan]])).tolist() == [[0.0]]


def test_too_few_units_and_no_budget_are_refused() -> None:
    with pytest.raises(TooFewUnitsError, match=f"{MINIMUM_UNITS} are needed"):
        alarm_limits(np.ones((5, 1)), ["a"], PARTS, np.ones(1), 365.0, 2.0)
    with pytest.raises(ValueError, match="above 0 a year, found 0"):
        alarm_limits(np.ones((UNITS, 1)), ["a"], PARTS, np.ones(1), 365.0, 0)
