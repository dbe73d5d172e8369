"""When requests are due: at a fixed distance, or as independent clients would come (Poisson)."""

from typing import Literal

import numpy as np
from numpy.typing import NDArray

Arrivals = Literal["poisson", "fixed"]
ARRIVALS: tuple[Arrivals, ...] = ("poisson", "fixed")
MAXIMUM_REQUESTS = 5_000_000  # of one run: what is kept of each is 18 bytes


def due_times(rate: float, seconds: float, *, arrivals: Arrivals = "poisson", seed: int = 1) -> NDArray[np.float64]:
    """Seconds after the start at which requests are due, in order; the same for the same arguments.

    Raises:
        ValueError: the rate or the time is not above 0, or makes more than `MAXIMUM_REQUESTS`.
    """
    if not rate > 0 or not seconds > 0:
        raise ValueError(f"found a rate of {rate:g} a second for {seconds:g} s, expected both above 0")
    expected = rate * seconds
    if expected > MAXIMUM_REQUESTS:
        raise ValueError(
            f"{rate:g} requests a second for {seconds:g} s are {expected:,.0f}, expected at most {MAXIMUM_REQUESTS:,}: "
            "take a shorter time or a smaller rate"
        )
    if arrivals == "fixed":
        return np.arange(0.0, seconds, 1.0 / rate)
    random = np.random.default_rng(seed)
    # ten standard deviations beyond the expected number, so that the last gap ends behind the last second
    gaps = random.exponential(1.0 / rate, size=int(expected + 10 * np.sqrt(expected) + 10))
    times: NDArray[np.float64] = np.cumsum(gaps)
    return times[times < seconds]
