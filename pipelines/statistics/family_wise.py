"""Holm's procedure: among many tests, the chance of even one false alarm."""

import numpy as np
from numpy.typing import ArrayLike, NDArray


def holm_adjusted(p_values: ArrayLike) -> NDArray[np.float64]:
    """For each p-value the smallest family-wise error rate at which it would still be an alarm, in the given order.

    Calling all tests whose adjusted value is at most α an alarm keeps the chance of one or more false alarms at or
    below α, however the tests depend on each other. Holm, "A Simple Sequentially Rejective Multiple Test Procedure",
    Scandinavian Journal of Statistics 6(2), 1979.

    >>> holm_adjusted([0.01, 0.04, 0.03]).tolist()
    [0.03, 0.06, 0.06]

    Raises:
        ValueError: a value is not within 0 and 1.
    """
    values = np.asarray(p_values, dtype=np.float64)
    if not ((values >= 0) & (values <= 1)).all():
        raise ValueError(f"a p-value lies between 0 and 1, found {values[~((values >= 0) & (values <= 1))][0]}")
    order = np.argsort(values, kind="stable")
    scaled = values[order] * np.arange(values.size, 0, -1)
    adjusted = np.empty_like(values)
    adjusted[order] = np.minimum(np.maximum.accumulate(scaled), 1.0)
    return adjusted
