"""Bearer tokens, client certificates, signed requests and shared limits, against real server processes."""

import asyncio
import itertools
import json
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from fakeredis import TcpFakeServer
from prometheus_client.parser import text_string_to_metric_families
from redis import Redis

from contracts.signing import ED25519, Signer, hmac_signer, sign_request
from pipelines.tasks import keys
from tests.fixtures.access import (
    HMAC_SECRET,
    ISSUER,
    Authority,
    TokenIssuer,
    certificate_part,
    ed25519_part,
    hmac_part,
    issuer_part,
    served,
    write_rules,
)
from tests.fixtures.bundles import tiny_bundle, tiny_record
from tests.fixtures.model_servers import ModelServerProcess

Start = Callable[..., ModelServerProcess]
BODY = json.dumps({"records": [tiny_record()]}).encode()
JSON = {"content-type": "application/json"}
CHANGE_TIMEOUT_S = 20.0
SPIFFE = "spiffe://example/ns/ml/sa/acme"
HMAC = hmac_signer("acme-hmac", HMAC_SECRET)


@pytest.fixture
def rules(tmp_path: Path) -> Path:
    return tmp_path / "access.toml"


@pytest.fixture
def start(model_servers: Start, tmp_path: Path, rules: Path) -> Start:
    """Starts a server with version 1 as champion and the access file `rules`."""

    def started(**settings: Any) -> ModelServerProcess:
        server = model_servers(access=str(rules), **settings)
        server.install(tiny_bundle(tmp_path / "bundles"), "1")
        return server

    return started


def bearer(token: str) -> dict[str, str]:
    return {**JSON, "authorization": f"Bearer {token}"}


def wait_until(holds: Callable[[], bool]) -> None:
    started = time.monotonic()
    while not holds():
        assert time.monotonic() - started < CHANGE_TIMEOUT_S, "it did not happen in time"
        time.sleep(0.02)


def predict(server: ModelServerProcess, headers: dict[str, str], body: bytes = BODY) -> httpx.Response:
    return server.client.post("/v1/predict", content=body, headers=headers)


def samples(server: ModelServerProcess, headers: dict[str, str]) -> dict[tuple[str, ...], float]:
    text = server.client.get("/metrics", headers=headers).raise_for_status().text
    return {
        (sample.name, *sorted(sample.labels.values())): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


class _Issuer(TokenIssuer):
    """An issuer whose key set is on a small HTTP server, and can be taken away."""

    def __init__(self) -> None:
        super().__init__()
        self.status = 200
        self.asked = 0

    def answer(self) -> tuple[int, bytes]:
        self.asked += 1
        return self.status, self.key_set()


@pytest.fixture
def issuer(rules: Path) -> Iterator[_Issuer]:
    made = _Issuer()
    with served(made.answer) as url:
        write_rules(rules, issuer_part(url, refresh_s=1))
        yield made


def test_a_token_of_the_issuer_opens_what_its_scopes_say(start: Start, issuer: _Issuer) -> None:
    server = start()
    wait_until(lambda: predict(server, bearer(issuer.token())).status_code == 200)
    both = bearer(issuer.token(scope="paceline:metrics paceline:metadata"))
    assert predict(server, both).status_code == 403
    assert server.client.get("/v2/models/flight_delay", headers=both).status_code == 200
    assert samples(server, both)[("paceline_token_keys", ISSUER)] == 1
    for wrong in (issuer.token(aud="another"), issuer.token(exp=5), TokenIssuer().token(), "a.b.c", "x"):
        refused = predict(server, bearer(wrong))
        assert refused.status_code == 401
        assert refused.headers["content-type"] == "application/problem+json"
        assert refused.headers["www-authenticate"].startswith("Bearer")


def test_the_keys_of_an_issuer_are_rotated_under_load_and_no_request_fails(start: Start, issuer: _Issuer) -> None:
    server = start()
    wait_until(lambda: predict(server, bearer(issuer.token())).status_code == 200)
    statuses: dict[int, int] = {}
    stop = threading.Event()

    def load() -> None:
        repeated = issuer.token(), issuer.current
        with httpx.Client(base_url=server.url, trust_env=False, timeout=30) as client:
            for number in itertools.count():
                if stop.is_set():
                    return
                if repeated[1] != issuer.current:
                    repeated = issuer.token(), issuer.current
                # every other request with a token that the server has not seen
                token = issuer.token(jti=str(number)) if number % 2 else repeated[0]
                status = client.post("/v1/predict", content=BODY, headers=bearer(token)).status_code
                statuses[status] = statuses.get(status, 0) + 1

    def knows(count: int) -> bool:
        told = bearer(issuer.token(scope="paceline:metrics"))
        return samples(server, told)["paceline_token_keys", ISSUER] == count

    def have_come(count: int) -> bool:
        return sum(statuses.values()) >= count

    thread = threading.Thread(target=load)
    thread.start()
    try:
        for _ in range(2):
            old, new = issuer.current, issuer.publish_key()
            wait_until(partial(knows, 2))
            issuer.current = new
            wait_until(partial(have_come, sum(statuses.values()) + 10))
            issuer.retire_key(old)
            wait_until(partial(knows, 1))
            wait_until(partial(have_come, sum(statuses.values()) + 10))
    finally:
        stop.set()
        thread.join()
    assert set(statuses) == {200}, statuses
    assert server.process.poll() is None


def test_a_key_set_that_cannot_be_fetched_keeps_the_old_keys_and_an_unknown_key_is_fetched_soon(
    start: Start, issuer: _Issuer
) -> None:
    server = start()
    wait_until(lambda: predict(server, bearer(issuer.token())).status_code == 200)
    told = bearer(issuer.token(scope="paceline:metrics"))
    issuer.status = 500
    failures = ("paceline_token_key_failures_total", ISSUER)
    wait_until(lambda: samples(server, told)[failures] >= 1)
    assert predict(server, bearer(issuer.token(jti="fresh"))).status_code == 200
    issuer.add_key()
    unknown = predict(server, bearer(issuer.token()))
    assert (unknown.status_code, unknown.headers["retry-after"]) == (401, "1")
    issuer.status = 200
    wait_until(lambda: predict(server, bearer(issuer.token())).status_code == 200)
    asked = issuer.asked
    other = TokenIssuer()
    for _ in range(5):
        other.add_key()
    for _ in range(200):
        assert predict(server, bearer(other.token())).status_code == 401
    assert issuer.asked - asked < 20, "unknown keys do not make the server ask for each of them"


def tls_of(authority: Authority, certificate: tuple[Path, Path] | None = None) -> ssl.SSLContext:
    context = ssl.create_default_context(cafile=str(authority.path))
    if certificate is not None:
        context.load_cert_chain(*certificate)
    return context


def tls_settings(authority: Authority, folder: Path) -> dict[str, str]:
    certificate, key = authority.certify_loopback()
    return {"tls_certificate": str(certificate), "tls_key": str(key), "tls_client_ca": str(authority.path)}


def test_a_client_is_known_by_its_certificate_over_tls(start: Start, tmp_path: Path, rules: Path) -> None:
    authority = Authority(tmp_path)
    write_rules(
        rules,
        certificate_part(f"URI:{SPIFFE}", "acme"),
        certificate_part("CN:prober", "prober", scopes=["metadata", "metrics"]),
    )
    acme = tls_of(authority, authority.certify("any-name", x509.UniformResourceIdentifier(SPIFFE)))
    server = start(tls=acme, **tls_settings(authority, tmp_path))
    assert server.url.startswith("https://")
    assert predict(server, JSON).status_code == 200
    assert server.client.get("/v2").status_code == 403
    prober = tls_of(authority, authority.certify("prober"))
    with httpx.Client(base_url=server.url, verify=prober, trust_env=False) as client:
        assert client.get("/v2").status_code == 200
        assert client.post("/v1/predict", content=BODY, headers=JSON).status_code == 403
        write_rules(rules, certificate_part(f"URI:{SPIFFE}", "acme"))
        wait_until(lambda: client.get("/v2").status_code == 401)
    for other in (tls_of(authority, authority.certify("somebody")), tls_of(authority)):
        with httpx.Client(base_url=server.url, verify=other, trust_env=False) as client:
            assert client.get("/livez").status_code == 200
            assert client.post("/v1/predict", content=BODY, headers=JSON).status_code == 401
    assert predict(server, JSON).status_code == 200, "and the first goes on"


def test_where_a_certificate_is_required_nobody_connects_without_one_or_with_that_of_a_stranger(
    start: Start, tmp_path: Path, rules: Path
) -> None:
    authority = Authority(tmp_path)
    (tmp_path / "other").mkdir()
    stranger = Authority(tmp_path / "other", "stranger")
    write_rules(rules, certificate_part("CN:acme", "acme"))
    acme = tls_of(authority, authority.certify("acme"))
    server = start(tls=acme, tls_client_required="yes", **tls_settings(authority, tmp_path))
    assert predict(server, JSON).status_code == 200
    for other in (tls_of(authority), tls_of(authority, stranger.certify("acme"))):
        with (
            httpx.Client(base_url=server.url, verify=other, trust_env=False) as client,
            pytest.raises(httpx.TransportError),
        ):
            client.get("/livez")
    assert predict(server, JSON).status_code == 200


class Signed(httpx.Auth):
    """Signs each request of an httpx client, as the docs show it."""

    requires_request_body = True

    def __init__(self, signer: Signer) -> None:
        self._signer = signer

    def auth_flow(self, request: httpx.Request) -> Iterator[httpx.Request]:  # type: ignore[override]
        request.headers.update(sign_request(request.method, str(request.url), request.content, self._signer))
        yield request


@pytest.mark.parametrize("kind", ["hmac-sha256", "ed25519"])
def test_a_signed_request_comes_in_once_and_altered_by_one_byte_it_is_refused(
    start: Start, rules: Path, kind: str
) -> None:
    key = Ed25519PrivateKey.generate()
    write_rules(rules, hmac_part(scopes=["predict", "metadata"]), ed25519_part(key, scopes=["predict", "metadata"]))
    signer = HMAC if kind == "hmac-sha256" else Signer("acme-ed", ED25519, key.sign)
    server = start()
    auth = Signed(signer)
    assert server.client.post("/v1/predict", content=BODY, headers=JSON, auth=auth).status_code == 200
    assert server.client.get("/v2/models/flight_delay", params={"a": "b c"}, auth=auth).status_code == 200
    url = f"{server.url}/v1/predict"
    signed = {**JSON, **sign_request("POST", url, BODY, signer)}
    for place in range(0, len(BODY), 7):
        altered = BODY[:place] + bytes([BODY[place] ^ 1]) + BODY[place + 1 :]
        refused = predict(server, {**JSON, **sign_request("POST", url, BODY, signer)}, altered)
        assert refused.status_code == 401, place
        assert "@method" in refused.headers["accept-signature"]
    assert server.client.post("/invocations", content=BODY, headers=signed).status_code == 401
    assert server.client.put("/v1/predict", content=BODY, headers=signed).status_code == 401
    assert server.client.post("/v1/predict?x=1", content=BODY, headers=signed).status_code == 401
    assert predict(server, signed).status_code == 200
    replayed = predict(server, signed)
    assert replayed.status_code == 401
    assert "came before" in replayed.json()["detail"]
    assert "access_refused" in server.log.read_text()


def test_a_signed_body_behind_a_metadata_route_is_checked_too(start: Start, rules: Path) -> None:
    write_rules(rules, hmac_part(scopes=["metadata"]))
    server = start()
    url = f"{server.url}/v1/models"
    for body, status in ((b"right", 405), (b"wrong", 401)):
        signed = sign_request("POST", url, b"right", HMAC)
        assert server.client.post(url, content=body, headers=signed).status_code == status


def test_a_client_that_must_sign_cannot_use_its_api_key_alone(start: Start, rules: Path, tmp_path: Path) -> None:
    file = tmp_path / "keys.json"
    acme, other = (keys.create(file, client)["key"] for client in ("acme", "other"))
    write_rules(rules, hmac_part(), "[clients.acme]\nrequire_signature = true")
    server = start(keys=str(file))
    unsigned = predict(server, {**JSON, "x-api-key": acme})
    assert unsigned.status_code == 401
    assert "accept-signature" in unsigned.headers
    assert predict(server, {**JSON, "x-api-key": other}).status_code == 200
    signed = {**JSON, "x-api-key": acme, **sign_request("POST", f"{server.url}/v1/predict", BODY, HMAC)}
    assert predict(server, signed).status_code == 200


def test_a_broken_access_file_keeps_what_is_in_force_and_secrets_are_in_no_log(start: Start, rules: Path) -> None:
    write_rules(rules, hmac_part())
    server = start()
    whole = rules.read_text()
    write_rules(rules, whole, "[[signing_keys]]\nsecret = ")
    wait_until(lambda: "the credentials in force stay" in server.log.read_text())
    signed = sign_request("POST", f"{server.url}/v1/predict", BODY, HMAC)
    assert predict(server, {**JSON, **signed}).status_code == 200
    server.stop()
    secret = whole.partition('secret = "')[2].partition('"')[0]
    assert len(secret) > 40
    assert secret not in server.log.read_text()


@pytest.mark.parametrize(
    ("content", "mode", "text"),
    [
        ("", 0o600, "every request for a guarded route is refused"),
        (hmac_part(), 0o644, "expected 0600"),
        ("require_signature = true", 0o600, "nobody could call"),
        (certificate_part("CN:acme", "acme"), 0o600, "TLS_CLIENT_CA"),
        ("issuers = 5", 0o600, "issuers"),
    ],
)
def test_nothing_is_open_by_accident(model_servers: Start, rules: Path, content: str, mode: int, text: str) -> None:
    write_rules(rules, content).chmod(mode)
    if content:
        with pytest.raises(AssertionError, match=rf"(?s)ended with 2.*{text}"):
            model_servers(access=str(rules), host="0.0.0.0", control_token="secret-word")
        return
    server = model_servers(access=str(rules), host="0.0.0.0", control_token="secret-word")
    assert predict(server, JSON).status_code == 401
    assert server.client.get("/metrics").status_code == 401
    assert text in server.log.read_text()


def test_replicas_share_the_limit_of_a_client_by_redis(start: Start, model_servers: Start, rules: Path) -> None:
    redis = TcpFakeServer(("127.0.0.1", 0), server_type="redis")
    thread = threading.Thread(target=redis.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        # so slow that no token comes while the test runs
        write_rules(rules, hmac_part(rate_per_s=0.001, burst=10))
        url = f"redis://127.0.0.1:{redis.server_address[1]}"
        servers = [model_servers(access=str(rules), redis_url=url) for _ in range(2)]

        def ask(server: ModelServerProcess) -> httpx.Response:
            signed = sign_request("POST", f"{server.url}/v1/predict", BODY, HMAC)
            return predict(server, {**JSON, **signed})

        def left() -> float:
            with Redis.from_url(url) as client:
                return float(client.hget("paceline:rate:acme", "tokens") or 10)  # type: ignore[arg-type]

        # 503: admitted, and there is no champion
        assert [ask(servers[0]).status_code for _ in range(6)] == [503] * 6
        wait_until(lambda: left() < 5)
        assert ask(servers[1]).headers["ratelimit-limit"] == "10"
        wait_until(lambda: left() < 4)
        # the answer of Redis is on its way to the second server: from now on it knows of the six
        wait_until(lambda: int(ask(servers[1]).headers["ratelimit-remaining"]) < 3)
        wait_until(lambda: ask(servers[1]).status_code == 429)
        wait_until(lambda: ask(servers[0]).status_code == 429)
        refused = [ask(server) for server in servers]
        assert [answer.status_code for answer in refused] == [429, 429]
        assert all(int(answer.headers["retry-after"]) > 900 for answer in refused)
    finally:
        redis.shutdown()
        redis.server_close()
        thread.join()


def test_the_api_page_says_who_may_call_what_and_can_be_read_with_a_key(
    start: Start, rules: Path, tmp_path: Path, issuer: _Issuer
) -> None:
    file = tmp_path / "keys.json"
    key = keys.create(file, "reader", scopes=["metadata"])["key"]
    write_rules(rules, rules.read_text(), hmac_part())
    server = start(keys=str(file))
    assert server.client.get("/docs").status_code == 200
    assert 'id="key"' in server.client.get("/docs").text
    assert server.client.get("/openapi.json").status_code == 401
    document = server.client.get("/openapi.json", headers={"x-api-key": key}).raise_for_status().json()
    schemes = document["components"]["securitySchemes"]
    assert set(schemes) == {"apiKey", "apiKeyAsBearer", "accessToken", "signature"}
    needed = {
        path: operation.get("x-required-scope")
        for path, methods in document["paths"].items()
        for operation in methods.values()
    }
    assert needed["/v1/predict"] == "predict"
    assert needed["/metrics"] == "metrics"
    assert needed["/v2"] == "metadata"
    assert needed["/livez"] is None
    predict_operation = document["paths"]["/v1/predict"]["post"]
    assert {"apiKey": ["predict"]} in predict_operation["security"]
    assert {"401", "403", "429"} <= set(predict_operation["responses"])
    assert document["paths"]["/livez"]["get"]["security"] == []
    again = server.client.get("/openapi.json", headers={"x-api-key": key}).json()
    assert again == document, "describing it once more changes nothing"


def test_what_a_stranger_sends_is_told_in_a_few_lines(start: Start, rules: Path) -> None:
    write_rules(rules, hmac_part())
    server = start()

    async def flood() -> None:
        async with httpx.AsyncClient(base_url=server.url, trust_env=False, timeout=30) as client:
            for number in range(300):
                await client.get(f"/nowhere/{number}")

    asyncio.run(flood())
    lines = [line for line in server.log.read_text().splitlines() if "access_refused" in line]
    assert 1 <= len(lines) <= 10
    told = json.loads(lines[0].partition("refused: ")[2])
    assert (told["status"], told["reason"], told["peer"]) == (401, "credential", "127.0.0.1")
