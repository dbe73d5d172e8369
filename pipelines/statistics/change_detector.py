"""A sequential detector of shares that leave their band, with a bound on how often it cries wolf.

Null: at every moment, whatever happened before, each trial of share j succeeds with a probability within
[low_j, high_j]. For a batch of n trials with k successes the likelihood ratio of a more extreme probability against
the band's end is an e-value: at most 1 on average. So is its power n_effective / n where a batch has more than
`effective` trials (Jensen's inequality): trials of one batch are rarely independent, and count as at most so many.
What a batch can say is cut off (MOST): a burst of one client alone raises no alarm.

The e-values of batch b are folded into Shiryaev–Roberts e-detectors, M_b = (M_{b-1} + 1) · e_b, one for each share,
direction and alternative, and those into their weighted mean, which is an e-detector again. M_b - b is a
supermartingale while the null holds, so an alarm at M >= A has an average run length of at least A batches, and the
chance of an alarm within n batches is at most n / A (Doob's inequality for the submartingale). See Shin, Ramdas and
Rinaldo, "E-detectors: a nonparametric framework for sequential change detection", New England Journal of Statistics in
Data Science 2(2), 2024, definition 2.2 and theorem 2.4; for the null of a band see Waudby-Smith and Ramdas,
"Estimating means of bounded random variables by betting", JRSS B 86(1), 2024.
"""

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
ODDS = (1.3, 2.0, 4.0, 10.0)  # alternatives: by how much the odds of a success have grown, or fallen
MOST = 4.0  # the largest logarithm of a batch's e-value: less than an e-value is one
_CLOSEST = 1e-4  # a share of exactly 0 or 1 cannot be bet against: one trial would decide


def log_e_values(successes: Floats, trials: int, low: Floats, high: Floats, effective: int) -> Floats:
    """The logarithms of the batch's e-values, of the shape (shares, 2 directions, alternatives); up first.

    `successes`, `low` and `high` have one number for each share. A batch without trials says nothing: all are 0.

    Raises:
        ValueError: the numbers contradict each other.

    >>> float(log_e_values(np.array([95.0]), 100, np.array([0.5]), np.array([0.7]), 100)[0, 0].max())
    4.0
    >>> float(log_e_values(np.array([60.0]), 100, np.array([0.5]), np.array([0.7]), 100).max()) <= 0
    True
    """
    if trials < 0 or np.any(successes < 0) or np.any(successes > trials):
        raise ValueError(f"successes lie between 0 and the trials; found {successes} of {trials}")
    if np.any(low > high) or np.any(low < 0) or np.any(high > 1):
        raise ValueError(f"a band lies within [0, 1], its lower end first; found {low} to {high}")
    if effective < 1:
        raise ValueError(f"a batch counts as at least 1 trial, found {effective}")
    factors = np.array(ODDS)
    if trials == 0:
        return np.zeros((len(successes), 2, len(factors)))
    ends = np.clip(np.stack([high, low], axis=1), _CLOSEST, 1 - _CLOSEST)[:, :, None]
    odds = ends / (1 - ends) * np.stack([factors, 1 / factors])[None, :, :]
    others = odds / (1 + odds)
    k = successes[:, None, None]
    ratios = k * np.log(others / ends) + (trials - k) * np.log((1 - others) / (1 - ends))
    bets = np.minimum(ratios * min(1.0, effective / trials), MOST)
    # nothing lies beyond an end at 0 or 1: whatever a detector said of another hour's band ebbs away (0 is an e-value)
    cannot_be_left = np.stack([high >= 1 - _CLOSEST, low <= _CLOSEST], axis=1)[:, :, None]
    return np.asarray(np.where(cannot_be_left, -MOST, bets))


def advance(log_detectors: Floats, log_e: Floats, at_most: float) -> Floats:
    """The e-detectors after one more batch, as logarithms; -inf is one that has seen nothing.

    None grows beyond `at_most`, so that after a change that has passed the detectors fall again within a few batches.
    """
    return np.asarray(np.minimum(np.logaddexp(log_detectors, 0.0) + log_e, at_most))


def log_mixture(log_detectors: Floats, weights: Floats) -> float:
    """The logarithm of the weighted mean of the detectors. `weights` has one number for each share, and sums to 1."""
    shape = log_detectors.shape
    each = np.log(weights)[:, None, None] - np.log(shape[1] * shape[2])
    return float(np.logaddexp.reduce((log_detectors + each).ravel()))
