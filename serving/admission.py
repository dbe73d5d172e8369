"""What may come in: bodies up to a size and within a time, so many requests at once; and how refusals look."""

from collections.abc import Awaitable, Callable, Iterable, MutableMapping, Sequence
from typing import Any

import msgspec

from contracts.encoder import FieldProblem
from contracts.problem import CONTENT_TYPE as PROBLEM_TYPE
from contracts.problem import Problem

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]

MAXIMUM_BODY_BYTES = 4 << 20
MAXIMUM_BODY_S = 10.0
MAXIMUM_IN_FLIGHT = 1024
MAXIMUM_PROBLEMS = 100
MAXIMUM_REQUEST_ID_CHARACTERS = 128
JSON_TYPE = "application/json"
BINARY_TYPE = "application/octet-stream"
_TITLES = {
    400: "Malformed request",
    401: "Not authorised",
    403: "Not allowed",
    404: "Not found",
    405: "Method not allowed",
    406: "Not acceptable",
    408: "The request took too long",
    409: "Conflict",
    413: "Body too large",
    415: "Unsupported media type",
    422: "Invalid request",
    429: "Too many requests",
    500: "Internal error",
    501: "Not implemented",
    431: "Headers too large",
    503: "Not available",
    504: "Out of time",
}


class RequestRefusedError(Exception):
    """A request that is answered with a problem."""

    def __init__(
        self,
        status: int,
        detail: str,
        errors: Sequence[FieldProblem] = (),
        headers: Sequence[tuple[bytes, bytes]] = (),
    ) -> None:
        self.status = status
        self.detail = detail
        self.errors = tuple(errors)
        self.headers = headers
        super().__init__(detail)


class ClientGoneError(Exception):
    """The client closed the connection before its request was complete."""


class _ProblemWithError(Problem, frozen=True, kw_only=True, omit_defaults=True):
    error: str  # where clients of the Open Inference Protocol look


def problem_body(
    status: int, detail: str, errors: Sequence[FieldProblem] = (), *, is_open_inference: bool = False
) -> bytes:
    """A problem as JSON; with more than 100 `errors` the first 100 are told."""
    title = _TITLES.get(status, "Error")
    shown = tuple(errors[:MAXIMUM_PROBLEMS])
    if is_open_inference:
        return msgspec.json.encode(
            _ProblemWithError(title=title, status=status, detail=detail, errors=shown, error=detail)
        )
    return msgspec.json.encode(Problem(title=title, status=status, detail=detail, errors=shown))


def usable_request_id(found: bytes | None) -> str | None:
    """A client's `x-request-id` where it is fit to be logged: printable ASCII up to 128 characters."""
    if found and len(found) <= MAXIMUM_REQUEST_ID_CHARACTERS and found.isascii():
        text = found.decode()
        return text if text.isprintable() else None
    return None


def client_request_id(scope: Scope) -> str | None:
    """The usable `x-request-id` of an ASGI request."""
    return usable_request_id(dict(scope["headers"]).get(b"x-request-id"))


async def respond(
    send: Send,
    status: int,
    body: bytes,
    content_type: str = JSON_TYPE,
    headers: Iterable[tuple[bytes, bytes]] = (),
) -> None:
    """Sends one whole response."""
    await send(
        {
            "type": "http.response.start",
            "status": status,
            "headers": [
                (b"content-type", content_type.encode()),
                (b"content-length", b"%d" % len(body)),
                *headers,
            ],
        }
    )
    await send({"type": "http.response.body", "body": body})


async def respond_problem(
    send: Send,
    refused: RequestRefusedError,
    headers: Iterable[tuple[bytes, bytes]] = (),
    *,
    is_open_inference: bool = False,
) -> None:
    """Sends a problem."""
    body = problem_body(refused.status, refused.detail, refused.errors, is_open_inference=is_open_inference)
    await respond(send, refused.status, body, PROBLEM_TYPE, headers)
