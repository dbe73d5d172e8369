"""The OpenAPI description: of the described routes, and of the prediction routes with the live model's schema."""

from collections.abc import Callable, Sequence
from typing import Any

import msgspec
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from contracts.field_values import MAXIMUM_IDENTIFIER_CHARACTERS
from contracts.input_schema import Field
from contracts.prediction_row import API_VERSION
from contracts.problem import Problem
from serving.engine import Model
from serving.protocols.instances import ColumnsResponse, InstancesRequest
from serving.protocols.open_inference import InferRequest, InferResponse
from serving.protocols.records import MAXIMUM_RECORDS, PredictRequest, PredictResponse
from serving.routes.control import CONTROL_MESSAGES
from serving.routes.described import json_answer, paths_of
from serving.routes.docs_page import DOCS_PAGE
from serving.routes.prediction_paths import prediction_paths
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
        "paths": {**prediction_paths(project, model), **paths_of(routes)},
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
        "identifier": {"type": ["string", "integer"], "maxLength": MAXIMUM_IDENTIFIER_CHARACTERS},
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
