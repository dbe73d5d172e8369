import asyncio
import itertools
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

from pipelines.tasks import keys
from tests.fixtures.bundles import tiny_bundle, tiny_record
from tests.fixtures.model_servers import ModelServerProcess

Start = Callable[..., ModelServerProcess]
BODY = {"records": [tiny_record()]}
ALL_SCOPES = ("predict", "metrics", "metadata")
CHANGE_TIMEOUT_S = 15.0
INFER = "/v2/models/flight_delay/infer"
PREDICTIONS = ("/v1/predict", INFER, "/v1/models/flight_delay:predict", "/invocations")


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "keys.json"


@pytest.fixture
def start(model_servers: Start, tmp_path: Path, file: Path) -> Start:
    """Starts a server with version 1 as champion whose keys are in `file`."""

    def started(**settings: str) -> ModelServerProcess:
        server = model_servers(keys=str(file), **settings)
        server.install(tiny_bundle(tmp_path / "bundles"), "1")
        return server

    return started


def bearer(key: str) -> dict[str, str]:
    return {"authorization": f"Bearer {key}"}


def wait_until(holds: Callable[[], bool]) -> None:
    started = time.monotonic()
    while not holds():
        assert time.monotonic() - started < CHANGE_TIMEOUT_S, "it did not happen in time"
        time.sleep(0.02)


def samples(server: ModelServerProcess, key: str) -> dict[tuple[str, ...], float]:
    text = server.client.get("/metrics", headers=bearer(key)).raise_for_status().text
    return {
        (sample.name, *sorted(sample.labels.values())): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def test_each_route_needs_a_key_with_its_scope_and_probes_need_none(start: Start, file: Path) -> None:
    by_scope = {scope: keys.create(file, scope, scopes=[scope])["key"] for scope in ALL_SCOPES}
    server = start()
    client = server.client
    routes = {
        "predict": [("POST", path) for path in PREDICTIONS],
        "metrics": [("GET", "/metrics")],
        "metadata": [("GET", path) for path in ("/v2", "/v2/models/flight_delay", "/v1/models", "/openapi.json")],
    }
    for scope, (method, path) in ((scope, route) for scope, each in routes.items() for route in each):
        bare = client.request(method, path, json=BODY)
        wrong = client.request(method, path, json=BODY, headers=bearer("pk_" + "0" * 56))
        assert [bare.status_code, wrong.status_code] == [401, 401], path
        assert bare.json() == wrong.json(), "no hint what was wrong"
        assert bare.headers["content-type"] == "application/problem+json"
        assert bare.headers["www-authenticate"].startswith("Bearer")
        assert ("error" in bare.json()) == path.startswith(("/v2", "/v1/models")), path
        for other in set(ALL_SCOPES) - {scope}:
            refused = client.request(method, path, json=BODY, headers=bearer(by_scope[other]))
            assert refused.status_code == 403, path
            assert repr(scope) in refused.json()["detail"]
        for headers in (bearer(by_scope[scope]), {"x-api-key": by_scope[scope]}):
            assert client.request(method, path, json=BODY, headers=headers).status_code not in (401, 403), path
    assert client.post("/v1/predict", json=BODY, headers=bearer(by_scope["predict"])).status_code == 200
    for path in ("/livez", "/readyz", "/v2/health/live", "/v2/health/ready", "/ping"):
        assert client.get(path).status_code == 200, path
    assert client.get("/nowhere").status_code == 401, "without a key nobody learns which routes there are"
    server.stop()
    assert not [key for key in by_scope.values() if key in server.log.read_text()]


def test_a_control_route_takes_its_own_token_and_no_api_key(model_servers: Start, file: Path) -> None:
    key = keys.create(file, "acme", scopes=ALL_SCOPES)["key"]
    client = model_servers(keys=str(file), control_token="secret-word").client
    path = "/control/observation"
    statuses = [client.get(path, headers=headers).status_code for headers in ({}, bearer(key), bearer("secret-word"))]
    assert statuses == [401, 401, 200]
    assert client.get("/v2", headers=bearer("secret-word")).status_code == 401, "and the token is no key"


def test_a_server_for_others_does_not_start_without_keys(model_servers: Start) -> None:
    with pytest.raises(AssertionError, match=r"(?s)ended with 2.*0\.0\.0\.0.*no API keys.*paceline keys create"):
        model_servers(host="0.0.0.0", control_token="secret-word")


def test_without_keys_a_server_on_loopback_is_open(model_servers: Start, tmp_path: Path) -> None:
    server = model_servers()
    server.install(tiny_bundle(tmp_path / "bundles"), "1")
    assert server.predict(tiny_record()).status_code == 200
    assert server.client.get("/metrics").status_code == 200


class _Load:
    """Clients that send without a pause, each with the key that is current when its request begins."""

    def __init__(self, url: str, key: str) -> None:
        self.key = key
        self.statuses: dict[int, int] = {}
        self._url = url
        self._stopped = False
        self._finished = [0, 0, 0, 0]

    async def run(self) -> None:
        await asyncio.gather(*(self._client(number) for number in range(len(self._finished))))

    async def all_have_finished(self, more: int) -> None:
        """Returns when each client has had `more` answers from now on, so that no older request is on its way."""
        wanted = [count + more for count in self._finished]
        while any(count < each for count, each in zip(self._finished, wanted, strict=True)):
            await asyncio.sleep(0)

    def stop(self) -> None:
        self._stopped = True

    async def _client(self, number: int) -> None:
        async with httpx.AsyncClient(base_url=self._url, trust_env=False, timeout=30) as client:
            while not self._stopped:
                answer = await client.post("/v1/predict", json=BODY, headers=bearer(self.key))
                self.statuses[answer.status_code] = self.statuses.get(answer.status_code, 0) + 1
                self._finished[number] += 1


def test_keys_are_rotated_under_load_and_no_request_fails(start: Start, file: Path) -> None:
    current = keys.create(file, "acme")
    server = start()
    retired = []

    async def probe(client: httpx.AsyncClient, key: str, wanted: int) -> None:
        async with asyncio.timeout(CHANGE_TIMEOUT_S):
            while (await client.post("/v1/predict", json=BODY, headers=bearer(key))).status_code != wanted:
                await asyncio.sleep(0.02)

    async def rotate() -> dict[int, int]:
        nonlocal current
        load = _Load(server.url, current["key"])
        running = asyncio.create_task(load.run())
        async with httpx.AsyncClient(base_url=server.url, trust_env=False) as client:
            for _ in range(4):
                new = await asyncio.to_thread(keys.create, file, "acme")
                await probe(client, new["key"], 200)
                load.key = new["key"]
                await load.all_have_finished(2)
                await asyncio.to_thread(keys.revoke, file, current["id"])
                await probe(client, current["key"], 401)
                retired.append(current)
                current = new
            await load.all_have_finished(5)
        load.stop()
        await running
        return load.statuses

    statuses = asyncio.run(rotate())
    assert set(statuses) == {200}, "no request failed while the keys changed"
    assert len(retired) == 4
    for old in retired:
        assert server.client.post("/v1/predict", json=BODY, headers=bearer(old["key"])).status_code == 401
    assert server.process.poll() is None, "and it is the same process"


def test_a_broken_file_under_a_running_server_keeps_its_keys_and_is_logged_and_counted(
    start: Start, file: Path
) -> None:
    key = keys.create(file, "acme", scopes=ALL_SCOPES)["key"]
    server = start()
    whole = file.read_bytes()
    file.write_bytes(whole[:-20])
    wait_until(lambda: samples(server, key)["paceline_key_reloads_total", "failed"] == 1)
    assert server.client.post("/v1/predict", json=BODY, headers=bearer(key)).status_code == 200
    assert "the credentials in force stay" in server.log.read_text()
    file.write_bytes(whole)
    wait_until(lambda: samples(server, key)["paceline_key_reloads_total", "ok"] == 1)
    assert samples(server, key)[("paceline_keys_active",)] == 1


def test_a_flooding_client_is_held_to_its_limit_and_a_calm_one_beside_it_notices_nothing(
    start: Start, file: Path
) -> None:
    # so slow that no second token comes while the test runs: exactly the burst gets in
    flooding = keys.create(file, "flooding", rate_per_s=0.001, burst=5)["key"]
    calm = keys.create(file, "calm", rate_per_s=1000, burst=1000)["key"]
    operator = keys.create(file, "operator", scopes=["metrics"])["key"]
    server = start()

    async def both() -> tuple[dict[int, int], list[httpx.Response]]:
        flood = _Load(server.url, flooding)
        running = asyncio.create_task(flood.run())
        await flood.all_have_finished(5)
        async with httpx.AsyncClient(base_url=server.url, trust_env=False, timeout=30) as client:
            answers = [await client.post("/v1/predict", json=BODY, headers=bearer(calm)) for _ in range(100)]
        await flood.all_have_finished(1)
        flood.stop()
        await running
        return flood.statuses, answers

    statuses, answers = asyncio.run(both())
    assert {answer.status_code for answer in answers} == {200}
    assert {answer.headers["ratelimit-limit"] for answer in answers} == {"1000"}
    assert statuses[200] == 5
    assert set(statuses) == {200, 429}
    refused = server.client.post("/v1/predict", json=BODY, headers={**bearer(flooding), "x-request-id": "mine"})
    assert refused.status_code == 429
    assert refused.json()["status"] == 429
    assert refused.headers["x-request-id"] == "mine"
    assert 1 <= int(refused.headers["retry-after"]) <= 1000
    told = {name: refused.headers[f"ratelimit-{name}"] for name in ("limit", "remaining", "policy")}
    assert told == {"limit": "5", "remaining": "0", "policy": "5;w=5000"}
    counted = samples(server, operator)["paceline_access_refused_total", "flooding", "rate"]
    assert counted == statuses[429] + 1


def test_the_servers_own_limit_is_for_keys_without_one(start: Start, file: Path) -> None:
    usual = keys.create(file, "usual")["key"]
    server = start(rate_per_s="0.001", burst="2")
    statuses = [server.client.post("/v1/predict", json=BODY, headers=bearer(usual)).status_code for _ in range(3)]
    assert statuses == [200, 200, 429]


def test_a_large_body_without_a_key_is_refused_and_the_connection_goes_on(start: Start, file: Path) -> None:
    key = keys.create(file, "acme")["key"]
    server = start()

    def pieces() -> Any:
        yield from itertools.repeat(b"x" * 65536, 64)

    for _ in range(3):
        assert server.client.post("/v1/predict", content=pieces()).status_code == 401
        assert server.client.post("/v1/predict", json=BODY, headers=bearer(key)).status_code == 200
