"""An anytime-valid test of whether entities are split between two arms as configured (the sample ratio).

Of the entities that are seen for the first time, each is the challenger's with the configured share. The likelihood
ratio of a share at other odds against it, multiplied over strata, is an e-process, and so is its mixture over odds.
Where it exceeds 1/α the counts of the arms are not those of chance, and nothing that is computed from them is evidence.
See Fabijan et al., "Diagnosing sample ratio mismatch in online controlled experiments", KDD 2019.
"""

from dataclasses import dataclass
from math import log

import numpy as np

ODDS = (0.5, 0.67, 0.8, 0.9, 1.11, 1.25, 1.5, 2.0)  # multiples of the configured odds, mixed in equal parts


@dataclass(frozen=True)
class SplitEvidence:
    """The log likelihood ratio of each multiple of the configured odds, after the strata so far. Starts at zeros."""

    log_ratios: tuple[float, ...] = (0.0,) * len(ODDS)

    @property
    def log_e_value(self) -> float:
        """The logarithm of the mixture; the split does not fit at level α when it is at least -log(α)."""
        return float(np.logaddexp.reduce(np.array(self.log_ratios)) - log(len(ODDS)))

    def after(self, *, new: int, reference_new: int, share: float) -> "SplitEvidence":
        """The evidence after `new` entities came to the challenger and `reference_new` to the champion.

        A share of 1 splits nothing, and is no evidence.

        Raises:
            ValueError: negative counts, or a share outside (0, 1].
        """
        if new < 0 or reference_new < 0 or not 0 < share <= 1:
            raise ValueError(f"counts of at least 0 and a share in (0, 1]; found {new}, {reference_new}, {share}")
        if share == 1 or new + reference_new == 0:
            return self
        odds = share / (1 - share) * np.array(ODDS)
        shares = odds / (1 + odds)
        steps = new * np.log(shares / share) + reference_new * np.log((1 - shares) / (1 - share))
        return SplitEvidence(tuple((np.array(self.log_ratios) + steps).tolist()))
