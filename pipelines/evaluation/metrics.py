"""The metrics of one version on one set of rows, by the names that the registry, the gates and the baseline use."""

from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from pipelines.statistics import classification as of

Floats = NDArray[np.float64]


class Costs(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What a wrong decision costs, in any unit: to call a row positive that is not, and to miss one that is.

    With calibrated scores the cheapest threshold is `false_positive / (false_positive + false_negative)`.
    """

    false_positive: float = 1.0
    false_negative: float = 1.0

    def __post_init__(self) -> None:
        for key in ("false_positive", "false_negative"):
            if not 0 < (found := getattr(self, key)) <= 1e12:
                raise ValueError(f"{key}: found {found}, expected a cost above 0 and at most 1e12")

    def of_rows(self, labels: Floats, scores: Floats, threshold: float) -> Floats:
        """The cost of the decision on each row."""
        called = scores >= threshold
        costs: Floats = np.where(called, (labels == 0) * self.false_positive, (labels == 1) * self.false_negative)
        return costs


class Title(msgspec.Struct, frozen=True):
    """How people call a metric, and whether more of it is better."""

    text: str
    higher_is_better: bool = False


TITLES: dict[str, Title] = {
    "log_loss": Title("log loss"),
    "brier": Title("Brier score"),
    "auc": Title("AUC", higher_is_better=True),
    "average_precision": Title("PR-AUC", higher_is_better=True),
    "calibration_error": Title("calibration error"),
    "cost": Title("cost per row"),
    "f1": Title("F1", higher_is_better=True),
    "recall": Title("recall", higher_is_better=True),
    "false_positive_rate": Title("false-positive rate"),
}
"""The metrics on which two versions are compared."""


def metrics(
    labels: NDArray[Any], scores: NDArray[Any], threshold: float, costs: Costs | None = None
) -> dict[str, float]:
    """All metrics that are defined on these rows; rates, F1 and `cost` (the mean of a row) are those at `threshold`.

    Raises:
        ValueError: no rows, labels other than 0 and 1, or a score that is NaN.
    """
    share = float(labels.mean()) if len(labels) else 0.0
    found: dict[str, float | None] = {
        "auc": of.auc(labels, scores),
        "average_precision": of.average_precision(labels, scores),
        "log_loss": of.log_loss(labels, scores),
        "brier": of.brier(labels, scores),
        "calibration_error": of.calibration_error(labels, scores),
        "false_positive_rate": of.false_positive_rate(labels, scores, threshold),
        "recall": of.recall(labels, scores, threshold),
        "precision": of.precision(labels, scores, threshold),
        "f1": of.f1(labels, scores, threshold),
        "cost": float((costs or Costs()).of_rows(labels, scores, threshold).mean()),
        "base_rate": share,
        "base_rate_log_loss": of.log_loss(labels, [share] * len(labels)),
        "mean_score": float(scores.mean()),
    }
    return {name: value for name, value in found.items() if value is not None}
