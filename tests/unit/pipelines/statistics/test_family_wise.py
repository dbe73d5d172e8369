import numpy as np
import pytest

from pipelines.statistics.family_wise import holm_adjusted


def test_the_smallest_is_multiplied_by_all_and_none_falls_below_a_smaller_one() -> None:
    assert holm_adjusted([0.2, 0.001, 0.02, 0.02]).tolist() == pytest.approx([0.2, 0.004, 0.06, 0.06])
    assert holm_adjusted([0.6, 0.9]).tolist() == [1.0, 1.0]
    assert holm_adjusted([]).tolist() == []


def test_the_chance_of_one_false_alarm_among_many_is_kept() -> None:
    random = np.random.default_rng(0)
    alarms = sum(bool((holm_adjusted(random.random(500)) <= 0.05).any()) for _ in range(500))
    assert alarms <= 40  # 25 are expected


def test_what_is_no_p_value_is_refused() -> None:
    with pytest.raises(ValueError, match=r"between 0 and 1, found 1\.2"):
        holm_adjusted([0.1, 1.2])
