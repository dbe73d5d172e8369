"""Bounds of a rate that hold at all times at once: a confidence sequence.

The Beta(½, ½) mixture of likelihood ratios against a rate p is a martingale under p, so the rates that it does not
reject at level α contain the true one at every look, with a probability of at least 1 - α (Robbins, "Statistical
methods related to the law of the iterated logarithm", 1970; Howard et al., "Time-uniform, nonparametric, nonasymptotic
confidence sequences", Annals of Statistics 49(2), 2021). The library `confseq` has it too, and needs a C++ compiler.
"""

from math import lgamma, log

_PRIOR = 0.5
_STEPS = 60


def lower_bound(happened: int, n: int, alpha: float) -> float:
    """The least rate that fits `happened` of `n` at level `alpha`, one-sided; 0 where there is nothing to go by."""
    return 0.0 if happened == 0 else _bound(happened, n, alpha, 0.0)


def upper_bound(happened: int, n: int, alpha: float) -> float:
    """The largest rate that fits `happened` of `n` at level `alpha`, one-sided; 1 where there is nothing to go by."""
    return 1.0 if happened == n else _bound(happened, n, alpha, 1.0)


def _bound(happened: int, n: int, alpha: float, beyond: float) -> float:
    """Bisects between the observed rate, which fits, and `beyond`, which does not."""
    if not 0 <= happened <= n or not 0 < alpha < 1:
        raise ValueError(f"what happened lies between 0 and n, alpha in (0, 1); found {happened} of {n}, {alpha}")
    misses = n - happened
    mixture = _log_beta(happened + _PRIOR, misses + _PRIOR) - _log_beta(_PRIOR, _PRIOR)
    fits, rejected = happened / n, beyond
    for _ in range(_STEPS):
        middle = (fits + rejected) / 2
        likelihood = (happened * log(middle) if happened else 0.0) + (misses * log(1 - middle) if misses else 0.0)
        if mixture - likelihood < -log(alpha):
            fits = middle
        else:
            rejected = middle
    return rejected


def _log_beta(a: float, b: float) -> float:
    return lgamma(a) + lgamma(b) - lgamma(a + b)
