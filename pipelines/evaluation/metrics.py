"""The metrics of one version on one set of rows, by the names that the registry, the gates and the baseline use."""

from typing import Any

from numpy.typing import NDArray

from pipelines.statistics import classification as of


def metrics(labels: NDArray[Any], scores: NDArray[Any], threshold: float) -> dict[str, float]:
    """All metrics that are defined on these rows; `false_positive_rate` and `f1` are those at `threshold`.

    Raises:
        ValueError: no rows, or labels other than 0 and 1.
    """
    found: dict[str, float | None] = {
        "auc": of.auc(labels, scores),
        "average_precision": of.average_precision(labels, scores),
        "log_loss": of.log_loss(labels, scores),
        "brier": of.brier(labels, scores),
        "calibration_error": of.calibration_error(labels, scores),
        "false_positive_rate": of.false_positive_rate(labels, scores, threshold),
        "f1": of.f1(labels, scores, threshold),
        "base_rate": float(labels.mean()),
        "base_rate_log_loss": of.log_loss(labels, [float(labels.mean())] * len(labels)),
        "mean_score": float(scores.mean()),
    }
    return {name: value for name, value in found.items() if value is not None}
