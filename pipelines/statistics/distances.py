"""How far apart two samples are, from their counts in the same cells; and how far apart chance alone puts them.

Both distances add half a count to each cell, so that an empty cell is unlikely rather than impossible, and both are
returned less what they are expected to be when nothing changed: with many cells and few rows that is not small (100
words and 500 rows: a population stability index of 0.2 out of nothing), and a limit should mean the same for all sizes.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

_SMOOTHING = 0.5
_MINIMUM_EXPECTED = 5.0  # Cochran's rule: below it the chi-square approximation does not hold


def population_stability_index(reference: Sequence[int], current: Sequence[int]) -> float:
    """Σ (c − r)·ln(c / r) over the shares r and c of the cells, in nats, less its expectation; 0 is "no change".

    The expectation under no change is (cells − 1)·(1/n + 1/m): Yurdakul, "Statistical properties of population
    stability index", 2018.

    >>> round(population_stability_index([500, 500], [900, 100]), 2)
    0.87

    Raises:
        ValueError: the cells differ in number, a count is negative, or a side has no rows.
    """
    before, after, noise = _shares(reference, current)
    index = float(((after - before) * np.log(after / before)).sum())
    return max(0.0, index - noise)


def jensen_shannon_divergence(reference: Sequence[int], current: Sequence[int]) -> float:
    """The Jensen–Shannon divergence of the two distributions in bits (0 to 1), less its expectation.

    To second order it is an eighth of the population stability index, in nats: Lin, "Divergence measures based on the
    Shannon entropy", IEEE Transactions on Information Theory 37(1), 1991.

    >>> round(jensen_shannon_divergence([1000, 0], [0, 1000]), 2)
    0.99

    Raises:
        ValueError: the cells differ in number, a count is negative, or a side has no rows.
    """
    before, after, noise = _shares(reference, current)
    middle = (before + after) / 2
    nats = float((before * np.log(before / middle) + after * np.log(after / middle)).sum()) / 2
    return min(1.0, max(0.0, (nats - noise / 8) / float(np.log(2))))


def stability_indices(reference: NDArray[Any], current: NDArray[Any]) -> NDArray[np.float64]:
    """`population_stability_index` of each row of `current` against the same row of `reference` (both rows × cells).

    NaN where a side has no rows.
    """
    before, after, noise = _row_shares(reference, current)
    found: NDArray[np.float64] = np.maximum(0.0, ((after - before) * np.log(after / before)).sum(axis=1) - noise)
    return found


def jensen_shannon_divergences(reference: NDArray[Any], current: NDArray[Any]) -> NDArray[np.float64]:
    """`jensen_shannon_divergence` of each row of `current` against the same row of `reference`; NaN as above."""
    before, after, noise = _row_shares(reference, current)
    middle = (before + after) / 2
    nats = (before * np.log(before / middle) + after * np.log(after / middle)).sum(axis=1) / 2
    found: NDArray[np.float64] = np.clip((nats - noise / 8) / np.log(2), 0.0, 1.0)
    return found


def homogeneity_p_value(reference: Sequence[int], current: Sequence[int]) -> float:
    """The chance of counts at least this different when both sides have one distribution (Pearson's chi-square).

    Cells in which fewer than 5 rows are expected are taken together. 1.0 when that leaves one cell. Rows count as
    independent; where they come in clusters (flights of one day share its weather) the true chance is larger, which is
    why no decision rests on it alone.

    Raises:
        ValueError: the cells differ in number, a count is negative, or a side has no rows.
    """
    from scipy.special import chdtrc

    table = _counts(reference, current)
    sides, total = table.sum(axis=1), table.sum()
    rare = table.sum(axis=0) * sides.min() / total < _MINIMUM_EXPECTED
    pooled = np.column_stack([table[:, ~rare], table[:, rare].sum(axis=1)])
    pooled = pooled[:, pooled.sum(axis=0) > 0]
    expected = np.outer(sides, pooled.sum(axis=0)) / total
    statistic = float(((pooled - expected) ** 2 / expected).sum())
    degrees = pooled.shape[1] - 1
    return float(chdtrc(degrees, statistic)) if degrees else 1.0


def _counts(reference: Sequence[int], current: Sequence[int]) -> NDArray[np.float64]:
    if len(reference) != len(current):
        raise ValueError(f"the same cells are needed on both sides, found {len(reference)} and {len(current)}")
    table = np.array([reference, current], dtype=np.float64)
    if (table < 0).any():
        raise ValueError(f"counts are not negative, found {table.min():g}")
    if (table.sum(axis=1) == 0).any():
        raise ValueError(f"both sides need rows, found {table[0].sum():g} and {table[1].sum():g}")
    return table


def _row_shares(
    reference: NDArray[Any], current: NDArray[Any]
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    if reference.shape != current.shape:
        raise ValueError(f"the same cells are needed on both sides, found {reference.shape} and {current.shape}")
    sides = np.stack([reference, current]).astype(np.float64)
    used = sides.sum(axis=0) > 0  # a cell that nobody was ever in says nothing
    width = np.maximum(1, used.sum(axis=1))
    rows = sides.sum(axis=2)
    rows[rows == 0] = np.nan
    smoothed = (sides + _SMOOTHING) / (rows + _SMOOTHING * width)[:, :, None]
    level = np.where(used, smoothed, 1.0)  # the same on both sides: nothing in either sum
    return level[0], level[1], (width - 1) * (1 / rows).sum(axis=0)


def _shares(reference: Sequence[int], current: Sequence[int]) -> tuple[NDArray[np.float64], NDArray[np.float64], float]:
    table = _counts(reference, current)
    table = table[:, table.sum(axis=0) > 0]  # a cell that nobody was ever in says nothing
    rows = table.sum(axis=1)
    smoothed = (table + _SMOOTHING) / (rows[:, None] + _SMOOTHING * table.shape[1])
    noise = float((table.shape[1] - 1) * (1 / rows).sum())
    return smoothed[0], smoothed[1], noise
