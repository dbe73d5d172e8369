"""An anytime-valid test of whether paired differences lie above a margin, in the mean or in the median.

**Mean.** Whoever bets the share λ of a fortune on each difference d in [-1, 1] has ∏(1 + λ·(d - δ)) of it afterwards.
If the mean is at most δ, given whatever came before, that is a supermartingale for every λ in [0, 1 / (1 + δ)), and so
is a mixture over several λ: an e-process, which exceeds 1/α with a probability of at most α, however often one looks
(Waudby-Smith and Ramdas, "Estimating means of bounded random variables by betting", JRSS B 86(1), 2024). With λ fixed
beforehand the order does not matter, so counts suffice; a difference counts as the lower edge of its bin, which can
only lose.

**Median.** At most half of the differences lie above δ: a sign test, sequential as in `single_rate`. Versions that
answer the same request mostly differ by little, however far apart requests are, and a dozen pairs show that.

The mean of both e-values is one for "mean and median are at most the margin".
"""

from collections.abc import Sequence

import numpy as np

from pipelines.statistics import single_rate

BETS = (0.02, 0.05, 0.1, 0.2, 0.4, 0.8)  # of the largest that cannot lose everything


def log_e_value(counts: Sequence[int], margin: float) -> float:
    """The logarithm of the e-value against "mean and median of the differences are at most `margin`".

    `counts` are of differences in bins of equal width over [-1, 1].

    >>> log_e_value([0, 0, 0, 0], 0.1)
    0.0
    >>> log_e_value([0, 0, 0, 40], 0.1) > np.log(100)
    True

    Raises:
        ValueError: a negative count, no bins, or a margin outside of [0, 1).
    """
    if not 0 <= margin < 1:
        raise ValueError(f"the margin is a difference in [0, 1), found {margin}")
    if not counts or min(counts) < 0:
        raise ValueError(f"counts are of at least one bin and not negative, found {list(counts)}")
    found = np.array(counts)
    lower_edges = np.linspace(-1, 1, len(counts) + 1)[:-1]
    bets = np.array(BETS)[:, None] / (1 + margin)
    fortunes = np.log1p(bets * (lower_edges - margin)) @ found
    mean = float(np.logaddexp.reduce(fortunes) - np.log(len(BETS)))
    median = single_rate.log_e_value(int(found[lower_edges >= margin].sum()), int(found.sum()), 0.5)
    return float(np.logaddexp(mean, median) - np.log(2))


def mean_of(counts: Sequence[int]) -> float:
    """The mean difference, of bins by their middles; 0 without any."""
    n = sum(counts)
    width = 2 / len(counts)
    return sum(count * (-1 + (place + 0.5) * width) for place, count in enumerate(counts)) / n if n else 0.0
