"""What a snapshot must be like before anything is trained on it, as expectations that follow from a project's rules and
its declared schema. Pure; `pipelines.data.validation` has Great Expectations check them."""

from collections.abc import Iterator
from typing import Any

import msgspec

from contracts.input_schema import Field
from pipelines.data.rules import Level, ValidationRules
from pipelines.data.schema import PART_COLUMN, DeclaredSchema, Label

# bounds that differ from run to run are parameters, so that the stored suite changes only with the project
ROWS_MINIMUM, ROWS_MAXIMUM = "rows_minimum", "rows_maximum"
_COMPARISON = {"type": "comparison", "operator": "=="}  # how Great Expectations writes a condition on rows
# pandas' names of what the columns of a snapshot become; a column of whole numbers with gaps becomes float64
_TYPES: dict[str, tuple[str, ...]] = {
    "number": ("int64", "int32", "float64", "float32"),
    "category": ("str",),
    "boolean": ("bool",),
    "timestamp": tuple(f"datetime64[{unit}]" for unit in ("s", "ms", "us", "ns")),
    "identifier": ("str", "int64", "int32"),
}


class Expectation(msgspec.Struct, frozen=True):
    """One expectation: Great Expectations' name of its kind, its arguments, and what its failure does."""

    kind: str
    arguments: dict[str, Any]
    level: Level = "error"


def expectations(declared: DeclaredSchema, label: Label, rules: ValidationRules) -> tuple[Expectation, ...]:
    """Everything that a snapshot of this project is checked for."""
    return (
        *_about_rows(declared, rules),
        *_about_label(label, rules),
        *(expected for field in declared.fields for expected in _about_field(field, rules)),
    )


def row_bounds(days: int, previous_rows: int | None, rules: ValidationRules) -> dict[str, int]:
    """The parameters of the row count for windows of `days`; `previous_rows` is what the previous snapshot had, or
    would have had over as many days."""
    least, most = rules.minimum_rows_per_day * days, None
    if previous_rows is not None:
        least, most = max(least, rules.rows_ratio_minimum * previous_rows), rules.rows_ratio_maximum * previous_rows
    unlimited = 1 << 53
    return {ROWS_MINIMUM: round(least), ROWS_MAXIMUM: unlimited if most is None else round(most)}


def _about_rows(declared: DeclaredSchema, rules: ValidationRules) -> Iterator[Expectation]:
    bounds = {"min_value": {"$PARAMETER": ROWS_MINIMUM}, "max_value": {"$PARAMETER": ROWS_MAXIMUM}}
    yield Expectation("expect_table_row_count_to_be_between", bounds)
    held_out = rules.minimum_held_out_rows
    least = {"train": rules.minimum_train_rows, "validation": held_out, "test": held_out}
    for part, rows in least.items():
        only = {"row_condition": {**_COMPARISON, "column": {"name": PART_COLUMN}, "parameter": part}}
        yield Expectation("expect_table_row_count_to_be_between", {"min_value": rows, "max_value": None, **only})
    parts = list(least)
    yield Expectation("expect_column_distinct_values_to_equal_set", {"column": PART_COLUMN, "value_set": parts})
    if len(declared.key) == 1:
        yield Expectation("expect_column_values_to_be_unique", {"column": declared.key[0]})
    else:
        yield Expectation("expect_compound_columns_to_be_unique", {"column_list": list(declared.key)})


def _about_label(label: Label, rules: ValidationRules) -> Iterator[Expectation]:
    column = {"column": label.column}
    yield Expectation("expect_column_to_exist", column)
    yield Expectation("expect_column_values_to_not_be_null", column)
    yield Expectation("expect_column_values_to_be_in_set", {**column, "value_set": [0, 1]})
    share = {"min_value": rules.label_share_minimum, "max_value": rules.label_share_maximum}
    yield Expectation("expect_column_mean_to_be_between", {**column, **share})


def _about_field(field: Field, rules: ValidationRules) -> Iterator[Expectation]:
    column = {"column": field.name}
    yield Expectation("expect_column_to_exist", column)
    yield Expectation("expect_column_values_to_be_in_type_list", {**column, "type_list": list(_TYPES[field.kind])})
    if field.required:
        yield Expectation("expect_column_values_to_not_be_null", column)
    else:
        usual = min(rules.missing_shares.get(field.name, rules.missing_share_warning), 1.0)
        most = max(usual, rules.missing_share_maximum)
        kind = "expect_column_values_to_not_be_null"
        yield Expectation(kind, {**column, "mostly": round(1 - usual, 6)}, "warning")
        yield Expectation(kind, {**column, "mostly": round(1 - most, 6)})
    if field.minimum is not None or field.maximum is not None:
        mostly = 1.0 if field.outside == "reject" else round(1 - rules.outside_share_maximum, 6)
        bounds = {"min_value": field.minimum, "max_value": field.maximum, "mostly": mostly}
        yield Expectation("expect_column_values_to_be_between", {**column, **bounds})
    if field.vocabulary:
        reject = field.unseen == "reject"
        mostly = 1.0 if reject else round(1 - rules.unseen_share_warning, 6)
        words = {"value_set": list(field.vocabulary), "mostly": mostly}
        yield Expectation("expect_column_values_to_be_in_set", {**column, **words}, "error" if reject else "warning")
