"""What is wrong with a snapshot by itself, where an expectation of one column cannot tell: days without rows or labels,
a part with one outcome only, infinite numbers, fields with one value, vocabularies that exploded. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import date, timedelta
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from contracts.input_schema import Field
from pipelines.data.profile import fits, label_mean, numbers_of
from pipelines.data.rules import Failure, Level, ValidationRules
from pipelines.data.schema import PART_COLUMN, DeclaredSchema, Label
from pipelines.data.windows import Window, Windows

if TYPE_CHECKING:
    import pyarrow as pa

LABELLED_DAYS, EMPTY_DAYS, FULL_DAYS, CLASSES = (
    "labels each day",
    "rows each day",
    "usual rows each day",
    "both outcomes",
)
FINITE, CONSTANT, VOCABULARY, RARE_WORDS = (
    "finite numbers",
    "more than one value",
    "room for each word",
    "words, not names",
)
FUTURE = "no time after the as-of"
_USUAL_ROWS_MINIMUM = 10  # of a day of the week: below it a day without rows is chance
_DAYS_SHOWN = 5
_WEEK = 7


def faults(
    table: pa.Table, windows: Windows, declared: DeclaredSchema, label: Label, rules: ValidationRules
) -> tuple[Failure, ...]:
    """The faults of a snapshot's rows, with the days, parts and fields that have them."""
    has_label = label.column in table.column_names
    of_fields = (fault for field in declared.fields for fault in _of_field(table, field, declared, windows, rules))
    return (
        *_of_days(table, windows.whole, declared.time, rules),
        *(_of_labels(table, declared.time, label) if has_label else ()),
        *(_of_classes(table, windows, label, rules) if has_label else ()),
        *of_fields,
    )


def _of_days(table: pa.Table, window: Window, time: str, rules: ValidationRules) -> Iterator[Failure]:
    first = np.datetime64(window.start, "D")
    rows = np.bincount((_days(table, time) - first).astype(np.int64), minlength=window.days)
    days = [window.start + timedelta(days=number) for number in range(window.days)]
    weekday = np.arange(window.days) % _WEEK
    usual = np.array([np.median(rows[weekday == day]) for day in range(min(_WEEK, window.days))])[weekday]
    empty = [day for day, is_empty in zip(days, (rows == 0) & (usual >= _USUAL_ROWS_MINIMUM), strict=True) if is_empty]
    if empty:
        found = f"no row on {_listed(empty)}"
        yield _fault(EMPTY_DAYS, None, found, "rows, as other such days of the week have", rules.empty_days)
    full = (rows > rules.day_rows_ratio_maximum * usual) & (usual >= _USUAL_ROWS_MINIMUM)
    if full.any():
        most = int(np.argmax(np.where(full, rows / np.maximum(usual, 1), 0)))
        found = f"{rows[most]:,} rows on {days[most]}" + (f" and {full.sum() - 1} such days" if full.sum() > 1 else "")
        limit = f"at most {rules.day_rows_ratio_maximum:g} times the {usual[most]:,.0f} that are usual"
        yield _fault(FULL_DAYS, None, found, limit)


def _of_labels(table: pa.Table, time: str, label: Label) -> Iterator[Failure]:
    column = table.column(label.column)
    if not column.null_count:
        return
    is_missing = np.asarray(column.is_null().to_numpy(), dtype=bool)
    days, position = np.unique(_days(table, time), return_inverse=True)
    without = np.bincount(position, weights=is_missing) == np.bincount(position)
    if without.any():
        found = f"no label at all on {_listed([day.astype(object) for day in days[without]])}"
        yield _fault(
            LABELLED_DAYS, label.column, found, f"that labels are known {label.delay_days} days after the event"
        )


def _of_classes(table: pa.Table, windows: Windows, label: Label, rules: ValidationRules) -> Iterator[Failure]:
    import pyarrow.compute as pc

    for part in windows.by_part():
        rows = table.filter(pc.equal(table.column(PART_COLUMN), part))
        mean = label_mean(rows, label)
        if mean is None:
            continue  # no row, no label or no number: another expectation says so
        labelled = rows.num_rows - rows.column(label.column).null_count
        happened = round(mean * labelled)
        if min(happened, labelled - happened) < rules.minimum_class_rows:
            found = f"{happened:,} of {labelled:,} {part} rows with the outcome 1"
            yield _fault(CLASSES, label.column, found, f"at least {rules.minimum_class_rows} rows of each outcome")


def _of_field(
    table: pa.Table, field: Field, declared: DeclaredSchema, windows: Windows, rules: ValidationRules
) -> Iterator[Failure]:
    if field.name not in table.column_names or not fits(field, table.schema.field(field.name).type):
        return
    column = table.column(field.name)
    if field.kind == "number" and (infinite := int(np.isinf(numbers_of(column)).sum())):
        yield _fault(FINITE, field.name, f"{infinite:,} of {len(column):,} rows are infinite", "finite numbers")
    if field.kind == "timestamp" and field.name != declared.time:
        yield from _of_moments(column, field, windows.as_of)
    if field.columns and (only := _only_value(column, field)) is not None:
        value = "one value" if field.personal else only
        yield _fault(CONSTANT, field.name, f"{value} in all rows that have a value", "some that differ", "warning")
    if field.kind == "category" and not field.vocabulary:
        yield from _of_words(column, field, declared.vocabulary_size, rules.rare_words_share_maximum)


def _only_value(column: pa.ChunkedArray, field: Field) -> str | None:
    """The value that all rows have that have one; None where they differ, or none has one."""
    import pyarrow.compute as pc

    if field.kind == "category":
        words = column.drop_null().unique().to_pylist()
        return words[0] if len(words) == 1 else None
    lowest, highest = pc.min_max(pc.drop_null(column)).as_py().values()
    return None if lowest is None or lowest != highest else str(lowest)


def _of_moments(column: pa.ChunkedArray, field: Field, as_of: date) -> Iterator[Failure]:
    import pyarrow as pa
    import pyarrow.compute as pc

    later = pc.sum(pc.greater_equal(column, pa.scalar(as_of).cast(column.type))).as_py() or 0
    if later:
        found = f"{later:,} of {len(column):,} rows lie after {as_of}"
        yield _fault(FUTURE, field.name, found, "times that are known when the labels are", "warning")


def _of_words(column: pa.ChunkedArray, field: Field, size: int, rare_maximum: float) -> Iterator[Failure]:
    counts = np.sort(np.array([pair["counts"] for pair in column.drop_null().value_counts().to_pylist()]))[::-1]
    rows = max(1, int(counts.sum()))
    once = float((counts == 1).sum()) / rows
    if once > rare_maximum:
        found = f"{once:.1%} of the rows with a word that no other row has"
        yield _fault(RARE_WORDS, field.name, found, f"at most {rare_maximum:.0%}; an identifier is no category")
    elif len(counts) > size:
        others = counts[size:].sum() / rows
        found = f"{len(counts):,} words, the rarest of them in {others:.1%} of the rows"
        yield _fault(VOCABULARY, field.name, found, f"at most {size}: rarer words count as missing", "warning")


def _days(table: pa.Table, time: str) -> NDArray[np.datetime64]:
    return np.asarray(table.column(time).to_numpy(zero_copy_only=False), dtype="datetime64[D]")


def _listed(days: Sequence[date]) -> str:
    more = f" and {len(days) - _DAYS_SHOWN} more days" if len(days) > _DAYS_SHOWN else ""
    return ", ".join(str(day) for day in days[:_DAYS_SHOWN]) + more


def _fault(what: str, column: str | None, found: str, expected: str, level: Level = "error") -> Failure:
    return Failure(expectation=what, column=column, found=found, expected=expected, level=level)
