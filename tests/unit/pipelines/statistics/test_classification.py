import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn import metrics as reference

from pipelines.statistics import classification as of

ROWS = st.lists(st.tuples(st.integers(0, 1), st.sampled_from([0.05, 0.2, 0.2001, 0.5, 0.9])), min_size=2, max_size=60)
BOTH = ROWS.filter(lambda rows: len({label for label, _ in rows}) == 2)


@given(rows=BOTH)
def test_ranking_metrics_are_those_of_scikit_learn_ties_included(rows: list[tuple[int, float]]) -> None:
    labels, scores = (np.array(column) for column in zip(*rows, strict=True))
    assert of.auc(labels, scores) == pytest.approx(reference.roc_auc_score(labels, scores))
    assert of.average_precision(labels, scores) == pytest.approx(reference.average_precision_score(labels, scores))


@given(rows=BOTH)
def test_probability_and_decision_metrics_are_those_of_scikit_learn(rows: list[tuple[int, float]]) -> None:
    labels, scores = (np.array(column) for column in zip(*rows, strict=True))
    assert of.log_loss(labels, scores) == pytest.approx(reference.log_loss(labels, scores))
    assert of.brier(labels, scores) == pytest.approx(reference.brier_score_loss(labels, scores))
    assert of.f1(labels, scores, 0.5) == pytest.approx(reference.f1_score(labels, scores >= 0.5))
    negatives = scores[labels == 0]
    assert of.false_positive_rate(labels, scores, 0.5) == pytest.approx((negatives >= 0.5).mean())


def test_scores_that_are_the_true_probabilities_have_almost_no_calibration_error() -> None:
    random = np.random.default_rng(0)
    scores = random.random(200_000)
    labels = (random.random(200_000) < scores).astype(float)
    assert of.calibration_error(labels, scores) < 0.005
    assert of.calibration_error(labels, scores / 2) == pytest.approx(0.25, abs=0.005)


def test_a_calibration_error_that_no_bin_hides_is_exact() -> None:
    assert of.calibration_error([0, 0, 1, 1], [0.1, 0.3, 0.6, 0.8], bins=2) == pytest.approx((0.4 + 0.6) / 4)


def test_a_score_of_exactly_zero_for_what_happened_costs_much_but_not_infinitely_much() -> None:
    assert of.log_loss([1, 0], np.array([0, 1], dtype=np.float32)) == pytest.approx(-np.log(1e-7), rel=1e-6)


def test_metrics_that_one_class_cannot_have_are_not_known() -> None:
    assert of.auc([1, 1], [0.1, 0.2]) is None
    assert of.auc([0, 0], [0.1, 0.2]) is None
    assert of.average_precision([0, 0], [0.1, 0.2]) is None
    assert of.false_positive_rate([1, 1], [0.1, 0.2], 0.5) is None
    assert of.f1([0, 0], [0.1, 0.2], 0.5) is None


@pytest.mark.parametrize(
    ("labels", "scores", "message"),
    [
        ([0, 1], [0.5], r"labels have the shape \(2,\), scores \(1,\)"),
        ([[0, 1]], [[0.5, 0.5]], "expected one of each a row"),
        ([], [], "at least one row"),
        ([0, 2], [0.5, 0.5], r"labels are 0 or 1, found \[2.0\]"),
    ],
)
def test_unfit_rows_are_refused(labels: list[object], scores: list[object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        of.log_loss(labels, scores)
