"""Betting against "the mean is at most m": an e-value for values in [-1, 1] that has power where they vary little.

Whoever bets the part λ of what he has on each value gets the factor 1 + λ·(x - m), which is at least 0 for λ up to
1 / (1 + m), and at most 1 on average where the mean is at most m. The product over independent values is therefore an
e-value, and so is its mean over several λ: by Markov's inequality it exceeds 1/α with a probability of at most α. It
has more power than Hoeffding's bound where values vary little. See Waudby-Smith and Ramdas, "Estimating means of
bounded random variables by betting", Journal of the Royal Statistical Society B 86(1), 2024.
"""

from math import log

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
STAKES = (0.06, 0.12, 0.25, 0.5, 0.95)  # parts of the largest allowed bet, mixed in equal parts


def log_e_value(values: Floats, at_most: float) -> float:
    """The logarithm of the e-value against "the mean of what `values` are drawn from is at most `at_most`".

    Raises:
        ValueError: a value, or the mean, lies outside of [-1, 1].

    >>> log_e_value(np.full(20, 0.5), 0.0) > log(100)
    True
    >>> log_e_value(np.full(20, -0.5), 0.0) < 0
    True
    """
    if not -1 < at_most <= 1:
        raise ValueError(f"the mean of values in [-1, 1] lies in (-1, 1], found {at_most}")
    if values.size and not (values.min() >= -1 and values.max() <= 1):  # NaN compares false
        raise ValueError(f"values lie in [-1, 1], found {values.min()} to {values.max()}")
    bets = np.array(STAKES) / (1 + at_most)
    wealth = np.log1p(bets[:, None] * (values - at_most)).sum(axis=1)
    return float(np.logaddexp.reduce(wealth) - log(len(STAKES)))


def differences(mine: Floats, theirs: Floats) -> Floats:
    """Means of batches of `mine` less means of batches of `theirs`: as many as the smaller side has values.

    For values of two sides to which units come by chance, in an order that nothing depends on. The difference of the
    means is the same for each batch, and the batches are independent of each other.

    >>> differences(np.array([1.0, 0.0]), np.array([0.5, 0.5, 0.0, 0.0])).tolist()
    [0.5, 0.0]
    """
    count = min(len(mine), len(theirs))
    if count == 0:
        return np.empty(0)
    return _means(mine, count) - _means(theirs, count)


def _means(values: Floats, batches: int) -> Floats:
    edges = np.linspace(0, len(values), batches + 1).astype(int)
    found: Floats = np.add.reduceat(values, edges[:-1]) / np.diff(edges)
    return found
