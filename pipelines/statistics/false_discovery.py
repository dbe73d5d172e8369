"""The Benjamini–Hochberg procedure: among many tests, how many of the alarms are expected to be false."""

from collections.abc import Sequence

import numpy as np


def adjusted_p_values(p_values: Sequence[float]) -> list[float]:
    """For each p-value the smallest false-discovery rate at which it would still be an alarm, in the given order.

    Calling all tests whose adjusted value is at most q an alarm keeps the expected share of false alarms among all
    alarms at or below q, for independent and for positively dependent tests. Benjamini and Hochberg, "Controlling the
    false discovery rate", Journal of the Royal Statistical Society B 57(1), 1995.

    >>> adjusted_p_values([0.01, 0.04, 0.03, 0.8])
    [0.04, 0.05333333333333334, 0.05333333333333334, 0.8]

    Raises:
        ValueError: a value is not within 0 and 1.
    """
    values = np.asarray(p_values, dtype=np.float64)
    if values.size == 0:
        return []
    if not ((values >= 0) & (values <= 1)).all():
        wrong = next(value for value in p_values if not 0 <= value <= 1)
        raise ValueError(f"a p-value lies between 0 and 1, found {wrong}")
    order = np.argsort(values, kind="stable")
    scaled = values[order] * values.size / np.arange(1, values.size + 1)
    smallest_from_here = np.minimum.accumulate(scaled[::-1])[::-1]
    adjusted = np.empty_like(values)
    adjusted[order] = np.minimum(smallest_from_here, 1.0)
    result: list[float] = adjusted.tolist()
    return result
