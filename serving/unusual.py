"""Unusual predictions: scores and inputs unlike anything in the bundle's baseline, flagged for whole batches at once.

- `extreme_score`: outside the range of the scores that the version gave on its test rows (as far as the baseline's bins
  tell), or nearer to 0 or 1 than one in the number of those rows: so sure a claim was never checked against outcomes.
  It is not unusual at an end where most of the test scores lie: there it is what the model does all day.
- `outside_baseline:<field>`: a number beyond the training rows' extremes by more than their whole range. Just beyond
  them is everyday extrapolation; a field that had one value in training has no range to judge by. Parts of timestamps
  are bounded, and move with the calendar: drift is looked for there, not here.
- `unseen_category:<field>`: a word that is not in the vocabulary, or that is there and no training row had.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from contracts.bundle import Baseline
from contracts.input_schema import InputSchema

EXTREME_SCORE, OUTSIDE_BASELINE, UNSEEN_CATEGORY = "extreme_score", "outside_baseline", "unseen_category"
MAXIMUM_EXTREME_DISTANCE = 0.01  # of a score from 0 or 1, however few test rows there were
_MOST = 0.5
_ONE_VALUE = 1e-9  # a relative range below this is one value, with the rounding of its bin


class Reference:
    """What is usual by one bundle's baseline; made once for each bundle, asked for each batch."""

    def __init__(self, schema: InputSchema, baseline: Baseline) -> None:
        self._columns = schema.columns
        width = len(schema.columns)
        self._low = np.full(width, -np.inf, dtype=np.float32)
        self._high = np.full(width, np.inf, dtype=np.float32)
        numbers = {field.name for field in schema.fields if field.kind == "number"}
        for position, name in enumerate(schema.columns):
            edges = baseline.numbers[name].edges if name in numbers and name in baseline.numbers else ()
            if not edges:
                continue
            extent = edges[-1] - edges[0]
            if extent > _ONE_VALUE * max(abs(edges[0]), abs(edges[-1])):
                self._low[position], self._high[position] = edges[0] - extent, edges[-1] + extent
        self._codes = {  # for each column of codes: whether a code had no training row
            position: np.array([not baseline.categories[name].counts.get(word) for word in field.vocabulary])
            for field in schema.fields
            if field.kind == "category"
            for position, name in enumerate(schema.columns)
            if name == field.name and name in baseline.categories
        }
        self._low_score, self._high_score = _usual_scores(baseline.score_counts)

    def flag_scores(self, scores: NDArray[np.float64]) -> NDArray[np.intp]:
        """The positions of extreme `scores`; NaN, which is no score, is none."""
        return np.flatnonzero((scores < self._low_score) | (scores > self._high_score))

    def flag_inputs(self, features: NDArray[np.float32], records: Sequence[Mapping[str, Any]]) -> list[tuple[int, str]]:
        """Rows of `features` (rows × columns, as encoded from `records`) with the flag of each unusual input."""
        found: list[tuple[int, str]] = []
        outside = (features < self._low) | (features > self._high)  # missing is NaN, which compares false
        if outside.any():
            found.extend(
                (int(row), f"{OUTSIDE_BASELINE}:{self._columns[column]}") for row, column in np.argwhere(outside)
            )
        for column, is_new in self._codes.items():
            codes, name = features[:, column], self._columns[column]
            blank = np.isnan(codes)
            unseen = [row for row in np.flatnonzero(blank).tolist() if records[row].get(name) is not None]
            if is_new.any():
                unseen += np.flatnonzero(~blank & is_new[np.where(blank, 0, codes).astype(np.intp)]).tolist()
            found.extend((row, f"{UNSEEN_CATEGORY}:{name}") for row in unseen)
        return found


def _usual_scores(counts: Sequence[int]) -> tuple[float, float]:
    """The lowest and the highest score that is usual, from the histogram of the test scores over [0, 1]."""
    rows, filled = sum(counts), [bin_ for bin_, count in enumerate(counts) if count]
    if not rows:
        return -np.inf, np.inf
    distance = min(MAXIMUM_EXTREME_DISTANCE, 1 / rows)
    low, high = filled[0] / len(counts), (filled[-1] + 1) / len(counts)
    if filled[0] == 0:
        low = -np.inf if counts[0] > _MOST * rows else distance
    if filled[-1] == len(counts) - 1:
        high = np.inf if counts[-1] > _MOST * rows else 1 - distance
    return low, high
