from math import exp, log

import numpy as np
import pytest
from scipy.stats import binom

from pipelines.statistics.single_rate import log_e_value


@pytest.mark.parametrize("limit", [0.05, 0.35])
def test_the_e_value_has_an_expectation_of_one_at_the_limit_and_less_below(limit: float) -> None:
    n = 30

    def expectation(rate: float) -> float:
        return sum(binom.pmf(k, n, rate) * exp(log_e_value(k, n, limit)) for k in range(n + 1))

    assert expectation(limit) == pytest.approx(1)
    assert expectation(limit / 2) < 1


def test_a_rate_at_the_limit_is_rarely_refused_however_often_one_looks() -> None:
    generator = np.random.default_rng(2)
    alarms = sum(
        any(log_e_value(int(k), n + 1, 0.3) >= log(100) for n, k in enumerate(np.cumsum(generator.random(200) < 0.3)))
        for _ in range(100)
    )
    assert alarms <= 6  # 1 % of 100 is 1; more than 6 has a probability below 1 in 10,000


def test_a_rate_far_above_the_limit_is_found() -> None:
    assert log_e_value(60, 100, 0.3) > log(1000)


def test_no_trial_and_no_limit_are_no_evidence() -> None:
    assert log_e_value(0, 0, 0.3) == 0
    assert log_e_value(50, 50, 1) == 0


@pytest.mark.parametrize(("happened", "n", "limit"), [(3, 2, 0.3), (-1, 2, 0.3), (1, 2, 0), (1, 2, 1.5)])
def test_impossible_counts_and_limits_are_refused(happened: int, n: int, limit: float) -> None:
    with pytest.raises(ValueError, match="found"):
        log_e_value(happened, n, limit)
