"""Rows in groups by the values of a field: words as they are, numbers between edges, missing values by themselves."""

from collections.abc import Sequence
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from contracts.bundle import Baseline
from contracts.input_schema import InputSchema

MISSING = "missing"
MAXIMUM_GROUPS = 200
FEW_VALUES = 10  # a number with no more values than this is grouped by value
COARSE_EDGES = 4

Codes = NDArray[np.int64]


class Grouping(NamedTuple):
    """The group of each row (`codes`, shape (rows,)), and what each code means; codes without rows may be there."""

    field: str
    names: tuple[str, ...]
    codes: Codes

    def title(self, code: int) -> str:
        return f"{self.field} {self.names[code]}"


def by_word(field: str, values: Sequence[Any]) -> Grouping:
    """Groups of equal values; None is "missing".

    Raises:
        ValueError: there are more than `MAXIMUM_GROUPS` different values: such a field makes no groups.
    """
    texts = np.array([MISSING if value is None else f"= {_word(value)}" for value in values], dtype=object)
    names, codes = np.unique(texts.astype(str), return_inverse=True)
    if len(names) > MAXIMUM_GROUPS:
        raise ValueError(
            f"{field} has {len(names):,} different values, expected at most {MAXIMUM_GROUPS}: choose a field with fewer"
        )
    return Grouping(field, tuple(names.tolist()), codes.astype(np.int64))


def by_code(field: str, codes: NDArray[np.float32], words: Sequence[str]) -> Grouping:
    """Groups of the codes that an encoder gave the `words` of a category; NaN (missing or unseen) is "missing"."""
    known = ~np.isnan(codes)
    whole = np.where(known, np.nan_to_num(codes), len(words)).astype(np.int64)
    return Grouping(field, (*(f"= {word}" for word in words), MISSING), whole)


def by_edges(field: str, values: NDArray[Any], edges: Sequence[float]) -> Grouping:
    """Groups of numbers below, between and from the ascending inner `edges` on; NaN is "missing".

    >>> by_edges("age", np.array([24.0, 25.0, 70.0, np.nan]), (25, 60)).codes.tolist()
    [0, 1, 2, 3]
    """
    inner = np.asarray(edges, dtype=np.float64)
    numbers = np.asarray(values, dtype=np.float64)
    codes = np.where(np.isnan(numbers), len(inner) + 1, np.searchsorted(inner, numbers, "right"))
    return Grouping(field, (*_between(inner), MISSING), codes.astype(np.int64))


def feature_groupings(
    schema: InputSchema, features: NDArray[np.float32], baseline: Baseline, *, coarse: bool = False
) -> list[Grouping]:
    """One grouping for each column of the encoded `features` (rows × columns).

    Categories are grouped by word, numbers between the equal-mass edges of the training rows (every second one, where
    `coarse`), or by value where they have few.
    """
    words = {field.name: field.vocabulary for field in schema.fields if field.kind == "category"}
    found = []
    for position, name in enumerate(schema.columns):
        column = features[:, position]
        if position in schema.categorical:
            found.append(by_code(name, column, words[name]))
        else:
            found.append(by_edges(name, column, _inner_edges(column, baseline.numbers[name].edges, coarse)))
    return found


def _inner_edges(column: NDArray[np.float32], edges: Sequence[float], coarse: bool) -> Sequence[float]:
    """The edges between groups: those of the outermost bins are none."""
    values = np.unique(column[~np.isnan(column)])
    if len(values) <= FEW_VALUES:
        return [float(value) for value in values[1:]]
    inner = tuple(edges[1:-1]) or tuple(float(np.nextafter(edge, np.inf)) for edge in edges[:1])
    return inner[1::2] if coarse and len(inner) > COARSE_EDGES else inner


def _between(inner: NDArray[np.float64]) -> list[str]:
    if not len(inner):
        return ["present"]
    if len(inner) == 1 and (value := _just_below(float(inner[0]))) is not None:
        return [f"<= {value:g}", f"> {value:g}"]
    texts = [f"{edge:g}" for edge in inner.tolist()]
    middle = [f"{low} … {high}" for low, high in pairwise(texts)]
    return [f"< {texts[0]}", *middle, f">= {texts[-1]}"]


def _just_below(edge: float) -> float | None:
    """The value whose next number the `edge` is (see `_inner_edges`), or None: `> 0` is better than `>= 4.9e-324`."""
    below = float(np.nextafter(edge, -np.inf))
    is_step = below == float(f"{below:g}") and (edge != float(f"{edge:g}") or abs(edge) < np.finfo(np.float64).tiny)
    return below if is_step else None


def _word(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)
