"""API keys: what one looks like, and the file of their hashes, which `paceline keys` writes and the server reads.

A key is `pk_<id>_<secret>`. The id is public: it finds the entry, and a person names a key by it. The secret has 256
random bits, so one SHA-256 of the whole key is enough: there is nothing that a slow or salted hash would protect.
"""

import hashlib
from datetime import datetime
from typing import Annotated, Literal, get_args

import msgspec

KeyScope = Literal["predict", "metrics", "metadata"]
SCOPES: tuple[KeyScope, ...] = get_args(KeyScope)
KEY_PREFIX = "pk_"
KEY_ID_BYTES, KEY_SECRET_BYTES = 6, 32
KEY_ID_CHARACTERS = 2 * KEY_ID_BYTES  # in hexadecimal
KEY_CHARACTERS = len(KEY_PREFIX) + KEY_ID_CHARACTERS + 1 + 43  # the secret in URL-safe Base64, without padding
CLIENT_PATTERN = r"^[A-Za-z0-9][A-Za-z0-9._@-]{0,63}\Z"
MAXIMUM_KEYS = 10_000
MINIMUM_RATE_PER_S, MAXIMUM_RATE_PER_S = 1e-4, 1e6
MAXIMUM_BURST = 1_000_000
MAXIMUM_FILE_BYTES = 8 << 20
_FORMAT = 1
_Instant = Annotated[datetime, msgspec.Meta(tz=True)]


class KeyFileError(ValueError):
    """The file of the keys cannot be used: where it is wrong and what is expected; never a hash."""


class ApiKey(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One key of a client; several may be active at once, so that a client can change over without a gap.

    `sha256` is of the whole key. `projects` are those whose server takes it, without any all. `rate_per_s` and `burst`
    bound the client's requests by a token bucket, which all its keys draw on; None leaves it to the server's settings.
    """

    id: Annotated[str, msgspec.Meta(pattern=rf"^[0-9a-f]{{{KEY_ID_CHARACTERS}}}\Z")]
    client: Annotated[str, msgspec.Meta(pattern=CLIENT_PATTERN)]
    sha256: Annotated[str, msgspec.Meta(pattern=r"^[0-9a-f]{64}\Z")]
    scopes: Annotated[tuple[KeyScope, ...], msgspec.Meta(min_length=1)]
    created: _Instant
    expires: _Instant | None = None
    revoked: _Instant | None = None
    projects: tuple[str, ...] = ()
    rate_per_s: Annotated[float, msgspec.Meta(ge=MINIMUM_RATE_PER_S, le=MAXIMUM_RATE_PER_S)] | None = None
    burst: Annotated[int, msgspec.Meta(ge=1, le=MAXIMUM_BURST)] | None = None

    def __post_init__(self) -> None:
        if self.expires is not None and self.expires <= self.created:
            raise ValueError(f"key {self.id} expires at {self.expires}, which is not after {self.created}")
        if self.burst is not None and self.rate_per_s is None:
            raise ValueError(f"key {self.id} has a burst of {self.burst} and no rate_per_s")

    def is_active(self, now: datetime) -> bool:
        """Whether it opens anything at `now`, which has a time zone."""
        return self.revoked is None and (self.expires is None or now < self.expires)


class KeyFile(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """All keys, revoked and expired ones too: who had access once stays known."""

    format: int = _FORMAT
    keys: tuple[ApiKey, ...] = ()

    def __post_init__(self) -> None:
        if self.format != _FORMAT:
            raise ValueError(f"the format is {self.format}, this version reads {_FORMAT}")
        if len(self.keys) > MAXIMUM_KEYS:
            raise ValueError(f"found {len(self.keys)} keys, expected at most {MAXIMUM_KEYS}: remove revoked ones")
        seen: set[str] = set()
        for key in self.keys:
            if key.id in seen:
                raise ValueError(f"the key {key.id} is there twice")
            seen.add(key.id)


def digest_of(key: bytes) -> bytes:
    """What is stored of a key, and compared."""
    return hashlib.sha256(key).digest()


def decode_keys(content: bytes) -> KeyFile:
    """The keys in the bytes of a file.

    Raises:
        KeyFileError: too large, no JSON, another shape or format, or a key twice.
    """
    if len(content) > MAXIMUM_FILE_BYTES:
        raise KeyFileError(f"the file is larger than {MAXIMUM_FILE_BYTES} bytes")
    try:
        return msgspec.json.decode(content, type=KeyFile)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise KeyFileError(str(error)) from error


def encode_keys(file: KeyFile) -> bytes:
    """The bytes of a file with these keys, one field a line, so that a change can be read in a diff.

    Raises:
        KeyFileError: a value is not allowed; what is written can always be read.
    """
    content = msgspec.json.format(msgspec.json.encode(file), indent=2) + b"\n"
    decode_keys(content)
    return content
