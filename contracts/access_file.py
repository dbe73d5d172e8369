"""The access file: who may call the model server by bearer token, client certificate or signed request. TOML.

API keys have a file of their own (`contracts/access.py`), which a command writes; this one is written by a person.
"""

import base64
import binascii
import tomllib
from datetime import datetime
from typing import Annotated, Literal, get_args

import msgspec

from contracts.access import (
    CLIENT_PATTERN,
    MAXIMUM_BURST,
    MAXIMUM_RATE_PER_S,
    MINIMUM_RATE_PER_S,
    KeyScope,
)

TokenAlgorithm = Literal["RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA"]
TOKEN_ALGORITHMS: tuple[TokenAlgorithm, ...] = get_args(TokenAlgorithm)
SignatureAlgorithm = Literal["hmac-sha256", "ed25519"]
CERTIFICATE_NAME_KINDS = ("URI", "DNS", "email", "CN")
MINIMUM_SECRET_BYTES, ED25519_KEY_BYTES = 32, 32
MAXIMUM_ACCESS_FILE_BYTES = 1 << 20
MAXIMUM_ENTRIES = 1000
_FORMAT = 1
_Client = Annotated[str, msgspec.Meta(pattern=CLIENT_PATTERN)]
_Scopes = Annotated[tuple[KeyScope, ...], msgspec.Meta(min_length=1)]
_Text = Annotated[str, msgspec.Meta(min_length=1, max_length=1024)]


class AccessFileError(ValueError):
    """The access file cannot be used: where it is wrong and what is expected; never a secret."""


class Rated(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A token bucket for each client, as an API key has it; None leaves it to the server's settings."""

    rate_per_s: Annotated[float, msgspec.Meta(ge=MINIMUM_RATE_PER_S, le=MAXIMUM_RATE_PER_S)] | None = None
    burst: Annotated[int, msgspec.Meta(ge=1, le=MAXIMUM_BURST)] | None = None

    def __post_init__(self) -> None:
        if self.burst is not None and self.rate_per_s is None:
            raise ValueError(f"found a burst of {self.burst} and no rate_per_s")


class Issuer(Rated, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """An authorisation server whose tokens (JWT) are taken.

    `jwks` is the URL of its keys, or a file (relative to the access file), read again every `refresh_s`. A token must
    name `issuer`, one of `audience`, and scopes that begin with `scope_prefix`; its client is the first of
    `client_claims` that it has, behind `client_prefix`.
    """

    issuer: _Text
    audience: Annotated[tuple[_Text, ...], msgspec.Meta(min_length=1)]
    jwks: _Text
    algorithms: Annotated[tuple[TokenAlgorithm, ...], msgspec.Meta(min_length=1)] = TOKEN_ALGORITHMS
    scope_prefix: str = "paceline:"
    client_claims: Annotated[tuple[_Text, ...], msgspec.Meta(min_length=1)] = ("client_id", "azp", "sub")
    client_prefix: Annotated[str, msgspec.Meta(pattern=r"^[A-Za-z0-9._@-]{0,32}\Z")] = ""
    refresh_s: Annotated[float, msgspec.Meta(ge=1, le=86_400)] = 300.0


class CertificateClient(Rated, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A client that is known by a name in its certificate: `URI:spiffe://…`, `DNS:…`, `email:…` or `CN:…`."""

    name: Annotated[str, msgspec.Meta(pattern=rf"^({'|'.join(CERTIFICATE_NAME_KINDS)}):.{{1,1024}}\Z")]
    client: _Client
    scopes: _Scopes
    projects: tuple[str, ...] = ()


class SigningKey(Rated, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A key that requests are signed with; several of a client may be active, for a rotation without a gap.

    `secret` (for `hmac-sha256`, at least 32 bytes) and `public_key` (for `ed25519`, 32 bytes) are Base64.
    """

    id: Annotated[str, msgspec.Meta(pattern=r"^[A-Za-z0-9][A-Za-z0-9._@-]{0,63}\Z")]
    client: _Client
    algorithm: SignatureAlgorithm
    scopes: _Scopes
    secret: str | None = None
    public_key: str | None = None
    projects: tuple[str, ...] = ()
    expires: Annotated[datetime, msgspec.Meta(tz=True)] | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        found = {name for name in ("secret", "public_key") if getattr(self, name) is not None}
        wanted = "secret" if self.algorithm == "hmac-sha256" else "public_key"
        if found != {wanted}:
            raise ValueError(
                f"the signing key {self.id} has {sorted(found) or 'no key'}, {self.algorithm} needs {wanted}"
            )
        length = len(self.material)
        if wanted == "secret" and length < MINIMUM_SECRET_BYTES:
            raise ValueError(f"the secret of {self.id} has {length} bytes, expected {MINIMUM_SECRET_BYTES} or more")
        if wanted == "public_key" and length != ED25519_KEY_BYTES:
            raise ValueError(f"the public key of {self.id} has {length} bytes, expected {ED25519_KEY_BYTES}")

    @property
    def material(self) -> bytes:
        """The bytes of the secret or of the public key."""
        try:
            return base64.b64decode((self.secret or self.public_key or "").encode(), validate=True)
        except binascii.Error as error:
            raise ValueError(f"the key of {self.id} is not Base64: {error}") from None


class ClientRules(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What holds for a client whatever it comes with."""

    require_signature: bool = False


class AccessFile(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The whole file. `require_signature` refuses every request that is not signed, of whatever client.

    A signature is good for `signature_window_s` from its creation, and only once; `nonces_per_key` bounds how many are
    remembered for that, in each server process.
    """

    format: int = _FORMAT
    require_signature: bool = False
    signature_window_s: Annotated[int, msgspec.Meta(ge=1, le=3600)] = 300
    nonces_per_key: Annotated[int, msgspec.Meta(ge=1, le=10_000_000)] = 200_000
    issuers: tuple[Issuer, ...] = ()
    certificates: tuple[CertificateClient, ...] = ()
    signing_keys: tuple[SigningKey, ...] = ()
    clients: dict[str, ClientRules] = {}

    def __post_init__(self) -> None:
        if self.format != _FORMAT:
            raise ValueError(f"the format is {self.format}, this version reads {_FORMAT}")
        for kind, names in (
            ("issuers", [each.issuer for each in self.issuers]),
            ("certificates", [each.name for each in self.certificates]),
            ("signing_keys", [each.id for each in self.signing_keys]),
        ):
            if len(names) > MAXIMUM_ENTRIES:
                raise ValueError(f"found {len(names)} {kind}, expected at most {MAXIMUM_ENTRIES}")
            if twice := sorted({name for name in names if names.count(name) > 1}):
                raise ValueError(f"{kind} has {twice[0]!r} twice")
        if self.require_signature and not self.signing_keys:
            raise ValueError("require_signature is true, and there are no signing_keys: nobody could call")
        signing = {key.client for key in self.signing_keys}
        for client, rules in self.clients.items():
            if rules.require_signature and client not in signing:
                raise ValueError(f"the client {client!r} must sign, and none of the signing_keys is its")

    @property
    def has_secrets(self) -> bool:
        """Whether whoever reads the file could sign as somebody else."""
        return any(key.secret is not None for key in self.signing_keys)


def decode_access_file(content: bytes) -> AccessFile:
    """The rules in the bytes of an access file.

    Raises:
        AccessFileError: too large, no TOML, another shape or format, or something twice.
    """
    if len(content) > MAXIMUM_ACCESS_FILE_BYTES:
        raise AccessFileError(f"the file is larger than {MAXIMUM_ACCESS_FILE_BYTES} bytes")
    try:
        return msgspec.convert(tomllib.loads(content.decode()), AccessFile)
    except msgspec.ValidationError as error:
        raise AccessFileError(str(error)) from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, RecursionError) as error:
        raise AccessFileError(f"this is no TOML: {type(error).__name__} {_place(error)}") from None


def _place(error: Exception) -> str:
    """Where the error is, without what stands there: it could be a secret."""
    text = str(error)
    return text[text.rfind("(at") :] if "(at" in text else ""
