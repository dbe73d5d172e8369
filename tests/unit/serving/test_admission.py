import asyncio
from collections.abc import MutableMapping
from typing import Any

import pytest

from serving import admission
from serving.admission import MAXIMUM_BODY_BYTES, ClientGoneError, RequestRefusedError, client_request_id, read_body


def body_of(*messages: dict[str, Any]) -> bytes:
    left = list(messages)

    async def receive() -> MutableMapping[str, Any]:
        if not left:
            await asyncio.Event().wait()
        return left.pop(0)

    return asyncio.run(read_body({}, receive))


def piece(content: bytes, *, more: bool) -> dict[str, Any]:
    return {"type": "http.request", "body": content, "more_body": more}


def test_a_body_in_pieces_is_put_together() -> None:
    assert body_of(piece(b"a", more=False)) == b"a"
    assert body_of(piece(b"a", more=True), piece(b"b", more=True), piece(b"c", more=False)) == b"abc"


@pytest.mark.parametrize("pieces", [1, 5])
def test_a_body_over_the_limit_is_refused_and_one_at_the_limit_is_not(pieces: int) -> None:
    size = MAXIMUM_BODY_BYTES // pieces
    fits = [piece(b"x" * size, more=number < pieces - 1) for number in range(pieces)]
    assert len(body_of(*fits)) == size * pieces
    with pytest.raises(RequestRefusedError, match="4194304 bytes") as refused:
        body_of(*[{**each, "more_body": True} for each in fits], piece(b"x" * pieces, more=False))
    assert refused.value.status == 413


def test_a_body_that_does_not_come_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(admission, "MAXIMUM_BODY_S", 0.01)
    with pytest.raises(RequestRefusedError, match="not complete") as refused:
        body_of(piece(b"a", more=True))
    assert refused.value.status == 408


def test_a_client_that_hangs_up_is_no_error_of_the_server() -> None:
    with pytest.raises(ClientGoneError):
        body_of(piece(b"a", more=True), {"type": "http.disconnect"})


@pytest.mark.parametrize(
    ("value", "taken"), [(b"mine-1", "mine-1"), (b"", None), (b"x" * 129, None), (b"a\tb", None), (b"\xe9", None)]
)
def test_only_a_request_id_that_is_fit_to_be_logged_is_taken(value: bytes, taken: str | None) -> None:
    assert client_request_id({"headers": [(b"host", b"x"), (b"x-request-id", value)]}) == taken
