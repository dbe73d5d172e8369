"""Metrics of a binary classifier in each resample of a block bootstrap, beyond means and AUC: PR-AUC, calibration.

Rows are put into cells by their score (thresholds, or bins of equal mass) and counted by cell and block; a resample is
then a product of its weights with these counts. The cells are those of the sample, in each resample the same.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from pipelines.statistics.bootstrap import Blocks, Floats, divide, interval_where_known
from pipelines.statistics.classification import CALIBRATION_BINS
from pipelines.statistics.classification import average_precision as of_sample

THRESHOLDS = 1024
Cells = NDArray[np.int64]


class Bin(NamedTuple):
    """A point of the reliability curve: how often it happened among rows that were given nearly the same score.

    `low` and `high` are the interval of `observed`; None where the bin lies in too few blocks.
    """

    rows: int
    mean_score: float
    observed: float
    low: float | None
    high: float | None


def average_precision(blocks: Blocks, labels: Floats, scores: Floats) -> Floats:
    """The area under the precision-recall curve, in the sample and in each resample, shape (1 + resamples,).

    The sample's is exact. Resamples see at most `THRESHOLDS` thresholds, which costs about 1e-4; all values are shifted
    by what it costs the sample. NaN where a resample has no positive.
    """
    edges = np.unique(scores)
    if len(edges) > THRESHOLDS:
        edges = np.unique(np.quantile(scores, np.linspace(0, 1, THRESHOLDS), method="inverted_cdf"))
    cells = len(edges) - np.searchsorted(edges, scores, "right")  # 0 has the highest scores
    hits = blocks.per_cell(cells, len(edges), labels)
    rows = blocks.per_cell(cells, len(edges))

    def area(weights: Floats) -> Floats:
        found, called = weights @ hits.T, weights @ rows.T
        precision = np.nan_to_num(divide(found.cumsum(axis=1), called.cumsum(axis=1)))
        return divide((found * precision).sum(axis=1), found.sum(axis=1))

    values = blocks.resampled(area)
    exact = of_sample(labels, scores)
    return values if exact is None else values + (exact - values[0])


def calibration_error(blocks: Blocks, labels: Floats, scores: Floats, bins: int = CALIBRATION_BINS) -> Floats:
    """The expected calibration error over bins of equal mass, in the sample and in each resample."""
    gaps = blocks.per_cell(equal_mass_bins(scores, bins), bins, labels - scores)
    rows = blocks.per_block(np.ones(len(scores)))
    return blocks.resampled(lambda weights: divide(np.abs(weights @ gaps.T).sum(axis=1), weights @ rows))


def reliability(blocks: Blocks, labels: Floats, scores: Floats, bins: int = CALIBRATION_BINS) -> tuple[Bin, ...]:
    """The reliability curve over bins of equal mass, by ascending score."""
    cells = equal_mass_bins(scores, bins)
    happened, rows = blocks.per_cell(cells, bins, labels), blocks.per_cell(cells, bins)
    shares = blocks.resampled(lambda weights: divide(weights @ happened.T, weights @ rows.T))
    counts, totals = rows.sum(axis=1), blocks.per_cell(cells, bins, scores).sum(axis=1)
    found = []
    for cell in np.flatnonzero(counts).tolist():
        low, high = interval_where_known(shares[:, cell], blocks.count) or (None, None)
        mean_score, observed = float(totals[cell] / counts[cell]), float(shares[0, cell])
        found.append(Bin(rows=int(counts[cell]), mean_score=mean_score, observed=observed, low=low, high=high))
    return tuple(found)


def equal_mass_bins(scores: Floats, bins: int) -> Cells:
    """The bin of each row, from 0 (lowest scores) to `bins` - 1; sizes differ by at most one row."""
    cells = np.empty(len(scores), dtype=np.int64)
    order = np.argsort(scores, kind="stable")
    for number, group in enumerate(np.array_split(order, bins)):
        cells[group] = number
    return cells
