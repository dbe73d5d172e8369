"""An anytime-valid test of whether something happens on more than a given share of the trials.

The likelihood ratio of a higher rate against the limit is an e-process for "the rate is at most the limit" (the
binomial family has a monotone likelihood ratio), and so is its mixture over alternatives. It depends on the cumulative
counts only, so nothing is kept between looks. By Ville's inequality it exceeds 1/α with a probability of at most α.
See Ramdas et al., "Game-theoretic statistics and safe anytime-valid inference", Statistical Science 38(4), 2023.
"""

import numpy as np

from pipelines.statistics.odds_ratio import ALTERNATIVES, WEIGHTS


def log_e_value(happened: int, n: int, limit: float) -> float:
    """The logarithm of the e-value against "the rate is at most `limit`" after `happened` of `n` trials.

    >>> log_e_value(0, 0, 0.3)
    0.0
    >>> log_e_value(100, 200, 0.3) > np.log(100)
    True

    Raises:
        ValueError: the counts contradict each other, or the limit is no rate above 0.
    """
    if not 0 <= happened <= n:
        raise ValueError(f"what happened lies between 0 and the trials; found {happened} of {n}")
    if not 0 < limit <= 1:
        raise ValueError(f"the limit lies in (0, 1], found {limit}")
    if n == 0 or limit == 1:  # no trial, or nothing can exceed the limit
        return 0.0
    odds = limit / (1 - limit) * np.array(ALTERNATIVES)
    rates = odds / (1 + odds)
    ratios = happened * np.log(rates / limit) + (n - happened) * np.log((1 - rates) / (1 - limit))
    return float(np.logaddexp.reduce(ratios + np.log(WEIGHTS)))
