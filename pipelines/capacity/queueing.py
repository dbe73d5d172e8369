"""One replica as a queue: Poisson arrivals, one server, a constant service time (M/D/1).

The mean is the Pollaczek–Khinchine formula, L. Kleinrock, Queueing Systems I (1975), section 5.6; the tail is Kingman's
exponential with the same mean (J. F. C. Kingman, The single server queue in heavy traffic, 1961).
"""

from math import exp, sqrt

_STEPS = 60


def waiting(utilisation: float) -> float:
    """The mean number of requests that wait, for a utilisation below 1: ρ² / 2(1 − ρ)."""
    return utilisation**2 / (2 * (1 - utilisation))


def beyond(utilisation: float, rate: float, patience_s: float) -> float:
    """The share of the requests that wait longer than `patience_s`, where one replica can serve `rate` a second.

    ρ · exp(−2(1 − ρ) · rate · t), since a request that waits at all (ρ) waits 1 / 2(1 − ρ)rate on average. All at a
    utilisation of 1 or with no patience left.
    """
    if patience_s <= 0 or utilisation >= 1:
        return 1.0
    return utilisation * exp(-2 * (1 - utilisation) * rate * patience_s)


def service_rate(saturation_per_s: float, objective_s: float, share: float = 0.01) -> float:
    """What one replica can serve at most, if at `saturation_per_s` just `share` of them exceed `objective_s`."""
    low, high = saturation_per_s, saturation_per_s * 100 + 100 / objective_s
    for _ in range(_STEPS):
        middle = (low * high) ** 0.5
        low, high = (low, middle) if _excess(saturation_per_s, middle, objective_s) <= share else (middle, high)
    return high


def _excess(arriving: float, rate: float, objective_s: float) -> float:
    return beyond(arriving / rate, rate, objective_s - 1 / rate)


def utilisation_for(rows: float) -> float:
    """The utilisation at which `rows` wait on average: the inverse of `waiting`."""
    return sqrt(rows**2 + 2 * rows) - rows
