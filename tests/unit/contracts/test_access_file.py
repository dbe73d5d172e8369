import base64
import re
from pathlib import Path
from typing import Any

import httpx
import pytest

from contracts.access_file import MAXIMUM_ACCESS_FILE_BYTES, AccessFileError, decode_access_file

SECRET = base64.b64encode(b"s" * 32).decode()
PUBLIC_KEY = base64.b64encode(b"p" * 32).decode()
WHOLE = f"""
format = 1
signature_window_s = 60

[[issuers]]
issuer = "https://login.example"
audience = ["paceline"]
jwks = "https://login.example/certs"
algorithms = ["ES256"]

[[certificates]]
name = "URI:spiffe://example/acme"
client = "acme"
scopes = ["predict"]

[[signing_keys]]
id = "acme-1"
client = "acme"
algorithm = "hmac-sha256"
secret = "{SECRET}"
scopes = ["predict", "metadata"]
expires = 2030-01-01T00:00:00Z
rate_per_s = 5
burst = 9

[[signing_keys]]
id = "other"
client = "other"
algorithm = "ed25519"
public_key = "{PUBLIC_KEY}"
scopes = ["predict"]

[clients.acme]
require_signature = true
"""


def test_a_whole_file_is_read_with_its_defaults() -> None:
    found = decode_access_file(WHOLE.encode())
    assert found.issuers[0].client_claims == ("client_id", "azp", "sub")
    assert (found.issuers[0].scope_prefix, found.issuers[0].refresh_s) == ("paceline:", 300)
    assert [key.material for key in found.signing_keys] == [b"s" * 32, b"p" * 32]
    assert found.signing_keys[0].expires is not None
    assert found.clients["acme"].require_signature
    assert found.has_secrets


def test_a_file_with_public_keys_only_has_no_secrets() -> None:
    start, end = WHOLE.index('[[signing_keys]]\nid = "acme-1"'), WHOLE.index('[[signing_keys]]\nid = "other"')
    found = decode_access_file((WHOLE[:start] + WHOLE[end : WHOLE.index("[clients")]).encode())
    assert not found.has_secrets
    assert not decode_access_file(b"").has_secrets


@pytest.mark.parametrize(
    ("old", "new", "text"),
    [
        ("format = 1", "format = 2", "the format is 2, this version reads 1"),
        ("signature_window_s = 60", "signature_window_s = 0", "signature_window_s"),
        ("signature_window_s", "window", "window"),
        ('audience = ["paceline"]', "audience = []", "audience"),
        ('"ES256"', '"HS256"', "HS256"),
        ('"ES256"', '"none"', "none"),
        ("URI:spiffe", "spiffe", "name"),
        ('client = "acme"\nscopes', 'client = "a c"\nscopes', "client"),
        ('["predict", "metadata"]', '["control"]', "control"),
        ('algorithm = "hmac-sha256"', 'algorithm = "ed25519"', "acme-1 has \\['secret'\\], ed25519 needs public_key"),
        (SECRET, base64.b64encode(b"short").decode(), "has 5 bytes, expected 32 or more"),
        (SECRET, "not base64!", "is not Base64"),
        (PUBLIC_KEY, SECRET + SECRET, "Base64|64 bytes"),
        ("2030-01-01T00:00:00Z", "2030-01-01T00:00:00", "expires"),
        ("rate_per_s = 5\n", "", "burst of 9 and no rate_per_s"),
        ('id = "other"', 'id = "acme-1"', "signing_keys has 'acme-1' twice"),
        ("[clients.acme]", "[clients.acmee]", "'acmee' must sign, and none of the signing_keys is its"),
        ("format = 1", "format = ", "this is no TOML.*line 2"),
    ],
)
def test_a_wrong_entry_is_refused_with_where_it_is_wrong_and_without_a_secret(old: str, new: str, text: str) -> None:
    assert old in WHOLE
    with pytest.raises(AccessFileError, match=text) as refused:
        decode_access_file(WHOLE.replace(old, new).encode())
    assert SECRET not in str(refused.value)


@pytest.mark.parametrize(
    "content",
    [b"\xff", b"x" * (MAXIMUM_ACCESS_FILE_BYTES + 1), b"a = " + b"[" * 100_000, b"require_signature = true"],
    ids=["no text", "large", "deep", "nobody could call"],
)
def test_a_file_of_another_form_is_refused(content: bytes) -> None:
    with pytest.raises(AccessFileError):
        decode_access_file(content)


def test_the_example_of_the_docs_is_read_and_its_client_signs_with_its_key() -> None:
    page = (Path(__file__).parents[3] / "docs" / "access.md").read_text()
    [toml] = re.findall(r"```toml\n(.*?)```", page, re.DOTALL)
    found = decode_access_file(toml.encode())
    assert (len(found.issuers), len(found.certificates), len(found.signing_keys)) == (1, 1, 2)
    [python] = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    names: dict[str, Any] = {}
    exec(python, names)
    assert names["secret"] == found.signing_keys[0].material
    request = next(
        names["client"].auth.auth_flow(httpx.Request("POST", "https://models.example/v1/predict", content=b"{}"))
    )
    assert 'keyid="acme-2026"' in request.headers["signature-input"]
    names["client"].close()
