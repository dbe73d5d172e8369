"""Records as whole HTTP requests in each protocol, and what their answers say about slots and versions."""

import json
import struct
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import msgspec
import numpy as np

from pipelines.benchmarking.connections import Target
from pipelines.benchmarking.load import Classify

BenchProtocol = Literal["records", "open-inference", "open-inference-binary"]
PROTOCOLS: tuple[BenchProtocol, ...] = ("records", "open-inference", "open-inference-binary")
MIXED = "several"
_JSON, _BINARY = "application/json", "application/octet-stream"
_HEAD_LENGTH = "Inference-Header-Content-Length"


def requests_of(
    records: Sequence[Mapping[str, Any]],
    *,
    target: Target,
    protocol: BenchProtocol,
    rows: int,
    project: str,
    datatypes: Mapping[str, str],
    api_key: str | None = None,
) -> list[bytes]:
    """Requests of `rows` records each, over all of `records` in turns.

    Raises:
        ValueError: there are no records, or less than 1 row.
    """
    if not records or rows < 1:
        raise ValueError(f"found {len(records)} records and {rows} rows a request, expected at least one of each")
    count = -(-len(records) // rows)  # the last one is filled up from the first records
    made = []
    for number in range(count):
        chosen = [records[(number * rows + row) % len(records)] for row in range(rows)]
        if protocol == "records":
            made.append(request(target, "/v1/predict", msgspec.json.encode({"records": chosen}), api_key=api_key))
            continue
        body, head_length = tensors_of(chosen, datatypes, binary=protocol == "open-inference-binary")
        made.append(
            request(target, f"/v2/models/{project}/infer", body, api_key=api_key, head_length=head_length),
        )
    return made


def request(
    target: Target, route: str, body: bytes, *, api_key: str | None = None, head_length: int | None = None
) -> bytes:
    """One POST as it goes over the wire; `head_length` is that of the JSON before binary tensors."""
    lines = [
        f"POST {target.path}{route} HTTP/1.1",
        f"Host: {target.authority}",
        f"Content-Type: {_JSON if head_length is None else _BINARY}",
        f"Content-Length: {len(body)}",
    ]
    if head_length is not None:
        lines.append(f"{_HEAD_LENGTH}: {head_length}")
    if api_key is not None:
        lines.append(f"x-api-key: {api_key}")
    return ("\r\n".join(lines) + "\r\n\r\n").encode() + body


def tensors_of(
    records: Sequence[Mapping[str, Any]],
    datatypes: Mapping[str, str],
    *,
    binary: bool,
    outputs: Sequence[str] = ("score", "model_version"),
) -> tuple[bytes, int | None]:
    """An Open Inference request, one tensor for each field that any record has; the length of its JSON if binary.

    A missing value is null in JSON; in binary form, which has no null, the tensor stays JSON unless it holds numbers,
    where NaN stands for it.
    """
    inputs: list[dict[str, Any]] = []
    tail: list[bytes] = []
    for name, datatype in datatypes.items():
        values = [record.get(name) for record in records]
        if all(value is None for value in values):
            continue
        tensor: dict[str, Any] = {"name": name, "shape": [len(values)], "datatype": _datatype(datatype, values)}
        data = _binary(tensor["datatype"], values) if binary else None
        if data is None:
            tensor["data"] = values
        else:
            tensor["parameters"] = {"binary_data_size": len(data)}
            tail.append(data)
        inputs.append(tensor)
    wanted = [
        {"name": name, **({"parameters": {"binary_data": True}} if binary and name == "score" else {})}
        for name in outputs
    ]
    head = msgspec.json.encode({"inputs": inputs, "outputs": wanted})
    return (b"".join([head, *tail]), len(head)) if binary else (head, None)


def _datatype(datatype: str, values: Sequence[Any]) -> str:
    is_whole = all(isinstance(value, int) and not isinstance(value, bool) for value in values)
    return "INT64" if datatype == "BYTES" and is_whole else datatype


def _binary(datatype: str, values: Sequence[Any]) -> bytes | None:
    if datatype == "FP64":
        return np.array([np.nan if value is None else value for value in values], dtype="<f8").tobytes()
    if any(value is None for value in values):
        return None
    if datatype == "INT64":
        return np.array(values, dtype="<i8").tobytes()
    if datatype == "BOOL":
        return bytes(values)
    texts = [str(value).encode() for value in values]
    return b"".join(struct.pack("<I", len(text)) + text for text in texts)


class _Prediction(msgspec.Struct):
    model_version: str
    slot: str


class _Records(msgspec.Struct):
    predictions: list[_Prediction]


_records = msgspec.json.Decoder(_Records)
_json = json.JSONDecoder()


def slot_in_records(body: bytes) -> tuple[str, str]:
    """Slot and version in an answer of `/v1/predict`; `several` where its rows differ."""
    first, *others = _records.decode(body).predictions
    if all(other.slot == first.slot and other.model_version == first.model_version for other in others):
        return first.slot, first.model_version
    return MIXED, MIXED


def version_in_tensors(body: bytes) -> tuple[str, str]:
    """The version in an Open Inference answer, which does not say the slot."""
    # binary tensors may stand behind the JSON: what is read ends where it does
    answer, _ = _json.raw_decode(body.decode("utf-8", "replace"))
    versions = {str(value) for each in answer["outputs"] if each["name"] == "model_version" for value in each["data"]}
    if not versions:
        return "", str(answer.get("model_version", ""))
    return "", versions.pop() if len(versions) == 1 else MIXED


def classify_of(protocol: BenchProtocol) -> Classify:
    """How to read the answers of `protocol`."""
    return slot_in_records if protocol == "records" else version_in_tensors
