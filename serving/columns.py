"""The records of a request that came as columns: encoded by column, and made to records only where somebody looks."""

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, overload

import msgspec
import numpy as np
from numpy.typing import NDArray

from contracts.masking import Mask

Column = Sequence[Any] | NDArray[Any]
_MAXIMUM_KINDS = 256  # of rows, by the names and the order of their fields; what else comes goes as records
_kinds: dict[tuple[str, ...], type[msgspec.Struct]] = {}


class Columns(Sequence[Mapping[str, Any]]):
    """Records by column: each of `by_name` is `rows` long. An array holds no missing value, a list has None for it.

    `typed` are the same rows as msgspec has read them, where it has.
    """

    __slots__ = ("_records", "_rows", "_typed", "by_name")

    def __init__(self, by_name: Mapping[str, Column], rows: int, typed: Sequence[msgspec.Struct] | None = None) -> None:
        self.by_name = by_name
        self._rows = rows
        self._typed = typed
        self._records: list[Mapping[str, Any]] | None = None

    def __len__(self) -> int:
        return self._rows

    @overload
    def __getitem__(self, place: int) -> Mapping[str, Any]: ...
    @overload
    def __getitem__(self, place: slice) -> list[Mapping[str, Any]]: ...
    def __getitem__(self, place: int | slice) -> Mapping[str, Any] | list[Mapping[str, Any]]:
        return self.records[place]

    def __iter__(self) -> Iterator[Mapping[str, Any]]:
        return iter(self.records)

    @property
    def is_typed(self) -> bool:
        """Whether msgspec has read the rows from JSON."""
        return self._typed is not None

    @property
    def records(self) -> list[Mapping[str, Any]]:
        """All rows as records, made once."""
        if self._records is None:
            self._records = [dict(zip(self.by_name, row, strict=True)) for row in zip(*self._lists(), strict=True)]
        return self._records

    def values_of_row(self, row: int) -> list[Any]:
        """The values of one row, without a record for it."""
        return [each[row].item() if isinstance(each, np.ndarray) else each[row] for each in self.by_name.values()]

    def part(self, rows: Sequence[int]) -> Mapping[str, Column]:
        """The columns of `rows`, which ascend."""
        if len(rows) == self._rows:
            return self.by_name
        first, end = rows[0], rows[-1] + 1
        if end - first == len(rows):
            return {name: column[first:end] for name, column in self.by_name.items()}
        return {name: _taken(column, rows) for name, column in self.by_name.items()}

    def values(self, name: str) -> Sequence[Any]:
        """The column `name`, with None where a row, or all of them, lack it."""
        column = self.by_name.get(name)
        if column is None:
            return [None] * self._rows
        return column.tolist() if isinstance(column, np.ndarray) else column

    def masked(self, personal: Sequence[str], mask: Mask) -> "Columns":
        """Columns with the `personal` ones masked; missing values stay missing."""
        hidden = {
            name: [None if value is None else mask.value(value) for value in self.values(name)]
            for name in personal
            if name in self.by_name
        }
        return Columns({**self.by_name, **hidden}, self._rows) if hidden else self

    def texts(self, name: str) -> list[str] | None:
        """The column `name` as texts; None where it is not there, or a value is missing."""
        column = self.by_name.get(name)
        if column is None:
            return None
        values = column.tolist() if isinstance(column, np.ndarray) else column
        return None if None in values else list(map(str, values))

    def _lists(self) -> list[Sequence[Any]]:
        return [each.tolist() if isinstance(each, np.ndarray) else each for each in self.by_name.values()]

    def rows(self) -> Sequence[Any]:
        """The rows as msgspec writes them: their JSON is that of the records, and they take a seventh of the time."""
        if self._typed is not None:
            return self._typed
        kind = _kind_of(tuple(self.by_name))
        return self.records if kind is None else list(map(kind, *self._lists()))


def nan_as_missing(numbers: NDArray[Any]) -> Column:
    """`numbers` as they are; where there is a NaN among them, a list with None in its place."""
    # for argmin a NaN is the least of all: the cheapest way to ask for one
    if len(numbers) and math.isnan(numbers[numbers.argmin()]):
        return [None if math.isnan(value) else value for value in numbers.tolist()]
    return numbers


def _kind_of(names: tuple[str, ...]) -> type[msgspec.Struct] | None:
    found = _kinds.get(names)
    if found is None and len(_kinds) < _MAXIMUM_KINDS and names:
        fields = [f"field_{place}" for place in range(len(names))]  # a column may have a name that is none in Python
        renamed = dict(zip(fields, names, strict=True))
        found = _kinds[names] = msgspec.defstruct("Row", [(field, Any) for field in fields], rename=renamed, gc=False)
    return found


def _taken(column: Column, rows: Sequence[int]) -> Column:
    return column[rows] if isinstance(column, np.ndarray) else [column[row] for row in rows]
