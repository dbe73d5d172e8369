import numpy as np
import pytest
from scipy.stats import binom

from pipelines.statistics.paired_shift import log_e_value, mean_of

BINS, MARGIN, LIMIT = 64, 0.05, np.log(20)


def histogram(differences: np.ndarray) -> list[int]:
    return np.histogram(differences, BINS, (-1, 1))[0].tolist()


def looks(random: np.random.Generator, shift: float, spread: float, n: int = 40) -> list[list[int]]:
    """The histogram at each of 30 looks, of `n` pairs each."""
    differences = np.clip(random.normal(shift, spread, (30, n)), -1, 1)
    return np.cumsum([histogram(each) for each in differences], axis=0).tolist()


@pytest.mark.parametrize("spread", [0.02, 0.3])
def test_at_the_margin_a_false_alarm_is_as_rare_as_promised_at_all_looks_together(spread: float) -> None:
    random = np.random.default_rng(0)
    alarms = sum(max(log_e_value(c, MARGIN) for c in looks(random, MARGIN, spread)) >= LIMIT for _ in range(200))
    assert alarms <= binom.ppf(0.999, 200, 0.05)


def test_a_shift_beyond_the_margin_is_found() -> None:
    random = np.random.default_rng(1)
    assert all(max(log_e_value(c, MARGIN) for c in looks(random, 0.2, 0.2)) >= LIMIT for _ in range(50))


def test_pairs_need_far_fewer_requests_than_two_samples() -> None:
    random = np.random.default_rng(2)
    theirs = random.beta(2, 6, 20_000)
    mine = np.clip(theirs + random.normal(0.08, 0.05, 20_000), 0, 1)
    steps = range(20, 20_000, 20)
    pairs = next(n for n in steps if log_e_value(histogram((mine - theirs)[:n]), MARGIN) >= LIMIT)
    crossed = mine - np.roll(theirs, 1)  # each against the champion's score of another request
    samples = next(n for n in steps if log_e_value(histogram(crossed[:n]), MARGIN) >= LIMIT)
    assert pairs * 4 < samples


def test_the_mean_is_that_of_the_bins() -> None:
    assert mean_of([0, 0, 0, 4]) == 0.75
    assert mean_of([1, 1, 1, 1]) == 0
    assert mean_of([0, 0]) == 0


@pytest.mark.parametrize(("counts", "margin"), [([], 0.1), ([1, -1], 0.1), ([1, 1], 1.0), ([1, 1], -0.1)])
def test_what_is_no_histogram_or_no_margin_is_refused(counts: list[int], margin: float) -> None:
    with pytest.raises(ValueError, match="found"):
        log_e_value(counts, margin)
