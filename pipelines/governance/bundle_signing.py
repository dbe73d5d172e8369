"""Signing bundles with an Ed25519 key of one's own; `contracts/bundle_signature.py` says what is signed."""

import os
from pathlib import Path

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_pem_private_key,
)

from contracts.bundle import Bundle
from contracts.bundle_signature import add_signature, key_id, read_signatures, signed_bytes

_PRIVATE_MODE = 0o600


class SigningKeyError(ValueError):
    """The signing key cannot be used: which file, what was found, and what to do."""


def make_key(private: Path, public: Path) -> str:
    """Writes a new key as two PEM files, the private one readable by its owner alone; returns the key's id.

    Raises:
        SigningKeyError: one of the files is there; a key that is overwritten cannot vouch for anything any more.
    """
    for path in (private, public):
        if path.exists():
            raise SigningKeyError(f"{path} is there already: name another file, or move it away")
    key = Ed25519PrivateKey.generate()
    handle = os.open(private, os.O_CREAT | os.O_EXCL | os.O_WRONLY, _PRIVATE_MODE)
    with os.fdopen(handle, "wb") as file:
        file.write(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    public.write_bytes(key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo))
    return key_id(key.public_key().public_bytes_raw())


def read_key(private: Path) -> Ed25519PrivateKey:
    """The key in a PEM file. Raises SigningKeyError: it is not there, is encrypted, or is of another kind."""
    try:
        key = load_pem_private_key(private.read_bytes(), password=None)
    except (OSError, ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise SigningKeyError(f"the signing key {private} cannot be read: {error}") from error
    if not isinstance(key, Ed25519PrivateKey):
        raise SigningKeyError(f"{private} is a {type(key).__name__}, expected Ed25519: paceline bundle key makes one")
    return key


def sign(bundle: Bundle, private: Path) -> str:
    """Signs a bundle, which was verified when it was read; returns the id of the key. Signing again changes nothing."""
    key = read_key(private)
    public = key.public_key()
    name = key_id(public.public_bytes_raw())
    found = read_signatures(bundle.path).get(name)
    if found is not None:
        try:
            public.verify(found, signed_bytes(bundle.id))
        except InvalidSignature:
            found = None  # of another bundle, or damaged: replaced
    if found is None:
        add_signature(bundle.path, name, key.sign(signed_bytes(bundle.id)))
    return name
