"""Who vouches for bundles: a key is made, bundles are signed, and a project's own are signed when they are written."""

import os
from pathlib import Path
from typing import Any

from contracts.bundle import Bundle, read_bundle
from pipelines.governance import bundle_signing
from pipelines.wiring import find_project, home, open_registry

SIGNING_KEY = "PACELINE_SIGNING_KEY"
TRUSTED_KEYS = "PACELINE_SERVING_TRUSTED_KEYS"


def make_key(private: str, public: str) -> dict[str, Any]:
    """A new key in two files. Raises SigningKeyError when one of them is there."""
    key = bundle_signing.make_key(Path(private), Path(public))
    return {"key": key, "private": private, "public": public}


def sign_version(project: str, version: str, key: str | None = None) -> dict[str, Any]:
    """Signs the bundle of a registered version with `key`, or what `PACELINE_SIGNING_KEY` names.

    Raises:
        LookupError: there is no such version.
        BundleError: its bundle is not whole, so that nobody should vouch for it.
        SigningKeyError: there is no key, or it cannot be used.
    """
    found = open_registry().version(find_project(project).name, version)
    if found is None:
        raise LookupError(f"{project} has no version {version!r}: a number, or champion, challenger or previous")
    bundle = read_bundle(home().bundles / found.bundle, found.bundle)
    name = bundle_signing.sign(bundle, Path(key) if key else _key(project))
    return {"project": project, "version": version, "bundle": bundle.id, "key": name}


def refuse_missing_key(project: str) -> None:
    """Before a training: a project that asks for signed bundles needs a key that can be read.

    Raises:
        SigningKeyError: it has none.
    """
    if find_project(project).signed_bundles:
        bundle_signing.read_key(_key(project))


def sign_if_asked(project: str, bundle: Bundle) -> None:
    """Signs what was just written, where the project asks for signed bundles. Raises SigningKeyError and OSError."""
    if find_project(project).signed_bundles:
        bundle_signing.sign(bundle, _key(project))


def refuse_missing_trust(project: str) -> None:
    """Before a model server: one of a project that asks for signed bundles must know whom to trust.

    Raises:
        SigningKeyError: it was not told.
    """
    if find_project(project).signed_bundles and not os.environ.get(TRUSTED_KEYS):
        raise bundle_signing.SigningKeyError(
            f"{project} asks for signed bundles (signed_bundles), and {TRUSTED_KEYS} does not name the public keys"
        )


def _key(project: str) -> Path:
    named = os.environ.get(SIGNING_KEY)
    if not named:
        raise bundle_signing.SigningKeyError(
            f"bundles of {project} are to be signed, and {SIGNING_KEY} names no key: paceline bundle key makes one"
        )
    return Path(named)
