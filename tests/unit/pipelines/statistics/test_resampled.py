import numpy as np
import pytest
from sklearn.metrics import average_precision_score

from pipelines.statistics import resampled
from pipelines.statistics.bootstrap import Blocks
from pipelines.statistics.classification import average_precision, calibration_error

RANDOM = np.random.default_rng(0)
IDS = RANDOM.integers(0, 7, 600)
TRUTH = RANDOM.beta(1, 3, 600)
LABELS = (RANDOM.random(600) < TRUTH).astype(float)
BLOCKS = Blocks(IDS, resamples=30, seed=1)


def resampled_rows() -> list[np.ndarray]:
    weights = np.vstack(list(BLOCKS.draws()))
    return [
        np.concatenate([np.flatnonzero(block == IDS) for block in range(7) for _ in range(int(drawn[block]))])
        for drawn in weights
    ]


@pytest.mark.parametrize("scores", [TRUTH, np.round(TRUTH, 1)], ids=["all different", "many ties"])
def test_the_pr_auc_of_each_resample_is_that_of_its_rows(scores: np.ndarray) -> None:
    for found, rows in zip(resampled.average_precision(BLOCKS, LABELS, scores), resampled_rows(), strict=True):
        assert found == pytest.approx(average_precision_score(LABELS[rows], scores[rows]))


def test_more_scores_than_thresholds_cost_the_pr_auc_next_to_nothing() -> None:
    random = np.random.default_rng(1)
    truth = random.beta(1, 3, 20_000)
    labels = (random.random(20_000) < truth).astype(float)
    ids = random.integers(0, 14, 20_000)
    found = resampled.average_precision(Blocks(ids, resamples=5, seed=1), labels, truth)
    assert found[0] == average_precision(labels, truth)
    drawn = np.vstack(list(Blocks(ids, resamples=5, seed=1).draws()))[1]
    rows = np.concatenate([np.flatnonzero(ids == block) for block in range(14) for _ in range(int(drawn[block]))])
    assert found[1] == pytest.approx(average_precision_score(labels[rows], truth[rows]), abs=2e-4)


def test_the_calibration_error_of_each_resample_is_over_the_bins_of_the_sample() -> None:
    found = resampled.calibration_error(BLOCKS, LABELS, TRUTH)
    assert found[0] == pytest.approx(calibration_error(LABELS, TRUTH))
    bins = resampled.equal_mass_bins(TRUTH, 15)
    for value, rows in zip(found, resampled_rows(), strict=True):
        gaps = [abs((LABELS - TRUTH)[rows][bins[rows] == cell].sum()) for cell in range(15)]
        assert value == pytest.approx(sum(gaps) / len(rows))


def test_the_reliability_curve_rises_with_the_scores_and_holds_all_rows() -> None:
    curve = resampled.reliability(BLOCKS, LABELS, TRUTH, bins=5)
    assert sum(point.rows for point in curve) == 600
    assert [point.mean_score for point in curve] == sorted(point.mean_score for point in curve)
    for point in curve:
        assert point.low is not None
        assert point.high is not None
        assert point.low <= point.observed <= point.high
        assert abs(point.observed - point.mean_score) < 0.15


def test_a_bin_that_most_resamples_miss_has_no_interval() -> None:
    ids = np.repeat([0, 1], 50)
    scores = np.where(ids == 0, 0.1, 0.9)
    labels = np.tile([0.0, 1.0], 50)
    low, high = resampled.reliability(Blocks(ids, resamples=50), labels, scores, bins=2)
    assert (low.low, low.high, high.low, high.high) == (None, None, None, None)
    assert low.observed == high.observed == 0.5
