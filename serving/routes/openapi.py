"""The OpenAPI description: of the described routes, and of the prediction routes with the live model's schema."""

from collections.abc import Callable, Sequence
from typing import Any

import msgspec
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from contracts.input_schema import Field
from contracts.prediction_row import API_VERSION
from contracts.problem import CONTENT_TYPE as PROBLEM_TYPE
from contracts.problem import Problem
from serving.admission import BINARY_TYPE, JSON_TYPE
from serving.engine import Model
from serving.protocols import invocations, media_types
from serving.protocols.instances import ColumnsResponse, InstancesRequest
from serving.protocols.open_inference import InferRequest, InferResponse, metadata
from serving.protocols.records import MAXIMUM_RECORDS, PredictRequest, PredictResponse
from serving.routes.control import CONTROL_MESSAGES
from serving.routes.described import json_answer, paths_of
from serving.routes.docs_page import DOCS_PAGE
from serving.routes.predict import INVOCATIONS_PATH, PREDICT_PATH
from serving.slots import Slots

_REFERENCE = "#/components/schemas/{name}"
# the page is all its own: nothing from elsewhere is loaded, and nothing is sent elsewhere
_POLICY = (
    "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; connect-src 'self'; base-uri 'none'"
)


def docs_routes(
    routes: Sequence[BaseRoute], *, project: str, slots: Slots, secure: Callable[[dict[str, Any]], dict[str, Any]]
) -> list[Route]:
    """`/docs` and `/openapi.json`, written anew for each call, since the live model may have changed.

    `secure` adds to the document who may call what.
    """

    async def description(_: Request) -> Response:
        return json_answer(secure(describe(routes, project, slots)))

    async def page(_: Request) -> Response:
        return Response(DOCS_PAGE, media_type="text/html; charset=utf-8", headers={"content-security-policy": _POLICY})

    return [Route("/openapi.json", description), Route("/docs", page)]


def describe(routes: Sequence[BaseRoute], project: str, slots: Slots) -> dict[str, Any]:
    """The OpenAPI 3.1 document of the server as it is now; `routes` are those beside the predictions."""
    model = slots.champion.model if slots.champion else None
    _, schemas = msgspec.json.schema_components(
        (
            PredictRequest,
            PredictResponse,
            InferRequest,
            InferResponse,
            InstancesRequest,
            ColumnsResponse,
            Problem,
            *CONTROL_MESSAGES,
        ),
        ref_template=_REFERENCE,
    )
    schemas["Record"] = record_schema(model)
    schemas["PredictRequest"]["properties"]["records"]["items"] = {"$ref": _REFERENCE.format(name="Record")}
    schemas["InstancesRequest"]["properties"]["instances"] = {
        "type": "array",
        "items": {"$ref": _REFERENCE.format(name="Record")},
        "minItems": 1,
        "maxItems": MAXIMUM_RECORDS,
        "description": "records; without them `inputs` has one list of values for each field",
    }
    return {
        "openapi": "3.1.0",
        "info": {
            "title": f"Paceline: {project}",
            "description": f"Predictions of the project `{project}`, its health, and the control of its rollouts.",
            "version": API_VERSION,
        },
        "paths": {**_prediction_paths(project, model), **paths_of(routes)},
        "components": {"schemas": schemas},
    }


def record_schema(model: Model | None) -> dict[str, Any]:
    """A record of the live model as JSON schema; any object while there is none."""
    if model is None:
        return {"type": "object", "description": "No champion yet: its input schema will be here."}
    return {
        "type": "object",
        "additionalProperties": False,
        "required": [field.name for field in model.schema.fields if field.required],
        "properties": {field.name: _field_schema(field) for field in model.schema.fields},
        "description": f"Version {model.version}, input schema {model.schema.version}",
    }


def _field_schema(field: Field) -> dict[str, Any]:
    kinds: dict[str, dict[str, Any]] = {
        "number": {"type": "number"},
        "category": {"type": "string"},
        "boolean": {"type": "boolean"},
        "timestamp": {"type": "string", "examples": ["2013-07-01T08:30:00"]},
        "identifier": {"type": ["string", "integer"]},
    }
    schema = dict(kinds[field.kind])
    remarks = [field.description] if field.description else []
    if field.kind == "timestamp":
        remarks.append("local time, ISO 8601 without an offset")
    for keyword, bound in (("minimum", field.minimum), ("maximum", field.maximum)):
        if bound is not None and field.outside == "reject":
            schema[keyword] = bound
        elif bound is not None:
            remarks.append(f"{keyword} {bound:g}, outside: {field.outside}")
    if field.kind == "category":
        if field.unseen == "reject":
            schema["enum"] = list(field.vocabulary)
        else:
            schema["examples"] = list(field.vocabulary[:5])
            remarks.append(f"{len(field.vocabulary)} known words, another counts as missing")
    if field.malformed == "missing":
        remarks.append("a value of another kind counts as missing")
    if field.personal:
        remarks.append("personal: never logged in clear")
    if not field.required:
        kind = schema["type"]
        schema["type"] = [*(kind if isinstance(kind, list) else [kind]), "null"]
        if "enum" in schema:
            schema["enum"].append(None)
    if remarks:
        schema["description"] = "; ".join(remarks)
    return schema


def _prediction_paths(project: str, model: Model | None) -> dict[str, Any]:
    predict = _operation(
        "predict",
        f"Predict by records (1 to {MAXIMUM_RECORDS})",
        "Each record is assigned to a slot by its entity; a challenger's failure is answered by the champion.",
        ("PredictRequest", _records_example(model)),
        "PredictResponse",
    )
    infer = _operation(
        "infer",
        "Predict by tensors (Open Inference Protocol v2)",
        "One tensor for each field of the input schema, shape [n]. With the header Inference-Header-Content-Length the "
        f"body is {BINARY_TYPE}: JSON, and behind it the data of the tensors that have a `binary_data_size`.",
        ("InferRequest", _tensors_example(project, model)),
        "InferResponse",
    )
    instances = _operation(
        "predict_instances",
        "Predict by instances or inputs (TensorFlow Serving, KServe v1)",
        "`instances` are records, `inputs` one list of values for each field; `predictions` come back for both, and "
        "for `inputs` also columns in `outputs`.",
        ("InstancesRequest", _instances_example(model)),
        "ColumnsResponse",
    )
    return {
        PREDICT_PATH: {"post": predict},
        f"/v2/models/{project}/infer": {"post": infer},
        f"/v2/models/{project}/versions/{{version}}/infer": {"post": _pinned(infer)},
        f"/v1/models/{project}:predict": {"post": instances},
        f"/v1/models/{project}/versions/{{version}}:predict": {"post": _pinned(instances)},
        INVOCATIONS_PATH: {"post": _invocations(predict, model)},
    }


def _pinned(operation: dict[str, Any]) -> dict[str, Any]:
    version = {"name": "version", "in": "path", "required": True, "schema": {"type": "string"}}
    return {
        **operation,
        "operationId": f"{operation['operationId']}_version",
        "summary": "The same, of the champion's version only",
        "parameters": [*operation["parameters"], version],
    }


def _invocations(predict: dict[str, Any], model: Model | None) -> dict[str, Any]:
    """`predict` in three media types each way; the Accept header chooses the answer's, JSON where it chooses none."""
    golden = model.bundle.golden.records[:1] if model else []
    lines = "".join(msgspec.json.encode(record).decode() + "\n" for record in golden)
    texts = {media_types.JSON_LINES: lines, media_types.CSV: invocations.csv_of(golden)}
    problem = predict["responses"]["422"]["content"]
    content = {
        kind: {"schema": {"type": "string"}, **({"example": text} if model else {})} for kind, text in texts.items()
    }
    return {
        **predict,
        "operationId": "invocations",
        "summary": "Predict by JSON, JSON Lines or CSV (SageMaker)",
        "description": "JSON Lines has one record a line, CSV a header line with the names of the fields.",
        "requestBody": {"required": True, "content": {**predict["requestBody"]["content"], **content}},
        "responses": {
            **predict["responses"],
            "200": {
                "description": "The predictions, in the type that Accept asks for",
                "content": {
                    **predict["responses"]["200"]["content"],
                    **{kind: {"schema": {"type": "string"}} for kind in texts},
                },
            },
            "406": {"description": f"Accept names none of {', '.join(invocations.TYPES)}", "content": problem},
            "415": {"description": f"The body is none of {', '.join(invocations.TYPES)}", "content": problem},
        },
    }


def _operation(
    name: str, summary: str, description: str, request: tuple[str, dict[str, Any] | None], response: str
) -> dict[str, Any]:
    schema, example = request
    content: dict[str, Any] = {"schema": {"$ref": _REFERENCE.format(name=schema)}}
    if example is not None:
        content["example"] = example
    problem = {PROBLEM_TYPE: {"schema": {"$ref": _REFERENCE.format(name="Problem")}}}
    return {
        "tags": ["predictions"],
        "operationId": name,
        "summary": summary,
        "description": description,
        "parameters": [
            {"name": "x-request-id", "in": "header", "required": False, "schema": {"type": "string", "maxLength": 128}}
        ],
        "requestBody": {"required": True, "content": {JSON_TYPE: content}},
        "responses": {
            "200": {
                "description": "The predictions",
                "content": {JSON_TYPE: {"schema": {"$ref": _REFERENCE.format(name=response)}}},
            },
            "413": {"description": "The body is larger than 4 MiB", "content": problem},
            "422": {"description": "A value does not fit the schema; `errors` names it", "content": problem},
            "503": {"description": "There is no champion yet", "content": problem},
        },
    }


def _records_example(model: Model | None) -> dict[str, Any] | None:
    return {"records": model.bundle.golden.records[:1]} if model else None


def _instances_example(model: Model | None) -> dict[str, Any] | None:
    return {"instances": model.bundle.golden.records[:1]} if model else None


def _tensors_example(project: str, model: Model | None) -> dict[str, Any] | None:
    if model is None:
        return None
    record = model.bundle.golden.records[0]
    return {
        "inputs": [
            {
                "name": tensor["name"],
                "shape": [1],
                "datatype": _datatype(tensor, record),
                "data": [record[tensor["name"]]],
            }
            for tensor in metadata(project, [], model.schema)["inputs"]
            if record.get(tensor["name"]) is not None
        ]
    }


def _datatype(tensor: dict[str, Any], record: dict[str, Any]) -> str:
    is_whole_identifier = tensor["datatype"] == "BYTES" and isinstance(record[tensor["name"]], int)
    return "INT64" if is_whole_identifier else str(tensor["datatype"])
