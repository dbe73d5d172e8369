import numpy as np
import pytest
from scipy.stats import ttest_1samp

from pipelines.statistics.clustered import Means, clustered_means


def means(values: np.ndarray, days: np.ndarray, cells: np.ndarray | None = None) -> Means:
    """The means of `values` by cell, with days as blocks."""
    cells = np.zeros(len(values), dtype=np.int64) if cells is None else cells
    count, width = int(cells.max()) + 1, int(days.max()) + 1
    places = cells * width + days
    sums = np.bincount(places, values, minlength=count * width).reshape(count, width)
    rows = np.bincount(places, minlength=count * width).reshape(count, width).astype(float)
    return clustered_means(sums, rows, np.bincount(cells, values**2, minlength=count))


def test_with_equally_large_blocks_it_is_the_t_test_of_their_means() -> None:
    random = np.random.default_rng(0)
    days = np.repeat(np.arange(12), 50)
    values = random.normal(0.2, 1, 12)[days] + random.normal(size=600)
    found = means(values, days)
    by_day = values.reshape(12, 50).mean(axis=1)
    expected = ttest_1samp(by_day, 0.1, alternative="greater")
    assert found.mean[0] == pytest.approx(values.mean())
    assert found.t(0.1)[0] == pytest.approx(expected.statistic)
    assert found.p_above(0.1)[0] == pytest.approx(expected.pvalue)
    interval = expected.confidence_interval(0.975)
    assert found.bounds()[0][0] == pytest.approx(interval.low)


def test_days_that_are_alike_by_chance_do_not_make_the_error_smaller_than_that_of_rows() -> None:
    days = np.tile(np.arange(3), 100)
    values = np.repeat([-1.0, 1.0], 150)  # each day has as many of both: its mean is exactly 0
    assert means(values, days).error[0] == pytest.approx(1 / np.sqrt(300))


def test_under_the_null_few_are_called_above_although_days_differ() -> None:
    random = np.random.default_rng(1)
    days = np.repeat(np.arange(14), 30)
    above = 0
    for _ in range(400):
        values = random.normal(0, 0.5, 14)[days] + random.normal(size=420)
        above += bool(means(values, days).p_above(0.0)[0] < 0.05)
    assert 4 <= above <= 34  # 20 are expected


def test_one_block_shows_nothing() -> None:
    found = means(np.ones(10), np.zeros(10, dtype=np.int64))
    assert found.error[0] == np.inf
    assert found.p_above(0.0)[0] == 0.5


def test_no_difference_at_all_is_not_above() -> None:
    found = means(np.zeros(10), np.arange(10) % 5)
    assert found.p_above(0.02)[0] == 1.0
