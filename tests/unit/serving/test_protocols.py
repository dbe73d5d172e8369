from collections.abc import Mapping
from typing import Any

import msgspec
import pytest

from contracts.encoder import InvalidRecordError
from serving.protocols import open_inference, records
from serving.protocols.records import MalformedRequestError
from tests.fixtures.bundles import TINY_SCHEMA, tiny_record


def tensors(**changes: Any) -> list[dict[str, Any]]:
    found: dict[str, Any] = {
        "tailnum": {"datatype": "BYTES", "shape": [2], "data": ["N1", "N2"]},
        "scheduled": {"datatype": "BYTES", "shape": [2], "data": ["2013-07-01T08:30:00"] * 2},
        "carrier": {"datatype": "BYTES", "shape": [2], "data": ["AA", "UA"]},
        "distance": {"datatype": "FP64", "shape": [2], "data": [100, 200.5]},
        **changes,
    }
    return [{"name": name, **tensor} for name, tensor in found.items() if tensor is not None]


def infer(**changes: Any) -> list[Mapping[str, Any]]:
    body = msgspec.json.encode({"inputs": tensors(**changes)})
    return list(open_inference.records_of(open_inference.decode(body), TINY_SCHEMA))


def test_records_are_read_as_they_are() -> None:
    assert records.decode(msgspec.json.encode({"records": [tiny_record()]})) == [tiny_record()]


@pytest.mark.parametrize(
    ("body", "status", "text"),
    [
        (b"", 400, "not JSON"),
        (b'{"records": [{"distance": NaN}]}', 400, "not JSON"),
        (b'{"records": [{"a": "\xff"}]}', 400, "not JSON"),
        (b'{"records": [{"a": ' + b"[" * 100_000, 400, "not JSON"),
        (b'{"records": []}', 422, "length >= 1"),
        (b'{"records": [1]}', 422, r"\$.records\[0\]"),
        (b'{"rows": []}', 422, "rows|records"),
        (msgspec.json.encode({"records": [{}] * 1001}), 422, "length <= 1000"),
    ],
)
def test_a_body_of_another_shape_is_refused_with_the_place(body: bytes, status: int, text: str) -> None:
    with pytest.raises(MalformedRequestError, match=text) as refused:
        records.decode(body)
    assert refused.value.status == status


def test_tensors_become_records() -> None:
    assert infer(humid={"datatype": "FP32", "shape": [2, 1], "data": [[None], [50]]})[1] == {
        "tailnum": "N2",
        "scheduled": "2013-07-01T08:30:00",
        "carrier": "UA",
        "distance": 200.5,
        "humid": 50,
    }


@pytest.mark.parametrize(
    ("changes", "field", "expected"),
    [
        ({"speed": {"datatype": "FP64", "shape": [2], "data": [1, 2]}}, "speed", "no such tensor"),
        ({"distance": None}, "distance", "a FP64 tensor"),
        ({"distance": {"datatype": "BYTES", "shape": [2], "data": ["1", "2"]}}, "distance", "FP64"),
        ({"distance": {"datatype": "INT64", "shape": [2], "data": [1, 2.5]}}, "distance", "whole numbers"),
        ({"carrier": {"datatype": "INT64", "shape": [2], "data": [1, 2]}}, "carrier", "BYTES"),
    ],
)
def test_a_tensor_that_does_not_fit_the_schema_is_named(changes: Any, field: str, expected: str) -> None:
    with pytest.raises(InvalidRecordError) as refused:
        infer(**changes)
    [problem] = refused.value.problems
    assert problem.field == field
    assert expected in problem.expected


@pytest.mark.parametrize(
    ("tensor", "text"),
    [
        ({"datatype": "FP64", "shape": [3], "data": [1, 2, 3]}, "the same number of rows"),
        ({"datatype": "FP64", "shape": [2], "data": [1]}, r"the shape \[2\] has 2 values, found 1"),
        ({"datatype": "FP64", "shape": [2, 2], "data": [1, 2, 3, 4]}, r"expected \[n\] or \[n, 1\]"),
    ],
)
def test_shapes_that_do_not_fit_are_refused(tensor: Any, text: str) -> None:
    with pytest.raises(MalformedRequestError, match=text):
        infer(distance=tensor)


def test_an_output_that_is_not_given_is_refused() -> None:
    body = msgspec.json.encode({"inputs": tensors(), "outputs": [{"name": "label"}]})
    with pytest.raises(MalformedRequestError, match="no output 'label'; outputs: score, decision"):
        open_inference.decode(body)


def test_more_tensors_than_any_schema_has_are_refused_as_a_whole() -> None:
    tensor = {"name": "x", "datatype": "FP64", "shape": [0], "data": []}
    with pytest.raises(MalformedRequestError, match="found 10001 tensors, expected at most 10000"):
        open_inference.decode(msgspec.json.encode({"inputs": [tensor] * 10_001}))
