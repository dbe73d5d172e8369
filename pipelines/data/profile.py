"""What the rows of a snapshot look like, in a few numbers for each field: what the next snapshot is compared with.

A profile has no values of single rows: of words only those that `WORD_ROWS_MINIMUM` rows share. It is small enough for
the ledger, which keeps that of each accepted snapshot. Pure.
"""

from __future__ import annotations

from datetime import date
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from contracts.input_schema import Field
from pipelines.data.schema import PART_COLUMN, DeclaredSchema, Label
from pipelines.data.windows import Windows

if TYPE_CHECKING:
    import pyarrow as pa

WORDS_KEPT, WORD_ROWS_MINIMUM = 60, 5
_DIGITS = 6
_HOURS = 24


class Numbers(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True, tag="numbers"):
    """A field of numbers: over the finite values, except `missing`, a share of all rows."""

    missing: float
    mean: float
    standard_deviation: float


class Words(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True, tag="words"):
    """A field of words, or of true and false: `shares` of the most frequent among the rows that have a value, how many
    words there are (`distinct`), and which share of those rows has a word that occurs `once`."""

    missing: float
    shares: dict[str, float]
    distinct: int
    once: float


class Times(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True, tag="times"):
    """A field of times: the share of each of the 24 hours among the rows that have a value."""

    missing: float
    hours: tuple[float, ...]


FieldProfile = Numbers | Words | Times


class PartProfile(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Some rows of a snapshot. `label_share` is None where no row has a label."""

    rows: int
    label_share: float | None
    fields: dict[str, FieldProfile]


class Profile(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A snapshot: all its rows, and the newest of them (its test window), by themselves."""

    windows: Windows
    whole: PartProfile
    newest: PartProfile


def profile(table: pa.Table, windows: Windows, declared: DeclaredSchema, label: Label) -> Profile:
    """The profile of a snapshot's rows.

    Fields without a column, and columns of another type than their field's, are left out: validation names them.
    Identifiers are left out as well: none is like another.
    """
    import pyarrow.compute as pc

    newest = table.filter(pc.equal(table.column(PART_COLUMN), "test"))
    return Profile(windows=windows, whole=_part(table, declared, label), newest=_part(newest, declared, label))


def numbers_of(column: pa.ChunkedArray) -> NDArray[np.float64]:
    """The values of a column of numbers that are there, infinite ones too; NaN is none."""
    values = np.asarray(column.drop_null().to_numpy(), dtype=np.float64)
    return values[~np.isnan(values)]


def fits(field: Field, kind: pa.DataType) -> bool:
    """Whether a column of this type can be profiled as `field`."""
    import pyarrow.types as types

    if field.kind == "number":
        return bool(types.is_integer(kind) or types.is_floating(kind))
    if field.kind == "category":
        return bool(types.is_string(kind) or types.is_large_string(kind))
    if field.kind == "boolean":
        return bool(types.is_boolean(kind))
    return field.kind == "timestamp" and bool(types.is_timestamp(kind))


def label_mean(rows: pa.Table, label: Label) -> float | None:
    """The share of rows with the outcome 1 among those with a label; None where there is none, or no number."""
    import pyarrow.compute as pc
    import pyarrow.types as types

    if label.column not in rows.column_names:
        return None
    column = rows.column(label.column)
    is_number = types.is_boolean(column.type) or types.is_integer(column.type) or types.is_floating(column.type)
    mean = pc.mean(column).as_py() if is_number else None
    return None if mean is None else float(mean)


def _part(rows: pa.Table, declared: DeclaredSchema, label: Label) -> PartProfile:
    fields = {
        field.name: _field(field, rows.column(field.name))
        for field in declared.fields
        if field.name in rows.column_names and fits(field, rows.schema.field(field.name).type)
    }
    return PartProfile(rows=rows.num_rows, label_share=_rounded(label_mean(rows, label)), fields=fields)


def _field(field: Field, column: pa.ChunkedArray) -> FieldProfile:
    if field.kind == "number":
        return _numbers(column)
    return _times(column) if field.kind == "timestamp" else _words(column)


def _numbers(column: pa.ChunkedArray) -> Numbers:
    values = numbers_of(column)
    missing = 1 - len(values) / max(1, len(column))
    values = values[np.isfinite(values)]
    if not len(values):
        return Numbers(missing=_short(missing), mean=0.0, standard_deviation=0.0)
    return Numbers(missing=_short(missing), mean=_short(values.mean()), standard_deviation=_short(values.std()))


def _words(column: pa.ChunkedArray) -> Words:
    present = column.drop_null()
    counted = sorted((-pair["counts"], str(pair["values"])) for pair in present.value_counts().to_pylist())
    rows = max(1, len(present))
    return Words(
        missing=_short(1 - len(present) / max(1, len(column))),
        shares={word: _short(-count / rows) for count, word in counted[:WORDS_KEPT] if -count >= WORD_ROWS_MINIMUM},
        distinct=len(counted),
        once=_short(sum(count == -1 for count, _ in counted) / rows),
    )


def _times(column: pa.ChunkedArray) -> Times:
    import pyarrow.compute as pc

    present = column.drop_null()
    hours = np.bincount(pc.hour(present).to_numpy(), minlength=_HOURS) / max(1, len(present))
    return Times(missing=_short(1 - len(present) / max(1, len(column))), hours=tuple(_short(share) for share in hours))


def _rounded(value: float | None) -> float | None:
    return None if value is None else _short(value)


def _short(value: Any) -> float:
    """Rounded, so that a profile is short in the ledger; far more digits than any limit looks at."""
    return float(f"{float(value):.{_DIGITS}g}")


def days_apart(profile: Profile, other: Profile) -> int:
    """How many days lie between the ends of the two newest windows."""
    return abs((profile.windows.test.end - other.windows.test.end).days)


def shared_days(profile: Profile, other: Profile) -> float:
    """The days that both snapshots have, as a share of the days that one of them has."""
    ours, theirs = profile.windows.whole, other.windows.whole
    start, end = max(ours.start, theirs.start), min(ours.end, theirs.end)
    first, last = min(ours.start, theirs.start), max(ours.end, theirs.end)
    return max(0, _days(start, end)) / _days(first, last)


def _days(start: date, end: date) -> int:
    return (end - start).days
