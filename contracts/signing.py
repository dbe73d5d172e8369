"""Signed requests, by RFC 9421 (HTTP message signatures) and RFC 9530 (content digests): what both sides compute alike.

A client calls `sign_request` and adds the headers that it gives; the server builds the same signature base.

    >>> signer = hmac_signer("acme-2026", b"a shared secret of 32 random bytes")
    >>> sorted(sign_request("POST", "https://models.example/v1/predict", b"{}", signer))
    ['content-digest', 'signature', 'signature-input']
"""

import base64
import hashlib
import hmac
import secrets
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, Protocol
from urllib.parse import urlsplit

HMAC_SHA256, ED25519 = "hmac-sha256", "ed25519"
DIGESTS: Mapping[str, Callable[[bytes], Any]] = {"sha-256": hashlib.sha256, "sha-512": hashlib.sha512}
DERIVED = frozenset({"@method", "@target-uri", "@authority", "@scheme", "@request-target", "@path", "@query"})
_DEFAULT_PORTS = {"http": ":80", "https": ":443"}
_NONCE_BYTES = 16


class NotCoverableError(ValueError):
    """A component that the message does not have, or that has no value for a signature."""


class Message(Protocol):
    """The head of a request. `path` as it stands in the request line; the names of `headers` in lower case."""

    @property
    def method(self) -> str: ...
    @property
    def scheme(self) -> str: ...
    @property
    def path(self) -> str: ...
    @property
    def query(self) -> bytes: ...
    @property
    def headers(self) -> Sequence[tuple[bytes, bytes]]: ...


class Signer(NamedTuple):
    """Who signs: the key's id, the algorithm that it is for, and what makes the signature of some bytes.

    For Ed25519, `Signer("acme-2026", ED25519, private_key.sign)` with an `Ed25519PrivateKey` of `cryptography`.
    """

    key_id: str
    algorithm: str
    sign: Callable[[bytes], bytes]


class _Request(NamedTuple):
    method: str
    scheme: str
    path: str
    query: bytes
    headers: Sequence[tuple[bytes, bytes]]


def hmac_signer(key_id: str, secret: bytes) -> Signer:
    """Signs by HMAC-SHA256 with the secret that the server has too."""
    return Signer(key_id, HMAC_SHA256, lambda base: hmac.digest(secret, base, "sha256"))


def content_digest(body: bytes, algorithm: str = "sha-256") -> str:
    """The value of the header `Content-Digest` for `body`; `algorithm` is `sha-256` or `sha-512`."""
    return f"{algorithm}=:{base64.b64encode(DIGESTS[algorithm](body).digest()).decode()}:"


def signature_base(message: Message, components: Sequence[str], parameters: str) -> bytes:
    """What is signed (RFC 9421, section 2.5): a line for each component, and the parameters of the signature.

    `parameters` is the inner list of the signature's input, as it stands in the header.

    Raises:
        NotCoverableError: a component has no value.
    """
    lines = [f'"{name}": {component_value(message, name)}' for name in components]
    try:
        return "\n".join([*lines, f'"@signature-params": {parameters}']).encode("ascii")
    except UnicodeEncodeError as error:
        raise NotCoverableError("found a value that is not ASCII, which no signature can cover") from error


def component_value(message: Message, name: str) -> str:
    """The value of one component (RFC 9421, sections 2.1 and 2.2): of a header field, or derived where it has an `@`.

    Raises:
        NotCoverableError: the message has no such field, or there is no such derived component.
    """
    if not name.startswith("@"):
        wanted = name.encode("ascii", "replace")
        # a folded line could be read in two ways; no server here lets one through
        values = [value.decode("latin-1").strip() for field, value in message.headers if field == wanted]
        if not values:
            raise NotCoverableError(f"found no header {name!r}, which the signature covers")
        return ", ".join(values)
    query = "?" + message.query.decode("latin-1")
    match name:
        case "@method":
            return message.method
        case "@scheme":
            return message.scheme
        case "@authority":
            return _authority(message)
        case "@path":
            return message.path
        case "@query":
            return query
        case "@request-target":
            return message.path + (query if message.query else "")
        case "@target-uri":
            return f"{message.scheme}://{_authority(message)}{message.path}{query if message.query else ''}"
    raise NotCoverableError(f"found the component {name!r}, expected header fields and {', '.join(sorted(DERIVED))}")


def sign_request(
    method: str,
    url: str,
    body: bytes,
    signer: Signer,
    *,
    headers: Mapping[str, str] | None = None,
    created_s: int | None = None,
    nonce: str | None = None,
    label: str = "sig1",
) -> dict[str, str]:
    """The headers that make a signed request: `content-digest`, `signature-input` and `signature`.

    The signature covers the method, authority, path and query of `url`, which must be as it is sent, the digest of the
    body, and those of `headers` (which the request must have) that are given. `created_s` (Unix time) and `nonce` are
    now and a fresh one; each signature is good for one request.

    Raises:
        ValueError: `url` has no scheme or no host, or a value cannot be signed.
    """
    parts = urlsplit(url)
    if parts.scheme not in _DEFAULT_PORTS or not parts.netloc:
        raise ValueError(f"found the URL {url!r}, expected one with http or https and a host")
    covered = {name.lower(): value for name, value in (headers or {}).items()}
    digest = {"content-digest": content_digest(body)}
    known = {"host": parts.netloc.rpartition("@")[2], **covered, **digest}
    request = _Request(
        method=method.upper(),
        scheme=parts.scheme,
        path=parts.path or "/",
        query=parts.query.encode(),
        headers=[(name.encode(), value.encode("latin-1")) for name, value in known.items()],
    )
    components = ["@method", "@authority", "@path", "@query", *digest, *(name for name in covered if name != "host")]
    created = int(time.time()) if created_s is None else created_s
    listed = " ".join(f'"{name}"' for name in components)
    parameters = (
        f"({listed});created={created};nonce={_string(nonce or secrets.token_urlsafe(_NONCE_BYTES))}"
        f";keyid={_string(signer.key_id)};alg={_string(signer.algorithm)}"
    )
    signature = base64.b64encode(signer.sign(signature_base(request, components, parameters))).decode()
    return {**digest, "signature-input": f"{label}={parameters}", "signature": f"{label}=:{signature}:"}


def _authority(message: Message) -> str:
    """The `Host` of the request in lower case, without the port that its scheme has anyway."""
    host = component_value(message, "host").lower()
    return host.removesuffix(_DEFAULT_PORTS.get(message.scheme, ""))


def _string(text: str) -> str:
    if not text.isascii() or not text.isprintable():
        raise ValueError(f"found {text!r}, expected printable ASCII")
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'
