import json
from pathlib import Path
from types import ModuleType

import pytest

from contracts.bundle import SIGNATURE, read_bundle
from contracts.bundle_signature import SignatureError, add_signature, read_signatures, signed_bytes


def test_a_signature_changes_nothing_of_the_content(tmp_path: Path, bundles: ModuleType) -> None:
    bundle = bundles.tiny_bundle(tmp_path)
    assert read_signatures(bundle.path) == {}
    add_signature(bundle.path, "k1", b"one")
    add_signature(bundle.path, "k2", b"two")
    add_signature(bundle.path, "k2", b"second")
    assert read_signatures(bundle.path) == {"k1": b"one", "k2": b"second"}
    assert read_bundle(bundle.path, bundle.id).id == bundle.id
    assert [path.name for path in tmp_path.iterdir()] == [bundle.id], "no draft is left"


def test_signatures_of_two_bundles_are_of_different_bytes() -> None:
    assert signed_bytes("a" * 64) != signed_bytes("b" * 64)
    assert signed_bytes("a" * 64).endswith(b"a" * 64)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"{}", "cannot be read"),
        (json.dumps({"format": 2, "signatures": {}}).encode(), "has format 2"),
        (json.dumps({"format": 1, "signatures": {"k": "no base64!"}}).encode(), "cannot be read"),
    ],
)
def test_a_damaged_file_of_signatures_says_what_to_do(tmp_path: Path, content: bytes, message: str) -> None:
    (tmp_path / SIGNATURE).write_bytes(content)
    with pytest.raises(SignatureError, match=message):
        read_signatures(tmp_path)
