"""The records of a request that came as columns: encoded by column, and made to records only where somebody looks."""

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, overload

import numpy as np
from numpy.typing import NDArray

Column = Sequence[Any] | NDArray[Any]


class Columns(Sequence[Mapping[str, Any]]):
    """Records by column: each of `by_name` is `rows` long. An array holds no missing value, a list has None for it."""

    __slots__ = ("_records", "_rows", "by_name")

    def __init__(self, by_name: Mapping[str, Column], rows: int) -> None:
        self.by_name = by_name
        self._rows = rows
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
    def records(self) -> list[Mapping[str, Any]]:
        """All rows as records, made once."""
        if self._records is None:
            self._records = [dict(zip(self.by_name, row, strict=True)) for row in zip(*self._lists(), strict=True)]
        return self._records

    def part(self, rows: Sequence[int]) -> Mapping[str, Column]:
        """The columns of `rows`, which ascend."""
        if len(rows) == self._rows:
            return self.by_name
        first, end = rows[0], rows[-1] + 1
        if end - first == len(rows):
            return {name: column[first:end] for name, column in self.by_name.items()}
        return {name: _taken(column, rows) for name, column in self.by_name.items()}

    def texts(self, name: str) -> list[str] | None:
        """The column `name` as texts; None where it is not there, or a value is missing."""
        column = self.by_name.get(name)
        if column is None:
            return None
        values = column.tolist() if isinstance(column, np.ndarray) else column
        return None if None in values else list(map(str, values))

    def _lists(self) -> list[Sequence[Any]]:
        return [each.tolist() if isinstance(each, np.ndarray) else each for each in self.by_name.values()]


def nan_as_missing(numbers: NDArray[Any]) -> Column:
    """`numbers` as they are; where there is a NaN among them, a list with None in its place."""
    # for argmin a NaN is the least of all: the cheapest way to ask for one
    if len(numbers) and math.isnan(numbers[numbers.argmin()]):
        return [None if math.isnan(value) else value for value in numbers.tolist()]
    return numbers


def _taken(column: Column, rows: Sequence[int]) -> Column:
    return column[rows] if isinstance(column, np.ndarray) else [column[row] for row in rows]
