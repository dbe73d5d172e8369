import numpy as np
import pytest

from pipelines.statistics.bootstrap import Blocks
from pipelines.statistics.clustered_mean import cluster_sums, clustered_mean


def test_one_row_a_cluster_is_the_textbook_standard_error() -> None:
    values = np.random.default_rng(1).gamma(2.0, size=50)
    found = cluster_sums(values, np.arange(50))
    mean, error = clustered_mean(found.sums, found.rows)
    assert mean == pytest.approx(values.mean())
    assert error == pytest.approx(values.std(ddof=1) / np.sqrt(50))


def test_it_agrees_with_the_block_bootstrap_and_not_with_rows_drawn_alone() -> None:
    random = np.random.default_rng(2)
    days = np.repeat(np.arange(60), random.integers(20, 60, 60))
    values = random.normal(size=60)[days] + random.normal(size=len(days))  # rows of a day have something in common
    found = cluster_sums(values, days)
    mean, error = clustered_mean(found.sums, found.rows)
    resampled = Blocks(days, resamples=4000, seed=3).mean(values)
    assert mean == pytest.approx(resampled[0])
    assert error == pytest.approx(resampled[1:].std(), rel=0.05)
    assert error is not None
    assert error > 3 * values.std() / np.sqrt(len(values))


def test_one_cluster_says_nothing_of_the_error() -> None:
    assert clustered_mean(np.array([3.0]), np.array([2])) == (1.5, None)
