import numpy as np
import pytest
from numpy.typing import NDArray
from sklearn.metrics import roc_auc_score

from pipelines.statistics.bootstrap import Blocks, Interval, interval, interval_where_known, paired_difference, together


def test_the_weighted_sums_are_what_resampling_row_by_row_gives() -> None:
    random = np.random.default_rng(0)
    ids, values = random.integers(0, 7, 300), random.normal(size=300)
    labels, scores = (random.random(300) < 0.4).astype(float), np.round(random.random(300), 1)
    blocks = Blocks(ids, resamples=20, seed=1)
    for weights, mean, among, auc in zip(
        np.vstack(list(blocks.draws())),
        blocks.mean(values),
        blocks.mean(values, labels == 0),
        blocks.auc(labels, scores),
        strict=True,
    ):
        rows = np.concatenate([np.flatnonzero(ids == block) for block in range(7) for _ in range(int(weights[block]))])
        assert mean == pytest.approx(values[rows].mean())
        assert among == pytest.approx(values[rows][labels[rows] == 0].mean())
        assert auc == pytest.approx(roc_auc_score(labels[rows], scores[rows]))


def test_the_first_entry_is_the_sample_itself() -> None:
    values = np.arange(10.0)
    assert Blocks(np.arange(10), resamples=3).mean(values)[0] == 4.5
    assert Blocks(np.arange(10), resamples=3).sums(values).shape == (4,)


def test_every_resample_draws_as_many_blocks_as_there_are() -> None:
    weights = np.vstack(list(Blocks(np.repeat(np.arange(14), 3), resamples=50, seed=2).draws()))
    assert (weights.sum(axis=1) == 14).all()
    assert len(np.unique(weights, axis=0)) > 40


def test_the_same_seed_gives_the_same_interval_and_another_seed_another() -> None:
    random = np.random.default_rng(3)
    ids, values = np.repeat(np.arange(20), 10), random.normal(size=200)
    first, again, other = (interval(Blocks(ids, seed=seed).mean(values)) for seed in (1, 1, 2))
    assert first == again
    assert first != other


def day_means(seed: int, days: int = 30, rows: int = 40) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    random = np.random.default_rng(seed)
    ids = np.repeat(np.arange(days), rows)
    return ids, random.normal(size=days)[ids] + random.normal(size=days * rows)


def test_intervals_over_days_cover_the_truth_where_intervals_over_rows_do_not() -> None:
    covered_by_days = covered_by_rows = 0
    for seed in range(200):
        ids, values = day_means(seed)
        by_days = interval(Blocks(ids, resamples=200, seed=seed).mean(values))
        spread = 1.96 * values.std() / np.sqrt(len(values))
        covered_by_days += by_days.low <= 0 <= by_days.high
        covered_by_rows += abs(values.mean()) <= spread
    assert 178 <= covered_by_days <= 200  # 95 % would be 190
    assert covered_by_rows < 120  # rows of a day are not independent


def test_pairing_takes_away_what_both_have_in_common() -> None:
    ids, common = day_means(1)
    first, second = common + 0.1, common
    alone = interval(Blocks(ids).mean(first))
    paired = paired_difference(Blocks(ids), lambda blocks, values: blocks.mean(values), first, second)
    assert paired.low == pytest.approx(0.1)
    assert paired.high == pytest.approx(0.1)
    assert alone.high - alone.low > 0.3


def test_one_block_says_nothing_about_the_spread_between_blocks() -> None:
    with pytest.raises(ValueError, match=r"needs at least 2 blocks \(such as days\), found 1"):
        Blocks(np.zeros(100, dtype=np.int64))


def test_a_metric_that_some_resamples_do_not_have_is_refused() -> None:
    labels = np.array([1.0, 0.0, 0.0, 0.0])  # all positives on one day, which half of the resamples miss
    with pytest.raises(ValueError, match=r"undefined in \d+ of 101 resamples: the blocks are too small"):
        interval(Blocks(np.array([0, 0, 1, 1]), resamples=100).auc(labels, np.array([0.9, 0.1, 0.2, 0.3])))


def test_an_interval_is_the_central_part_of_the_resamples() -> None:
    values = np.concatenate([[50.0], np.arange(101.0)])
    assert interval(values, level=0.9) == pytest.approx(Interval(50.0, 5.0, 95.0))


def test_the_expanded_interval_covers_with_few_days_where_the_plain_one_does_not() -> None:
    plain = expanded = 0
    for seed in range(300):
        ids, values = day_means(seed, days=7, rows=10)
        drawn = Blocks(ids, resamples=500, seed=seed).mean(values)
        narrow, wide = interval(drawn), interval(drawn, blocks=7)
        plain += narrow.low <= 0 <= narrow.high
        expanded += wide.low <= 0 <= wide.high
    assert plain < 270  # 285 would be 95 %
    assert 273 <= expanded <= 297


def test_the_draws_are_the_same_each_time_and_come_in_chunks() -> None:
    blocks = Blocks(np.arange(5), resamples=600, seed=3)
    first, again = list(blocks.draws()), list(blocks.draws())
    assert [len(chunk) for chunk in first] == [1, 256, 256, 88]
    assert all((one == other).all() for one, other in zip(first, again, strict=True))


def test_an_interval_of_what_some_resamples_miss_is_that_of_the_others() -> None:
    values = np.concatenate([[1.0], np.linspace(0, 2, 95), np.full(5, np.nan)])
    found = interval_where_known(values, blocks=1000)
    assert found == pytest.approx((0.05, 1.95), abs=0.02)
    assert interval_where_known(np.where(np.arange(101) % 2, values, np.nan), blocks=1000) is None


def test_neighbouring_days_are_taken_together_where_there_are_too_many() -> None:
    days = np.repeat(np.arange(1000), 2)
    blocks = together(days, 400)
    assert len(np.unique(blocks)) <= 400
    assert (np.diff(blocks) >= 0).all()
    assert together(days, 1000).tolist() == days.tolist()
