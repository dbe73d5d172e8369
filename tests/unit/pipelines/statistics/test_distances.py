from math import log

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.spatial.distance import jensenshannon
from scipy.stats import chi2_contingency

from pipelines.statistics.distances import (
    homogeneity_p_value,
    jensen_shannon_divergence,
    population_stability_index,
)

CELLS = st.lists(st.tuples(st.integers(0, 10_000), st.integers(0, 10_000)), min_size=2, max_size=30).filter(
    lambda cells: all(sum(side) > 0 for side in zip(*cells, strict=True))
)


def test_an_approval_rate_that_jumps_from_60_to_95_percent_is_a_large_index() -> None:
    expected = 0.35 * log(0.95 / 0.6) + 0.35 * log(0.4 / 0.05)
    assert population_stability_index([40_000, 60_000], [5_000, 95_000]) == pytest.approx(expected, rel=1e-3)


def test_the_divergence_is_that_of_scipy_when_there_are_many_rows() -> None:
    before, after = [50_000, 30_000, 20_000], [20_000, 30_000, 50_000]
    assert jensen_shannon_divergence(before, after) == pytest.approx(jensenshannon(before, after, 2) ** 2, rel=1e-3)


def test_the_p_value_is_that_of_scipy_where_no_cell_is_rare() -> None:
    before, after = [500, 300, 200], [40, 38, 22]
    assert homogeneity_p_value(before, after) == pytest.approx(chi2_contingency([before, after]).pvalue)


def test_rare_cells_are_taken_together() -> None:
    before, after = [500, 300, 1, 2, 40, 45], [50, 40, 1, 0, 4, 2]
    pooled = chi2_contingency([[500, 300, 88], [50, 40, 7]]).pvalue
    assert homogeneity_p_value(before, after) == pytest.approx(pooled)


@given(CELLS)
def test_distances_are_finite_and_p_values_are_probabilities(cells: list[tuple[int, int]]) -> None:
    before, after = ([cell[side] for cell in cells] for side in (0, 1))
    assert 0 <= population_stability_index(before, after) < 100
    assert 0 <= jensen_shannon_divergence(before, after) <= 1
    assert 0 <= homogeneity_p_value(before, after) <= 1


def test_many_words_and_few_rows_are_no_distance_by_themselves() -> None:
    generator = np.random.default_rng(5)
    shares = generator.dirichlet(np.ones(100))
    indices, divergences, alarms = [], [], 0
    for _ in range(200):
        before, after = generator.multinomial(20_000, shares).tolist(), generator.multinomial(500, shares).tolist()
        indices.append(population_stability_index(before, after))
        divergences.append(jensen_shannon_divergence(before, after))
        alarms += homogeneity_p_value(before, after) <= 0.05
    assert np.median(indices) < 0.03
    assert max(indices) < 0.2
    assert max(divergences) < 0.03
    assert alarms <= 21  # 10 are expected; more than 21 has a probability below 1 in 1,000


def test_one_cell_alone_is_never_a_difference() -> None:
    assert homogeneity_p_value([100, 0], [40, 0]) == 1.0
    assert population_stability_index([100, 0], [40, 0]) == 0.0


@pytest.mark.parametrize("distance", [population_stability_index, jensen_shannon_divergence, homogeneity_p_value])
@pytest.mark.parametrize(
    ("before", "after", "message"),
    [([1, 2], [1], "found 2 and 1"), ([1, -2], [1, 1], "found -2"), ([1, 2], [0, 0], "found 3 and 0")],
)
def test_counts_that_cannot_be_compared_are_refused(distance, before, after, message) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(ValueError, match=message):
        distance(before, after)
