"""Bearer tokens of OAuth 2 (JWT, RFC 9068): whom one stands for. What was verified is remembered until it expires."""

import binascii
import hashlib
import re
from base64 import urlsafe_b64decode
from collections.abc import Container, Iterator, Mapping
from typing import Any, NamedTuple

import msgspec

from contracts.access import SCOPES, KeyScope
from contracts.access_file import Issuer
from serving.access.jwks import KeySet
from serving.access.limits import Limit
from serving.access.request import ClientCertificate, CredentialRefusedError, Grant

LEEWAY_S = 10  # between the issuer's clock and ours
MAXIMUM_TOKEN_BYTES = 8 << 10
MAXIMUM_REMEMBERED = 10_000
# an identity or logout token is signed by the same keys, and opens nothing
_TYPES = frozenset({"jwt", "at+jwt", "application/at+jwt"})
_CLIENT = re.compile(r"^[!-~]{1,128}\Z")


class _Header(msgspec.Struct):
    alg: str
    kid: str | None = None
    typ: str = "JWT"
    crit: Any = None


class _Stated(msgspec.Struct):
    iss: str


class _Verified(NamedTuple):
    grant: Grant
    thumbprint: bytes | None


class TokenVerifier:
    """The issuers in force. Their key sets live longer than a verifier: a new access file does not forget them."""

    def __init__(self, sets: Mapping[str, KeySet], *, usual: Limit | None, must_sign: Container[str]) -> None:
        self._sets = sets
        self._usual = usual
        self._must_sign = must_sign
        self._remembered: dict[bytes, _Verified] = {}

    def find(self, token: bytes, certificate: ClientCertificate | None, now_s: float) -> Grant:
        """The grant of this token. One that came before costs a hash, and is checked for its expiry.

        Raises:
            CredentialRefusedError: it is no token of a known issuer for this server, or not at this time, or it is
                bound to another client certificate.
        """
        digest = hashlib.sha256(token).digest()
        found = self._remembered.get(digest)
        if found is None or now_s >= found.grant.expires_s:
            found = self._verify(token)
            self._remember(digest, found, now_s)
        if found.thumbprint is not None and (certificate is None or certificate.thumbprint != found.thumbprint):
            raise CredentialRefusedError("this token is bound to a client certificate, which this connection has not")
        return found.grant

    def forget(self) -> None:
        """After keys have changed each token is verified anew."""
        self._remembered.clear()

    @property
    def sets(self) -> Iterator[KeySet]:
        """The key sets of all issuers."""
        yield from self._sets.values()

    def _remember(self, digest: bytes, verified: _Verified, now_s: float) -> None:
        if len(self._remembered) >= MAXIMUM_REMEMBERED:
            kept = {key: each for key, each in self._remembered.items() if now_s < each.grant.expires_s}
            for key in list(kept)[: max(0, len(kept) - MAXIMUM_REMEMBERED // 2)]:
                del kept[key]  # the oldest half: they are verified once more when they come again
            self._remembered = kept
        self._remembered[digest] = verified

    def _verify(self, token: bytes) -> _Verified:
        from jwt import PyJWTError, decode

        header, stated = _opened(token)
        key_set = self._sets.get(stated.iss)
        if key_set is None:
            raise CredentialRefusedError("the issuer of this token is none whose tokens are taken here")
        issuer = key_set.issuer
        if header.alg not in issuer.algorithms or header.crit is not None or header.typ.lower() not in _TYPES:
            raise CredentialRefusedError(
                f"found a token with alg {header.alg[:20]!r} and typ {header.typ[:20]!r}, expected alg "
                f"{', '.join(issuer.algorithms)}, and typ JWT or at+jwt"
            )
        key = key_set.find(header.kid, header.alg)
        if key is None:
            raise CredentialRefusedError(
                "the key that signed this token is not known for its alg (yet): it is looked for in the background",
                key_set.retry_after_s,
            )
        try:
            claims = decode(
                token,
                key=key.key,
                algorithms=[header.alg],
                audience=list(issuer.audience),
                issuer=issuer.issuer,
                leeway=LEEWAY_S,
                options={"require": ["exp", "iss", "aud"]},
            )
            return self._granted(claims, issuer)
        except (PyJWTError, ValueError, TypeError, OverflowError, RecursionError) as error:
            raise CredentialRefusedError(f"this token is not taken: {str(error)[:200]}") from None

    def _granted(self, claims: Mapping[str, Any], issuer: Issuer) -> _Verified:
        """Raises ValueError where the claims name no client, or a proof of possession that cannot be checked here."""
        name = next((claims[claim] for claim in issuer.client_claims if isinstance(claims.get(claim), str)), "")
        client = issuer.client_prefix + name
        if not name or not _CLIENT.search(client):
            raise ValueError(
                f"none of {', '.join(issuer.client_claims)} is a name of up to 128 printable characters without spaces"
            )
        limit = self._usual if issuer.rate_per_s is None else Limit.of(issuer.rate_per_s, issuer.burst)
        token_id = claims.get("jti")
        grant = Grant(
            id=f"jwt:{token_id}" if isinstance(token_id, str) and _CLIENT.search(token_id) else "jwt",
            client=client,
            scopes=_scopes(claims, issuer.scope_prefix),
            expires_s=float(claims["exp"]) + LEEWAY_S,
            limit=limit,
            must_sign=client in self._must_sign,
        )
        return _Verified(grant, _thumbprint(claims.get("cnf")))


def _opened(token: bytes) -> tuple[_Header, _Stated]:
    """What a token says of itself, before anything of it is believed."""
    parts = token.split(b".")
    if len(parts) != 3 or len(token) > MAXIMUM_TOKEN_BYTES:
        raise CredentialRefusedError(f"this is no signed token (JWT) of at most {MAXIMUM_TOKEN_BYTES} bytes")
    try:
        return (
            msgspec.json.decode(_decoded(parts[0]), type=_Header),
            msgspec.json.decode(_decoded(parts[1]), type=_Stated),
        )
    except (msgspec.MsgspecError, binascii.Error, ValueError, RecursionError):
        raise CredentialRefusedError("this is no signed token (JWT) that names its alg and iss") from None


def _decoded(part: bytes) -> bytes:
    return urlsafe_b64decode(part + b"=" * (-len(part) % 4))


def _scopes(claims: Mapping[str, Any], prefix: str) -> frozenset[KeyScope]:
    """Of `scope` (RFC 9068: words in one text) or `scp` (a list or a text, as some issuers have it)."""
    words: set[str] = set()
    for claim in ("scope", "scp"):
        stated = claims.get(claim)
        if isinstance(stated, str):
            words.update(stated.split())
        elif isinstance(stated, list):
            words.update(word for word in stated if isinstance(word, str))
    return frozenset(scope for scope in SCOPES if prefix + scope in words)


def _thumbprint(confirmation: object) -> bytes | None:
    """Of the certificate that a token is bound to (RFC 8705)."""
    if confirmation is None:
        return None
    stated = confirmation.get("x5t#S256") if isinstance(confirmation, dict) else None
    if not isinstance(stated, str) or not isinstance(confirmation, dict) or len(confirmation) != 1:
        raise ValueError("it is bound to a proof (cnf) that is not checked here: only x5t#S256 is")
    return _decoded(stated.encode())
