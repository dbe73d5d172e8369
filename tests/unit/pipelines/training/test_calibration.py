import numpy as np
import pytest
from scipy.special import expit
from sklearn.linear_model import LogisticRegression

from pipelines.training.calibration import Calibration, fit_calibration


def drawn(slope: float, intercept: float, rows: int = 20_000) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(1)
    log_odds = random.normal(-1, 1.5, rows)
    return log_odds, (random.random(rows) < expit(slope * log_odds + intercept)).astype(float)


def test_a_wholly_kept_correction_is_that_of_logistic_regression() -> None:
    log_odds, labels = drawn(0.6, 0.4)
    found = fit_calibration(log_odds, labels, kept=1.0)
    reference = LogisticRegression(C=np.inf, tol=1e-10).fit(log_odds[:, None], labels)
    assert found.slope == pytest.approx(reference.coef_[0, 0], abs=1e-4)
    assert found.intercept == pytest.approx(reference.intercept_[0], abs=1e-4)
    assert found.slope == pytest.approx(0.6, abs=0.05)


def test_only_a_part_of_the_correction_is_kept() -> None:
    log_odds, labels = drawn(0.6, 0.4)
    whole, part = fit_calibration(log_odds, labels, kept=1.0), fit_calibration(log_odds, labels, kept=0.25)
    assert part.slope == pytest.approx(1 + 0.25 * (whole.slope - 1))
    assert part.intercept == pytest.approx(0.25 * whole.intercept)
    assert fit_calibration(log_odds, labels, kept=0.0) == Calibration(1.0, 0.0)


def test_a_ranking_is_never_turned_round() -> None:
    log_odds, labels = drawn(-2.0, 0.0)
    assert fit_calibration(log_odds, labels, kept=1.0).slope == 0


def test_a_model_that_says_the_same_of_all_rows_gets_the_base_rate() -> None:
    labels = np.array([0.0, 0.0, 0.0, 1.0])
    found = fit_calibration(np.full(4, 2.0), labels, kept=1.0)
    np.testing.assert_allclose(found.scores(np.full(4, 2.0)), 0.25)


def test_one_class_is_refused() -> None:
    with pytest.raises(ValueError, match=r"needs rows of both classes, found 3 rows with the label 1"):
        fit_calibration(np.zeros(3), np.ones(3))
