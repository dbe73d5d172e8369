"""An anytime-valid test of whether the challenger fails at higher odds than the champion.

Each look is a stratum: given the failures of both arms in it, how many fell on the challenger follows Fisher's
noncentral hypergeometric distribution with the odds ratio as its parameter, whatever the base rate does over the day.
The likelihood ratio of an alternative against the margin, multiplied over looks, is an e-process for "the odds ratio is
at most the margin" (the family has a monotone likelihood ratio), and so is its mixture over alternatives. By Ville's
inequality it exceeds 1/α with a probability of at most α, however often it is looked at.

Where a look counts who is at risk and to whom it happened for the first time, this is the sequential logrank test: an
entity is one draw, whatever it does afterwards (ter Schure, Pérez-Ortiz, Ly and Grünwald, "The anytime-valid logrank
test", 2024; Mantel, "Evaluation of survival data and two new rank order statistics", 1966).
See Ramdas et al., "Game-theoretic statistics and safe anytime-valid inference", Statistical Science 38(4), 2023.
"""

from dataclasses import dataclass
from functools import cache
from math import lgamma, log, log1p

import numpy as np
from numpy.typing import NDArray

# Multiples of the margin, and how much of the mixture each has: most lies where a wrong version is dangerous and yet
# not so wrong that the hard limits see it first
ALTERNATIVES = (1.5, 2.0, 4.0, 10.0, 30.0)
WEIGHTS = (0.1, 0.15, 0.4, 0.2, 0.15)
_LOG_WEIGHTS = np.log(WEIGHTS)
_TABLE_MAX = 1 << 18  # log-factorials that are kept: a look of one server is far below, an hour of many in one is not
_NO_EVIDENCE = (0.0,) * len(ALTERNATIVES)


@dataclass(frozen=True)
class Evidence:
    """The log likelihood ratio of each alternative against `margin`, after the looks so far. Starts at zeros."""

    margin: float = 1.0
    log_ratios: tuple[float, ...] = _NO_EVIDENCE

    def __post_init__(self) -> None:
        if self.margin <= 0:
            raise ValueError(f"the margin is an odds ratio above 0, found {self.margin}")

    @property
    def log_e_value(self) -> float:
        """The logarithm of the mixture; reject "at most the margin" at level α when it is at least -log(α)."""
        return float(np.logaddexp.reduce(np.array(self.log_ratios) + _LOG_WEIGHTS))

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
        if total == 1:  # most looks with a failure have one: its side is a coin weighted by the arms
            steps = [
                (log(odds) if failures else 0.0) - log1p((odds - 1) * n / (n + reference_n))
                for odds in (self.margin, *(self.margin * multiple for multiple in ALTERNATIVES))
            ]
        else:
            steps = _log_probabilities(self.margin, lowest, highest, failures, n, reference_n, total)
        return Evidence(
            self.margin, tuple(old + step - steps[0] for old, step in zip(self.log_ratios, steps[1:], strict=True))
        )


def _log_probabilities(
    margin: float, lowest: int, highest: int, failures: int, n: int, reference_n: int, total: int
) -> list[float]:
    """Of `failures`, under the margin and then under each alternative."""
    support = np.arange(lowest, highest + 1)
    places = np.stack((support, n - support, total - support, reference_n - total + support))
    log_weights = -_log_factorial(places).sum(axis=0)
    terms = log_weights + np.outer(_log_odds(margin), support)
    found: list[float] = (terms[:, failures - lowest] - np.logaddexp.reduce(terms, axis=1)).tolist()
    return found


def _log_factorial(numbers: NDArray[np.int64]) -> NDArray[np.float64]:
    largest = int(numbers.max())
    if largest < _TABLE_MAX:
        return _log_factorials(_table_size(largest))[numbers]
    from scipy.special import gammaln

    found: NDArray[np.float64] = gammaln(numbers + 1)
    return found


@cache
def _log_odds(margin: float) -> NDArray[np.float64]:
    log_odds: NDArray[np.float64] = np.log(np.array([margin, *(margin * multiple for multiple in ALTERNATIVES)]))
    return log_odds


def _table_size(n: int) -> int:
    return max(1024, 1 << n.bit_length())


@cache
def _log_factorials(size: int) -> NDArray[np.float64]:
    """log(k!) for k below `size`."""
    return np.array([lgamma(k + 1) for k in range(size)])
