"""Calibration: a logistic curve over the model's log odds, fitted on rows that the model has not seen.

score = 1 / (1 + exp(-(slope · log odds + intercept))), after Platt, "Probabilistic Outputs for Support Vector
Machines", 1999; models trained on the log loss need little of it, so only a part of the fitted correction is kept.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

# How much of the last weeks' deviation is taken for lasting. Flights, walk-forward over 2013, mean log loss of the two
# weeks after: nothing kept 0.4983, all of it 0.5006 (it chases the weather), about a third 0.4960.
KEPT = 0.4


class Calibration(NamedTuple):
    """The curve. It never turns the ranking round: `slope` is at least 0."""

    slope: float
    intercept: float

    def scores(self, log_odds: Floats) -> Floats:
        """The calibrated probabilities of `log_odds`."""
        from scipy.special import expit

        return np.asarray(expit(self.slope * log_odds + self.intercept), dtype=np.float64)


def fit_calibration(log_odds: Floats, labels: Floats, kept: float = KEPT) -> Calibration:
    """The curve of the largest likelihood, drawn towards the identity: `kept` (0 to 1) of its correction remains.

    Raises:
        ValueError: one class only.
    """
    from sklearn.linear_model import LogisticRegression

    base_rate = float(labels.mean())
    if not 0 < base_rate < 1:
        raise ValueError(
            f"calibration needs rows of both classes, found {len(labels)} rows with the label {labels[0]:g}"
        )
    centre, spread = float(log_odds.mean()), float(log_odds.std())
    if spread == 0:  # the model says the same of all rows: only the level can be corrected
        return Calibration(1.0, kept * (float(np.log(base_rate / (1 - base_rate))) - centre))
    fitted = LogisticRegression(C=np.inf, tol=1e-8).fit(((log_odds - centre) / spread)[:, None], labels)
    slope = float(fitted.coef_[0, 0]) / spread
    intercept = float(fitted.intercept_[0]) - slope * centre
    return Calibration(max(0.0, 1 + kept * (slope - 1)), kept * intercept)
