"""Encoded rows with their labels, as trainers take them."""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

MINIMUM_ROWS = 50  # of each part; below, neither stopping nor calibration means anything


OnStep = Callable[[int, float], None]  # a step's number (trees or epochs), and the log loss of the rows to stop by


class Pruned(Exception):  # noqa: N818 (the end of a trial, no fault)
    """A trial that was given up before its end: others were better after as many steps."""


class Rows(NamedTuple):
    """Features (float32, rows × columns, missing is NaN) and labels (0 or 1, float64), in time order."""

    features: NDArray[np.float32]
    labels: NDArray[np.float64]

    def halves(self) -> tuple["Rows", "Rows"]:
        """The older and the newer half."""
        middle = len(self.labels) // 2
        return Rows(self.features[:middle], self.labels[:middle]), Rows(self.features[middle:], self.labels[middle:])

    def followed_by(self, later: "Rows") -> "Rows":
        """These rows and then the `later` ones."""
        return Rows(np.concatenate([self.features, later.features]), np.concatenate([self.labels, later.labels]))


def checked(features: NDArray[np.float32], labels: NDArray[np.generic], width: int, part: str) -> Rows:
    """`features` and `labels` of a part as `Rows`.

    Raises:
        ValueError: the shapes do not fit, a feature is infinite, labels are not 0 and 1 with both among them, or there
            are too few rows. The message names the part.
    """
    if features.ndim != 2 or features.shape[1] != width or labels.shape != features.shape[:1]:
        raise ValueError(
            f"{part}: features have the shape {features.shape} and labels {labels.shape}, "
            f"expected (rows, {width}) and (rows,)"
        )
    if len(labels) < MINIMUM_ROWS:
        raise ValueError(f"{part}: found {len(labels)} rows, expected at least {MINIMUM_ROWS}: take a longer window")
    if np.isinf(features).any():
        raise ValueError(f"{part}: {int(np.isinf(features).sum())} features are infinite: encode them as missing")
    values = np.asarray(labels, dtype=np.float64)
    classes = np.unique(values)
    if not np.array_equal(classes, (0.0, 1.0)):
        raise ValueError(
            f"{part}: found the labels {classes[:5].tolist()}, expected both 0 and 1: take a longer window"
        )
    return Rows(np.ascontiguousarray(features, dtype=np.float32), values)
