"""An anytime-valid test of whether the challenger's mean score lies above the champion's by more than a margin.

Each look is a stratum: both arms answer the same traffic in it, whatever the hour or the weather does to all scores.
With n and m scores in [0, 1], D the difference of the means and h = n·m / (n + m), Hoeffding's lemma gives
E[exp(h·(λ·(D - δ) - λ²/8))] <= 1 for a true difference of δ and every λ, and so for every margin >= δ when λ > 0.
The product over looks is therefore an e-process for "the difference is at most the margin", and so is its mixture over
several λ. By Ville's inequality it exceeds 1/α with a probability of at most α, however often it is looked at.
See Hoeffding, "Probability inequalities for sums of bounded random variables", JASA 58, 1963, and Ramdas et al.,
"Game-theoretic statistics and safe anytime-valid inference", Statistical Science 38(4), 2023.
"""

from dataclasses import dataclass
from math import log

import numpy as np

LAMBDAS = (0.4, 0.8, 1.6, 3.2)  # 4 times an excess over the margin of 0.1, 0.2, 0.4 and 0.8: best for those


@dataclass(frozen=True)
class MeanEvidence:
    """The logarithm of the e-process of each λ against `margin`, after the looks so far. Starts at zeros."""

    margin: float
    log_values: tuple[float, ...] = (0.0,) * len(LAMBDAS)

    def __post_init__(self) -> None:
        if not 0 < self.margin <= 1:
            raise ValueError(f"the margin is a difference of means in (0, 1], found {self.margin}")

    @property
    def log_e_value(self) -> float:
        """The logarithm of the mixture; reject "at most the margin" at level α when it is at least -log(α)."""
        return float(np.logaddexp.reduce(np.array(self.log_values)) - log(len(self.log_values)))

    def after(self, *, mean: float, n: int, reference_mean: float, reference_n: int) -> "MeanEvidence":
        """The evidence after one more look, with the means of `n` and `reference_n` scores.

        Raises:
            ValueError: a negative count, or a mean outside of [0, 1].
        """
        if n < 0 or reference_n < 0:
            raise ValueError(f"counts are not negative; found {n} and {reference_n}")
        if n == 0 or reference_n == 0:  # nothing to compare with: no evidence
            return self
        if not (0 <= mean <= 1 and 0 <= reference_mean <= 1):
            raise ValueError(f"means of scores lie in [0, 1]; found {mean} and {reference_mean}")
        weight = n * reference_n / (n + reference_n)
        excess = mean - reference_mean - self.margin
        return MeanEvidence(
            self.margin,
            tuple(
                value + weight * (rate * excess - rate**2 / 8)
                for value, rate in zip(self.log_values, LAMBDAS, strict=True)
            ),
        )
