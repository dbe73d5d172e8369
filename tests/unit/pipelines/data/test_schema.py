from datetime import date
from typing import Any

import msgspec
import pyarrow as pa
import pytest

from contracts.input_schema import Field
from pipelines.data.schema import DeclaredSchema, Label, SchemaError, fit_schema


def test_an_open_vocabulary_is_filled_by_frequency_then_alphabet(declared: DeclaredSchema) -> None:
    towns = ["Dol", "Bro", "Aby", "Dol", "Bro", "Cadi", None, "Aby", "Cadi", "Dol"]
    fitted = fit_schema(declared, pa.table({"town": towns}))
    assert {field.name: field.vocabulary for field in fitted.fields if field.vocabulary} == {
        "depot": ("north", "south"),
        "town": ("Dol", "Aby", "Bro"),
    }


def test_fitting_keeps_everything_else_and_does_not_depend_on_the_order_of_rows(declared: DeclaredSchema) -> None:
    towns = ["Dol", "Bro", "Aby", "Bro"]
    fitted = fit_schema(declared, pa.table({"town": towns}))
    assert fitted == fit_schema(declared, pa.table({"town": towns[::-1]}))
    assert (fitted.version, fitted.entity, fitted.time, fitted.key) == (1, "van", "leaves", ("parcel", "leaves"))
    assert [msgspec.structs.replace(field, vocabulary=()) for field in fitted.fields] == [
        msgspec.structs.replace(field, vocabulary=()) for field in declared.fields
    ]


@pytest.mark.parametrize(
    ("table", "message"),
    [
        (pa.table({"other": ["a"]}), "the category 'town' has no column; found other"),
        (pa.table({"town": pa.array([None, None], pa.string())}), "'town' is missing in all 2 training rows"),
    ],
)
def test_a_category_without_any_word_is_refused(declared: DeclaredSchema, table: pa.Table, message: str) -> None:
    with pytest.raises(SchemaError, match=message):
        fit_schema(declared, table)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"entity": "lorry"}, "entity: 'lorry' is not among the fields van, parcel"),
        ({"time": "depot"}, "time: 'depot' must be of kind timestamp, found category"),
        ({"key": ("parcel", "day")}, "key: 'day' is not among"),
        ({"key": ("parcel", "wind_kmh")}, "key: the field 'wind_kmh' must be required, found required: false"),
    ],
)
def test_a_role_that_no_field_can_play_is_refused(
    declared: DeclaredSchema, change: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        msgspec.structs.replace(declared, **change)


@pytest.mark.parametrize(
    ("field", "message"),
    [
        (Field(name="van", kind="number"), "declared twice: van"),
        (Field(name="part", kind="number"), "'part' is the snapshot's own column"),
        (Field(name="x", kind="number", minimum=2, maximum=1), "'x' has minimum 2 above maximum 1"),
        (Field(name="x", kind="category", minimum=2), "'x' is a category; minimum and maximum belong to numbers"),
        (Field(name="x", kind="number", vocabulary=("a",)), "'x' is a number; a vocabulary belongs to categories"),
        (Field(name="x", kind="number", parts=("day_of_week",)), "'x' is a number; parts belong to timestamps"),
    ],
)
def test_a_contradictory_field_is_refused(declared: DeclaredSchema, field: Field, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        msgspec.structs.replace(declared, fields=(*declared.fields, field))


def test_a_label_says_from_which_day_on_it_is_unknown() -> None:
    assert Label(column="late", delay_days=3).known_before(date(2013, 7, 1)) == date(2013, 6, 28)
