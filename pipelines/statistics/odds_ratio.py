"""An anytime-valid test of whether the challenger fails at higher odds than the champion.

Each look is a stratum: given the failures of both arms in it, how many fell on the challenger follows Fisher's
noncentral hypergeometric distribution with the odds ratio as its parameter, whatever the base rate does over the day.
The likelihood ratio of an alternative against the margin, multiplied over looks, is an e-process for "the odds ratio is
at most the margin" (the family has a monotone likelihood ratio), and so is its mixture over alternatives. By Ville's
inequality it exceeds 1/α with a probability of at most α, however often it is looked at.
See Ramdas et al., "Game-theoretic statistics and safe anytime-valid inference", Statistical Science 38(4), 2023.
"""

from dataclasses import dataclass
from math import lgamma, log

import numpy as np
from numpy.typing import NDArray

ALTERNATIVES = (1.25, 1.5, 2.0, 3.0, 5.0, 10.0, 20.0, 50.0)  # multiples of the margin, mixed in equal parts


@dataclass(frozen=True)
class Evidence:
    """The log likelihood ratio of each alternative against `margin`, after the looks so far. Starts at zeros."""

    margin: float = 1.0
    log_ratios: tuple[float, ...] = (0.0,) * len(ALTERNATIVES)

    def __post_init__(self) -> None:
        if self.margin <= 0:
            raise ValueError(f"the margin is an odds ratio above 0, found {self.margin}")

    @property
    def log_e_value(self) -> float:
        """The logarithm of the mixture; reject "at most the margin" at level α when it is at least -log(α)."""
        ratios = np.array(self.log_ratios)
        return float(np.logaddexp.reduce(ratios) - log(len(ratios)))

    def after(self, *, failures: int, n: int, reference_failures: int, reference_n: int) -> "Evidence":
        """The evidence after one more look, in which the challenger failed on `failures` of its `n` requests.

        Raises:
            ValueError: more failures than requests, or negative counts.
        """
        if not 0 <= failures <= n or not 0 <= reference_failures <= reference_n:
            raise ValueError(
                f"failures lie between 0 and the requests; found {failures} of {n}, "
                f"{reference_failures} of {reference_n}"
            )
        total = failures + reference_failures
        lowest, highest = max(0, total - reference_n), min(total, n)
        if lowest == highest:  # nothing could have fallen otherwise: no evidence
            return self
        support = np.arange(lowest, highest + 1)
        log_weights = np.array([_log_choose(n, k) + _log_choose(reference_n, total - k) for k in support.tolist()])
        null = _log_probability(support, log_weights, self.margin, failures - lowest)
        steps = (
            _log_probability(support, log_weights, self.margin * multiple, failures - lowest) - null
            for multiple in ALTERNATIVES
        )
        return Evidence(self.margin, tuple(old + new for old, new in zip(self.log_ratios, steps, strict=True)))


def _log_choose(n: int, k: int) -> float:
    return lgamma(n + 1) - lgamma(k + 1) - lgamma(n - k + 1)


def _log_probability(
    support: NDArray[np.int64], log_weights: NDArray[np.float64], odds_ratio: float, index: int
) -> float:
    terms = log_weights + support * log(odds_ratio)
    return float(terms[index] - np.logaddexp.reduce(terms))
