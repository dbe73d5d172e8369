"""Who vouches for a bundle: Ed25519 signatures of its id, in `signature.json` beside its files.

The id is the hash of the manifest, and the manifest has the hash of each file, so that a signature of the id covers
every byte. The file itself is not part of the content: a bundle has the same id unsigned, signed, and signed again.
"""

import base64
import binascii
import hashlib
import os
from pathlib import Path

import msgspec

from contracts.bundle import SIGNATURE, BundleError

FORMAT = 1
_PURPOSE = b"paceline bundle signature 1\n"  # a signature that this key gives for something else is none of a bundle
_KEY_ID_DIGITS = 16


class SignatureError(BundleError):
    """A bundle that nobody vouches for: which, what was found, and what to do."""


class _File(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    format: int
    signatures: dict[str, str]


def signed_bytes(bundle_id: str) -> bytes:
    """What a signature of the bundle is a signature of."""
    return _PURPOSE + bundle_id.encode()


def key_id(public: bytes) -> str:
    """The name of a key in `signature.json`: the start of the SHA-256 of its 32 raw public bytes."""
    return hashlib.sha256(public).hexdigest()[:_KEY_ID_DIGITS]


def read_signatures(bundle: Path) -> dict[str, bytes]:
    """The signatures of the bundle at `bundle` by their keys' ids; empty where it has none.

    Raises:
        SignatureError: the file cannot be read.
    """
    path = bundle / SIGNATURE
    try:
        found = msgspec.json.decode(path.read_bytes(), type=_File)
        if found.format != FORMAT:
            raise SignatureError(f"{path} has format {found.format}, this version reads {FORMAT}")
        return {key: base64.b64decode(text, validate=True) for key, text in found.signatures.items()}
    except FileNotFoundError:
        return {}
    except (OSError, msgspec.DecodeError, binascii.Error) as error:
        raise SignatureError(f"{path} cannot be read: {error}; sign the bundle again (paceline bundle sign)") from error


def add_signature(bundle: Path, key: str, signature: bytes) -> None:
    """Writes the signature of `key` beside those that there are, by one rename. Raises SignatureError and OSError."""
    found = {**read_signatures(bundle), key: signature}
    signatures = {name: base64.b64encode(each).decode() for name, each in sorted(found.items())}
    draft = bundle.with_name(f".{bundle.name}.{SIGNATURE}.{os.getpid()}")  # a reader of the folder must not see a draft
    with draft.open("wb") as file:
        file.write(msgspec.json.encode(_File(format=FORMAT, signatures=signatures)))
        file.flush()
        os.fsync(file.fileno())
    draft.replace(bundle / SIGNATURE)
