"""Rows that no data set has and a server may get all the same: the corners of what the encoder can hand to a graph."""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from contracts.input_schema import Field, InputSchema

BASE_ROWS = 4  # real rows that each alteration is tried on
FAR_OUTSIDE = 1e6  # ranges of the column beyond its maximum and minimum
_LARGEST = float(np.finfo(np.float32).max)
_SMALLEST_NORMAL = float(np.finfo(np.float32).tiny)
_SMALLEST = float(np.finfo(np.float32).smallest_subnormal)


class Alteration(NamedTuple):
    """What was done to a real row: `column` (None for all of them) was set to what `value` says."""

    column: str | None
    value: str
    base_row: int

    def __str__(self) -> str:
        where = "all columns" if self.column is None else f"column {self.column}"
        return f"{where}: {self.value}, on row {self.base_row}"


class EdgeRows(NamedTuple):
    """Altered rows (float32, rows × columns), and what was done to each."""

    features: NDArray[np.float32]
    alterations: tuple[Alteration, ...]


def edge_rows(schema: InputSchema, real: NDArray[np.float32]) -> EdgeRows:
    """Alters `BASE_ROWS` of the `real` rows (rows × columns): each column alone, then all of them at once.

    A number becomes missing, zero, its minimum and maximum (those of the schema, or else of the real rows), far outside
    of both, and the largest, the smallest normal and the smallest float32 on both sides of zero. A code becomes
    missing, the first, the last, and the one after it, which no word has. An infinity is not among them: the encoder
    refuses it, or takes it as missing.

    Raises:
        ValueError: there are no real rows, or of another width.
    """
    if real.ndim != 2 or not len(real) or real.shape[1] != len(schema.columns):
        raise ValueError(f"found rows of the shape {real.shape}, expected (1 or more, {len(schema.columns)})")
    bases = np.unique(np.linspace(0, len(real) - 1, BASE_ROWS).astype(int))
    values = [_values(schema, position, real[:, position]) for position in range(real.shape[1])]
    rows: list[NDArray[np.float32]] = []
    alterations: list[Alteration] = []
    for base in bases.tolist():
        for column, title, change in _changes(schema, values):
            row = real[base].copy()
            for position, value in change:
                row[position] = value
            rows.append(row)
            alterations.append(Alteration(column, title, base))
    return EdgeRows(np.stack(rows), tuple(alterations))


def _changes(
    schema: InputSchema, values: list[dict[str, float]]
) -> Iterator[tuple[str | None, str, list[tuple[int, float]]]]:
    """Column, title, and the new values by position: of each column alone, then of all that can be so."""
    for position, (column, of_column) in enumerate(zip(schema.columns, values, strict=True)):
        for title, value in of_column.items():
            yield column, title, [(position, value)]
    for title in dict.fromkeys(title for of_column in values for title in of_column):
        yield None, title, [(position, found[title]) for position, found in enumerate(values) if title in found]


def _values(schema: InputSchema, position: int, real: NDArray[np.float32]) -> dict[str, float]:
    """What a column becomes, by what that is called."""
    if position in schema.categorical:
        codes = schema.categorical[position]
        return {"missing": np.nan, "first code": 0.0, "last code": codes - 1.0, "unseen code": float(codes)}
    low, high = _range(_field(schema, position), real)
    reach = FAR_OUTSIDE * max(high - low, 1.0)
    return {
        "missing": np.nan,
        "zero": 0.0,
        "minimum": low,
        "maximum": high,
        "far below": max(low - reach, -_LARGEST),
        "far above": min(high + reach, _LARGEST),
        "largest float32": _LARGEST,
        "largest negative float32": -_LARGEST,
        "smallest normal float32": _SMALLEST_NORMAL,
        "smallest float32": _SMALLEST,
        "smallest negative float32": -_SMALLEST,
    }


def _range(field: Field, real: NDArray[np.float32]) -> tuple[float, float]:
    present = real[~np.isnan(real)]
    low, high = (float(present.min()), float(present.max())) if len(present) else (0.0, 0.0)
    return low if field.minimum is None else field.minimum, high if field.maximum is None else field.maximum


def _field(schema: InputSchema, position: int) -> Field:
    column = schema.columns[position]
    return next(field for field in schema.fields if column in field.columns)
