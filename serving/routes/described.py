"""Routes of Starlette that carry their own OpenAPI operation.

FastAPI would write the same description, but loading it with pydantic cost every start 0.2 s and the process 14 MB,
for routes that take no parameter beyond a name in the path and validate their messages themselves.
"""

import re
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import msgspec
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from contracts.problem import CONTENT_TYPE as PROBLEM_TYPE
from serving.admission import JSON_TYPE

Endpoint = Callable[[Request], Awaitable[Response]]
_IN_PATH, _NO_WORD = re.compile(r"{(\w+)}"), re.compile(r"\W")


def reference(message: type[Any] | str) -> dict[str, str]:
    """A reference to the schema of `message`."""
    name = message if isinstance(message, str) else message.__name__
    return {"$ref": f"#/components/schemas/{name}"}


def json_answer(value: object) -> Response:
    """`value` as JSON, status 200."""
    return Response(msgspec.json.encode(value), media_type=JSON_TYPE)


class DescribedRoute(Route):
    """One method of one path, with its operation. `answer` is the schema of the answer, where one has a name.

    A request names all of `query`, and `may` name the rest.
    """

    def __init__(
        self,
        method: str,
        path: str,
        endpoint: Endpoint,
        *,
        tag: str,
        summary: str,
        says: str = "The answer",
        answer: type[Any] | None = None,
        answer_type: str | None = JSON_TYPE,
        message: type[Any] | None = None,
        query: Sequence[str] = (),
        may: Sequence[str] = (),
    ) -> None:
        super().__init__(path, endpoint, methods=[method])
        places = [*(("path", name) for name in _IN_PATH.findall(path)), *(("query", name) for name in (*query, *may))]
        schema = reference(answer) if answer is not None else {}
        self.method = method.lower()
        self.operation: dict[str, Any] = {
            "tags": [tag],
            "summary": summary,
            "operationId": _NO_WORD.sub("_", f"{endpoint.__name__}{path}_{self.method}"),
            "responses": {
                "200": {"description": says, **({"content": {answer_type: {"schema": schema}}} if answer_type else {})},
                "default": {"description": "A problem", "content": {PROBLEM_TYPE: {"schema": reference("Problem")}}},
            },
        }
        if places:
            self.operation["parameters"] = [
                {"name": name, "in": place, "required": name not in may, "schema": {"type": "string"}}
                for place, name in places
            ]
        if message is not None:
            self.operation["requestBody"] = {"required": True, "content": {JSON_TYPE: {"schema": reference(message)}}}


def paths_of(routes: Sequence[BaseRoute]) -> dict[str, dict[str, Any]]:
    """The `paths` of an OpenAPI document: every described route among `routes`."""
    paths: dict[str, dict[str, Any]] = {}
    for route in routes:
        if isinstance(route, DescribedRoute):
            paths.setdefault(route.path, {})[route.method] = route.operation
    return paths
