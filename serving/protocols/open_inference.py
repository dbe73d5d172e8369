"""The Open Inference Protocol v2 (KServe, Triton, MLServer): one tensor for each field of the schema, shape [n].

Numbers are FP64 (any FP or INT type is taken), booleans BOOL, everything else BYTES; null stands for a missing value.
Specification: https://github.com/kserve/open-inference-protocol, with the binary tensor data extension.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import msgspec

from contracts.encoder import FieldProblem, InvalidRecordError
from contracts.input_schema import Field, InputSchema
from contracts.prediction_row import API_VERSION
from serving.columns import Column, Columns
from serving.protocols import binary_tensors
from serving.protocols.records import MAXIMUM_COLUMNS, MAXIMUM_RECORDS, MalformedRequestError, PredictResponse, parse

PLATFORM = "onnxruntime_onnx"
_INTEGERS = frozenset({"INT8", "INT16", "INT32", "INT64", "UINT8", "UINT16", "UINT32", "UINT64"})
_NUMBERS = _INTEGERS | {"FP16", "FP32", "FP64"}
_DATATYPES: dict[str, tuple[str, frozenset[str]]] = {
    "number": ("FP64", _NUMBERS),
    "boolean": ("BOOL", frozenset({"BOOL"})),
    "category": ("BYTES", frozenset({"BYTES"})),
    "timestamp": ("BYTES", frozenset({"BYTES"})),
    "identifier": ("BYTES", _INTEGERS | {"BYTES"}),
}


class Tensor(msgspec.Struct, frozen=True, kw_only=True):
    """A tensor of a request; `data` is flat, or nested by `shape` when that is [n, 1], or stands behind the JSON."""

    name: str
    shape: list[int]
    datatype: str
    data: list[Any] | None = None
    parameters: dict[str, Any] = {}


class RequestedOutput(msgspec.Struct, frozen=True, kw_only=True):
    """An output that the client wants; without any it gets all."""

    name: str
    parameters: dict[str, Any] = {}


class InferRequest(msgspec.Struct, frozen=True, kw_only=True):
    """The body of `…/infer`."""

    inputs: list[Tensor]
    id: str | None = None
    parameters: dict[str, Any] = {}
    outputs: list[RequestedOutput] = []


class OutputTensor(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A tensor of an answer; in binary form it has no `data` but the size of what stands behind the JSON."""

    name: str
    datatype: str
    shape: list[int]
    data: list[Any] | None = None
    parameters: dict[str, int] = {}


class InferResponse(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The answer of `…/infer`."""

    model_name: str
    model_version: str
    outputs: list[OutputTensor]
    id: str | None = None
    parameters: dict[str, Any] = {}


_COLUMNS: dict[str, tuple[str, Callable[[PredictResponse], list[Any]]]] = {
    "score": ("FP32", lambda answer: [each.score for each in answer.predictions]),
    "decision": ("BOOL", lambda answer: [each.decision for each in answer.predictions]),
    "prediction_id": ("BYTES", lambda answer: [each.prediction_id for each in answer.predictions]),
    "model_version": ("BYTES", lambda answer: [each.model_version for each in answer.predictions]),
}
_CONFIGURED = {"BYTES": "STRING"}  # Triton's configurations have a name of their own for it
_decoder = msgspec.json.Decoder(InferRequest)


class Decoded(NamedTuple):
    """A request, and the data of each of its inputs, wherever it stood."""

    request: InferRequest
    data: list[Column]


class Encoded(NamedTuple):
    """An answer; `head_length` is that of its JSON when tensors in binary form stand behind it."""

    body: bytes
    head_length: int | None


def decode(body: bytes, head_length: str | None = None) -> Decoded:
    """The request in `body`; `head_length` is the header that comes with tensors in binary form.

    Raises:
        MalformedRequestError: no JSON, another shape, too many tensors, an output that this server does not give, or
            data that does not fit its tensor.
    """
    head, data = (body, memoryview(b"")) if head_length is None else binary_tensors.split(body, head_length)
    request = parse(_decoder, head)
    if len(request.inputs) > MAXIMUM_COLUMNS:
        raise MalformedRequestError(422, f"found {len(request.inputs)} tensors, expected at most {MAXIMUM_COLUMNS}")
    for wanted in request.outputs:
        if wanted.name not in _COLUMNS:
            raise MalformedRequestError(422, f"there is no output {wanted.name!r}; outputs: {', '.join(_COLUMNS)}")
    found: list[Column] = []
    for tensor in request.inputs:
        if tensor.data is not None:
            found.append(tensor.data)
            continue
        size = tensor.parameters.get(binary_tensors.SIZE)
        if size is None:
            raise MalformedRequestError(422, f"{tensor.name}: there is neither data nor {binary_tensors.SIZE}")
        if size.__class__ is not int or not 0 <= size <= len(data):
            raise MalformedRequestError(
                422, f"{tensor.name}: {binary_tensors.SIZE} is {size!r}, {len(data)} bytes are left behind the JSON"
            )
        found.append(binary_tensors.values_of(tensor.name, tensor.datatype, data[:size]))
        data = data[size:]
    if len(data):
        raise MalformedRequestError(422, f"{len(data)} bytes behind the JSON belong to no tensor")
    return Decoded(request, found)


def records_of(decoded: Decoded, schema: InputSchema) -> Sequence[Mapping[str, Any]]:
    """The tensors of a request as records by `schema`.

    Raises:
        InvalidRecordError: a tensor is unknown, missing, given twice, or has another datatype than its field.
        MalformedRequestError: shapes that do not fit, or too many rows.
    """
    fields = {field.name: field for field in schema.fields}
    problems: list[FieldProblem] = []
    columns: dict[str, Column] = {}
    for tensor, data in zip(decoded.request.inputs, decoded.data, strict=True):
        problem = _problem(tensor, data, fields.get(tensor.name), is_twice=tensor.name in columns)
        if problem is not None:
            problems.append(problem)
        columns[tensor.name] = _flat(tensor, data)
    problems.extend(
        FieldProblem(field.name, "no tensor", f"a {_DATATYPES[field.kind][0]} tensor")
        for field in schema.fields
        if field.required and field.name not in columns
    )
    if problems:
        raise InvalidRecordError(problems)
    lengths = {len(data) for data in columns.values()}
    if len(lengths) != 1:
        found = {name: len(data) for name, data in columns.items()}
        raise MalformedRequestError(422, f"all tensors need the same number of rows, found {found}")
    (rows,) = lengths
    if not 1 <= rows <= MAXIMUM_RECORDS:
        raise MalformedRequestError(422, f"found {rows} rows, expected 1 to {MAXIMUM_RECORDS}")
    return Columns(columns, rows)


def timeout_s(request: InferRequest) -> float:
    """The time that the parameter `timeout` gives (Triton's, in microseconds; 0 is none), in seconds.

    Raises:
        MalformedRequestError: it is no whole number from 0.
    """
    found = request.parameters.get("timeout", 0)
    if found.__class__ is not int or found < 0:
        raise MalformedRequestError(
            422, f"parameters.timeout: found {str(found)[:60]!r}, expected a whole number of microseconds, or 0"
        )
    return found / 1e6 if found else math.inf


def encode(project: str, answer: PredictResponse, request: InferRequest, *, answer_id: str) -> Encoded:
    """The answer in the protocol's form; the rollout and its share are parameters."""
    usual = request.parameters.get("binary_data_output") is True
    wanted = {each.name: each.parameters.get("binary_data", usual) is True for each in request.outputs}
    outputs: list[OutputTensor] = []
    tail: list[bytes] = []
    for name, is_binary in (wanted or dict.fromkeys(_COLUMNS, usual)).items():
        datatype, column = _COLUMNS[name]
        values = column(answer)
        if not is_binary:
            outputs.append(OutputTensor(name=name, datatype=datatype, shape=[len(values)], data=values))
            continue
        tail.append(binary_tensors.bytes_of(datatype, values))
        size = {binary_tensors.SIZE: len(tail[-1])}
        outputs.append(OutputTensor(name=name, datatype=datatype, shape=[len(values)], parameters=size))
    head = msgspec.json.encode(
        InferResponse(
            model_name=project,
            model_version=answer.model_version,
            id=request.id or answer_id,
            parameters={
                "api_version": API_VERSION,
                "bundle": answer.bundle,
                "rollout": answer.rollout or "",
                "share": answer.share,
            },
            outputs=outputs,
        )
    )
    return Encoded(b"".join([head, *tail]), len(head)) if tail else Encoded(head, None)


def metadata(
    project: str, versions: Sequence[str], schema: InputSchema, parameters: dict[str, Any] | None = None
) -> dict[str, Any]:
    """The model's metadata: inputs by `schema`, outputs as `encode` gives them; `parameters` are this server's own."""
    return {
        "name": project,
        "versions": list(versions),
        "platform": PLATFORM,
        **({"parameters": parameters} if parameters is not None else {}),
        "inputs": [{"name": f.name, "datatype": _DATATYPES[f.kind][0], "shape": [-1]} for f in schema.fields],
        "outputs": [{"name": name, "datatype": column[0], "shape": [-1]} for name, column in _COLUMNS.items()],
    }


def configuration(project: str, schema: InputSchema, version: str | None) -> dict[str, Any]:
    """The model's configuration as Triton tells it; a batch is a dimension like others, as in `metadata`."""

    def tensor(name: str, datatype: str) -> dict[str, Any]:
        return {"name": name, "data_type": f"TYPE_{_CONFIGURED.get(datatype, datatype)}", "dims": [-1]}

    return {
        "name": project,
        "platform": PLATFORM,
        "backend": "onnxruntime",
        "version_policy": {"latest": {"num_versions": 1}} if version is None else {"specific": {"versions": [version]}},
        "max_batch_size": 0,
        "input": [tensor(field.name, _DATATYPES[field.kind][0]) for field in schema.fields],
        "output": [tensor(name, column[0]) for name, column in _COLUMNS.items()],
    }


def _problem(tensor: Tensor, data: Column, field: Field | None, *, is_twice: bool) -> FieldProblem | None:
    if field is None:
        return FieldProblem(tensor.name[:60], "a tensor that is not in the schema", "no such tensor")
    if is_twice:
        return FieldProblem(tensor.name, "the tensor twice", "each tensor once")
    usual, allowed = _DATATYPES[field.kind]
    if tensor.datatype not in allowed:
        return FieldProblem(tensor.name, f"datatype {tensor.datatype[:60]}", usual)
    if data.__class__ is list and tensor.datatype in _INTEGERS and float in set(map(type, data)):
        return FieldProblem(tensor.name, "a fraction", f"whole numbers, as the datatype {tensor.datatype} says")
    return None


def _flat(tensor: Tensor, data: Column) -> Column:
    shape = tensor.shape
    if not (len(shape) == 1 or (len(shape) == 2 and shape[1] == 1)):
        raise MalformedRequestError(422, f"{tensor.name}: the shape is {shape[:9]}, expected [n] or [n, 1]")
    rows = shape[0]
    if len(shape) == 2 and tensor.data and all(isinstance(value, list) and len(value) == 1 for value in data):
        data = [value[0] for value in data]
    if len(data) != rows:
        raise MalformedRequestError(
            422, f"{tensor.name}: the shape {tensor.shape} has {rows} values, found {len(data)}"
        )
    return data
