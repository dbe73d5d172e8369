import hmac
import json
import re
import time
from base64 import urlsafe_b64encode
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from contracts.access_file import Issuer
from serving.access import Access, AccessRefusedError, Admission, ClientCertificate, RequestHead
from serving.access import tokens as tokens_module
from serving.access.jwks import KeySet
from serving.access.tokens import TokenVerifier
from tests.fixtures.access import AUDIENCE, ISSUER, TokenIssuer, hmac_part, issuer_part, served, write_rules


@pytest.fixture(scope="module")
def issuer() -> TokenIssuer:
    return TokenIssuer()


@pytest.fixture
def start(tmp_path: Path) -> Callable[..., Access]:
    """A guard that takes the tokens of an issuer with these keys."""

    def started(key_set: bytes, *parts: str, wall_clock: Callable[[], float] = time.time, **more: Any) -> Access:
        (tmp_path / "keys.json").write_bytes(key_set)
        rules = write_rules(tmp_path / "access.toml", issuer_part("keys.json", **more), *parts)
        access = Access(None, project="flight_delay", rules=rules, clock=lambda: 0.0, wall_clock=wall_clock)
        fetch_all(access)
        return access

    return started


def fetch_all(access: Access) -> None:
    tokens = access.credentials.in_force.tokens
    assert tokens is not None
    for key_set in tokens.sets:
        if key_set.install(key_set.fetch()):
            tokens.forget()


def ask(access: Access, token: str, needed: Any = "predict", certificate: ClientCertificate | None = None) -> Admission:
    headers = [(b"host", b"x"), (b"authorization", b"Bearer " + token.encode())]
    return access.admit(RequestHead("POST", "/v1/predict", b"", headers, "http", certificate), needed)


def refused(access: Access, token: str, needed: Any = "predict") -> AccessRefusedError:
    with pytest.raises(AccessRefusedError) as caught:
        ask(access, token, needed)
    return caught.value


def test_a_token_opens_what_its_scopes_say_and_names_its_client(start: Any, issuer: TokenIssuer) -> None:
    access = start(issuer.key_set())
    token = issuer.token(jti="token-7")
    assert ask(access, token) == ("acme", "jwt:token-7", (), None)
    missing = refused(access, token, "metrics")
    assert missing.status == 403
    assert b'error="insufficient_scope", scope="metrics"' in dict(missing.headers)[b"www-authenticate"]


@pytest.mark.parametrize(
    ("changes", "scopes"),
    [
        ({"scope": "paceline:predict paceline:metrics"}, {"predict", "metrics"}),
        ({"scope": None, "scp": ["paceline:metadata"]}, {"metadata"}),
        ({"scope": None, "scp": "paceline:metadata other"}, {"metadata"}),
        ({"scope": ["paceline:predict", 7]}, {"predict"}),
        ({"scope": "predict"}, set()),
        ({"scope": 7}, set()),
        ({"scope": None}, set()),
    ],
)
def test_scopes_are_read_from_either_claim_and_only_behind_the_prefix(
    start: Any, issuer: TokenIssuer, changes: dict[str, Any], scopes: set[str]
) -> None:
    access = start(issuer.key_set())
    token = issuer.token(**changes)
    for needed in ("predict", "metrics", "metadata"):
        if needed in scopes:
            ask(access, token, needed)
        else:
            assert refused(access, token, needed).status == 403


def test_the_prefix_of_scopes_and_of_clients_is_the_issuers_own(start: Any, issuer: TokenIssuer) -> None:
    access = start(issuer.key_set(), scope_prefix="", client_prefix="corp.", client_claims=["sub"])
    assert ask(access, issuer.token(scope="predict")).client == "corp.user-1"


@pytest.mark.parametrize(
    ("changes", "client"),
    [
        ({}, "acme"),
        ({"client_id": None, "azp": "app"}, "app"),
        ({"client_id": None}, "user-1"),
        ({"client_id": 5}, "user-1"),
    ],
)
def test_a_client_is_named_by_the_first_claim_that_it_has(
    start: Any, issuer: TokenIssuer, changes: dict[str, Any], client: str
) -> None:
    assert ask(start(issuer.key_set()), issuer.token(**changes)).client == client


NOW_S = int(time.time())


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"exp": NOW_S - 60}, "expired"),
        ({"exp": None}, "exp"),
        ({"exp": "soon"}, "not taken"),
        ({"exp": 1e400}, "."),
        ({"nbf": NOW_S + 3600}, "not yet valid"),
        ({"iat": NOW_S + 3600}, "not yet valid"),
        ({"aud": "another"}, "[Aa]udience"),
        ({"aud": None}, "aud"),
        ({"aud": ["a", "b"]}, "[Aa]udience"),
        ({"iss": "https://evil.example"}, "issuer"),
        ({"iss": None}, "iss"),
        ({"client_id": "a b"}, "is a name"),
        ({"client_id": "x" * 200}, "is a name"),
        ({"client_id": "", "sub": None}, "is a name"),
        ({"cnf": {"jkt": "abc"}}, "proof"),
        ({"cnf": "abc"}, "proof"),
    ],
)
def test_a_token_with_wrong_claims_is_refused_with_the_reason(
    start: Any, issuer: TokenIssuer, changes: dict[str, Any], text: str
) -> None:
    found = refused(start(issuer.key_set()), issuer.token(**changes))
    assert found.status == 401
    assert re.search(text, found.detail), found.detail
    assert dict(found.headers)[b"www-authenticate"] == b'Bearer realm="paceline", error="invalid_token"'


def test_clocks_may_differ_by_a_few_seconds(start: Any, issuer: TokenIssuer) -> None:
    now_s = int(time.time())
    access = start(issuer.key_set())
    assert ask(access, issuer.token(nbf=now_s + 4, iat=now_s + 4)).client == "acme"
    assert ask(access, issuer.token(exp=now_s - 3)).client == "acme"


def unsigned(header: dict[str, Any], claims: dict[str, Any]) -> str:
    return ".".join(urlsafe_b64encode(json.dumps(part).encode()).rstrip(b"=").decode() for part in (header, claims))


def test_symmetric_algorithms_and_none_are_refused_also_with_the_public_key_as_secret(
    start: Any, issuer: TokenIssuer
) -> None:
    access = start(issuer.key_set())
    public = json.loads(issuer.key_set())["keys"][0]
    for algorithm in ("none", "HS256", "hs256", "ES256K", ""):
        signed = unsigned({"alg": algorithm, "kid": issuer.current, "typ": "JWT"}, issuer.claims())
        for secret in (b"", public["x"].encode()):
            signature = urlsafe_b64encode(hmac.digest(secret or b"0", signed.encode(), "sha256")).rstrip(b"=").decode()
            assert refused(access, f"{signed}.{signature}").status == 401
        assert refused(access, f"{signed}.").status == 401


@pytest.mark.parametrize(
    ("headers", "is_taken"),
    [
        ({"typ": "JWT"}, True),
        ({"typ": "logout+jwt"}, False),
        ({"typ": "dpop+jwt"}, False),
        ({"crit": ["exp"]}, False),
        ({"kid": 5}, False),
    ],
)
def test_another_kind_of_token_of_the_same_issuer_is_refused(
    start: Any, issuer: TokenIssuer, headers: dict[str, Any], is_taken: bool
) -> None:
    key = issuer.keys[issuer.current]
    header = {"alg": "ES256", "kid": issuer.current, **headers}
    signed = unsigned(header, issuer.claims())
    der = jwt.algorithms.ECAlgorithm(jwt.algorithms.ECAlgorithm.SHA256, ec.SECP256R1).sign(signed.encode(), key)
    token = f"{signed}.{urlsafe_b64encode(der).rstrip(b'=').decode()}"
    if is_taken:
        assert ask(start(issuer.key_set()), token).client == "acme"
    else:
        assert refused(start(issuer.key_set()), token).status == 401


def test_a_token_of_rfc_9068_is_taken(start: Any, issuer: TokenIssuer) -> None:
    assert ask(start(issuer.key_set()), issuer.token(headers={"typ": "at+jwt"})).client == "acme"


def test_a_token_altered_by_one_character_is_refused_wherever_it_is(start: Any, issuer: TokenIssuer) -> None:
    access = start(issuer.key_set())
    token = issuer.token()
    ask(access, token)
    for place in range(len(token) - 1):  # the last character of a signature has bits that do not count
        other = "A" if token[place] != "A" else "B"
        assert refused(access, token[:place] + other + token[place + 1 :]).status == 401, place


def test_a_token_signed_by_a_stranger_with_a_known_id_is_refused(start: Any, issuer: TokenIssuer) -> None:
    stranger = TokenIssuer()
    assert stranger.current in issuer.keys
    assert "verif" in refused(start(issuer.key_set()), stranger.token()).detail.lower()


@pytest.mark.parametrize(
    ("algorithm", "make", "as_jwk"),
    [
        ("RS256", lambda: rsa.generate_private_key(65537, 2048), jwt.algorithms.RSAAlgorithm),
        ("PS384", lambda: rsa.generate_private_key(65537, 2048), jwt.algorithms.RSAAlgorithm),
        ("ES384", lambda: ec.generate_private_key(ec.SECP384R1()), jwt.algorithms.ECAlgorithm),
        ("ES512", lambda: ec.generate_private_key(ec.SECP521R1()), jwt.algorithms.ECAlgorithm),
        ("EdDSA", Ed25519PrivateKey.generate, jwt.algorithms.OKPAlgorithm),
    ],
)
def test_each_algorithm_is_taken_with_its_kind_of_key_and_only_where_it_is_allowed(
    start: Any, issuer: TokenIssuer, algorithm: str, make: Callable[[], Any], as_jwk: Any
) -> None:
    key = make()
    described = json.loads(as_jwk.to_jwk(key.public_key()))
    key_set = json.dumps({"keys": [{**described, "kid": "k"}]}).encode()
    token = jwt.encode(issuer.claims(), key, algorithm=algorithm, headers={"kid": "k"})
    assert ask(start(key_set), token).client == "acme"
    without_id = jwt.encode(issuer.claims(), key, algorithm=algorithm)
    assert ask(start(json.dumps({"keys": [described]}).encode()), without_id).client == "acme"
    others = [each for each in ("RS256", "ES256") if each != algorithm]
    assert refused(start(issuer.key_set(), algorithms=others), token).status == 401


def test_a_token_for_a_key_that_is_not_known_asks_for_it_and_says_when_to_come_back(
    start: Any, issuer: TokenIssuer
) -> None:
    other = TokenIssuer()
    other.add_key()
    access = start(issuer.key_set())
    found = refused(access, other.token())
    assert (found.status, dict(found.headers)[b"retry-after"]) == (401, b"5")
    assert "background" in found.detail


def test_a_token_that_came_before_is_not_verified_again_and_still_expires(
    start: Any, issuer: TokenIssuer, monkeypatch: pytest.MonkeyPatch
) -> None:
    now_s = [time.time()]
    access = start(issuer.key_set(), wall_clock=lambda: now_s[0])
    token = issuer.token(exp=int(now_s[0]) + 60)
    ask(access, token)
    verified: list[bytes] = []
    real = TokenVerifier._verify
    monkeypatch.setattr(TokenVerifier, "_verify", lambda self, given: verified.append(given) or real(self, given))
    for _ in range(3):
        ask(access, token)
    assert verified == []
    assert refused(access, token, "metrics").status == 403
    now_s[0] += 71.0
    monkeypatch.setattr(tokens_module, "LEEWAY_S", -100)  # PyJWT reads the real clock: there, too, it is too late now
    assert refused(access, token).status == 401
    assert len(verified) == 1


def test_what_is_remembered_is_bounded_and_what_is_forgotten_is_verified_anew(
    start: Any, issuer: TokenIssuer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tokens_module, "MAXIMUM_REMEMBERED", 4)
    access = start(issuer.key_set())
    made = [issuer.token(jti=str(number)) for number in range(20)]
    for token in [*made, *made]:
        ask(access, token)
    assert len(access.credentials.in_force.tokens._remembered) <= 4  # type: ignore[union-attr]


def test_a_token_of_a_key_that_was_taken_out_of_the_set_is_refused_also_where_it_was_remembered(
    start: Any, tmp_path: Path
) -> None:
    issuer = TokenIssuer()
    access = start(issuer.key_set())
    old = issuer.token()
    ask(access, old)
    issuer.add_key()
    (tmp_path / "keys.json").write_bytes(issuer.key_set())
    fetch_all(access)
    assert [ask(access, token).client for token in (old, issuer.token())] == ["acme", "acme"]
    issuer.retire_key("key-1")
    (tmp_path / "keys.json").write_bytes(issuer.key_set())
    fetch_all(access)
    assert refused(access, old).status == 401
    assert ask(access, issuer.token()).client == "acme"


def test_a_token_bound_to_a_certificate_is_good_with_that_one_only(start: Any, issuer: TokenIssuer) -> None:
    access = start(issuer.key_set())
    mine, other = (ClientCertificate(("CN:acme",), bytes([number]) * 32, 4e9) for number in (1, 2))
    bound = issuer.token(cnf={"x5t#S256": urlsafe_b64encode(mine.thumbprint).rstrip(b"=").decode()})
    for _ in range(2):
        assert ask(access, bound, certificate=mine).client == "acme"
        for certificate in (None, other):
            with pytest.raises(AccessRefusedError, match="bound to a client certificate"):
                ask(access, bound, certificate=certificate)


def test_the_clients_of_an_issuer_have_its_limit_each(start: Any, issuer: TokenIssuer) -> None:
    access = start(issuer.key_set(), rate_per_s=1, burst=1)
    assert dict(ask(access, issuer.token()).headers)[b"ratelimit-limit"] == b"1"
    assert refused(access, issuer.token()).status == 429
    assert ask(access, issuer.token(client_id="other")).client == "other"


def test_a_client_that_must_sign_is_refused_with_a_token_alone_and_asked_for_a_signature(
    start: Any, issuer: TokenIssuer
) -> None:
    access = start(issuer.key_set(), hmac_part(), "[clients.acme]\nrequire_signature = true")
    found = refused(access, issuer.token())
    assert found.status == 401
    assert b"@method" in dict(found.headers)[b"accept-signature"]
    assert ask(access, issuer.token(client_id="other")).client == "other"


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_whatever_stands_behind_bearer_is_taken_or_refused(
    start: Any, issuer: TokenIssuer, data: st.DataObject
) -> None:
    access = start(issuer.key_set())
    values = st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
        lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=3), inner, max_size=2),
        max_leaves=4,
    )
    names = st.sampled_from(["exp", "nbf", "iat", "aud", "iss", "sub", "scope", "scp", "cnf", "jti", "client_id"])
    kind = data.draw(st.sampled_from(["bytes", "claims"]))
    if kind == "bytes":
        given_bytes = data.draw(st.binary(max_size=60) | st.just(issuer.token().encode()).map(lambda t: t[:-3] + b".."))
    else:
        changed = {**issuer.claims(), **data.draw(st.dictionaries(names, values, max_size=4))}
        try:
            given_bytes = jwt.encode(
                changed, issuer.keys[issuer.current], algorithm="ES256", headers={"kid": issuer.current}
            ).encode()
        except TypeError:  # no issuer writes this
            return
    head = RequestHead("POST", "/", b"", [(b"authorization", b"Bearer " + given_bytes)])
    try:
        status = 200 if access.admit(head, "predict").client else 0
    except AccessRefusedError as found:
        status = found.status
    assert status in (200, 401, 403)


def made_set(place: str, tmp_path: Path, clock: Callable[[], float] = lambda: 0.0) -> KeySet:
    return KeySet(Issuer(issuer=ISSUER, audience=(AUDIENCE,), jwks=place, refresh_s=60), tmp_path, clock)


def test_a_set_that_cannot_be_fetched_or_used_keeps_the_old_keys_and_is_told_once(
    issuer: TokenIssuer, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    answers = [(200, issuer.key_set())]
    with served(lambda: answers[0]) as url:
        found = made_set(url, tmp_path)
        assert found.install(found.fetch())
        assert not found.install(found.fetch()), "nothing has changed"
        bad = [
            (500, b""),
            (404, b"{}"),
            (302, url.encode()),
            (200, b"<html>"),
            (200, b'{"keys": []}'),
            (200, b'{"keys": [{"kty": "oct", "k": "c2VjcmV0", "kid": "key-1"}]}'),
            (200, b" " * (1 << 21)),
        ]
        for answers[0] in bad:
            assert not found.install(found.fetch())
            assert found.find("key-1", "ES256") is not None
        assert found.failures == len(bad)
        answers[0] = (200, issuer.key_set())
        assert not found.install(found.fetch())
    assert not found.install(found.fetch()), "and the server is gone"
    assert found.find("key-1", "ES256") is not None
    assert [record.getMessage().count("keys of") for record in caplog.records if record.levelname == "ERROR"] == [1, 1]


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"use": "enc"}, "not for signatures"),
        ({"key_ops": ["sign"]}, "not for signatures"),
        ({"d": "AAAA"}, "secret"),
        ({"kty": "oct", "k": "AAAA"}, "secret"),
        ({"crv": "P-384"}, "cannot be read|none that is allowed"),
        ({"alg": "HS256"}, "none that is allowed"),
        ({"alg": 5}, "none that is allowed"),
        ({"x": "!"}, "cannot be read"),
        ({"kty": ["EC"]}, "none that is allowed"),
        ({"kid": 5}, "kid"),
    ],
)
def test_a_key_that_could_be_misused_is_skipped_and_told_and_the_others_are_used(
    issuer: TokenIssuer, tmp_path: Path, change: dict[str, Any], reason: str, caplog: pytest.LogCaptureFixture
) -> None:
    [good] = json.loads(issuer.key_set())["keys"]
    (tmp_path / "keys.json").write_text(json.dumps({"keys": [{**good, "kid": "bad", **change}, good]}))
    found = made_set("keys.json", tmp_path)
    assert found.install(found.fetch())
    assert found.find("bad", "ES256") is None
    assert found.find(issuer.current, "ES256") is not None
    assert found.find(issuer.current, "RS256") is None
    [told] = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert re.search(reason, told), told


def test_a_short_rsa_key_is_not_used(tmp_path: Path) -> None:
    key = rsa.generate_private_key(65537, 1024)
    described = json.loads(jwt.algorithms.RSAAlgorithm.to_jwk(key.public_key()))
    (tmp_path / "keys.json").write_text(json.dumps({"keys": [{**described, "kid": "short"}]}))
    found = made_set("keys.json", tmp_path)
    assert not found.install(found.fetch())
    assert found.find("short", "RS256") is None


def test_a_set_is_fetched_at_once_then_now_and_then_and_sooner_for_an_unknown_key_but_not_each_time(
    issuer: TokenIssuer, tmp_path: Path
) -> None:
    (tmp_path / "keys.json").write_bytes(issuer.key_set())
    now_s = [0.0]
    found = made_set("keys.json", tmp_path, clock=lambda: now_s[0])
    assert found.is_due()
    found.install(found.fetch())
    due = []
    for now_s[0] in (0.0, 4.9, 59.9, 60.0):
        due.append(found.is_due())
    assert due == [False, False, False, True]
    found.install(found.fetch())
    found.find("unknown", "ES256")
    due = []
    for now_s[0] in (60.1, 64.9, 65.0):
        due.append(found.is_due())
    assert due == [False, False, True]
    (tmp_path / "keys.json").unlink()
    found.install(found.fetch())
    now_s[0] = 70.0
    assert found.is_due(), "after a failure again soon"
