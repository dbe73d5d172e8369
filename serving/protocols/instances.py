"""TensorFlow Serving's REST API, which is KServe's protocol v1: `POST /v1/models/M:predict`.

`instances` is a list of records; `inputs` is one list of values for each field. The answer has `predictions` for both,
as KServe's clients read it, and for `inputs` the same as columns in `outputs`, as TensorFlow Serving's do.
Specification: https://www.tensorflow.org/tfx/serving/api_rest, https://kserve.github.io/website (data plane, v1)
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Annotated, Any

import msgspec

from contracts.encoder import FieldProblem, InvalidRecordError
from contracts.input_schema import InputSchema
from serving.columns import Columns
from serving.protocols.records import (
    COLUMNS,
    MAXIMUM_COLUMNS,
    MAXIMUM_RECORDS,
    MalformedRequestError,
    PredictResponse,
    parse,
)

SIGNATURE = "serving_default"


class InstancesRequest(msgspec.Struct, frozen=True, kw_only=True):
    """The body of `…:predict`: either `instances` (records) or `inputs` (a list of values for each field)."""

    instances: Annotated[list[dict[str, Any]], msgspec.Meta(min_length=1, max_length=MAXIMUM_RECORDS)] | None = None
    inputs: dict[str, list[Any]] | None = None
    signature_name: str = SIGNATURE


class ColumnsResponse(PredictResponse, frozen=True, kw_only=True):
    """The answer to `inputs`: `outputs` holds the predictions once more, as columns."""

    outputs: dict[str, list[Any]]


_decoder = msgspec.json.Decoder(InstancesRequest)


def decode(body: bytes) -> InstancesRequest:
    """The request in `body`.

    Raises:
        MalformedRequestError: no JSON, another shape, or another signature than the one that there is.
    """
    request = parse(_decoder, body)
    if (request.instances is None) == (request.inputs is None):
        found = "neither" if request.instances is None else "both"
        raise MalformedRequestError(422, f"found {found}, expected either `instances` or `inputs`")
    if request.signature_name not in ("", SIGNATURE):
        raise MalformedRequestError(422, f"signature_name: found {request.signature_name[:60]!r}, expected {SIGNATURE}")
    return request


def records_of(request: InstancesRequest, schema: InputSchema) -> Sequence[Mapping[str, Any]]:
    """The records in `request`.

    Raises:
        InvalidRecordError: a column of `inputs` is no field of `schema`.
        MalformedRequestError: the columns have different lengths, or there are too many, or too many rows.
    """
    if request.instances is not None:
        return request.instances
    columns = request.inputs or {}
    if len(columns) > MAXIMUM_COLUMNS:
        raise MalformedRequestError(422, f"inputs: found {len(columns)} columns, expected at most {MAXIMUM_COLUMNS}")
    _refuse_unknown_columns(columns, schema)
    lengths = {name: len(values) for name, values in columns.items()}
    if len(set(lengths.values())) != 1:
        raise MalformedRequestError(422, f"inputs: all columns need the same number of values, found {lengths}")
    rows = next(iter(lengths.values()))
    if not 1 <= rows <= MAXIMUM_RECORDS:
        raise MalformedRequestError(422, f"inputs: found {rows} rows, expected 1 to {MAXIMUM_RECORDS}")
    return Columns(columns, rows)


def encode(answer: PredictResponse, request: InstancesRequest) -> bytes:
    """The answer in the form that `request` asks for."""
    if request.inputs is None:
        return msgspec.json.encode(answer)
    columns = {name: [getattr(each, name) for each in answer.predictions] for name in COLUMNS}
    return msgspec.json.encode(ColumnsResponse(**msgspec.structs.asdict(answer), outputs=columns))


def status(project: str, versions: Sequence[str]) -> dict[str, Any]:
    """The answer of `GET /v1/models/M`: `ready` for KServe, the versions and their states for TensorFlow Serving."""
    good = {"error_code": "OK", "error_message": ""}
    states = [{"version": version, "state": "AVAILABLE", "status": good} for version in versions]
    return {"name": project, "ready": True, "model_version_status": states}


def _refuse_unknown_columns(names: Iterable[str], schema: InputSchema) -> None:
    """One problem for each such column, whatever its length."""
    known = {field.name for field in schema.fields}
    problems = [
        FieldProblem(name[:60], "a column that is not in the schema", "no such column")
        for name in names
        if name not in known
    ]
    if problems:
        raise InvalidRecordError(problems)
