"""A paired bootstrap over blocks of rows, such as days: rows of a day share its weather, so they are drawn together.

Each resample draws as many blocks as there are, with replacement. A metric that is a ratio of sums, or an AUC, then
depends on the resample only through how often each block was drawn, so resamples are matrix products of their weights
(resamples × blocks) with sums by block. The weights are drawn again for each metric, a chunk at a time: neither them
nor anything of the size resamples × rows is ever kept, and more resamples take no more memory.

See Efron and Tibshirani, "An Introduction to the Bootstrap", 1993, chapters 8 and 13 (percentile intervals). With few
blocks those are too narrow: the bootstrap's spread is that of a variance divided by n instead of n - 1, and it knows no
t distribution. The expanded percentile interval mends both, and `interval` takes it where it is told how many blocks
there are: Hesterberg, "What Teachers Should Know About the Bootstrap", The American Statistician 69(4), 2015, on the
expanded percentile interval. BCa was not taken: it corrects bias and skewness, but not the width, and its acceleration
comes from a jackknife over as few blocks.
"""

from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Statistic = Callable[[Floats], Floats]  # from the weights of some resamples (resamples × blocks) to a value for each
CHUNK_RESAMPLES = 256
KNOWN_SHARE_MIN = 0.9


class Interval(NamedTuple):
    """A point estimate, and the percentile interval of its resamples."""

    estimate: float
    low: float
    high: float


class Blocks:
    """Which rows belong together, and how often each resample draws each block.

    Args:
        ids: the block of each row, such as its day, shape (rows,).
        resamples: how many resamples are drawn.
        seed: of the draws; the same seed gives the same resamples, so statistics of two versions are paired.

    Raises:
        ValueError: fewer than two blocks, of which nothing can be learned about the spread between blocks.
    """

    def __init__(self, ids: NDArray[np.int64], *, resamples: int = 500, seed: int = 0) -> None:
        names, self.of_row = np.unique(ids, return_inverse=True)
        self.count = len(names)
        if self.count < 2:
            raise ValueError(f"a block bootstrap needs at least 2 blocks (such as days), found {self.count}")
        if resamples < 1:
            raise ValueError(f"resamples: found {resamples}, expected at least 1")
        self.resamples, self._seed = resamples, seed

    def draws(self) -> Iterator[Floats]:
        """How often each resample draws each block, some resamples at a time: arrays of (resamples × blocks).

        The first is the sample itself, in which each block is once. Every call gives the same draws.
        """
        yield np.ones((1, self.count))
        generator = np.random.default_rng(self._seed)
        for start in range(0, self.resamples, CHUNK_RESAMPLES):
            size = min(CHUNK_RESAMPLES, self.resamples - start)
            drawn = generator.integers(0, self.count, (size, self.count)) + np.arange(size)[:, None] * self.count
            counts = np.bincount(drawn.ravel(), minlength=size * self.count)
            yield counts.reshape(size, self.count).astype(np.float64)

    def resampled(self, statistic: Statistic) -> Floats:
        """`statistic` in the sample and in each resample; of shape (1 + resamples, …)."""
        return np.concatenate([statistic(weights) for weights in self.draws()])

    def per_block(self, values: NDArray[np.float64]) -> Floats:
        """The sum of `values` (one a row) in each block, shape (blocks,)."""
        return np.bincount(self.of_row, values, minlength=self.count).astype(np.float64)

    def per_cell(self, cells: NDArray[np.int64], count: int, values: NDArray[np.float64] | None = None) -> Floats:
        """The sum of `values` (or the number of rows) in each cell and block, shape (cells, blocks).

        `cells` has the cell of each row, from 0 to `count` - 1.
        """
        sums = np.bincount(cells * self.count + self.of_row, values, minlength=count * self.count)
        return sums.astype(np.float64).reshape(count, self.count)

    def sums(self, values: NDArray[np.float64]) -> Floats:
        """The sum of `values` (one a row) in the sample and in each resample, shape (1 + resamples,)."""
        by_block = self.per_block(values)
        return self.resampled(lambda weights: weights @ by_block)

    def mean(self, values: NDArray[np.float64], among: NDArray[np.bool_] | None = None) -> Floats:
        """The mean of `values`, over the rows that `among` marks, in the sample and in each resample.

        NaN where a resample has no such row.
        """
        counted = np.ones(len(self.of_row)) if among is None else among.astype(np.float64)
        return self.ratio(values * counted, counted)

    def ratio(self, numerators: NDArray[np.float64], denominators: NDArray[np.float64]) -> Floats:
        """The sum of `numerators` over that of `denominators` (both one a row), in the sample and in each resample.

        NaN where the denominators sum to nothing.
        """
        above, below = self.per_block(numerators), self.per_block(denominators)
        return self.resampled(lambda weights: divide(weights @ above, weights @ below))

    def auc(self, labels: NDArray[np.float64], scores: NDArray[np.float64]) -> Floats:
        """The area under the ROC curve in the sample and in each resample, ties counted half.

        `won[i, j]` is in how many pairs a positive of block i scores above a negative of block j, so that the pairs
        won in a resample with the weights w are wᵀ · won · w.
        """
        positive = labels == 1
        order = np.argsort(scores[positive])  # neighbours are looked up near each other
        positive_scores, positive_blocks = scores[positive][order], self.of_row[positive][order]
        won = np.empty((self.count, self.count))
        for block in range(self.count):
            negative_scores = np.sort(scores[~positive & (self.of_row == block)])
            below = np.searchsorted(negative_scores, positive_scores, "left")
            ties = np.searchsorted(negative_scores, positive_scores, "right") - below
            won[:, block] = np.bincount(positive_blocks, below + ties / 2, minlength=self.count)
        positives, negatives = self.per_block(positive.astype(float)), self.per_block((~positive).astype(float))
        return self.resampled(
            lambda drawn: divide(((drawn @ won) * drawn).sum(axis=1), (drawn @ positives) * (drawn @ negatives))
        )


def together(ids: NDArray[np.int64], most: int) -> NDArray[np.int64]:
    """The block of each row, with as many neighbouring `ids` taken together as leave at most `most` blocks.

    >>> together(np.array([10, 11, 12, 13, 20]), 3).tolist()
    [0, 0, 1, 1, 2]
    """
    names, places = np.unique(ids, return_inverse=True)
    taken: NDArray[np.int64] = places // -(-len(names) // most)
    return taken


def interval(values: Floats, level: float = 0.95, blocks: int | None = None) -> Interval:
    """The first of `values` (the sample's) with the central percentile interval of the others.

    With the number of `blocks` it is expanded as few blocks need it (see the module).

    Raises:
        ValueError: a value is not finite: a resample had no row that the metric needs, such as a positive.
    """
    if not np.isfinite(values).all():
        unknown = int((~np.isfinite(values)).sum())
        raise ValueError(f"the metric is undefined in {unknown} of {len(values)} resamples: the blocks are too small")
    tail = (1 - level) / 2 if blocks is None else expanded_tail(level, blocks)
    low, high = np.quantile(values[1:], (tail, 1 - tail))
    return Interval(float(values[0]), float(low), float(high))


def interval_where_known(values: Floats, blocks: int, level: float = 0.95) -> tuple[float, float] | None:
    """The expanded interval of those of `values` that are known, or None where too few are.

    For parts of the rows that some resamples miss altogether, such as a small group: the interval is that of the
    resamples which have it, so long as they are at least the share `KNOWN_SHARE_MIN`.
    """
    known = values[1:][np.isfinite(values[1:])]
    if len(known) < KNOWN_SHARE_MIN * (len(values) - 1):
        return None
    tail = expanded_tail(level, blocks)
    low, high = np.quantile(known, (tail, 1 - tail))
    return float(low), float(high)


def expanded_tail(level: float, blocks: int) -> float:
    """The share of resamples that an interval of `level` leaves out on each side: Φ(-√(n / (n - 1)) · t).

    t is the quantile of (1 + level) / 2 with n - 1 degrees of freedom (Hesterberg, 2015).

    >>> round(expanded_tail(0.95, 14), 4), round(expanded_tail(0.95, 1000), 4)
    (0.0125, 0.0248)
    """
    from scipy.special import ndtr, stdtrit

    return float(ndtr(-np.sqrt(blocks / (blocks - 1)) * stdtrit(blocks - 1, (1 + level) / 2)))


def paired_difference(
    blocks: Blocks, metric: Callable[[Blocks, Floats], Floats], first: Floats, second: Floats, level: float = 0.95
) -> Interval:
    """The expanded interval of `metric` of the scores `first` minus that of `second`, both from the same resamples.

    >>> blocks = Blocks(np.repeat(np.arange(20), 5), seed=1)
    >>> labels = np.tile([0.0, 1.0], 50)
    >>> paired_difference(blocks, lambda b, scores: b.auc(labels, scores), labels, 1 - labels)
    Interval(estimate=1.0, low=1.0, high=1.0)
    """
    return interval(metric(blocks, first) - metric(blocks, second), level, blocks.count)


def divide(numerators: Floats, denominators: Floats) -> Floats:
    """The quotients, NaN where the denominator is 0."""
    return np.divide(numerators, denominators, out=np.full_like(numerators, np.nan), where=denominators > 0)
