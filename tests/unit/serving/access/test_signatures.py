import base64
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from contracts.signing import ED25519, Signer, content_digest, hmac_signer, sign_request, signature_base
from pipelines.tasks import keys
from serving.access import Access, AccessRefusedError, Admission, RequestHead
from tests.fixtures.access import HMAC_SECRET, ed25519_part, hmac_part, write_rules

NOW_S = 1_800_000_000.0
URL = "http://models.example/v1/predict?a=1"
BODY = b'{"records": []}'
HMAC = hmac_signer("acme-hmac", HMAC_SECRET)
ED_KEY = Ed25519PrivateKey.generate()
ED = Signer("acme-ed", ED25519, ED_KEY.sign)


@pytest.fixture
def start(tmp_path: Path) -> Callable[..., Access]:
    """A guard whose access file has these parts; in it is 15 January 2027."""

    def started(*parts: str, now_s: Callable[[], float] = lambda: NOW_S, **more: Any) -> Access:
        rules = write_rules(tmp_path / "access.toml", *parts)
        return Access(more.pop("keys", None), project="flight_delay", rules=rules, wall_clock=now_s, **more)

    return started


@pytest.fixture
def access(start: Callable[..., Access]) -> Access:
    return start(hmac_part(), ed25519_part(ED_KEY))


def request(signed: dict[str, str], body: bytes = BODY, **changes: Any) -> RequestHead:
    """The request of URL as it arrives, with these headers of a signature."""
    headers = {"host": "models.example", "content-length": str(len(body)), **signed}
    usual: dict[str, Any] = {
        "method": "POST",
        "path": "/v1/predict",
        "query": b"a=1",
        "headers": [(name.encode(), value.encode("latin-1")) for name, value in headers.items()],
    }
    return RequestHead(**{**usual, **changes})


def sign(signer: Signer = HMAC, body: bytes = BODY, **more: Any) -> dict[str, str]:
    return sign_request("POST", URL, body, signer, **{"created_s": int(NOW_S), **more})


def inner_list(components: list[str]) -> str:
    return "(" + " ".join(f'"{name}"' for name in components) + ")"


def sign_anything(components: list[str], parameters: str, head: RequestHead, label: str = "sig1") -> dict[str, str]:
    """A signature by HMAC, right over whatever it covers."""
    listed = inner_list(components) + parameters
    signature = base64.b64encode(HMAC.sign(signature_base(head, components, listed))).decode()
    return {"signature-input": f"{label}={listed}", "signature": f"{label}=:{signature}:"}


PARAMETERS = f';created={int(NOW_S)};nonce="n";keyid="acme-hmac"'
COVERED = ["@method", "@authority", "@path", "@query", "content-digest"]


def answer(access: Access, head: RequestHead, body: bytes = BODY) -> Admission:
    admission = access.admit(head, "predict")
    assert admission.check_body is not None
    admission.check_body(body)
    return admission


def refused(access: Access, head: RequestHead, body: bytes = BODY) -> AccessRefusedError:
    with pytest.raises(AccessRefusedError) as caught:
        answer(access, head, body)
    return caught.value


@pytest.mark.parametrize("signer", [HMAC, ED], ids=["hmac-sha256", "ed25519"])
def test_a_signed_request_comes_in_and_its_client_is_known(access: Access, signer: Signer) -> None:
    found = answer(access, request(sign(signer)))
    assert (found.client, found.key_id) == ("acme", signer.key_id)


@pytest.mark.parametrize("signer", [HMAC, ED], ids=["hmac-sha256", "ed25519"])
def test_a_signed_request_altered_by_one_byte_is_refused_wherever_it_is(access: Access, signer: Signer) -> None:
    signed = sign(signer)
    right = request(signed)
    for place in range(len(BODY)):
        altered = BODY[:place] + bytes([BODY[place] ^ 1]) + BODY[place + 1 :]
        assert refused(access, request(sign(signer)), altered).status == 401
    assert refused(access, request(sign(signer)), BODY + b" ").status == 401
    assert refused(access, right._replace(method="PUT")).status == 401
    for field in ("path", "query"):
        value = getattr(right, field)
        for place in range(len(value)):
            other = value[:place] + (b"~" if isinstance(value, bytes) else "~") + value[place + 1 :]
            assert refused(access, right._replace(**{field: other})).status == 401
    for name in ("host", "content-digest", "signature", "signature-input"):
        for head, place in heads_with_another_byte(right, name):
            assert refused(access, head).status == 401, (name, place)
    assert answer(access, right).client == "acme", "and as it was it comes in"


def heads_with_another_byte(head: RequestHead, name: str) -> list[tuple[RequestHead, int]]:
    value = dict(head.headers)[name.encode()]
    found = []
    for place in range(len(value)):
        # the last Base64 digit of 32 or 64 bytes has bits that stand for nothing
        if value[place : place + 1].isalnum() and value[place + 1 : place + 2] != b"=":
            other = value[:place] + (b"B" if value[place : place + 1] != b"B" else b"C") + value[place + 1 :]
            headers = [(key, other if key == name.encode() else old) for key, old in head.headers]
            if name != "host" or value.lower() != other.lower():
                found.append((head._replace(headers=headers), place))
    return found


def test_a_replay_is_refused_also_after_the_file_has_changed_and_another_key_may_use_the_same_nonce(
    start: Callable[..., Access], tmp_path: Path
) -> None:
    access = start(hmac_part(), ed25519_part(ED_KEY))
    signed = sign(nonce="n")
    answer(access, request(signed))
    assert "came before" in refused(access, request(signed)).detail
    assert "came before" in refused(access, request(sign(nonce="n"))).detail
    write_rules(tmp_path / "access.toml", hmac_part(), ed25519_part(ED_KEY), hmac_part("third", "other"))
    assert access.reload()
    assert "came before" in refused(access, request(signed)).detail
    assert answer(access, request(sign(ED, nonce="n"))).key_id == "acme-ed"


def test_a_request_that_was_refused_for_its_rate_may_come_again(start: Callable[..., Access]) -> None:
    now_s = [0.0]
    access = start(hmac_part(rate_per_s=1, burst=1), clock=lambda: now_s[0])
    answer(access, request(sign()))
    second = request(sign())
    assert refused(access, second).status == 429
    now_s[0] = 1.0
    assert answer(access, second).client == "acme"


@pytest.mark.parametrize(("age_s", "is_fresh"), [(0, True), (300, True), (301, False), (-10, True), (-11, False)])
def test_a_signature_is_good_for_its_window_and_not_before_it_was_made(
    access: Access, age_s: int, is_fresh: bool
) -> None:
    head = request(sign(created_s=int(NOW_S) - age_s))
    if is_fresh:
        assert answer(access, head).client == "acme"
    else:
        found = refused(access, head)
        assert f"created={int(NOW_S) - age_s}" in found.detail
        assert "at most 300 s ago" in found.detail


def test_the_window_is_a_setting(start: Callable[..., Access]) -> None:
    access = start("signature_window_s = 5", hmac_part())
    answer(access, request(sign(created_s=int(NOW_S) - 5)))
    assert "at most 5 s ago" in refused(access, request(sign(created_s=int(NOW_S) - 6))).detail


@pytest.mark.parametrize(
    ("parameters", "text"),
    [
        (f';nonce="n";keyid="acme-hmac";created="{int(NOW_S)}"', "expected the Unix time"),
        (f';nonce="n";keyid="acme-hmac";created={int(NOW_S)}.5', "expected the Unix time"),
        (';nonce="n";keyid="acme-hmac";created', "expected the Unix time"),
        (';nonce="n";keyid="acme-hmac"', "found created=nothing"),
        (f';created={int(NOW_S)};keyid="acme-hmac"', "found nonce=nothing"),
        (f';created={int(NOW_S)};nonce="";keyid="acme-hmac"', "found nonce="),
        (f';created={int(NOW_S)};nonce=n;keyid="acme-hmac"', "found nonce=n, expected a text"),
        (f';created={int(NOW_S)};nonce="{"n" * 129}";keyid="acme-hmac"', "found nonce=nnn"),
        (PARAMETERS + ';alg="ed25519"', "found alg=ed25519, and the key is for hmac-sha256"),
        (PARAMETERS + f";expires={int(NOW_S)}", "has expired"),
        (PARAMETERS + ';expires="never"', "has expired"),
    ],
)
def test_a_wrong_parameter_is_refused_with_what_is_expected(access: Access, parameters: str, text: str) -> None:
    head = request({"content-digest": content_digest(BODY)})
    signed = sign_anything(COVERED, parameters, head)
    found = refused(access, request({"content-digest": content_digest(BODY), **signed}))
    assert (found.status, text in found.detail) == (401, True), found.detail


@pytest.mark.parametrize(
    ("components", "missing"),
    [
        (COVERED, ""),
        (["@method", "@target-uri", "content-digest"], ""),
        ([*COVERED, "content-length"], ""),
        (COVERED[1:], "@method"),
        (["@method", "@path", "@query", "content-digest"], "@authority"),
        (["@method", "@authority", "@query", "content-digest"], "@path"),
        (["@method", "@authority", "@path", "content-digest"], "@query"),
        (COVERED[:-1], "content-digest"),
        ([], "@method, @authority, @path, @query, content-digest"),
        ([*COVERED, "@method"], "each once"),
        ([*COVERED, "Date"], "lower case"),
        ([*COVERED, "x-missing"], "found no header 'x-missing'"),
        ([*COVERED, "@status"], "found the component '@status'"),
    ],
)
def test_what_decides_about_the_request_must_be_covered(access: Access, components: list[str], missing: str) -> None:
    digest = {"content-digest": content_digest(BODY, "sha-512")}
    head = request(digest)
    covered = [name for name in components if name not in ("x-missing", "@status", "Date")]
    signed = sign_anything(covered, PARAMETERS, head)
    listed = inner_list(components) + PARAMETERS
    if components != covered:
        signed["signature-input"] = f"sig1={listed}"
    if missing:
        assert missing in refused(access, request({**digest, **signed})).detail
    else:
        assert answer(access, request({**digest, **signed})).client == "acme"


def test_a_component_with_a_parameter_is_refused_since_none_is_read(access: Access) -> None:
    signed = sign()
    signed["signature-input"] = signed["signature-input"].replace('"@path"', '"@path";req')
    assert "without parameters" in refused(access, request(signed)).detail


def test_a_request_without_a_body_needs_no_digest_and_may_then_have_none(access: Access) -> None:
    bare = request({}, b"", method="GET", query=b"", path="/v2", headers=[(b"host", b"models.example")])
    signed = sign_anything(["@method", "@authority", "@path"], PARAMETERS, bare)
    head = bare._replace(headers=[*bare.headers, *((k.encode(), v.encode()) for k, v in signed.items())])
    assert "there is a body" in refused(access, head, b"x").detail
    signed = sign_anything(["@method", "@authority", "@path"], PARAMETERS.replace('"n"', '"m"'), bare)
    head = bare._replace(headers=[*bare.headers, *((k.encode(), v.encode()) for k, v in signed.items())])
    assert answer(access, head, b"").client == "acme"
    for length in ((b"content-length", b"5"), (b"transfer-encoding", b"chunked")):
        assert "content-digest" in refused(access, head._replace(headers=[*head.headers, length])).detail


@pytest.mark.parametrize(
    ("digest", "is_right"),
    [
        (content_digest(BODY), True),
        (content_digest(BODY, "sha-512"), True),
        (f"{content_digest(BODY)}, {content_digest(BODY, 'sha-512')}", True),
        (f"{content_digest(BODY)}, {content_digest(b'', 'sha-512')}", False),
        (f"md5=:AAAA:, {content_digest(BODY)}", True),
        ("md5=:AAAA:", False),
        ("sha-256=abc", False),
        ("sha-256", False),
        ("?", False),
        ("", False),
    ],
)
def test_the_strongest_digest_that_is_stated_counts(access: Access, digest: str, is_right: bool) -> None:
    signed = sign_anything(COVERED, PARAMETERS, request({"content-digest": digest}))
    head = request({"content-digest": digest, **signed})
    if is_right:
        assert answer(access, head).client == "acme"
    else:
        assert refused(access, head).status == 401


def test_of_several_signatures_the_first_by_a_known_key_counts(access: Access) -> None:
    mine = sign()
    foreign = 'gateway=("@method");created=1;keyid="elsewhere", plain=?1'
    signed = {
        **mine,
        "signature-input": f"{foreign}, {mine['signature-input']}",
        "signature": f"gateway=:AAAA:, {mine['signature']}",
    }
    assert answer(access, request(signed)).client == "acme"
    wrong_first = {
        **mine,
        "signature-input": f"a={sign()['signature-input'].removeprefix('sig1=')}, {mine['signature-input']}",
        "signature": f"a=:AAAA:, {mine['signature']}",
    }
    assert refused(access, request(wrong_first)).status == 401


def test_a_signature_of_an_unknown_key_is_none_and_other_credentials_count(
    start: Callable[..., Access], tmp_path: Path
) -> None:
    key = keys.create(tmp_path / "keys.json", "prober", days=0)["key"]
    access = start(hmac_part(), keys=tmp_path / "keys.json")
    signed = sign(hmac_signer("elsewhere", HMAC_SECRET))
    found = refused(access, request(signed))
    assert "a signature (RFC 9421)" in found.detail
    assert b"accept-signature" in dict(found.headers)
    assert access.admit(request({**signed, "x-api-key": key}), "predict").client == "prober"


def test_a_missing_signature_or_one_that_is_no_bytes_is_refused(access: Access) -> None:
    signed = sign()
    for other in (None, "sig1=abc", "sig2=:AAAA:", "sig1", "sig1=(:AAAA:)", ":"):
        changed = {name: value for name, value in {**signed, "signature": other}.items() if value is not None}
        assert refused(access, request(changed)).status == 401


def test_a_client_that_must_sign_is_refused_with_its_api_key_alone(
    start: Callable[..., Access], tmp_path: Path
) -> None:
    file = tmp_path / "keys.json"
    acme, other = (keys.create(file, client, days=0)["key"] for client in ("acme", "other"))
    access = start(hmac_part(), "[clients.acme]\nrequire_signature = true", keys=file)
    unsigned = refused(access, request({"x-api-key": acme}))
    assert (unsigned.status, b"accept-signature" in dict(unsigned.headers)) == (401, True)
    assert access.admit(request({"x-api-key": other}), "predict").client == "other"
    assert answer(access, request({"x-api-key": acme, **sign()})).key_id == "acme-hmac"


def test_where_everybody_must_sign_an_api_key_alone_opens_nothing(start: Callable[..., Access], tmp_path: Path) -> None:
    key = keys.create(tmp_path / "keys.json", "other", days=0)["key"]
    access = start("require_signature = true", hmac_part(), keys=tmp_path / "keys.json")
    assert refused(access, request({"x-api-key": key})).status == 401
    assert answer(access, request(sign())).client == "acme"


def test_a_key_for_another_project_or_scope_is_known_and_opens_nothing(start: Callable[..., Access]) -> None:
    access = start(hmac_part(projects=["credit_risk"]), ed25519_part(ED_KEY, scopes=["metrics"]))
    assert refused(access, request(sign())).status == 403
    assert refused(access, request(sign(ED))).status == 403
    assert access.admit(request(sign(ED)), "metrics").client == "acme"


def test_an_expired_key_signs_nothing(start: Callable[..., Access]) -> None:
    part = hmac_part() + "expires = 2027-01-15T08:00:00Z\n"
    now_s = [NOW_S - 1]
    access = start(part, now_s=lambda: now_s[0])
    assert answer(access, request(sign())).client == "acme"
    now_s[0] = NOW_S
    assert refused(access, request(sign())).status == 401


def test_when_the_memory_of_nonces_is_full_it_refuses_and_forgets_only_what_is_too_old(
    start: Callable[..., Access],
) -> None:
    now_s = [NOW_S]
    access = start(
        "nonces_per_key = 3\nsignature_window_s = 60", hmac_part(), ed25519_part(ED_KEY), now_s=lambda: now_s[0]
    )
    first = request(sign())
    for head in (first, request(sign()), request(sign(created_s=int(NOW_S) - 1))):
        answer(access, head)
    full = refused(access, request(sign()))
    assert (full.status, dict(full.headers)[b"retry-after"]) == (429, b"60")
    assert "came before" in refused(access, first).detail
    assert answer(access, request(sign(ED))).client == "acme", "the room of another key is its own"
    now_s[0] = NOW_S + 60
    assert answer(access, request(sign(created_s=int(NOW_S) + 60))).client == "acme"
    assert refused(access, first).status == 401
    assert refused(access, request(sign(created_s=int(NOW_S) + 60))).status == 429
    now_s[0] = NOW_S + 61
    assert [answer(access, request(sign(created_s=int(NOW_S) + 61))).client for _ in range(2)] == ["acme"] * 2


def test_a_file_with_secrets_that_others_can_read_is_refused_and_keeps_what_is_in_force(
    start: Callable[..., Access], tmp_path: Path
) -> None:
    file = tmp_path / "access.toml"
    access = start(hmac_part())
    file.chmod(0o640)
    assert not access.reload()
    assert answer(access, request(sign())).client == "acme"
    with pytest.raises(ValueError, match=r"mode is 0640.*expected 0600: `chmod 600`"):
        Access(None, project="flight_delay", rules=file)
    write_rules(file, ed25519_part(ED_KEY)).chmod(0o644)
    assert access.reload(), "public keys may be read by all"
    assert answer(access, request(sign(ED))).client == "acme"


FIELDS = [b"signature-input", b"signature", b"content-digest", b"host", b"content-length", b"authorization"]
PIECES = st.sampled_from(
    [b"sig1", b"=", b"(", b")", b'"@method"', b'"@path"', b";", b"created", b"1800000000", b'keyid="acme-hmac"', b","]  # noqa: RUF005
    + [b" ", b":AAAA:", b'nonce="n"', b"?1", b"@1", b'%"a"', b'"', b"-1.5", b"\xff", b"Bearer a.b.c", b"*", b"\t"]
)


@settings(max_examples=1000, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    headers=st.lists(
        st.tuples(st.sampled_from(FIELDS), st.lists(PIECES, max_size=14).map(b"".join) | st.binary(max_size=40)),
        max_size=6,
    ),
    is_cut=st.booleans(),
)
def test_whatever_the_headers_are_a_request_is_refused_and_nothing_else_happens(
    access: Access, headers: list[tuple[bytes, bytes]], is_cut: bool
) -> None:
    head = RequestHead("POST", "/é", b"\xff", headers)
    if is_cut:  # a good signature among them
        good = request(sign(nonce="same")).headers
        head = head._replace(headers=[*headers, *good])
    with pytest.raises(AccessRefusedError) as found:
        access.admit(head, "predict")
    assert found.value.status == 401


@settings(max_examples=500, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_a_signature_input_with_odd_values_is_taken_or_refused(access: Access, data: st.DataObject) -> None:
    values = st.sampled_from(["1", "1800000000", '"n"', "tok", ":AAAA:", "?0", "1.5", "@5", '%"%c3%a9"', "-5", '""'])
    parameters = data.draw(
        st.lists(st.tuples(st.sampled_from(["created", "expires", "nonce", "alg", "keyid", "tag", "x"]), values))
    )
    items = data.draw(
        st.lists(st.sampled_from(['"@method"', '"@path";req', "tok", "5", ":AA==:", '"x-a"', '""', '"@"']))
    )
    text = f"sig1=({' '.join(items)})" + "".join(f";{name}={value}" for name, value in parameters) + PARAMETERS
    with pytest.raises(AccessRefusedError):
        access.admit(request({**sign(), "signature-input": text}), "predict")
