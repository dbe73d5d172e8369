"""The prediction routes in the OpenAPI document, each with examples from the live model's own golden rows."""

from typing import Any

import msgspec

from contracts.problem import CONTENT_TYPE as PROBLEM_TYPE
from serving.admission import BINARY_TYPE, JSON_TYPE, MAXIMUM_BODY_BYTES
from serving.assigned import SYNTHETIC_HEADER
from serving.engine import Model
from serving.protocols import arrow_stream, binary_tensors, invocations, media_types
from serving.protocols.open_inference import metadata
from serving.protocols.records import MAXIMUM_RECORDS
from serving.routes.described import reference
from serving.routes.predict import INVOCATIONS_PATH, PREDICT_PATH, TIMEOUT_HEADERS

Content = dict[str, dict[str, Any]]
_TEXT: dict[str, Any] = {"type": "string"}
_BINARY: dict[str, Any] = {"type": "string", "format": "binary"}
_PROBLEM: Content = {PROBLEM_TYPE: {"schema": reference("Problem")}}
_PLAIN: Content = {"text/plain": {"schema": _TEXT}}
_RETRY = {"Retry-After": {"description": "seconds", "schema": {"type": "integer"}}}
_PROBLEMS: dict[str, dict[str, Any]] = {
    "400": {"description": "The body cannot be read, or a header has a value that cannot be one"},
    "404": {"description": "There is no such model, or the version is not the champion's"},
    "405": {"description": "Another method than POST"},
    "406": {"description": "Accept names no type that this route answers with"},
    "408": {"description": "The request was not complete in time", "content": {**_PROBLEM, **_PLAIN}},
    "413": {"description": f"The body is larger than {MAXIMUM_BODY_BYTES >> 20} MiB"},
    "415": {"description": "The body is of a type that this route does not read, or compressed"},
    "422": {"description": "A value does not fit the schema; `errors` names the row, what was found and expected"},
    "431": {"description": "The headers are too large", "content": _PLAIN},
    "500": {"description": "The model failed on these rows"},
    "503": {"description": "There is no champion yet, or too much work waits", "headers": _RETRY},
    "504": {"description": "The time of the request was over before its rows were scored"},
}
_PARAMETERS = [
    {
        "name": "x-request-id",
        "in": "header",
        "description": "up to 128 printable characters of ASCII: comes back with the answer, and is in the prediction "
        "log; another is replaced by one of the server's",
        "schema": _TEXT,
    },
    {
        "name": TIMEOUT_HEADERS[0].decode(),
        "in": "header",
        "description": "milliseconds that the client waits; work that nobody waits for is not done",
        "schema": {"type": "integer", "minimum": 1, "maximum": 999_999_999},
    },
    {
        "name": SYNTHETIC_HEADER.decode(),
        "in": "header",
        "description": "1 for a request of a probe or a test: answered as any other, and counted nowhere",
        "schema": {"type": "string", "enum": ["1"]},
    },
]
_TIMEOUT_MICROSECONDS = "The parameter `timeout` is in microseconds, 0 is none."


def prediction_paths(project: str, model: Model | None) -> dict[str, Any]:
    """The paths of the prediction routes; without a model they have no examples."""
    golden = model.bundle.golden.records[:1] if model else []
    infer = _operation(
        "infer",
        "Predict by tensors (Open Inference Protocol v2)",
        f"One tensor for each field of the input schema, shape [n] or [n, 1], up to {MAXIMUM_RECORDS} rows"
        f"{_tensors(project, model)}. With the header {binary_tensors.HEADER.decode()} the body is {BINARY_TYPE}: "
        f"JSON, and behind it the data of the tensors that have a `{binary_tensors.SIZE}`. {_TIMEOUT_MICROSECONDS}",
        {**_json("InferRequest", _tensors_example(project, model)), BINARY_TYPE: {"schema": _BINARY}},
        {**_json("InferResponse"), BINARY_TYPE: {"schema": _BINARY}},
        ("406",),
    )
    infer["parameters"].append(
        {
            "name": binary_tensors.HEADER.decode(),
            "in": "header",
            "description": "the length of the JSON, where tensors in binary form stand behind it",
            "schema": {"type": "integer", "minimum": 0},
        }
    )
    instances = _operation(
        "predict_instances",
        "Predict by instances or inputs (TensorFlow Serving, KServe v1)",
        "`instances` are records, `inputs` one list of values for each field; `predictions` come back for both, and "
        "for `inputs` also columns in `outputs`.",
        _json("InstancesRequest", {"instances": golden} if model else None),
        {JSON_TYPE: {"schema": {"anyOf": [reference("PredictResponse"), reference("ColumnsResponse")]}}},
        ("406",),
    )
    records = _json("PredictRequest", {"records": golden} if model else None)
    arrow = {media_types.ARROW: {"schema": _BINARY}}
    about_arrow = (
        f"An Arrow stream has the fields as columns and up to {arrow_stream.MAXIMUM_ROWS} rows, uncompressed; it is "
        "answered by one, unless Accept asks for another type."
    )
    lines = {
        media_types.JSON_LINES: "".join(msgspec.json.encode(record).decode() + "\n" for record in golden),
        media_types.CSV: invocations.csv_of(golden),
    }
    texts: Content = {kind: {"schema": _TEXT, **({"example": text} if model else {})} for kind, text in lines.items()}
    without_example: Content = {kind: {"schema": _TEXT} for kind in lines}
    return {
        PREDICT_PATH: {
            "post": _operation(
                "predict",
                f"Predict by records (1 to {MAXIMUM_RECORDS}), or by an Arrow stream",
                "Each record is assigned to a slot by its entity; a challenger's failure is answered by the champion. "
                + about_arrow,
                {**records, **arrow},
                {**_json("PredictResponse"), **arrow},
                ("404",),
            )
        },
        f"/v2/models/{project}/infer": {"post": infer},
        f"/v2/models/{project}/versions/{{version}}/infer": {"post": _pinned(infer)},
        f"/v1/models/{project}:predict": {"post": instances},
        f"/v1/models/{project}/versions/{{version}}:predict": {"post": _pinned(instances)},
        INVOCATIONS_PATH: {
            "post": _operation(
                "invocations",
                "Predict by JSON, JSON Lines, CSV or Arrow (SageMaker)",
                "JSON Lines has one record a line, CSV a header line with the names of the fields. Accept chooses the "
                f"type of the answer, JSON where it does not say. {about_arrow}",
                {**records, **texts, **arrow},
                {**_json("PredictResponse"), **without_example, **arrow},
                ("404",),
            )
        },
    }


def _operation(
    name: str, summary: str, description: str, request: Content, response: Content, absent: tuple[str, ...]
) -> dict[str, Any]:
    """`absent` are the problems that this route does not have."""
    return {
        "tags": ["predictions"],
        "operationId": name,
        "summary": summary,
        "description": description,
        "parameters": list(_PARAMETERS),
        "requestBody": {"required": True, "content": request},
        "responses": {
            "200": {
                "description": "The predictions",
                "headers": {
                    "x-request-id": {"schema": _TEXT},
                    "x-cache": {"description": "`hit` where the score is another request's", "schema": _TEXT},
                },
                "content": response,
            },
            **{
                status: {"content": _PROBLEM, **problem}
                for status, problem in _PROBLEMS.items()
                if status not in absent
            },
        },
    }


def _pinned(operation: dict[str, Any]) -> dict[str, Any]:
    version = {"name": "version", "in": "path", "required": True, "schema": {"type": "string"}}
    return {
        **operation,
        "operationId": f"{operation['operationId']}_version",
        "summary": "The same, of the champion's version only",
        "parameters": [*operation["parameters"], version],
    }


def _json(schema: str, example: dict[str, Any] | None = None) -> Content:
    return {JSON_TYPE: {"schema": reference(schema), **({} if example is None else {"example": example})}}


def _tensors(project: str, model: Model | None) -> str:
    if model is None:
        return ""
    tensors = metadata(project, [], model.schema, {})["inputs"]
    return ": " + ", ".join(f"{tensor['name']} {tensor['datatype']}" for tensor in tensors)


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
            for tensor in metadata(project, [], model.schema, {})["inputs"]
            if record.get(tensor["name"]) is not None
        ]
    }


def _datatype(tensor: dict[str, Any], record: dict[str, Any]) -> str:
    is_whole_identifier = tensor["datatype"] == "BYTES" and isinstance(record[tensor["name"]], int)
    return "INT64" if is_whole_identifier else str(tensor["datatype"])
