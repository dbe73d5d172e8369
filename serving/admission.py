"""What may come in: bodies up to a size and within a time, so many requests at once; and how answers go out."""

import asyncio
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
    503: "Not ready",
}


class RequestRefusedError(Exception):
    """A request that is answered with a problem."""

    def __init__(self, status: int, detail: str, errors: Sequence[FieldProblem] = ()) -> None:
        self.status = status
        self.detail = detail
        self.errors = tuple(errors)
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


async def read_body(scope: Scope, receive: Receive) -> bytes:
    """The whole body of a request.

    Raises:
        RequestRefusedError: it is larger than 4 MiB, or not here within 10 s.
        ClientGoneError: the client hung up.
    """
    try:
        async with asyncio.timeout(MAXIMUM_BODY_S):
            message = await receive()
            if message["type"] == "http.request" and not message.get("more_body"):
                body: bytes = message.get("body", b"")
                _check_size(len(body))
                return body
            return await _read_pieces(message, receive)
    except TimeoutError:
        raise RequestRefusedError(408, f"the body was not complete after {MAXIMUM_BODY_S:g} s") from None


async def _read_pieces(message: MutableMapping[str, Any], receive: Receive) -> bytes:
    pieces: list[bytes] = []
    size = 0
    while True:
        if message["type"] == "http.disconnect":
            raise ClientGoneError
        piece = message.get("body", b"")
        size += len(piece)
        _check_size(size)
        pieces.append(piece)
        if not message.get("more_body"):
            return b"".join(pieces)
        message = await receive()


def _check_size(size: int) -> None:
    if size > MAXIMUM_BODY_BYTES:
        raise RequestRefusedError(
            413, f"the body is larger than {MAXIMUM_BODY_BYTES} bytes: send fewer records at once"
        )


def header(scope: Scope, name: bytes) -> str | None:
    """The value of the request header `name` (lower case), or None."""
    for key, value in scope["headers"]:
        if key == name:
            return str(value, "latin-1")
    return None


def client_request_id(scope: Scope) -> str | None:
    """The `x-request-id` of the client, where it is fit to be logged: printable ASCII up to 128 characters."""
    found = header(scope, b"x-request-id")
    if found and len(found) <= MAXIMUM_REQUEST_ID_CHARACTERS and found.isascii() and found.isprintable():
        return found
    return None


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
