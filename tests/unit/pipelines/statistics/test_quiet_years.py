import numpy as np
from numpy.typing import NDArray

from pipelines.statistics.quiet_years import dependence, quiet_years

Floats = NDArray[np.float64]
UNITS = 365


def _slow(units: int, seed: int, correlation: float = 0.9) -> Floats:
    random = np.random.default_rng(seed)
    found = random.normal(size=(units, 1))
    for unit in range(1, units):
        found[unit] = correlation * found[unit - 1] + np.sqrt(1 - correlation**2) * found[unit]
    return found


def _noise(units: int, seed: int) -> Floats:
    return np.random.default_rng(seed).normal(size=(units, 1))


def _weeks(series: Floats | NDArray[np.float32]) -> Floats:
    found: Floats = series[: len(series) // 7 * 7].reshape(-1, 7, *series.shape[1:]).mean(axis=1, dtype=np.float64)
    return found


def _of_one(values: Floats) -> Floats:
    found: Floats = (values - values.mean(axis=0)) / values.std(axis=0)
    return found


def test_a_slow_part_is_told_from_the_days_own_though_neighbours_are_little_alike() -> None:
    values = _of_one(np.sqrt(0.35) * _slow(UNITS, 1) + np.sqrt(0.65) * _noise(UNITS, 2))
    memories, shares = dependence(values, 500, np.random.default_rng(0))
    assert 0.75 < np.median(memories) < 0.97
    assert 0.2 < np.median(shares) < 0.55


def test_units_that_forget_at_once_have_no_slow_part_that_matters() -> None:
    memories, shares = dependence(_of_one(_noise(UNITS, 3)), 500, np.random.default_rng(0))
    assert np.median(shares * memories) < 0.1


def test_a_weekly_cycle_is_not_taken_for_a_memory_of_weeks() -> None:
    cycle = np.sin(2 * np.pi * np.arange(UNITS) / 7)[:, None]
    memories, shares = dependence(_of_one(cycle + _noise(UNITS, 4)), 500, np.random.default_rng(0))
    assert np.median(shares * memories**7) < 0.05


def test_weeks_of_the_replays_differ_as_those_of_the_units_do() -> None:
    values = _of_one(np.sqrt(0.35) * _slow(UNITS, 1) + np.sqrt(0.65) * _noise(UNITS, 2))
    replays = quiet_years(values, UNITS, 200, np.random.default_rng(0))
    assert replays.shape == (2 * UNITS, 200, 1)
    assert 0.8 < replays.std() < 1.25
    real, made = _weeks(values).std(), _weeks(replays).std()
    assert 0.8 < made / real < 1.25
    assert made > 1.2 / np.sqrt(7)  # of days that forget at once it would be 1 / √7


def test_a_short_series_leaves_more_open_than_a_long_one() -> None:
    whole = _of_one(_slow(UNITS, 5, 0.7))
    spreads = [
        float(np.std(np.multiply(*dependence(_of_one(whole[:units]), 500, np.random.default_rng(0)))))
        for units in (40, UNITS)
    ]
    assert spreads[0] > 1.5 * spreads[1]


def test_a_statistic_that_never_changes_stays_where_it_is() -> None:
    replays = quiet_years(np.zeros((30, 1)), 10, 5, np.random.default_rng(0))
    assert (replays == 0).all()
