"""The challenger against the champion on the same held-out rows: metrics of both, intervals of differences."""

from collections.abc import Callable
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from pipelines.evaluation.metrics import metrics
from pipelines.statistics.bootstrap import Blocks, paired_difference
from pipelines.statistics.classification import CALIBRATION_BINS, log_losses

RESAMPLES = 500
Floats = NDArray[np.float64]


class Difference(msgspec.Struct, frozen=True, kw_only=True):
    """Challenger minus champion, with the 95 % interval of a paired bootstrap over days."""

    estimate: float
    low: float
    high: float


class Comparison(msgspec.Struct, frozen=True, kw_only=True):
    """What the gates see. `champion` is None, and `differences` empty, when there is no champion yet."""

    rows: int
    blocks: int
    challenger: dict[str, float]
    champion: dict[str, float] | None
    differences: dict[str, Difference]


def compare(
    challenger_scores: NDArray[Any],
    champion_scores: NDArray[Any] | None,
    labels: NDArray[Any],
    days: NDArray[Any],
    threshold: float,
    seed: int,
    resamples: int = RESAMPLES,
) -> Comparison:
    """Compares the scores of both versions for the same rows; `days` is the block of each row. All of shape (rows,).

    Raises:
        ValueError: shapes differ, labels other than 0 and 1, one class only, or (with a champion) fewer than two days.
    """
    happened = np.asarray(labels, dtype=np.float64)
    challenger = np.asarray(challenger_scores, dtype=np.float64)
    found = metrics(happened, challenger, threshold)
    if "auc" not in found:
        raise ValueError(f"all {len(happened)} rows have the label {happened[0]:g}: take a longer test window")
    if np.shape(days) != happened.shape:
        raise ValueError(f"days have the shape {np.shape(days)}, labels {happened.shape}; expected one day a row")
    ids = np.asarray(days, dtype=np.int64)
    if champion_scores is None:
        blocks_found = len(np.unique(ids))
        return Comparison(rows=len(happened), blocks=blocks_found, challenger=found, champion=None, differences={})
    champion = np.asarray(champion_scores, dtype=np.float64)
    blocks = Blocks(ids, resamples=resamples, seed=seed)
    measured: dict[str, Callable[[Blocks, Floats], Floats]] = {
        "log_loss": lambda drawn, scores: drawn.mean(log_losses(happened, scores)),
        "brier": lambda drawn, scores: drawn.mean((scores - happened) ** 2),
        "auc": lambda drawn, scores: drawn.auc(happened, scores),
        "calibration_error": lambda drawn, scores: _calibration_errors(drawn, happened, scores),
        "false_positive_rate": lambda drawn, scores: drawn.mean((scores >= threshold).astype(float), happened == 0),
    }
    return Comparison(
        rows=len(happened),
        blocks=blocks.count,
        challenger=found,
        champion=metrics(happened, champion, threshold),
        differences={
            name: Difference(**paired_difference(blocks, metric, challenger, champion)._asdict())
            for name, metric in measured.items()
        },
    )


def _calibration_errors(blocks: Blocks, labels: Floats, scores: Floats) -> Floats:
    """The expected calibration error in the sample and in each resample, over the equal-mass bins of the sample."""
    order = np.argsort(scores, kind="stable")
    total = np.zeros(len(blocks.weights))
    for group in np.array_split(order, CALIBRATION_BINS):
        gaps = np.zeros(len(labels))
        gaps[group] = (labels - scores)[group]
        total += np.abs(blocks.sums(gaps))
    return total / blocks.sums(np.ones(len(labels)))
