import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import false_discovery_control

from pipelines.statistics.false_discovery import adjusted_p_values


@given(st.lists(st.floats(0, 1), min_size=1, max_size=40))
def test_the_adjusted_values_are_those_of_scipy(p_values: list[float]) -> None:
    assert adjusted_p_values(p_values) == pytest.approx(list(false_discovery_control(p_values)))


def test_without_any_effect_a_family_of_tests_seldom_has_an_alarm() -> None:
    generator = np.random.default_rng(3)
    families = 1000
    alarms = sum(min(adjusted_p_values(generator.uniform(size=20).tolist())) <= 0.05 for _ in range(families))
    naive = sum(bool((generator.uniform(size=20) <= 0.05).any()) for _ in range(families))
    assert alarms < 75  # 50 are expected; more than 74 has a probability below 1 in 1,000
    assert naive > 500


def test_no_tests_give_no_values() -> None:
    assert adjusted_p_values([]) == []


@pytest.mark.parametrize("wrong", [-0.1, 1.5, float("nan")])
def test_what_is_no_probability_is_refused_with_its_value(wrong: float) -> None:
    with pytest.raises(ValueError, match=f"found {wrong}"):
        adjusted_p_values([0.5, wrong])
