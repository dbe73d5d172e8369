"""Whether the past was rewritten: events that the last accepted snapshot had as well must be as they were there.

A source that changes a unit, a join or a time zone changes it for all its history, and then each row of it differs,
however little the averages move. Days that only one of the two snapshots has are not looked at. Pure.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from pipelines.data.rules import Failure, ShiftRules
from pipelines.data.schema import PART_COLUMN
from pipelines.data.windows import Window, Windows

if TYPE_CHECKING:
    import pyarrow as pa

ROWS, VALUES = "the same past events", "the same past values"
NAMES = (ROWS, VALUES)
_RELATIVE_TOLERANCE = 1e-6  # a source may store float32 one day, and float64 the next


def rewritten(
    found: tuple[pa.Table, Windows], accepted: tuple[pa.Table, Windows], time: str, rules: ShiftRules
) -> tuple[Failure, ...]:
    """The ways in which the days that both snapshots have differ, in more of the rows than `rules.rewritten` allows.

    The rows of a day are compared in their order, which is the same for the same events.
    """
    window = _shared(found[1].whole, accepted[1].whole)
    if window is None:
        return ()
    now, before = _of_window(found[0], time, window), _of_window(accepted[0], time, window)
    counts = [_rows_by_day(table, time, window) for table in (now, before)]
    same = counts[0] == counts[1]
    told = list(_about_rows(counts, same, window, rules))
    kept = [table.filter(_mask(same[_day_numbers(table, time, window)])) for table in (now, before)]
    for name in before.column_names:
        if name in now.column_names and name != PART_COLUMN and kept[0].num_rows:
            told.extend(_about_column(name, kept[0].column(name), kept[1].column(name), window, rules))
    return tuple(told)


def _about_rows(
    counts: list[NDArray[np.int64]], same: NDArray[np.bool_], window: Window, rules: ShiftRules
) -> Iterator[Failure]:
    share = 1 - float(same.mean())
    if share > rules.rewritten:
        found = f"{(~same).sum():,} of {window.days} days with another number of rows ({counts[0].sum():,} in all)"
        yield _failure(ROWS, None, found, f"{counts[1].sum():,} rows", window, rules)


def _about_column(
    name: str, now: pa.ChunkedArray, before: pa.ChunkedArray, window: Window, rules: ShiftRules
) -> Iterator[Failure]:
    if now.type != before.type and not (_is_number(now.type) and _is_number(before.type)):
        return  # another expectation names the type
    share = float(_differs(now, before).mean())
    if share > rules.rewritten:
        yield _failure(VALUES, name, f"another value in {share:.1%} of the rows", "the values", window, rules)


def _differs(now: pa.ChunkedArray, before: pa.ChunkedArray) -> NDArray[np.bool_]:
    import pyarrow.compute as pc

    if not _is_number(now.type):
        either = pc.or_(pc.is_null(now), pc.is_null(before))
        unequal = pc.if_else(either, pc.xor(pc.is_null(now), pc.is_null(before)), pc.not_equal(now, before))
        return _array(unequal).astype(bool)
    ours, theirs = (_array(column).astype(np.float64) for column in (now, before))
    return ~np.isclose(ours, theirs, rtol=_RELATIVE_TOLERANCE, atol=0, equal_nan=True)


def _is_number(kind: pa.DataType) -> bool:
    import pyarrow.types as types

    return bool(types.is_integer(kind) or types.is_floating(kind))


def _shared(first: Window, second: Window) -> Window | None:
    start, end = max(first.start, second.start), min(first.end, second.end)
    return Window(start, end) if start < end else None


def _of_window(table: pa.Table, time: str, window: Window) -> pa.Table:
    days = _array(table.column(time)).astype("datetime64[D]")
    return table.filter(_mask((days >= np.datetime64(window.start)) & (days < np.datetime64(window.end))))


def _day_numbers(table: pa.Table, time: str, window: Window) -> NDArray[np.int64]:
    days = _array(table.column(time)).astype("datetime64[D]")
    return (days - np.datetime64(window.start, "D")).astype(np.int64)


def _rows_by_day(table: pa.Table, time: str, window: Window) -> NDArray[np.int64]:
    return np.bincount(_day_numbers(table, time, window), minlength=window.days).astype(np.int64)


def _array(column: pa.ChunkedArray) -> NDArray[Any]:
    return np.asarray(column.to_numpy())


def _mask(chosen: NDArray[np.bool_]) -> pa.Array:
    import pyarrow as pa

    return pa.array(chosen)


def _failure(what: str, column: str | None, found: str, expected: str, window: Window, rules: ShiftRules) -> Failure:
    return Failure(
        expectation=what,
        column=column,
        found=f"{found} of {window}",
        expected=f"{expected} of the last accepted snapshot (limit {rules.rewritten:.0%})",
        level=rules.level,
    )
