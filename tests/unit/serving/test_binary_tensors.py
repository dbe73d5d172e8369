import contextlib
import struct
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving.protocols import binary_tensors, open_inference
from serving.protocols.open_inference import Encoded
from serving.protocols.records import MalformedRequestError, Prediction, PredictResponse

ANSWER = PredictResponse(
    predictions=[Prediction("p1", 0.25, False, "7", "champion"), Prediction("p2", 0.75, True, "8", "challenger")],
    rollout=None,
    share=0.0,
    model_version="7",
    bundle="0" * 64,
)


def body(*tensors: tuple[str, str, int, bytes], parameters: dict[str, Any] | None = None) -> tuple[bytes, str]:
    """A request as Triton's client writes it: the head with the sizes, the data behind it."""
    inputs = [
        {"name": name, "datatype": datatype, "shape": [rows], "parameters": {"binary_data_size": len(data)}}
        for name, datatype, rows, data in tensors
    ]
    head = msgspec.json.encode({"inputs": inputs, "parameters": parameters or {}})
    return head + b"".join(data for _, _, _, data in tensors), str(len(head))


def texts(*values: str) -> bytes:
    return b"".join(struct.pack("<I", len(value.encode())) + value.encode() for value in values)


def test_tensors_behind_the_json_are_read_in_their_order() -> None:
    numbers = np.array([1.5, np.nan], dtype="<f8").tobytes()
    decoded = open_inference.decode(*body(("carrier", "BYTES", 2, texts("UA", "é")), ("distance", "FP64", 2, numbers)))
    assert decoded.data == [["UA", "é"], [1.5, None]]


@given(st.lists(st.integers(-(2**31), 2**31 - 1), max_size=20), st.lists(st.text(max_size=8), max_size=8))
def test_what_was_written_is_read_again(numbers: list[int], words: list[str]) -> None:
    for datatype, values in (("INT32", numbers), ("BYTES", words), ("BOOL", [number > 0 for number in numbers])):
        data = binary_tensors.bytes_of(datatype, values)
        assert list(binary_tensors.values_of("x", datatype, memoryview(data))) == values


@given(st.sampled_from(["BYTES", "BOOL", "FP32", "INT64", "UINT16", "FP17"]), st.binary(max_size=64))
def test_any_data_is_read_or_refused(datatype: str, data: bytes) -> None:
    with contextlib.suppress(MalformedRequestError):
        assert len(binary_tensors.values_of("distance", datatype, memoryview(data))) <= len(data)


@pytest.mark.parametrize(
    ("request_body", "message"),
    [
        ((b"{}", "3"), "expected a length up to 2"),
        ((b"{}", "-1"), "expected a length up to 2"),
        (body(("distance", "FP64", 1, b"1234567")), "7 bytes are no whole number of FP64"),
        (body(("carrier", "BYTES", 1, b"\x09\x00\x00\x00UA")), "beyond the tensor's data"),
        (body(("carrier", "BYTES", 1, b"\x01\x00\x00\x00\xff")), "not UTF-8"),
        (body(("flag", "BOOL", 1, b"\x02")), "0 or 1"),
        (body(("distance", "COMPLEX", 1, b"")), "there is no datatype 'COMPLEX'"),
        ((body()[0] + b"left", body()[1]), "4 bytes behind the JSON belong to no tensor"),
        ((b'{"inputs":[{"name":"a","datatype":"FP32","shape":[1]}]}', None), "neither data nor binary_data_size"),
    ],
)
def test_a_body_that_does_not_add_up_is_refused(request_body: tuple[bytes, str | None], message: str) -> None:
    with pytest.raises(MalformedRequestError, match=message):
        open_inference.decode(*request_body)


@pytest.mark.parametrize("size", [-1, 9, True, "4", 1.5])
def test_a_size_that_is_not_there_is_refused(size: object) -> None:
    head = msgspec.json.encode(
        {"inputs": [{"name": "a", "datatype": "FP32", "shape": [1], "parameters": {"binary_data_size": size}}]}
    )
    with pytest.raises(MalformedRequestError, match="4 bytes are left"):
        open_inference.decode(head + b"1234", str(len(head)))


def encoded(**request: Any) -> Encoded:
    parsed = msgspec.convert({"inputs": [], **request}, open_inference.InferRequest)
    return open_inference.encode("flight_delay", ANSWER, parsed, answer_id="a")


def test_outputs_are_binary_where_they_are_asked_for() -> None:
    wanted = [{"name": "score", "parameters": {"binary_data": True}}, {"name": "decision"}]
    answer = encoded(outputs=wanted)
    assert answer.head_length is not None
    head, data = msgspec.json.decode(answer.body[: answer.head_length]), answer.body[answer.head_length :]
    assert np.frombuffer(data, "<f4").tolist() == [0.25, 0.75]
    assert head["outputs"] == [
        {"name": "score", "datatype": "FP32", "shape": [2], "parameters": {"binary_data_size": 8}},
        {"name": "decision", "datatype": "BOOL", "shape": [2], "data": [False, True]},
    ]


def test_all_outputs_are_binary_when_the_request_says_so() -> None:
    answer = encoded(parameters={"binary_data_output": True})
    assert answer.head_length is not None
    outputs = msgspec.json.decode(answer.body[: answer.head_length])["outputs"]
    sizes = [each["parameters"]["binary_data_size"] for each in outputs]
    assert sum(sizes) == len(answer.body) - answer.head_length
    assert answer.body.endswith(texts("7", "8"))


def test_without_a_wish_all_is_json() -> None:
    assert encoded().head_length is None
