"""Signed requests: the checks of RFC 9421 that a signature must pass, and of RFC 9530 for the body behind it."""

import hmac
import math
from collections.abc import Callable, Collection, Mapping
from functools import partial
from typing import Any, NamedTuple, cast

import http_sf

from contracts.access_file import AccessFile, SigningKey
from contracts.signing import DIGESTS, ED25519, HMAC_SHA256, NotCoverableError, signature_base
from serving.access.limits import Limit
from serving.access.nonces import Nonce, NonceMemory
from serving.access.request import CredentialRefusedError, Grant, RequestHead

LEEWAY_S = 10  # how far a client's clock may go before ours
MAXIMUM_LABELS, MAXIMUM_COMPONENTS, MAXIMUM_NONCE_CHARACTERS = 16, 64, 128
_DIGEST = "content-digest"
_Verify = Callable[[bytes, bytes], bool]


class Signed(NamedTuple):
    """A request whose signature is right; `remember` (see NonceMemory) is to be called once it comes in.

    `check_body` takes the whole body, and raises CredentialRefusedError where another was signed.
    """

    grant: Grant
    remember: Callable[[float], None]
    check_body: Callable[[bytes], None]


class _Key(NamedTuple):
    grant: Grant
    algorithm: str
    verify: _Verify


class _Input(NamedTuple):
    label: str
    components: tuple[str, ...]
    parameters: Mapping[str, Any]
    text: str


class SignatureVerifier:
    """The signing keys in force, and how long a signature is good."""

    def __init__(self, keys: Mapping[str, _Key], *, window_s: int, nonces_per_key: int, nonces: NonceMemory) -> None:
        self._keys = keys
        self._window_s = window_s
        self._nonces_per_key = nonces_per_key
        self._nonces = nonces

    @classmethod
    def of(cls, file: AccessFile, project: str, usual: Limit | None, nonces: NonceMemory) -> "SignatureVerifier":
        """A key for other projects only is known here, and has no scope.

        Raises:
            ValueError: a public key is none.
        """
        keys = {
            key.id: _Key(
                Grant(
                    id=key.id,
                    client=key.client,
                    scopes=frozenset(key.scopes) if not key.projects or project in key.projects else frozenset(),
                    expires_s=math.inf if key.expires is None else key.expires.timestamp(),
                    limit=usual if key.rate_per_s is None else Limit.of(key.rate_per_s, key.burst),
                ),
                key.algorithm,
                _verifier(key),
            )
            for key in file.signing_keys
        }
        return cls(keys, window_s=file.signature_window_s, nonces_per_key=file.nonces_per_key, nonces=nonces)

    @property
    def grants(self) -> list[Grant]:
        """What all keys open."""
        return [key.grant for key in self._keys.values()]

    def verify(self, head: RequestHead, now_s: float) -> Signed | None:
        """Who signed this request; None where it has no signature by a key of ours, which a gateway may have added.

        Of several signatures the first by a known key counts.

        Raises:
            CredentialRefusedError: it has one, which is not right, not fresh, covers too little or came before.
        """
        stated = _field(head, b"signature-input")
        if stated is None:
            return None
        found = self._known(_dictionary("signature-input", stated))
        if found is None:
            return None
        given, key = found
        signature = _dictionary("signature", _field(head, b"signature") or b"").get(given.label, (None, {}))[0]
        if not isinstance(signature, bytes):
            raise CredentialRefusedError(
                f"signature-input has {given.label}, and there is no such byte sequence in signature"
            )
        nonce = self._check_parameters(given, key, now_s)
        has_body = _has_body(head)
        _check_coverage(given.components, head, has_body=has_body)
        check_body = _body_check(head) if _DIGEST in given.components else _expect_no_body
        try:
            base = signature_base(head, given.components, given.text)
        except NotCoverableError as error:
            raise CredentialRefusedError(str(error)) from None
        if not key.verify(base, signature) or now_s >= key.grant.expires_s:
            raise CredentialRefusedError(
                f"the signature {given.label} is not that of an active key over this request: expected, over the "
                "signature base of RFC 9421 of what has arrived here, the one that its parameters state"
            )
        if self._nonces.has(nonce):
            raise CredentialRefusedError(
                "this signed request came before: sign each request anew, with a nonce of its own"
            )
        return Signed(key.grant, partial(self._remember, nonce), check_body)

    def _remember(self, nonce: Nonce, now_s: float) -> None:
        self._nonces.remember(nonce, now_s=now_s, window_s=self._window_s, maximum=self._nonces_per_key)

    def _known(self, inputs: Mapping[str, tuple[Any, Mapping[str, Any]]]) -> tuple[_Input, _Key] | None:
        for label, (items, parameters) in list(inputs.items())[:MAXIMUM_LABELS]:
            key_id = parameters.get("keyid")
            key = self._keys.get(key_id) if isinstance(key_id, str) else None
            if key is not None:
                text = http_sf.ser(cast("http_sf.StructuredType", [(items, parameters)]))
                return _Input(label, _components(label, items), parameters, text), key
        return None

    def _check_parameters(self, given: _Input, key: _Key, now_s: float) -> Nonce:
        created, expires = given.parameters.get("created"), given.parameters.get("expires")
        nonce, algorithm = given.parameters.get("nonce"), given.parameters.get("alg")
        if type(created) is not int or not now_s - self._window_s <= created <= now_s + LEEWAY_S:
            raise CredentialRefusedError(
                f"found created={_shown(created)}, expected the Unix time of the signature, at most {self._window_s} s "
                f"ago; it is {int(now_s)} here"
            )
        if expires is not None and (type(expires) is not int or now_s >= expires):
            raise CredentialRefusedError(
                f"the signature has expired: expires={_shown(expires)}, it is {int(now_s)} here"
            )
        if not isinstance(nonce, str) or not 1 <= len(nonce) <= MAXIMUM_NONCE_CHARACTERS:
            raise CredentialRefusedError(
                f"found nonce={_shown(nonce)}, expected a text of 1 to {MAXIMUM_NONCE_CHARACTERS} characters, another "
                "for each request"
            )
        if algorithm is not None and algorithm != key.algorithm:
            raise CredentialRefusedError(f"found alg={_shown(algorithm)}, and the key is for {key.algorithm}")
        return Nonce(key.grant.id, created, nonce)


def _verifier(key: SigningKey) -> _Verify:
    material = key.material
    if key.algorithm == HMAC_SHA256:
        return lambda base, signature: hmac.compare_digest(hmac.digest(material, base, "sha256"), signature)
    assert key.algorithm == ED25519
    # only where a key needs it: cryptography costs start-up time and memory
    from cryptography.exceptions import InvalidSignature
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

    public_key = Ed25519PublicKey.from_public_bytes(material)

    def verify(base: bytes, signature: bytes) -> bool:
        try:
            public_key.verify(signature, base)
        except InvalidSignature:
            return False
        return True

    return verify


def _components(label: str, items: Any) -> tuple[str, ...]:
    """The names of the covered components.

    Raises:
        CredentialRefusedError: no list of names, one twice, or one with a parameter, of which none is read here.
    """
    if not isinstance(items, list) or len(items) > MAXIMUM_COMPONENTS:
        raise CredentialRefusedError(f"{label} is no list of at most {MAXIMUM_COMPONENTS} components")
    names: list[str] = []
    for item in items:
        name, parameters = item if isinstance(item, tuple) else (item, {})
        if type(name) is not str or parameters or name in names or name != name.lower():
            raise CredentialRefusedError(
                f"found the component {_shown(name)} in {label}, expected names in lower case, as texts, each once and "
                "without parameters"
            )
        names.append(name)
    return tuple(names)


def _check_coverage(components: Collection[str], head: RequestHead, *, has_body: bool) -> None:
    """Whether what decides about the request is covered, so that nobody else could have made another one of it."""
    missing = [] if "@method" in components else ["@method"]
    if "@target-uri" not in components:
        missing += [name for name in ("@authority", "@path") if name not in components]
        if head.query and "@query" not in components:
            missing.append("@query")
    if has_body and _DIGEST not in components:
        missing.append(_DIGEST)
    if missing:
        raise CredentialRefusedError(
            f"the signature does not cover {', '.join(missing)}: expected @method; @target-uri, or @authority, @path "
            f"and @query; and {_DIGEST} where there is a body"
        )


def _body_check(head: RequestHead) -> Callable[[bytes], None]:
    """The strongest digest of the header is what the body must have."""
    stated = _dictionary(_DIGEST, _field(head, b"content-digest") or b"")
    for algorithm in ("sha-512", "sha-256"):
        digest = stated.get(algorithm, (None, {}))[0]
        if isinstance(digest, bytes):
            return partial(_expect_digest, algorithm, digest)
    raise CredentialRefusedError(f"{_DIGEST} has none of {', '.join(DIGESTS)}")


def _expect_digest(algorithm: str, digest: bytes, body: bytes) -> None:
    if not hmac.compare_digest(DIGESTS[algorithm](body).digest(), digest):
        raise CredentialRefusedError("the body is not the one that was signed: its digest is another")


def _expect_no_body(body: bytes) -> None:
    if body:
        raise CredentialRefusedError(f"the signature does not cover {_DIGEST}, and there is a body")


def _has_body(head: RequestHead) -> bool:
    return any(
        (name == b"content-length" and value.strip() != b"0") or name == b"transfer-encoding"
        for name, value in head.headers
    )


def _field(head: RequestHead, name: bytes) -> bytes | None:
    values = [value for field, value in head.headers if field == name]
    return b", ".join(values) if values else None


def _dictionary(name: str, value: bytes) -> Mapping[str, tuple[Any, Mapping[str, Any]]]:
    """A dictionary of RFC 9651: label → (value, parameters), where an inner list is a Python list.

    Raises:
        CredentialRefusedError: it is none.
    """
    try:
        parsed = http_sf.parse(value, tltype="dictionary")
    except http_sf.StructuredFieldError as error:
        raise CredentialRefusedError(
            f"the header {name} is no dictionary of structured fields (RFC 9651): {error}"
        ) from None
    assert isinstance(parsed, dict)
    return {label: member if isinstance(member, tuple) else (member, {}) for label, member in parsed.items()}


def _shown(value: object) -> str:
    text = "nothing" if value is None else str(value)
    return text if len(text) <= 40 else f"{text[:40]}…"
