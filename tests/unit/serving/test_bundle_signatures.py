"""A server that trusts a key loads what it has signed, byte for byte, and nothing else."""

import shutil
from pathlib import Path
from types import ModuleType

import pytest

from contracts.bundle import CARD, MANIFEST, SIGNATURE, Bundle
from contracts.bundle_signature import add_signature, read_signatures
from pipelines.governance.bundle_signing import SigningKeyError, make_key, sign
from serving.engine import ModelRefusedError, load_model


@pytest.fixture
def bundle(tmp_path: Path, bundles: ModuleType) -> Bundle:
    made: Bundle = bundles.tiny_bundle(tmp_path / "bundles")
    return made


def _key(tmp_path: Path, name: str = "ours") -> tuple[Path, Path]:
    private, public = tmp_path / f"{name}.key", tmp_path / f"{name}.pub"
    make_key(private, public)
    return private, public


def _load(bundle: Bundle, trusted: Path | None) -> str:
    return load_model(bundle.path, bundle.id, "7", "flight_delay", trusted=trusted).version


def test_a_signed_bundle_is_loaded_and_an_unsigned_one_is_refused(tmp_path: Path, bundle: Bundle) -> None:
    private, public = _key(tmp_path)
    with pytest.raises(ModelRefusedError, match="is not signed, and this server asks for it"):
        _load(bundle, public)
    assert _load(bundle, None) == "7", "a server without trusted keys asks for no signature"
    sign(bundle, private)
    assert _load(bundle, public) == "7"


@pytest.mark.parametrize("name", [CARD, "model.onnx", MANIFEST])
def test_one_flipped_bit_in_any_file_refuses_a_signed_bundle(tmp_path: Path, bundle: Bundle, name: str) -> None:
    private, public = _key(tmp_path)
    sign(bundle, private)
    content = bytearray((bundle.path / name).read_bytes())
    content[len(content) // 2] ^= 1
    (bundle.path / name).write_bytes(content)
    with pytest.raises(ModelRefusedError, match=r"has the hash|has the id"):
        _load(bundle, public)


def test_a_flipped_bit_in_the_signature_refuses_the_bundle(tmp_path: Path, bundle: Bundle) -> None:
    private, public = _key(tmp_path)
    name = sign(bundle, private)
    altered = bytearray(read_signatures(bundle.path)[name])
    altered[0] ^= 1
    add_signature(bundle.path, name, bytes(altered))
    with pytest.raises(ModelRefusedError, match="is not of the bundle"):
        _load(bundle, public)
    sign(bundle, private)
    assert _load(bundle, public) == "7", "signing again replaces a signature that does not hold"


def test_a_signature_of_another_bundle_is_none_of_this_one(tmp_path: Path, bundle: Bundle, bundles: ModuleType) -> None:
    private, public = _key(tmp_path)
    other = bundles.tiny_bundle(tmp_path / "others", bias=0.5)
    assert other.id != bundle.id
    sign(other, private)
    shutil.copy(other.path / SIGNATURE, bundle.path / SIGNATURE)
    with pytest.raises(ModelRefusedError, match="was altered, or is of another one"):
        _load(bundle, public)


def test_a_key_that_is_not_trusted_does_not_count(tmp_path: Path, bundle: Bundle) -> None:
    ours, trusted = _key(tmp_path)
    theirs, _ = _key(tmp_path, "theirs")
    sign(bundle, theirs)
    with pytest.raises(ModelRefusedError, match="sign it by a trusted key"):
        _load(bundle, trusted)
    sign(bundle, ours)
    assert _load(bundle, trusted) == "7", "one trusted signature beside others is enough"


def test_a_key_is_rotated_by_trusting_both(tmp_path: Path, bundle: Bundle) -> None:
    old, old_public = _key(tmp_path, "old")
    new, new_public = _key(tmp_path, "new")
    both = tmp_path / "both.pub"
    both.write_bytes(old_public.read_bytes() + new_public.read_bytes())
    sign(bundle, old)
    assert _load(bundle, both) == "7"
    sign(bundle, new)
    assert _load(bundle, new_public) == "7"


@pytest.mark.parametrize("content", [b"", b"-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----\n"])
def test_trusted_keys_that_cannot_be_read_refuse_every_bundle(tmp_path: Path, bundle: Bundle, content: bytes) -> None:
    private, public = _key(tmp_path)
    sign(bundle, private)
    public.write_bytes(content)
    with pytest.raises(ModelRefusedError, match=r"cannot be read|no public key"):
        _load(bundle, public)


def test_a_private_key_is_its_owners_alone_and_never_overwritten(tmp_path: Path, bundle: Bundle) -> None:
    private, public = _key(tmp_path)
    assert private.stat().st_mode & 0o777 == 0o600
    with pytest.raises(SigningKeyError, match="is there already"):
        make_key(private, tmp_path / "new.pub")
    with pytest.raises(SigningKeyError, match="cannot be read"):
        sign(bundle, public)
