"""The standard error of a mean whose rows come in clusters, such as days: rows of a day share its weather.

The mean is the ratio of two sums over clusters, so with sums S_d over n_d rows, mean m = ΣS_d / Σn_d and D clusters

    SE² = D / (D - 1) · Σ (S_d - m · n_d)² / (Σ n_d)²

the ratio estimator of Cochran, "Sampling Techniques", 3rd edition, 1977, section 9A.5 (equal to the cluster-robust
"sandwich" of Liang and Zeger, 1986, for an intercept alone, with the usual correction for few clusters).
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray


class ClusterSums(NamedTuple):
    """The clusters in rising order, how many rows each has, and the sum of a value over them."""

    clusters: NDArray[np.int64]
    rows: NDArray[np.int64]
    sums: NDArray[np.float64]


def cluster_sums(values: NDArray[np.float64], clusters: NDArray[np.int64]) -> ClusterSums:
    """The sums of `values` (one a row) by the row's cluster."""
    names, of_row, rows = np.unique(clusters, return_inverse=True, return_counts=True)
    sums = np.bincount(of_row, values, minlength=len(names)).astype(np.float64)
    return ClusterSums(names, rows, sums)


def clustered_mean(sums: NDArray[np.float64], rows: NDArray[np.int64]) -> tuple[float, float | None]:
    """The mean over all rows and its standard error; None for the error of fewer than two clusters.

    >>> clustered_mean(np.array([2.0, 4.0]), np.array([2, 2]))
    (1.5, 0.5)
    """
    mean = float(sums.sum() / rows.sum())
    if len(rows) < 2:
        return mean, None
    residuals = sums - mean * rows
    variance = len(rows) / (len(rows) - 1) * float((residuals**2).sum()) / float(rows.sum()) ** 2
    return mean, variance**0.5
