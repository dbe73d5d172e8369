"""The search: all slices of one and of two features, each with the p-value that the challenger is worse there.

Rows are counted by the combined code of their groups and their day, so a pair of features costs a few passes over the
rows. Thousands of slices are looked at, and chance makes some look bad: p-values are Holm's, one family for slices of
one feature and one for those of two. After Chung et al., "Slice Finder: Automated Data Slicing for Model Validation",
ICDE 2019, which searches the same lattice; up to two features it is small enough to be looked at as a whole.
"""

from collections.abc import Sequence
from itertools import combinations
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from pipelines.evaluation.groups import Codes, Grouping
from pipelines.statistics.clustered import Means, clustered_means
from pipelines.statistics.family_wise import holm_adjusted

Floats = NDArray[np.float64]


class Found(NamedTuple):
    """A slice that was looked at: the rows that are in each of its groups, and its adjusted p-value."""

    members: tuple[tuple[Grouping, int], ...]
    p_value: float
    t: float

    @property
    def name(self) -> str:
        return " and ".join(grouping.title(code) for grouping, code in self.members)

    def rows(self) -> NDArray[np.bool_]:
        """Which rows are in it."""
        masks = [grouping.codes == code for grouping, code in self.members]
        inside: NDArray[np.bool_] = np.logical_and.reduce(masks)
        return inside


class Differences:
    """A value for each row, ready to be averaged by slice with days as blocks."""

    def __init__(self, values: Floats, days: NDArray[np.int64]) -> None:
        self.values, self.squares = values, values**2
        names, self._day = np.unique(days, return_inverse=True)
        self._days = len(names)

    def means(self, cells: Codes, count: int, wanted: NDArray[np.int64]) -> Means:
        """The means of the `wanted` cells; `cells` has the cell of each row, below `count`."""
        places = cells * self._days + self._day
        shape = (count, self._days)
        sums = np.bincount(places, self.values, minlength=count * self._days).reshape(shape)[wanted]
        rows = np.bincount(places, minlength=count * self._days).reshape(shape)[wanted]
        squares = np.bincount(cells, self.squares, minlength=count)[wanted]
        return clustered_means(sums.astype(np.float64), rows.astype(np.float64), squares.astype(np.float64))


def search_one(
    differences: Differences, groupings: Sequence[Grouping], minimum_rows: int, minimum_days: int, margin: float
) -> list[Found]:
    """The slices of one feature with enough rows on enough days."""
    tested = _Tested(margin, minimum_days)
    for grouping in groupings:
        large = _large(grouping, minimum_rows)
        if len(large.kept):
            means = differences.means(grouping.codes, len(grouping.names), large.kept)
            tested.add(means, [((grouping, code),) for code in large.kept.tolist()])
    return tested.found()


def search_two(
    differences: Differences, groupings: Sequence[Grouping], minimum_rows: int, minimum_days: int, margin: float
) -> list[Found]:
    """The slices of two features with enough rows on enough days, and fewer than either of its groups has alone."""
    tested = _Tested(margin, minimum_days)
    for first, second in combinations([_large(grouping, minimum_rows) for grouping in groupings], 2):
        if not len(first.kept) or not len(second.kept):
            continue
        width = len(second.kept) + 1
        count = (len(first.kept) + 1) * width
        cells = first.places * width + second.places
        rows = np.bincount(cells, minlength=count).reshape(-1, width)
        smaller = (rows < rows.sum(axis=1, keepdims=True)) & (rows < rows.sum(axis=0, keepdims=True))
        enough = (rows >= minimum_rows) & smaller
        enough[-1, :] = enough[:, -1] = False  # the last place holds the rows of all small groups
        wanted = np.flatnonzero(enough)
        if len(wanted):
            members = [
                ((first.grouping, int(first.kept[cell // width])), (second.grouping, int(second.kept[cell % width])))
                for cell in wanted.tolist()
            ]
            tested.add(differences.means(cells, count, wanted), members)
    return tested.found()


class _Large(NamedTuple):
    """The groups with enough rows (`kept`, but not all rows), numbered by `places`; the last place is the others'."""

    grouping: Grouping
    kept: NDArray[np.int64]
    places: Codes


def _large(grouping: Grouping, minimum_rows: int) -> _Large:
    rows = np.bincount(grouping.codes, minlength=len(grouping.names))
    kept = np.flatnonzero((rows >= minimum_rows) & (rows < len(grouping.codes)))
    place_of = np.full(len(grouping.names), len(kept))
    place_of[kept] = np.arange(len(kept))
    return _Large(grouping, kept, place_of[grouping.codes])


class _Tested:
    """Collects what was looked at; `found` adjusts the p-values for how many that were."""

    def __init__(self, margin: float, minimum_days: int) -> None:
        self._margin, self._minimum_days = margin, minimum_days
        self._members: list[tuple[tuple[Grouping, int], ...]] = []
        self._p: list[float] = []
        self._t: list[float] = []

    def add(self, means: Means, members: Sequence[tuple[tuple[Grouping, int], ...]]) -> None:
        p, t = means.p_above(self._margin), means.t(self._margin)
        for position in np.flatnonzero(means.blocks >= self._minimum_days).tolist():
            self._members.append(members[position])
            self._p.append(float(p[position]))
            self._t.append(float(t[position]))

    def found(self) -> list[Found]:
        adjusted = holm_adjusted(self._p).tolist()
        return [Found(*parts) for parts in zip(self._members, adjusted, self._t, strict=True)]
