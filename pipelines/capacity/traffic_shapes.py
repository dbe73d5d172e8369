"""Request rates by the second: a recorded day, a spike, a sawtooth."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Rates = NDArray[np.float64]
HOUR_S, DAY_S = 3600, 86_400


def spike(base: float, times: float = 3.0, rise_s: int = 60, before_s: int = 900, after_s: int = 1800) -> Rates:
    """`base` requests a second, then within `rise_s` in a straight line to `times` that, and on at that rate."""
    risen = np.linspace(base, base * times, rise_s, endpoint=False) if rise_s else np.empty(0)
    return np.concatenate([np.full(before_s, base), risen, np.full(after_s, base * times)])


def sawtooth(low: float, times: float = 2.0, period_s: int = 600, seconds: int = HOUR_S) -> Rates:
    """From `low` in a straight line to `times` that in each period, and down again at once."""
    place = (np.arange(seconds) % period_s) / period_s
    return np.asarray(low * (1 + (times - 1) * place))


def day(by_hour: Sequence[float], peak: float) -> Rates:
    """A day whose hours have these counts, in straight lines from the middle of one hour to the next.

    `peak` is the rate in the middle of the busiest hour.

    Raises:
        ValueError: there are not 24 hours, or none has a count.
    """
    if len(by_hour) != 24 or max(by_hour) <= 0 or min(by_hour) < 0:
        raise ValueError(f"found {list(by_hour)}, expected the counts of 24 hours, and one above 0")
    hours = np.asarray(by_hour, dtype=np.float64) * peak / max(by_hour)
    middles = (np.arange(-1, 25) + 0.5) * HOUR_S
    # the day before and the day after are like it
    return np.asarray(np.interp(np.arange(DAY_S), middles, np.concatenate([hours[-1:], hours, hours[:1]])))
