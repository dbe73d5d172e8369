"""The training rows that are nearest to unusual ones: what the model has seen that was most like them. No I/O.

Numbers count in standard deviations of the training rows (at most ten, so that one broken number does not hide all
else), words as equal or not. A missing value is at the mean, and one standard deviation from every row that has one.
"""

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

MAXIMUM_TRAINING_ROWS = 100_000  # of more, an even share is looked at
_FARTHEST = 10.0  # standard deviations
_ONE_WORD = np.sqrt(0.5)  # of two columns that differ: rows of two words are 1 apart

Floats = NDArray[np.float32]


def nearest(
    training: Floats, rows: Floats, categorical: Mapping[int, int], *, columns: Sequence[int], count: int
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """For each of `rows` the positions of its `count` nearest training rows, and their distances, nearest first.

    Args:
        training, rows: encoded by one schema, shape (n, width); NaN is missing.
        categorical: for each column of codes, how many words there are (`InputSchema.categorical`).
        columns: those that count; not what is masked in the log.

    Raises:
        ValueError: no training rows, or no column.
    """
    from sklearn.neighbors import NearestNeighbors

    if not len(training) or not columns:
        raise ValueError(f"neighbours need training rows and columns, found {len(training)} and {len(columns)}")
    step = -(-len(training) // MAXIMUM_TRAINING_ROWS)
    some = training[::step]
    means, spreads = _scale(some)
    space = [_space(part, categorical, columns, means, spreads) for part in (some, rows)]
    found = NearestNeighbors(n_neighbors=min(count, len(some))).fit(space[0])
    distances, positions = found.kneighbors(space[1])
    return positions * step, distances


def _scale(training: Floats) -> tuple[Floats, Floats]:
    known = ~np.isnan(training)
    counts = np.maximum(known.sum(axis=0), 1)
    means = np.where(known, training, 0).sum(axis=0, dtype=np.float64) / counts
    squares = (np.where(known, training - means, 0) ** 2).sum(axis=0, dtype=np.float64) / counts
    spreads = np.sqrt(squares)
    return means.astype(np.float32), np.where(spreads > 0, spreads, 1).astype(np.float32)


def _space(
    rows: Floats, categorical: Mapping[int, int], columns: Sequence[int], means: Floats, spreads: Floats
) -> Floats:
    parts: list[Floats] = []
    for column in columns:
        values, missing = rows[:, column], np.isnan(rows[:, column])
        if column in categorical:
            words = np.zeros((len(rows), categorical[column]), dtype=np.float32)
            places = np.flatnonzero(~missing)
            words[places, values[places].astype(np.int64)] = _ONE_WORD
            parts.append(words)
            continue
        scaled = np.clip(
            (np.where(missing, means[column], values) - means[column]) / spreads[column], -_FARTHEST, _FARTHEST
        )
        parts += [scaled[:, None].astype(np.float32), missing[:, None].astype(np.float32)]
    return np.hstack(parts)
