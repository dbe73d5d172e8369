from math import exp, log

import numpy as np
import pytest

from pipelines.statistics.betting import differences, log_e_value


def test_values_at_the_mean_are_no_evidence_and_on_average_the_bet_wins_nothing() -> None:
    random = np.random.default_rng(3)
    found = [exp(log_e_value(random.choice([-1.0, 1.0], 30), 0.0)) for _ in range(4000)]
    assert np.mean(found) <= 1.2
    assert np.mean(np.array(found) >= 20) <= 0.05


@pytest.mark.parametrize(("spread", "needed"), [(0.05, 80), (0.5, 900)])
def test_a_mean_above_is_found_with_fewer_values_where_they_vary_less(spread: float, needed: int) -> None:
    random = np.random.default_rng(7)
    values = np.clip(random.normal(0.12, spread, needed), -1, 1)
    assert log_e_value(values, 0.0) > log(100)
    assert log_e_value(-values, 0.0) < 0


def test_a_margin_below_zero_proves_that_a_difference_is_within_it() -> None:
    random = np.random.default_rng(11)
    same = random.normal(0.0, 0.1, 300)
    assert log_e_value(-same, -0.05) > log(100)
    assert log_e_value(-(same + 0.05), -0.05) < log(100)


def test_no_value_says_nothing() -> None:
    assert log_e_value(np.empty(0), 0.0) == pytest.approx(0.0)


@pytest.mark.parametrize("values", [[1.1], [-1.1], [float("nan")]])
def test_values_outside_of_the_bounds_are_refused(values: list[float]) -> None:
    with pytest.raises(ValueError, match=r"values lie in \[-1, 1\]"):
        log_e_value(np.array(values), 0.0)


def test_a_mean_outside_of_the_bounds_is_refused() -> None:
    with pytest.raises(ValueError, match="found -1"):
        log_e_value(np.zeros(1), -1.0)


def test_each_side_is_used_up_in_as_many_batches_as_the_smaller_has_values() -> None:
    random = np.random.default_rng(5)
    mine, theirs = random.random(7), random.random(103)
    apart = differences(mine, theirs)
    assert len(apart) == 7
    assert (apart == -differences(theirs, mine)).all()
    assert apart.mean() == pytest.approx(mine.mean() - theirs.mean(), abs=0.02)
    assert differences(mine, np.empty(0)).size == 0
