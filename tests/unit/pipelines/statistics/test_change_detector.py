"""The e-detectors: their e-values are such, alarms are as rare as promised, and a change is found."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binom

from pipelines.statistics.change_detector import MOST, advance, log_e_values, log_mixture


@settings(max_examples=60, deadline=None)
@given(
    trials=st.integers(1, 200),
    low=st.floats(0, 1),
    width=st.floats(0, 1),
    place=st.floats(0, 1),
    effective=st.integers(1, 200),
)
def test_within_the_band_no_bet_gains_on_average(
    trials: int, low: float, width: float, place: float, effective: int
) -> None:
    high = low + (1 - low) * width
    share = low + (high - low) * place
    k = np.arange(trials + 1, dtype=float)
    bets = log_e_values(k, trials, np.full(len(k), low), np.full(len(k), high), effective)
    share = 0.0 if share < 1e-300 else share  # of a denormal one SciPy's formula overflows
    means = (binom.pmf(k, trials, share)[:, None, None] * np.exp(bets)).sum(axis=0)
    # an end within 1e-4 of 0 or 1 is moved there, which can only be seen by a share beyond it
    assert np.all(means <= 1 + 1e-9 + trials * 2e-4 * (not 1e-4 <= low <= high <= 1 - 1e-4))


def test_a_share_at_the_end_of_its_band_raises_an_alarm_as_rarely_as_promised() -> None:
    chance, years, looks, trials = np.random.default_rng(7), 400, 1000, 20
    high, low = np.full(years, 0.6), np.full(years, 0.4)
    threshold = np.log(looks / 0.2)  # one false alarm in five such periods
    detectors = np.full((years, 2, 4), -np.inf)
    alarmed = np.zeros(years, bool)
    for _ in range(looks):
        bets = log_e_values(chance.binomial(trials, high).astype(float), trials, low, high, trials)
        detectors = advance(detectors, bets, at_most=threshold + 4)
        alarmed |= np.logaddexp.reduce(detectors.reshape(years, -1) - np.log(8), axis=1) >= threshold
    assert 0 < alarmed.mean() < 0.2  # 80 expected at most; that some come shows that the bound is not an empty one


def test_a_share_beyond_its_band_is_found_and_one_within_is_not() -> None:
    low, high, weights = np.array([0.4]), np.array([0.6]), np.array([1.0])
    found = {}
    for share in (0.5, 0.9, 0.1):
        detectors = np.full((1, 2, 4), -np.inf)
        for _ in range(10):
            detectors = advance(detectors, log_e_values(np.array([20 * share]), 20, low, high, 20), at_most=100.0)
        found[share] = log_mixture(detectors, weights)
    assert found[0.5] < 0
    assert found[0.9] > 13
    assert found[0.1] == pytest.approx(found[0.9])  # the odds of a share and of its complement mirror each other


def test_many_trials_of_a_batch_count_as_no_more_than_the_effective_ones() -> None:
    low, high = np.array([0.4]), np.array([0.6])
    many = log_e_values(np.array([700.0]), 1000, low, high, 20)
    assert many == pytest.approx(log_e_values(np.array([14.0]), 20, low, high, 20))


def test_one_batch_alone_says_only_so_much() -> None:
    alone = log_e_values(np.array([1000.0]), 1000, np.array([0.1]), np.array([0.2]), 1000)
    assert alone.max() == MOST


def test_a_band_that_cannot_be_left_takes_what_was_said_of_another_hour_away() -> None:
    detectors = np.full((1, 2, 4), 15.0)
    for _ in range(5):
        detectors = advance(detectors, log_e_values(np.array([0.0]), 20, np.array([0.0]), np.array([1.0]), 20), 30.0)
    assert detectors.max() < 0


def test_evidence_beyond_the_ceiling_is_forgotten() -> None:
    detectors = np.full((1, 2, 4), -np.inf)
    for _ in range(1000):
        detectors = advance(detectors, log_e_values(np.array([20.0]), 20, np.array([0.4]), np.array([0.6]), 20), 30.0)
    assert detectors.max() == 30.0


@pytest.mark.parametrize(
    ("successes", "trials", "low", "high", "effective", "message"),
    [
        (5.0, 4, 0.1, 0.2, 1, "between 0 and the trials"),
        (-1.0, 4, 0.1, 0.2, 1, "between 0 and the trials"),
        (1.0, 4, 0.3, 0.2, 1, "a band lies within"),
        (1.0, 4, 0.3, 1.2, 1, "a band lies within"),
        (1.0, 4, 0.1, 0.2, 0, "at least 1 trial, found 0"),
    ],
)
def test_numbers_that_contradict_each_other_are_refused(
    successes: float, trials: int, low: float, high: float, effective: int, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        log_e_values(np.array([successes]), trials, np.array([low]), np.array([high]), effective)
