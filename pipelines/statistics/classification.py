"""How good the scores of a binary classifier are: ranking, probability and decision metrics, in numpy.

Labels are 0 or 1 (or booleans), scores probabilities of 1; both of shape (rows,). A metric that needs both classes is
None with one only: "not known" is no number.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.float64]
PROBABILITY_FLOOR = 1e-7  # a float32 score of exactly 0 or 1 must not make the log loss infinite
CALIBRATION_BINS = 15


def log_losses(labels: ArrayLike, scores: ArrayLike) -> Floats:
    """The log loss of each row in nats: -log of the probability that was given to what happened."""
    happened, given = _pair(labels, scores)
    given = np.clip(given, PROBABILITY_FLOOR, 1 - PROBABILITY_FLOOR)
    return -np.log(np.where(happened == 1, given, 1 - given))


def log_loss(labels: ArrayLike, scores: ArrayLike) -> float:
    """The mean log loss in nats."""
    return float(log_losses(labels, scores).mean())


def brier(labels: ArrayLike, scores: ArrayLike) -> float:
    """The mean squared difference of score and label (Brier, 1950)."""
    happened, given = _pair(labels, scores)
    return float(((given - happened) ** 2).mean())


def auc(labels: ArrayLike, scores: ArrayLike) -> float | None:
    """The area under the ROC curve: how often a positive scores above a negative, ties counted half."""
    happened, given = _pair(labels, scores)
    positives = int(happened.sum())
    negatives = len(happened) - positives
    if not positives or not negatives:
        return None
    _, inverse, counts = np.unique(given, return_inverse=True, return_counts=True)
    last = np.cumsum(counts)
    ranks = (last - (counts - 1) / 2)[inverse]  # mean rank of each tie group, from 1
    return float((ranks[happened == 1].sum() - positives * (positives + 1) / 2) / (positives * negatives))


def average_precision(labels: ArrayLike, scores: ArrayLike) -> float | None:
    """The area under the precision-recall curve as a sum over thresholds: Σ (recallₙ - recallₙ₋₁) · precisionₙ."""
    happened, given = _pair(labels, scores)
    positives = happened.sum()
    if not positives:
        return None
    order = np.argsort(-given, kind="stable")
    ends = np.flatnonzero(np.append(np.diff(given[order]) != 0, True))  # the last row of each group of ties
    hits = np.cumsum(happened[order])[ends]
    return float((np.diff(hits, prepend=0) / positives * hits / (ends + 1)).sum())


def calibration_error(labels: ArrayLike, scores: ArrayLike, bins: int = CALIBRATION_BINS) -> float:
    """The expected calibration error over `bins` groups of (nearly) equal size, ordered by score.

    Σ (rows in group / rows) · |mean label - mean score|; equal-mass bins, after Nixon et al., "Measuring Calibration
    in Deep Learning", 2019.
    """
    happened, given = _pair(labels, scores)
    order = np.argsort(given, kind="stable")
    gaps = (happened - given)[order]
    return float(sum(abs(group.sum()) for group in np.array_split(gaps, bins)) / len(gaps))


def false_positive_rate(labels: ArrayLike, scores: ArrayLike, threshold: float) -> float | None:
    """The share of rows with label 0 whose score reaches `threshold`."""
    happened, given = _pair(labels, scores)
    negatives = happened == 0
    return float((given[negatives] >= threshold).mean()) if negatives.any() else None


def recall(labels: ArrayLike, scores: ArrayLike, threshold: float) -> float | None:
    """The share of rows with label 1 whose score reaches `threshold`: the true-positive rate."""
    happened, given = _pair(labels, scores)
    positives = happened == 1
    return float((given[positives] >= threshold).mean()) if positives.any() else None


def precision(labels: ArrayLike, scores: ArrayLike, threshold: float) -> float | None:
    """The share of label 1 among rows whose score reaches `threshold`; None when there is no such row."""
    happened, given = _pair(labels, scores)
    called = given >= threshold
    return float(happened[called].mean()) if called.any() else None


def f1(labels: ArrayLike, scores: ArrayLike, threshold: float) -> float | None:
    """The harmonic mean of precision and recall at `threshold`; None when nothing is or is called positive."""
    happened, given = _pair(labels, scores)
    called = given >= threshold
    whole = called.sum() + happened.sum()
    return float(2 * happened[called].sum() / whole) if whole else None


class Confusion(NamedTuple):
    """How many rows were called positive (their score reaches the threshold) or not, rightly or wrongly."""

    true_positives: int
    false_positives: int
    true_negatives: int
    false_negatives: int


def confusion(labels: ArrayLike, scores: ArrayLike, threshold: float) -> Confusion:
    """The four counts at `threshold`."""
    happened, given = _pair(labels, scores)
    counts = np.bincount((2 * happened + (given >= threshold)).astype(np.int64), minlength=4).tolist()
    return Confusion(
        true_positives=counts[3], false_positives=counts[1], true_negatives=counts[0], false_negatives=counts[2]
    )


def _pair(labels: ArrayLike, scores: ArrayLike) -> tuple[Floats, Floats]:
    happened, given = np.asarray(labels, dtype=np.float64), np.asarray(scores, dtype=np.float64)
    if happened.ndim != 1 or happened.shape != given.shape:
        raise ValueError(f"labels have the shape {happened.shape}, scores {given.shape}; expected one of each a row")
    if not len(happened):
        raise ValueError("metrics need at least one row, found none")
    if np.isnan(given).any():
        raise ValueError(f"{int(np.isnan(given).sum())} of {len(given)} scores are NaN: a score is a number")
    if not np.isin(happened, (0, 1)).all():
        raise ValueError(f"labels are 0 or 1, found {np.setdiff1d(happened, (0, 1))[:5].tolist()}")
    return happened, given
