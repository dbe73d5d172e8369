"""The numbers are those of RFC 9421, appendix B (keys in B.1, the request and its signatures in B.2), and RFC 9530."""

import base64
from collections.abc import Sequence
from typing import NamedTuple

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from contracts.signing import (
    ED25519,
    NotCoverableError,
    Signer,
    component_value,
    content_digest,
    hmac_signer,
    sign_request,
    signature_base,
)

# B.1.5 test-shared-secret, and B.1.4 test-key-ed25519 (the private value `d` of its JWK)
SHARED_SECRET = base64.b64decode(
    "uzvJfB4u3N0Jy4T7NZ75MDVcr8zSTInedJtkgcu46YW4XByzNJjxBdtjUkdJPBtbmHhIDi6pcl8jsasjlTMtDQ=="
)
ED25519_PRIVATE = base64.urlsafe_b64decode("n4Ni-HpISpVObnQMW0wOhCKROaIKqKtW_2ZYb2p9KcU=")
BODY = b'{"hello": "world"}'
SHA_512 = "sha-512=:WZDPaVn/7XgHaAy8pmojAkGWoRx2UFChF41A2svX+TaPm+AbwAgBWnrIiYllu7BNNyealdVLvRwEmTHWXvJwew==:"


class Request(NamedTuple):
    method: str
    scheme: str
    path: str
    query: bytes
    headers: Sequence[tuple[bytes, bytes]]


# B.2, the test-request
REQUEST = Request(
    method="POST",
    scheme="https",
    path="/foo",
    query=b"param=Value&Pet=dog",
    headers=[
        (b"host", b"example.com"),
        (b"date", b"Tue, 20 Apr 2021 02:07:55 GMT"),
        (b"content-type", b"application/json"),
        (b"content-digest", SHA_512.encode()),
        (b"content-length", b"18"),
    ],
)


def test_the_digest_of_a_body_is_that_of_the_rfc() -> None:
    assert content_digest(BODY, "sha-512") == SHA_512
    # RFC 9530, appendix B.1
    assert content_digest(BODY + b"\n") == "sha-256=:RK/0qy18MlBSVnWgjwz6lZEWjP/lF5HF9bvEF8FabDg=:"


def test_the_hmac_signature_of_the_rfc_comes_out() -> None:
    """B.2.5, signing a request using hmac-sha256."""
    parameters = '("date" "@authority" "content-type");created=1618884473;keyid="test-shared-secret"'
    base = signature_base(REQUEST, ["date", "@authority", "content-type"], parameters)
    assert base.decode() == (
        '"date": Tue, 20 Apr 2021 02:07:55 GMT\n"@authority": example.com\n"content-type": application/json\n'
        '"@signature-params": ("date" "@authority" "content-type");created=1618884473;keyid="test-shared-secret"'
    )
    signature = hmac_signer("test-shared-secret", SHARED_SECRET).sign(base)
    assert base64.b64encode(signature) == b"pxcQw6G3AjtMBQjwo8XzkZf/bws5LelbaMk5rGIGtE8="


def test_the_ed25519_signature_of_the_rfc_comes_out() -> None:
    """B.2.6, signing a request using ed25519."""
    components = ["date", "@method", "@path", "@authority", "content-type", "content-length"]
    listed = " ".join(f'"{name}"' for name in components)
    parameters = f'({listed});created=1618884473;keyid="test-key-ed25519"'
    signature = Ed25519PrivateKey.from_private_bytes(ED25519_PRIVATE).sign(
        signature_base(REQUEST, components, parameters)
    )
    assert base64.b64encode(signature) == (
        b"wqcAqbmYJ2ji2glfAMaRy4gruYYnx2nEFN2HN6jrnDnQCK1u02Gb04v9EDgwUPiu4A0w6vuQv5lIp5WPpBKRCw=="
    )


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("@method", "POST"),
        ("@scheme", "https"),
        ("@authority", "example.com"),
        ("@path", "/foo"),
        ("@query", "?param=Value&Pet=dog"),
        ("@request-target", "/foo?param=Value&Pet=dog"),
        ("@target-uri", "https://example.com/foo?param=Value&Pet=dog"),
        ("content-length", "18"),
    ],
)
def test_each_component_has_its_value(name: str, value: str) -> None:
    assert component_value(REQUEST, name) == value


@pytest.mark.parametrize(
    ("host", "scheme", "authority"),
    [
        ("EXAMPLE.com", "http", "example.com"),
        ("example.com:80", "http", "example.com"),
        ("example.com:443", "https", "example.com"),
        ("example.com:80", "https", "example.com:80"),
        ("[::1]:8500", "http", "[::1]:8500"),
    ],
)
def test_the_authority_is_in_lower_case_and_without_the_usual_port(host: str, scheme: str, authority: str) -> None:
    request = REQUEST._replace(scheme=scheme, headers=[(b"host", host.encode())])
    assert component_value(request, "@authority") == authority


def test_a_request_without_a_query_has_a_bare_question_mark_and_fields_that_come_twice_are_joined() -> None:
    bare = REQUEST._replace(query=b"", headers=[*REQUEST.headers, (b"x-a", b" one "), (b"x-a", b"two")])
    assert component_value(bare, "@query") == "?"
    assert component_value(bare, "@target-uri") == "https://example.com/foo"
    assert component_value(bare, "x-a") == "one, two"


@pytest.mark.parametrize("name", ["@status", "@query-param", "@nothing", "x-missing", "é"])
def test_what_a_request_does_not_have_cannot_be_covered(name: str) -> None:
    with pytest.raises(NotCoverableError, match="found"):
        component_value(REQUEST, name)


def test_a_value_that_is_not_ascii_cannot_be_covered() -> None:
    request = REQUEST._replace(headers=[(b"x-a", "é".encode())])
    with pytest.raises(NotCoverableError, match="not ASCII"):
        signature_base(request, ["x-a"], "()")


def test_a_client_gets_the_headers_of_a_signed_request() -> None:
    key = Ed25519PrivateKey.from_private_bytes(ED25519_PRIVATE)
    found = sign_request(
        "post",
        "https://Models.example:443/v1/predict?a=1",
        b"{}",
        Signer("acme", ED25519, key.sign),
        headers={"Content-Type": "application/json"},
        created_s=5,
        nonce='a"b',
    )
    assert found["signature-input"] == (
        'sig1=("@method" "@authority" "@path" "@query" "content-digest" "content-type");created=5;nonce="a\\"b"'
        ';keyid="acme";alg="ed25519"'
    )
    assert found["content-digest"] == content_digest(b"{}")
    base = (
        '"@method": POST\n"@authority": models.example\n"@path": /v1/predict\n"@query": ?a=1\n'
        f'"content-digest": {content_digest(b"{}")}\n"content-type": application/json\n'
        f'"@signature-params": {found["signature-input"].removeprefix("sig1=")}'
    )
    key.public_key().verify(
        base64.b64decode(found["signature"].removeprefix("sig1=:").removesuffix(":")), base.encode()
    )


def test_each_signature_has_another_nonce() -> None:
    signer = hmac_signer("acme", SHARED_SECRET)
    one, two = (sign_request("GET", "http://x/", b"", signer, created_s=5) for _ in range(2))
    assert one["signature"] != two["signature"]


@pytest.mark.parametrize("url", ["/v1/predict", "models.example/x", "ftp://models.example/"])
def test_an_url_without_a_scheme_or_host_is_refused(url: str) -> None:
    with pytest.raises(ValueError, match="expected one with http or https and a host"):
        sign_request("GET", url, b"", hmac_signer("acme", SHARED_SECRET))
