from typing import Any

import pytest

from contracts.encoder import Encoder
from contracts.input_schema import Field, InputSchema
from pipelines.benchmarking.live_model import LiveModel, make_records
from tests.fixtures.bundles import TINY_SCHEMA, tiny_record

OTHER = InputSchema(
    version=1,
    entity="id",
    time="at",
    key=("id",),
    fields=(
        Field(name="id", kind="identifier"),
        Field(name="at", kind="timestamp", parts=("day_of_week",)),
        Field(name="ripe", kind="boolean"),
        Field(name="kind", kind="category", vocabulary=("a", "b", "c"), unseen="reject"),
        Field(name="narrow", kind="number", minimum=0.001, maximum=0.002),
        Field(name="below", kind="number", maximum=-5),
    ),
)


def live(schema: InputSchema, described: dict[str, Any], example: dict[str, Any]) -> LiveModel:
    return LiveModel(
        project="p",
        server="paceline",
        api_version="1",
        version="1",
        bundle="b",
        record_schema=described,
        example=example,
        datatypes={},
    )


TINY_DESCRIBED = {
    "required": ["scheduled", "carrier", "distance"],
    "properties": {
        "tailnum": {"type": ["string", "integer", "null"]},
        "scheduled": {"type": "string", "examples": ["2013-07-01T08:30:00"]},
        "carrier": {"type": "string", "examples": ["AA", "UA", "WN"]},
        "distance": {"type": "number", "minimum": 0},
        "humid": {"type": ["number", "null"]},
        "passenger": {"type": ["string", "integer", "null"]},
    },
}
OTHER_DESCRIBED = {
    "required": ["id", "at", "ripe", "kind", "narrow", "below"],
    "properties": {
        "id": {"type": ["string", "integer"]},
        "at": {"type": "string", "examples": ["2013-07-01T08:30:00"]},
        "ripe": {"type": "boolean"},
        "kind": {"type": "string", "enum": ["a", "b", "c"]},
        "narrow": {"type": "number", "minimum": 0.001, "maximum": 0.002},
        "below": {"type": "number", "maximum": -5},
    },
}
OTHER_EXAMPLE = {"id": 7, "at": "2024-02-28T00:00:00", "ripe": True, "kind": "b", "narrow": 0.0015, "below": -7}


@pytest.mark.parametrize(
    ("schema", "described", "example"),
    [(TINY_SCHEMA, TINY_DESCRIBED, tiny_record(3)), (OTHER, OTHER_DESCRIBED, OTHER_EXAMPLE)],
)
def test_records_made_from_a_description_are_valid_and_varied(
    schema: InputSchema, described: dict[str, Any], example: dict[str, Any]
) -> None:
    records = make_records(live(schema, described, example), 500)
    assert Encoder(schema).encode_rows(records).shape == (500, len(schema.columns))
    entities = {record.get(schema.entity) for record in records}
    assert len(entities) > 400
    for category in (field.name for field in schema.fields if field.kind == "category"):
        assert len({record[category] for record in records}) == 3


def test_the_same_seed_makes_the_same_records() -> None:
    model = live(TINY_SCHEMA, TINY_DESCRIBED, tiny_record(3))
    assert make_records(model, 50, seed=4) == make_records(model, 50, seed=4)
    assert make_records(model, 50, seed=4) != make_records(model, 50, seed=5)


def test_optional_fields_are_missing_now_and_then() -> None:
    records = make_records(live(TINY_SCHEMA, TINY_DESCRIBED, tiny_record(3)), 500)
    without = sum("humid" not in record for record in records)
    assert 0 < without < 100
