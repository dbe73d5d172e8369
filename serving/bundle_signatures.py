"""Whether somebody whom this server trusts vouches for a bundle; `PACELINE_SERVING_TRUSTED_KEYS` names their keys."""

import re
from pathlib import Path
from typing import TYPE_CHECKING

from contracts.bundle_signature import SignatureError, key_id, read_signatures, signed_bytes

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

_PEM = re.compile(rb"-----BEGIN PUBLIC KEY-----.+?-----END PUBLIC KEY-----\s*", re.DOTALL)


def refuse_unsigned(bundle: Path, bundle_id: str, trusted: Path) -> None:
    """Passes where a key of the file `trusted` has signed the bundle, whose files were held against its id before.

    The file is read each time, so that a key that is taken out of it counts from the next load on.

    Raises:
        SignatureError: it is not signed, by none of the keys, or the signature is of something else.
    """
    from cryptography.exceptions import InvalidSignature

    keys = _keys(trusted)
    signatures = read_signatures(bundle)
    if not signatures:
        raise SignatureError(
            f"the bundle {bundle_id} is not signed, and this server asks for it: paceline bundle sign, or unset "
            "PACELINE_SERVING_TRUSTED_KEYS"
        )
    ours = sorted(keys.keys() & signatures.keys())
    if not ours:
        raise SignatureError(
            f"the bundle {bundle_id} is signed by {', '.join(sorted(signatures))}, and {trusted} trusts "
            f"{', '.join(sorted(keys))}: sign it by a trusted key, or trust its own"
        )
    for name in ours:
        try:
            keys[name].verify(signatures[name], signed_bytes(bundle_id))
        except InvalidSignature:
            continue
        return
    raise SignatureError(
        f"the signature of {', '.join(ours)} is not of the bundle {bundle_id}: it was altered, or is of another one"
    )


def _keys(path: Path) -> "dict[str, Ed25519PublicKey]":
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
    from cryptography.hazmat.primitives.serialization import load_pem_public_key

    found: dict[str, Ed25519PublicKey] = {}
    try:
        for pem in _PEM.findall(path.read_bytes()):
            key = load_pem_public_key(pem)
            if not isinstance(key, Ed25519PublicKey):
                raise SignatureError(f"{path} has a key that is not Ed25519: paceline bundle key makes one")
            found[key_id(key.public_bytes_raw())] = key
    except (OSError, ValueError, UnsupportedAlgorithm) as error:
        if isinstance(error, SignatureError):
            raise
        raise SignatureError(f"the trusted keys {path} cannot be read: {error}") from error
    if not found:
        raise SignatureError(f"{path} has no public key in PEM: paceline bundle key writes one")
    return found
