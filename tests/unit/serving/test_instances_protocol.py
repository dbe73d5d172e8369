from collections.abc import Mapping
from typing import Any

import msgspec
import pytest

from contracts.encoder import InvalidRecordError
from serving.protocols import instances
from serving.protocols.records import MalformedRequestError, Prediction, PredictResponse
from tests.fixtures.bundles import TINY_SCHEMA, tiny_record

ANSWER = PredictResponse(
    predictions=[Prediction("p1", 0.25, False, "7", "champion"), Prediction("p2", 0.75, True, "8", "challenger")],
    rollout="r1",
    share=0.5,
    model_version="7",
    bundle="0" * 64,
)


def read(**body: Any) -> list[Mapping[str, Any]]:
    return list(instances.records_of(instances.decode(msgspec.json.encode(body)), TINY_SCHEMA))


def columns(*records: dict[str, Any]) -> dict[str, list[Any]]:
    return {name: [record[name] for record in records] for name in records[0]}


def test_instances_are_records() -> None:
    assert read(instances=[tiny_record(0), tiny_record(1)]) == [tiny_record(0), tiny_record(1)]


def test_columns_become_the_same_records() -> None:
    assert read(inputs=columns(tiny_record(0), tiny_record(1)), signature_name="serving_default") == [
        tiny_record(0),
        tiny_record(1),
    ]


def test_a_column_that_is_no_field_is_named_once_for_all_its_rows() -> None:
    with pytest.raises(InvalidRecordError) as refused:
        read(inputs={"speed": [1] * 1000})
    [problem] = refused.value.problems
    assert (problem.field, problem.expected) == ("speed", "no such column")


@pytest.mark.parametrize(
    ("body", "status", "text"),
    [
        (b"{", 400, "not JSON"),
        (b"{}", 422, "found neither, expected either `instances` or `inputs`"),
        (b'{"instances": [{}], "inputs": {}}', 422, "found both"),
        (b'{"instances": []}', 422, "length >= 1"),
        (b'{"instances": [[1, 2]]}', 422, r"Expected `object`, got `array` - at `\$.instances\[0\]`"),
        (b'{"instances": [{}], "signature_name": "other"}', 422, "found 'other', expected serving_default"),
        (b'{"inputs": {}}', 422, r"the same number of values, found \{\}"),
        (b'{"inputs": {"distance": []}}', 422, "found 0 rows, expected 1 to 1000"),
        (b'{"inputs": {"distance": [1], "carrier": ["AA", "UA"]}}', 422, r"found \{'distance': 1, 'carrier': 2\}"),
        (msgspec.json.encode({"inputs": {"distance": [1] * 1001}}), 422, "found 1001 rows"),
        (msgspec.json.encode({"inputs": {str(n): [] for n in range(10_001)}}), 422, "found 10001 columns"),
        (msgspec.json.encode({"instances": [{}] * 1001}), 422, "length <= 1000"),
    ],
)
def test_a_body_that_does_not_fit_is_refused_with_what_was_found(body: bytes, status: int, text: str) -> None:
    with pytest.raises(MalformedRequestError, match=text) as refused:
        instances.records_of(instances.decode(body), TINY_SCHEMA)
    assert refused.value.status == status


def test_the_answer_to_instances_has_predictions_alone() -> None:
    answer = msgspec.json.decode(instances.encode(ANSWER, instances.decode(b'{"instances": [{}]}')))
    assert answer == msgspec.to_builtins(ANSWER)


def test_the_answer_to_columns_has_columns_as_well() -> None:
    answer = msgspec.json.decode(instances.encode(ANSWER, instances.decode(b'{"inputs": {"distance": [1, 2]}}')))
    assert answer["predictions"] == msgspec.to_builtins(ANSWER.predictions)
    assert answer["outputs"] == {
        "prediction_id": ["p1", "p2"],
        "score": [0.25, 0.75],
        "decision": [False, True],
        "model_version": ["7", "8"],
        "slot": ["champion", "challenger"],
    }
