from typing import Any

import msgspec
import pytest

from contracts.input_schema import Field
from pipelines.data.expectations import Expectation, expectations, row_bounds
from pipelines.data.rules import ValidationRules
from pipelines.data.schema import DeclaredSchema, Label


def about(found: tuple[Expectation, ...], column: str, kind: str) -> list[tuple[dict[str, Any], str]]:
    return [
        ({name: value for name, value in expected.arguments.items() if name != "column"}, expected.level)
        for expected in found
        if expected.arguments.get("column") == column and expected.kind == kind
    ]


def test_every_declared_column_and_the_label_must_exist(declared: DeclaredSchema, label: Label) -> None:
    found = expectations(declared, label, ValidationRules())
    existing = [item.arguments["column"] for item in found if item.kind == "expect_column_to_exist"]
    assert sorted(existing) == sorted((*declared.names, "late"))


def test_a_required_field_has_no_gap_and_an_optional_one_warns_before_it_stops(
    declared: DeclaredSchema, label: Label
) -> None:
    rules = ValidationRules(missing_shares={"wind_kmh": 0.1}, missing_share_maximum=0.4)
    found, kind = expectations(declared, label, rules), "expect_column_values_to_not_be_null"
    assert about(found, "distance_km", kind) == [({}, "error")]
    assert about(found, "wind_kmh", kind) == [({"mostly": 0.9}, "warning"), ({"mostly": 0.6}, "error")]


def test_what_the_schema_rejects_must_not_occur_and_what_it_forgives_may_be_rare(
    declared: DeclaredSchema, label: Label
) -> None:
    found = expectations(declared, label, ValidationRules(outside_share_maximum=0.01))
    between, in_set = "expect_column_values_to_be_between", "expect_column_values_to_be_in_set"
    assert about(found, "distance_km", between) == [({"min_value": 0, "max_value": 500, "mostly": 1.0}, "error")]
    assert about(found, "wind_kmh", between) == [({"min_value": 0, "max_value": 200, "mostly": 0.99}, "error")]
    assert about(found, "depot", in_set) == [({"value_set": ["north", "south"], "mostly": 1.0}, "error")]
    assert about(found, "town", in_set) == []
    forgiving = msgspec.structs.replace(
        declared, fields=(*declared.fields, Field(name="size", kind="category", vocabulary=("s", "l")))
    )
    assert about(expectations(forgiving, label, ValidationRules()), "size", in_set) == [
        ({"value_set": ["s", "l"], "mostly": 0.99}, "warning")
    ]


def test_a_key_of_one_field_is_unique_by_itself(declared: DeclaredSchema, label: Label) -> None:
    single = msgspec.structs.replace(declared, key=("parcel",))
    assert about(expectations(single, label, ValidationRules()), "parcel", "expect_column_values_to_be_unique")
    kinds = [expected.kind for expected in expectations(declared, label, ValidationRules())]
    assert "expect_compound_columns_to_be_unique" in kinds


def test_bounds_of_the_row_count_follow_the_previous_snapshot_and_the_minimum() -> None:
    rules = ValidationRules(minimum_rows_per_day=10, rows_ratio_minimum=0.5, rows_ratio_maximum=1.5)
    assert row_bounds(30, 1000, rules) == {"rows_minimum": 500, "rows_maximum": 1500}
    assert row_bounds(30, 400, rules) == {"rows_minimum": 300, "rows_maximum": 600}
    without = row_bounds(30, None, rules)
    assert (without["rows_minimum"], without["rows_maximum"]) == (300, 1 << 53)


@pytest.mark.parametrize(
    ("rules", "message"),
    [
        ({"label_share_minimum": 0.6, "label_share_maximum": 0.5}, "label_share_minimum: 0.6 is above"),
        ({"rows_ratio_minimum": 3.0}, "rows_ratio_minimum: 3 is above rows_ratio_maximum, 2"),
        ({"missing_share_warning": 0.9}, "missing_share_warning: 0.9 is above missing_share_maximum, 0.5"),
    ],
)
def test_rules_that_contradict_each_other_are_refused(rules: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ValidationRules(**rules)  # type: ignore[arg-type]
