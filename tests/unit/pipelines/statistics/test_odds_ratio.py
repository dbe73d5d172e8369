import tracemalloc
from math import exp, log

import numpy as np
import pytest
from scipy.stats import binom, hypergeom, nchypergeom_fisher

from pipelines.statistics.odds_ratio import ALTERNATIVES, Evidence


def test_the_e_value_has_an_expectation_of_one_under_equality() -> None:
    n, reference_n, total = 20, 60, 7
    expectation = sum(
        hypergeom.pmf(k, n + reference_n, total, n)
        * exp(Evidence().after(failures=k, n=n, reference_failures=total - k, reference_n=reference_n).log_e_value)
        for k in range(total + 1)
    )
    assert expectation == pytest.approx(1)


def test_the_likelihood_ratios_are_those_of_fishers_noncentral_hypergeometric_distribution() -> None:
    evidence = Evidence().after(failures=5, n=20, reference_failures=2, reference_n=60)
    expected = [log(nchypergeom_fisher.pmf(5, 80, 7, 20, odds) / hypergeom.pmf(5, 80, 7, 20)) for odds in ALTERNATIVES]
    assert evidence.log_ratios == pytest.approx(expected)


def test_a_look_of_millions_takes_memory_for_its_failures_alone() -> None:
    tracemalloc.start()
    evidence = Evidence().after(failures=5, n=2_000_000, reference_failures=2, reference_n=6_000_000)
    _, peak_bytes = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak_bytes < 8_000_000, "less than a byte for each that was asked"
    expected = [log(binom.pmf(5, 7, odds / (odds + 3)) / binom.pmf(5, 7, 1 / 4)) for odds in ALTERNATIVES]
    assert evidence.log_ratios == pytest.approx(expected, abs=1e-4)


def test_equal_arms_are_rarely_told_apart_however_often_one_looks() -> None:
    generator = np.random.default_rng(1)
    alarms = 0
    for _ in range(200):
        evidence, highest = Evidence(), 0.0
        for look in range(100):
            rate = 0.02 if look % 20 < 10 else 0.12
            evidence = evidence.after(
                failures=int(generator.binomial(20, rate)),
                n=20,
                reference_failures=int(generator.binomial(60, rate)),
                reference_n=60,
            )
            highest = max(highest, evidence.log_e_value)
        alarms += highest >= log(100)
    assert alarms <= 8  # 1 % of 200 is 2; more than 8 has a probability below 1 in 1,000


def test_a_challenger_that_fails_on_one_request_in_five_is_found_within_a_few_looks() -> None:
    evidence = Evidence()
    for _ in range(5):
        evidence = evidence.after(failures=4, n=20, reference_failures=0, reference_n=60)
    assert evidence.log_e_value > log(100)


def test_a_difference_within_the_margin_is_no_evidence() -> None:
    evidence = Evidence(margin=3.0)
    for _ in range(50):
        evidence = evidence.after(failures=4, n=100, reference_failures=6, reference_n=300)
    assert evidence.log_e_value < 0


def test_a_look_without_failures_or_without_requests_changes_nothing() -> None:
    assert Evidence().after(failures=0, n=50, reference_failures=0, reference_n=50) == Evidence()
    assert Evidence().after(failures=0, n=0, reference_failures=3, reference_n=50) == Evidence()


def test_impossible_counts_are_refused() -> None:
    with pytest.raises(ValueError, match="3 of 2"):
        Evidence().after(failures=3, n=2, reference_failures=0, reference_n=50)
    with pytest.raises(ValueError, match="margin"):
        Evidence(margin=0)
