"""Means over rows that come in blocks, such as days, with a standard error that knows it; many means at once.

The mean of a part of the rows is a ratio of sums by block, m = Σ Sᵦ / Σ Nᵦ, and its variance G / (G - 1) · Σ (Sᵦ - m ·
Nᵦ)² / N² over the G blocks that have rows; it is compared with a t distribution of G - 1 degrees of freedom. Cameron
and Miller, "A Practitioner's Guide to Cluster-Robust Inference", Journal of Human Resources 50(2), 2015. Over few
blocks that variance is sometimes far too small by chance, so the one of independent rows is its floor.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


class Means(NamedTuple):
    """The mean of each part, its standard error, and in how many blocks it has rows; all of shape (parts,).

    The standard error is infinite where a part lies in one block only: nothing is known of the spread then.
    """

    mean: Floats
    error: Floats
    blocks: NDArray[np.int64]

    def t(self, limit: float) -> Floats:
        """How many standard errors each mean is above `limit`; infinite where there is no spread at all."""
        distance = self.mean - limit
        with np.errstate(divide="ignore", invalid="ignore"):
            found: Floats = np.where(self.error > 0, distance / self.error, np.copysign(np.inf, distance))
        return found

    def p_above(self, limit: float) -> Floats:
        """The one-sided p-values of "the mean is at most `limit`": small where it is shown to be above."""
        from scipy.special import stdtr

        p: Floats = stdtr(np.maximum(self.blocks - 1, 1), -self.t(limit))
        return p

    def bounds(self, level: float = 0.95) -> tuple[Floats, Floats]:
        """The lower and upper bounds of the central intervals."""
        from scipy.special import stdtrit

        reach = stdtrit(np.maximum(self.blocks - 1, 1), (1 + level) / 2) * self.error
        return self.mean - reach, self.mean + reach


def clustered_means(sums: Floats, rows: Floats, squares: Floats) -> Means:
    """The means of parts with the `sums` and numbers of `rows` by part and block, (parts, blocks), `squares` by part.

    >>> found = clustered_means(np.array([[1.0, 2.0, 3.0]]), np.array([[2.0, 2.0, 2.0]]), np.array([4.0]))
    >>> found.mean.tolist(), found.blocks.tolist()
    ([1.0], [3])
    """
    total = rows.sum(axis=1)
    mean = sums.sum(axis=1) / total
    blocks = (rows > 0).sum(axis=1)
    spread = ((sums - mean[:, None] * rows) ** 2).sum(axis=1) / total**2
    with np.errstate(divide="ignore", invalid="ignore"):
        of_blocks = np.where(blocks > 1, spread * blocks / (blocks - 1), np.inf)
    of_rows = np.maximum(squares / total - mean**2, 0.0) / total
    return Means(mean=mean, error=np.sqrt(np.maximum(of_blocks, of_rows)), blocks=blocks)
