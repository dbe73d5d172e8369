from itertools import product
from math import exp, log

import numpy as np
import pytest
from scipy.stats import binom

from pipelines.statistics.mean_difference import MeanEvidence


@pytest.mark.parametrize(("n", "reference_n"), [(5, 15), (20, 20), (3, 60), (40, 10)])
def test_the_e_value_has_an_expectation_of_at_most_one_at_the_margin(n: int, reference_n: int) -> None:
    margin = 0.3
    expectation = sum(
        binom.pmf(high, n, 0.7)
        * binom.pmf(reference_high, reference_n, 0.4)
        * exp(
            MeanEvidence(margin)
            .after(mean=high / n, n=n, reference_mean=reference_high / reference_n, reference_n=reference_n)
            .log_e_value
        )
        for high, reference_high in product(range(n + 1), range(reference_n + 1))
    )
    assert 0.5 < expectation <= 1


def test_a_difference_at_the_margin_is_rarely_rejected_whatever_the_hour_does_to_all_scores() -> None:
    generator = np.random.default_rng(1)
    alarms = 0
    for _ in range(300):
        evidence, highest = MeanEvidence(0.3), 0.0
        for look in range(100):
            level = 0.1 if look % 20 < 10 else 0.6
            scores, reference = generator.random(20) < level + 0.3, generator.random(60) < level
            evidence = evidence.after(
                mean=float(scores.mean()), n=20, reference_mean=float(reference.mean()), reference_n=60
            )
            highest = max(highest, evidence.log_e_value)
        alarms += highest >= log(100)
    assert alarms <= 10  # 1 % of 300 is 3; more than 10 has a probability below 1 in 1,000


def test_a_difference_beyond_the_margin_is_found_within_a_few_looks() -> None:
    evidence = MeanEvidence(0.3)
    for _ in range(5):
        evidence = evidence.after(mean=0.95, n=20, reference_mean=0.25, reference_n=60)
    assert evidence.log_e_value > log(100)


def test_a_difference_within_the_margin_is_no_evidence() -> None:
    evidence = MeanEvidence(0.3)
    for _ in range(50):
        evidence = evidence.after(mean=0.45, n=20, reference_mean=0.2, reference_n=60)
    assert evidence.log_e_value < 0


def test_a_look_without_scores_on_one_side_changes_nothing() -> None:
    assert MeanEvidence(0.3).after(mean=0, n=0, reference_mean=0.5, reference_n=9) == MeanEvidence(0.3)
    assert MeanEvidence(0.3).after(mean=0.5, n=9, reference_mean=0, reference_n=0) == MeanEvidence(0.3)


def test_impossible_input_is_refused() -> None:
    with pytest.raises(ValueError, match="the margin"):
        MeanEvidence(0)
    with pytest.raises(ValueError, match="counts"):
        MeanEvidence(0.3).after(mean=0.5, n=-1, reference_mean=0.5, reference_n=1)
    with pytest.raises(ValueError, match=r"1\.2"):
        MeanEvidence(0.3).after(mean=1.2, n=1, reference_mean=0.5, reference_n=1)
