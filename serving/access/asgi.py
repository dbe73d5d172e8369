"""The guard in front of an ASGI application."""

from collections.abc import MutableMapping
from typing import Any

from serving.access.limits import Headers
from serving.access.request import Admission, RequestHead
from serving.admission import (
    MAXIMUM_BODY_BYTES,
    ClientGoneError,
    Receive,
    RequestRefusedError,
    Scope,
    Send,
    client_request_id,
    respond_problem,
)


def head_of(scope: Scope) -> RequestHead:
    """The head of a request as the guard wants it."""
    peer = scope.get("client")
    return RequestHead(
        method=scope.get("method", "GET"),
        path=scope["raw_path"].decode("latin-1") if scope.get("raw_path") else scope.get("path", "/"),
        query=scope.get("query_string", b""),
        headers=scope["headers"],
        scheme=scope.get("scheme", "http"),
        certificate=scope.get("state", {}).get("certificate"),
        peer=peer[0] if peer else None,
    )


async def admitted(scope: Scope, receive: Receive, admission: Admission) -> Receive:
    """Puts the client's name into `scope["state"]`; the body, which is read and checked before for a signed request.

    Raises:
        AccessRefusedError: the body is not the one that was signed.
        RequestRefusedError: the body is too large.
        ClientGoneError: the client hung up.
    """
    scope.setdefault("state", {}).update(client=admission.client, key_id=admission.key_id)
    if admission.check_body is None:
        return receive
    body = await _body(receive)
    admission.check_body(body)
    is_given = False

    async def give() -> MutableMapping[str, Any]:
        nonlocal is_given
        if is_given:
            return await receive()
        is_given = True
        return {"type": "http.request", "body": body, "more_body": False}

    return give


async def _body(receive: Receive) -> bytes:
    pieces: list[bytes] = []
    size = 0
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise ClientGoneError
        piece = message.get("body", b"")
        size += len(piece)
        if size > MAXIMUM_BODY_BYTES:
            raise RequestRefusedError(413, f"the body is larger than {MAXIMUM_BODY_BYTES} bytes")
        pieces.append(piece)
        if not message.get("more_body"):
            return b"".join(pieces)


async def respond_refused(scope: Scope, send: Send, refused: RequestRefusedError) -> None:
    """Answers a request that the guard, or the reading of its signed body, refused."""
    headers = list(refused.headers)
    request_id = client_request_id(scope)
    if request_id is not None:
        headers.append((b"x-request-id", request_id.encode()))
    is_open_inference = scope["path"].startswith(("/v2", "/v1/models"))
    await respond_problem(send, refused, headers, is_open_inference=is_open_inference)


def with_headers(send: Send, headers: Headers) -> Send:
    """`send`, with more headers on the answer."""
    if not headers:
        return send

    async def send_more(message: MutableMapping[str, Any]) -> None:
        if message["type"] == "http.response.start":
            message["headers"] = [*message.get("headers", ()), *headers]
        await send(message)

    return send_more
