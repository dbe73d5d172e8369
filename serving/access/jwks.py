"""The public keys of an issuer of tokens (JSON Web Key Set, RFC 7517): read in the background, never for a request."""

import http.client
import logging
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from contracts.access_file import Issuer

TIMEOUT_S = 5.0
MAXIMUM_SET_BYTES = 1 << 20
MAXIMUM_SET_KEYS = 100
RETRY_S = 5.0  # after a failure, and at the earliest after a success when a token names an unknown key
MINIMUM_RSA_BITS = 2048
_BY_KIND: Mapping[tuple[str, str | None], frozenset[str]] = {
    ("RSA", None): frozenset({"RS256", "RS384", "RS512", "PS256", "PS384", "PS512"}),
    ("EC", "P-256"): frozenset({"ES256"}),
    ("EC", "P-384"): frozenset({"ES384"}),
    ("EC", "P-521"): frozenset({"ES512"}),
    ("OKP", "Ed25519"): frozenset({"EdDSA"}),
    ("OKP", "Ed448"): frozenset({"EdDSA"}),
}
logger = logging.getLogger(__name__)


class SetKey(NamedTuple):
    """One key of a set, and the algorithms that it may verify."""

    key: Any
    algorithms: frozenset[str]


class Fetched(NamedTuple):
    """A set as it is now. `keys` are by their ids; None where the content is what is in force."""

    content: bytes
    keys: Mapping[str | None, SetKey] | None


class _Set(msgspec.Struct):
    keys: list[dict[str, Any]]


class KeySetError(ValueError):
    """A set that cannot be had or used: what is wrong."""


class KeySet:
    """The keys of one issuer. What cannot be fetched or used leaves the keys that are in force."""

    def __init__(self, issuer: Issuer, folder: Path, clock: Callable[[], float] = time.monotonic) -> None:
        self.issuer = issuer
        self._folder = folder
        self._clock = clock
        self._keys: Mapping[str | None, SetKey] = {}
        self._content = b""
        self._fetched_at_s: float | None = None
        self._has_failed = False
        self._is_wanted = False
        self.failures = 0

    def __len__(self) -> int:
        return len(self._keys)

    @property
    def retry_after_s(self) -> int:
        """When a client may come back whose token names a key that is not known yet."""
        return max(1, int(min(RETRY_S, self.issuer.refresh_s)))

    def find(self, key_id: str | None, algorithm: str) -> SetKey | None:
        """The key of that id, which is for that algorithm; one that is not known is looked for in the background."""
        found = self._keys.get(key_id)
        if found is None and key_id is None and len(self._keys) == 1:
            [found] = self._keys.values()  # a set of one key needs no ids
        if found is None:
            self._is_wanted = True
        return found if found is not None and algorithm in found.algorithms else None

    def is_due(self) -> bool:
        """Whether to fetch now: never fetched, long ago, failed a while ago, or a token asked for an unknown key."""
        if self._fetched_at_s is None:
            return True
        age_s = self._clock() - self._fetched_at_s
        may_be_early = self._is_wanted or self._has_failed
        return age_s >= (min(RETRY_S, self.issuer.refresh_s) if may_be_early else self.issuer.refresh_s)

    def fetch(self) -> Fetched | KeySetError:
        """Reads the set where it is kept. Takes up to 5 s: for a thread; touches nothing that requests read."""
        try:
            content = _read(self.issuer.jwks, self._folder)
            keys = None if content == self._content else _keys_of(content, frozenset(self.issuer.algorithms))
            return Fetched(content, keys)
        except KeySetError as error:
            return error

    def install(self, fetched: Fetched | KeySetError) -> bool:
        """Takes over what was fetched; whether other keys are in force now."""
        self._fetched_at_s = self._clock()
        self._is_wanted = False
        if isinstance(fetched, KeySetError):
            self.failures += 1
            if not self._has_failed:  # once, and not every few seconds while it lasts
                logger.error("the %d keys of %s stay: %s", len(self._keys), self.issuer.issuer, fetched)
            self._has_failed = True
            return False
        if self._has_failed:
            logger.info("the keys of %s can be read again", self.issuer.issuer)
        self._has_failed = False
        if fetched.keys is None:
            return False
        self._content, self._keys = fetched.content, fetched.keys
        names = ", ".join(str(key_id) for key_id in self._keys)
        logger.info("%s has %d keys: %s", self.issuer.issuer, len(self._keys), names)
        return True


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """A redirect could lead from https to somewhere that anybody can answer for."""

    def redirect_request(self, *_: Any) -> None:
        return None


def _read(place: str, folder: Path) -> bytes:
    try:
        if place.startswith(("http://", "https://")):
            request = urllib.request.Request(place, headers={"accept": "application/jwk-set+json, application/json"})
            with urllib.request.build_opener(_NoRedirect).open(request, timeout=TIMEOUT_S) as answer:
                content: bytes = answer.read(MAXIMUM_SET_BYTES + 1)
        else:
            with (folder / place).open("rb") as file:
                content = file.read(MAXIMUM_SET_BYTES + 1)
    except urllib.error.HTTPError as error:
        raise KeySetError(f"{place} answered {error.code}") from None
    except (OSError, http.client.HTTPException, ValueError) as error:
        raise KeySetError(f"{place} cannot be read: {error}") from None
    if len(content) > MAXIMUM_SET_BYTES:
        raise KeySetError(f"{place} is larger than {MAXIMUM_SET_BYTES} bytes")
    return content


def _keys_of(content: bytes, allowed: frozenset[str]) -> Mapping[str | None, SetKey]:
    """The keys that verify signatures with an allowed algorithm, by their ids; others are skipped, and told.

    Raises:
        KeySetError: this is no key set, or there is no such key in it.
    """
    try:
        found = msgspec.json.decode(content, type=_Set).keys
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise KeySetError(f"this is no JSON Web Key Set: {error}") from None
    keys: dict[str | None, SetKey] = {}
    skipped: list[str] = []
    for described in found[:MAXIMUM_SET_KEYS]:
        key_id = described.get("kid")
        try:
            if not isinstance(key_id, str | None):
                raise KeySetError("kid is no text")
            keys[key_id] = _key_of(described, allowed)
        except KeySetError as error:
            skipped.append(f"{str(key_id)[:64]!r}: {error}")
    if skipped:
        logger.warning("keys of the set that are not used: %s", "; ".join(skipped))
    if not keys:
        raise KeySetError(f"none of its {len(found)} keys can be used: {'; '.join(skipped) or 'it is empty'}")
    return keys


def _key_of(described: Mapping[str, Any], allowed: frozenset[str]) -> SetKey:
    # cryptography is imported where there are tokens only: it costs start-up time and memory
    from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
    from jwt import PyJWK
    from jwt.exceptions import PyJWTError

    kind, curve = described.get("kty"), described.get("crv")
    if described.get("use", "sig") != "sig" or "verify" not in described.get("key_ops", ["verify"]):
        raise KeySetError("it is not for signatures")
    if "d" in described or "k" in described:
        raise KeySetError("it is a secret, which no public set may have")
    algorithms = _BY_KIND.get((kind, curve), frozenset()) if isinstance(kind, str) else frozenset()
    if "alg" in described:
        algorithms = algorithms & {described["alg"]} if isinstance(described["alg"], str) else frozenset()
    if not algorithms & allowed:
        raise KeySetError(f"found kty {kind!r}, crv {curve!r}, alg {described.get('alg')!r}: none that is allowed")
    try:
        key = PyJWK(dict(described), algorithm=min(algorithms)).key
    except (PyJWTError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise KeySetError(f"it cannot be read: {error}") from None
    if isinstance(key, RSAPublicKey) and key.key_size < MINIMUM_RSA_BITS:
        raise KeySetError(f"it has {key.key_size} bits, expected {MINIMUM_RSA_BITS} or more")
    return SetKey(key, algorithms & allowed)
