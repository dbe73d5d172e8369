from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec
import pytest

from contracts.access import MAXIMUM_FILE_BYTES, ApiKey, KeyFile, KeyFileError, decode_keys, digest_of, encode_keys

NOW = datetime(2026, 1, 1, tzinfo=UTC)


def key(**changes: Any) -> ApiKey:
    usual: dict[str, Any] = {
        "id": "0123456789ab",
        "client": "acme",
        "sha256": digest_of(b"pk_secret").hex(),
        "scopes": ("predict",),
        "created": NOW,
    }
    return ApiKey(**{**usual, **changes})


def raw(**changes: Any) -> bytes:
    entry = {**msgspec.to_builtins(key()), **changes}
    return msgspec.json.encode({"format": 1, "keys": [entry]})


def test_what_is_written_is_read_again() -> None:
    file = KeyFile(keys=(key(), key(id="0123456789ac", expires=NOW + timedelta(1), rate_per_s=2.5, burst=7)))
    assert decode_keys(encode_keys(file)) == file


def test_a_key_is_active_until_it_expires_or_is_revoked() -> None:
    assert key().is_active(NOW + timedelta(days=10_000))
    expiring = key(expires=NOW + timedelta(days=1))
    assert expiring.is_active(NOW + timedelta(hours=23))
    assert not expiring.is_active(NOW + timedelta(days=1))
    assert not key(revoked=NOW).is_active(NOW)


@pytest.mark.parametrize(
    ("changes", "where"),
    [
        ({"id": "0123456789AB"}, "id"),
        ({"id": "0123456789ab\n"}, "id"),
        ({"client": "a client"}, "client"),
        ({"client": "acme\r\nx-more: 1"}, "client"),
        ({"sha256": "abc"}, "sha256"),
        ({"scopes": []}, "scopes"),
        ({"scopes": ["control"]}, "scopes"),
        ({"created": "2026-01-01T00:00:00"}, "created"),
        ({"expires": "2025-01-01T00:00:00Z"}, "not after"),
        ({"rate_per_s": 0}, "rate_per_s"),
        ({"rate_per_s": 1e-300}, "rate_per_s"),
        ({"rate_per_s": 1, "burst": 0}, "burst"),
        ({"burst": 5}, "no rate_per_s"),
        ({"expiry": None}, "expiry"),
    ],
)
def test_a_wrong_entry_is_refused_with_where_it_is_wrong(changes: dict[str, Any], where: str) -> None:
    with pytest.raises(KeyFileError, match=where) as caught:
        decode_keys(raw(**changes))
    assert digest_of(b"pk_secret").hex() not in str(caught.value)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"\xff\xfe",
        b"[]",
        b'{"format": 2, "keys": []}',
        b"[" * 100_000,
        b'{"keys": [' * 50_000,
        b" " * (MAXIMUM_FILE_BYTES + 1),
        msgspec.json.encode({"keys": [msgspec.to_builtins(key())] * 2}),
    ],
    ids=["empty", "half", "no text", "a list", "another format", "deep", "deep keys", "large", "twice"],
)
def test_a_file_of_another_form_is_refused(content: bytes) -> None:
    with pytest.raises(KeyFileError):
        decode_keys(content)


def test_nothing_is_written_that_could_not_be_read() -> None:
    with pytest.raises(KeyFileError, match="client"):
        encode_keys(KeyFile(keys=(key(client="not a name"),)))
