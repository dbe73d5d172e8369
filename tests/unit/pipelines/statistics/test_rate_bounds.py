import numpy as np
import pytest
from scipy.optimize import brentq
from scipy.special import betaln, xlog1py, xlogy
from scipy.stats import binom

from pipelines.statistics.rate_bounds import lower_bound, upper_bound


def test_the_bounds_hold_at_all_looks_at_once() -> None:
    random = np.random.default_rng(0)
    missed = 0
    for _ in range(200):
        happened = np.cumsum(random.binomial(25, 0.04, 80)).tolist()
        looks = [(count, 25 * (place + 1)) for place, count in enumerate(happened)]
        missed += any(not lower_bound(*look, 0.05) <= 0.04 <= upper_bound(*look, 0.05) for look in looks)
    assert missed <= binom.ppf(0.999, 200, 0.1)


def test_the_bounds_close_in_on_the_rate_and_say_nothing_without_data() -> None:
    assert (lower_bound(0, 0, 0.05), upper_bound(0, 0, 0.05)) == (0.0, 1.0)
    assert upper_bound(0, 200, 0.025) < 0.05
    assert lower_bound(200, 10_000, 0.025) > 0.014
    # the rate at which Beta(200.5, 9800.5) over its prior and the likelihood is 40: 0.02633, found with scipy
    assert upper_bound(200, 10_000, 0.025) == pytest.approx(_rejected_at(200, 10_000, 0.025))
    with pytest.raises(ValueError, match="found 3 of 2"):
        lower_bound(3, 2, 0.05)


def _rejected_at(happened: int, n: int, alpha: float) -> float:
    """Above the observed rate, where the mixture is 1 / alpha times as likely: another way to the same number."""
    mixture = betaln(happened + 0.5, n - happened + 0.5) - betaln(0.5, 0.5)
    return brentq(
        lambda rate: mixture - xlogy(happened, rate) - xlog1py(n - happened, -rate) + np.log(alpha), happened / n, 0.5
    )
