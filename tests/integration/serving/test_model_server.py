import asyncio
import collections
import json
import re
import socket
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

from contracts.assignment import position
from tests.fixtures.bundles import tiny_bundle, tiny_record
from tests.fixtures.model_servers import ModelServerProcess
from tests.fixtures.prediction_log import logged_rows

Start = Callable[..., ModelServerProcess]


@pytest.fixture
def server(model_servers: Start, tmp_path: Path) -> ModelServerProcess:
    """A server with version 1 as champion, where faults may be injected."""
    started = model_servers(allow_faults="yes")
    started.install(tiny_bundle(tmp_path / "bundles"), "1")
    return started


def challenge(server: ModelServerProcess, share: float, **more: Any) -> None:
    server.load(tiny_bundle(server.root / "bundles", bias=0.5), "2", "r1", **more).raise_for_status()
    server.share("r1", share).raise_for_status()


def logged(server: ModelServerProcess) -> list[dict[str, Any]]:
    return logged_rows(server.predictions)


def wait_until(holds: Callable[[], bool], timeout_s: float = 15.0) -> float:
    started = time.monotonic()
    while not holds():
        assert time.monotonic() - started < timeout_s, "it did not happen in time"
        time.sleep(0.02)
    return time.monotonic() - started


def test_a_server_without_champion_lives_and_is_not_ready_and_says_why(model_servers: Start) -> None:
    server = model_servers()
    assert server.client.get("/livez").status_code == 200
    for path in ("/readyz", "/v2/health/ready", "/model-card", "/v2/models/flight_delay"):
        answer = server.client.get(path)
        assert (answer.status_code, answer.headers["content-type"]) == (503, "application/problem+json"), path
        assert "no champion yet" in answer.json()["detail"]
    answer = server.predict(tiny_record())
    assert answer.status_code == 503
    assert answer.headers["retry-after"] == "1"
    assert server.stop() == 0


def test_predictions_are_answered_logged_and_flushed_when_the_server_is_terminated(
    server: ModelServerProcess,
) -> None:
    answer = server.client.post(
        "/v1/predict", json={"records": [tiny_record(0), tiny_record(1)]}, headers={"x-request-id": "mine"}
    )
    assert answer.headers["x-request-id"] == "mine"
    body = answer.json()
    assert (body["model_version"], body["api_version"], body["rollout"], body["share"]) == ("1", "1.0.0", None, 0.0)
    assert server.stop() == 0
    rows = logged(server)
    assert [row["prediction_id"] for row in rows] == [each["prediction_id"] for each in body["predictions"]]
    assert [row["score"] for row in rows] == [each["score"] for each in body["predictions"]]
    assert {(row["request_id"], row["slot"], row["version"], row["bundle"]) for row in rows} == {
        ("mine", "champion", "1", body["bundle"])
    }
    assert "Ada" not in json.dumps(rows)


def test_a_restart_comes_up_on_the_champion_alone(server: ModelServerProcess, model_servers: Start) -> None:
    challenge(server, 0.5)
    server.promote("2", "1").raise_for_status()
    server.load(tiny_bundle(server.root / "bundles", bias=1), "3", "r2").raise_for_status()
    server.share("r2", 1.0).raise_for_status()
    assert server.predict(tiny_record()).json()["predictions"][0]["slot"] == "challenger"
    server.process.kill()
    again = model_servers()
    assert again.client.get("/readyz").json()["model_version"] == "2"
    observed = again.observe()
    assert (observed["champion"]["version"], observed["challenger"], observed["share"]) == ("2", None, 0.0)
    assert again.predict(tiny_record()).json()["predictions"][0]["model_version"] == "2"


def test_a_restart_comes_up_on_the_champion_and_the_holdout(server: ModelServerProcess, model_servers: Start) -> None:
    challenge(server, 0.95)
    server.promote("2", "1", holdout={"rollout": "r1", "share": 0.05}).raise_for_status()
    records = [tiny_record(tailnum=f"N{number}") for number in range(200)]
    before = [each["model_version"] for each in server.predict(*records).json()["predictions"]]
    assert 2 <= before.count("1") <= 25
    server.process.kill()
    again = model_servers()
    assert [each["model_version"] for each in again.predict(*records).json()["predictions"]] == before
    held = again.observe()["holdout"]
    assert (held["rollout"], held["share"], held["counts"]["requests"]) == ("r1", 0.05, before.count("1"))
    assert again.promote("1", "2").json()["champion"]["version"] == "1", "it is warm: nothing was loaded"
    assert again.observe()["holdout"] is None


def test_a_holdout_ends_once_and_its_end_outlives_a_restart(server: ModelServerProcess, model_servers: Start) -> None:
    challenge(server, 0.95)
    server.promote("2", "1", holdout={"rollout": "r1", "share": 0.05}).raise_for_status()
    assert server.client.delete("/control/holdout").status_code == 422
    for rollout, is_left in (("r9", True), ("r1", False), ("r1", False)):
        answer = server.client.delete("/control/holdout", params={"rollout": rollout}).raise_for_status().json()
        assert (answer["holdout"] is not None) == is_left
    server.stop()
    assert model_servers().observe()["holdout"] is None


def test_a_holdout_that_is_gone_from_disk_leaves_the_champion_alone(
    server: ModelServerProcess, model_servers: Start
) -> None:
    challenge(server, 0.95)
    server.promote("2", "1", holdout={"rollout": "r1", "share": 0.05}).raise_for_status()
    old = server.client.get("/control/observation").json()["holdout"]["counts"]["version"]
    assert old == "1"
    server.stop()
    state = json.loads((server.root / "state" / "state.json").read_text())
    Path(state["holdout"]["model"]["path"]).rename(server.root / "elsewhere")
    again = model_servers()
    assert again.client.get("/readyz").json()["model_version"] == "2"
    assert again.observe()["holdout"] is None
    again.client.delete("/control/holdout", params={"rollout": "r1"}).raise_for_status()
    assert "holdout" not in json.loads((server.root / "state" / "state.json").read_text())


def test_a_champion_that_is_gone_from_disk_leaves_a_server_that_says_so_and_can_be_given_another(
    server: ModelServerProcess, model_servers: Start
) -> None:
    server.stop()
    (server.root / "bundles").rename(server.root / "elsewhere")
    again = model_servers()
    answer = again.client.get("/readyz")
    assert answer.status_code == 503
    assert "version 1, cannot be loaded" in answer.json()["detail"]
    again.load(tiny_bundle(server.root / "elsewhere"), "1").raise_for_status()
    again.promote("1", "1").raise_for_status()
    assert again.client.get("/readyz").status_code == 200


def test_a_synthetic_request_is_logged_as_one_and_its_header_has_one_value(server: ModelServerProcess) -> None:
    for value, status in (("1", 200), ("yes", 400), ("", 400)):
        answer = server.client.post(
            "/v1/predict", json={"records": [tiny_record()]}, headers={"paceline-synthetic": value}
        )
        assert answer.status_code == status, value
    assert "expected 1" in answer.json()["detail"]
    assert server.observe()["champion"]["requests"] == 0
    server.predict(tiny_record())
    assert server.observe()["champion"]["requests"] == 1
    server.stop()
    assert [row["uncounted"] for row in logged(server)] == ["synthetic", None]


def test_the_share_falls_to_zero_when_nobody_renews_the_lease(server: ModelServerProcess) -> None:
    challenge(server, 1.0)
    server.share("r1", 1.0, lease_s=0.5).raise_for_status()
    assert server.predict(tiny_record()).json()["predictions"][0]["slot"] == "challenger"
    # no request and no look comes: the server's own timer notices
    wait_until(lambda: "the lease ran out" in server.log.read_text(), 3.0)
    assert server.predict(tiny_record()).json()["predictions"][0]["slot"] == "champion"
    observed = server.observe()
    assert (observed["share"], observed["lease_left_s"], observed["tripped"]["cause"]) == (0.0, 0.0, "lease")
    for refused in (server.share("r1", 0.5), server.client.put("/control/lease", json={"rollout": "r1"})):
        assert refused.status_code == 409
        assert "does not come back" in refused.json()["detail"]


def test_a_renewed_lease_keeps_the_share(server: ModelServerProcess) -> None:
    challenge(server, 1.0)
    server.share("r1", 1.0, lease_s=0.5).raise_for_status()
    server.client.put("/control/lease", json={"rollout": "r1", "lease_s": 60}).raise_for_status()
    first = server.observe()
    wait_until(lambda: server.observe()["clock_s"] > first["clock_s"] + 0.6)
    assert server.observe()["share"] == 1.0


def test_a_challenger_that_breaks_is_stopped_by_the_hard_limit_and_no_client_sees_an_error(
    server: ModelServerProcess,
) -> None:
    challenge(server, 0.5, hard_limits={"errors": 5, "window": 20})
    for number in range(50):
        server.predict(tiny_record(number % 30, tailnum=f"N{number}")).raise_for_status()
    assert server.observe()["challenger"]["errors"] == 0
    server.client.post("/control/fault", json={"error_share": 0.5}).raise_for_status()
    slots = collections.Counter[str]()
    for number in range(400):
        answer = server.predict(tiny_record(number % 30, tailnum=f"N{number}"))
        assert answer.status_code == 200
        slots[answer.json()["predictions"][0]["slot"]] += 1
    observed = server.observe()
    assert observed["share"] == 0.0
    assert observed["tripped"]["cause"] == "hard_limit"
    assert re.fullmatch(
        r"errors for \d+ entities in the last \d+ challenger requests >= limit 5", observed["tripped"]["reason"]
    )
    assert observed["tripped"]["challenger_requests_since_first_error"] < 200
    assert observed["tripped"]["seconds_since_first_error"] < 10
    assert server.stop() == 0
    failed = [row for row in logged(server) if row["error"] is not None]
    assert len(failed) == observed["challenger"]["errors"]
    answered = {row["request_id"] for row in logged(server) if row["slot"] == "champion"}
    assert {row["request_id"] for row in failed} <= answered


def test_the_split_is_sticky_and_nested_as_the_share_grows(server: ModelServerProcess) -> None:
    challenge(server, 0.05)
    entities = [f"N{number}" for number in range(600)]
    before: set[str] = set()
    for share in (0.05, 0.25, 0.5, 1.0):
        server.share("r1", share).raise_for_status()
        answer = server.predict(*[tiny_record(tailnum=entity) for entity in entities]).json()
        slots = [each["slot"] for each in answer["predictions"]]
        on_challenger = {entity for entity, slot in zip(entities, slots, strict=True) if slot == "challenger"}
        assert on_challenger == {entity for entity in entities if position("r1", entity) < share}
        assert before <= on_challenger
        before = on_challenger
    assert len(before) == 600


def test_shadow_traffic_delays_no_answer_and_is_logged(server: ModelServerProcess) -> None:
    server.load(tiny_bundle(server.root / "bundles", bias=0.5), "2", "r1").raise_for_status()
    server.share("r1", 0.0, shadow=True).raise_for_status()
    large = [tiny_record(number % 30, tailnum=f"N{number}") for number in range(1000)]
    for _ in range(3):
        answers = server.predict(*large).json()["predictions"]
        assert {each["slot"] for each in answers} == {"champion"}
    # the answer comes before the pairs are counted, so shadowing cannot have been waited for
    wait_until(lambda: server.observe()["shadowed"]["pairs"] == 3000)
    observed = server.observe()
    assert observed["shadowed"]["errors"] == observed["shadowed"]["dropped"] == 0
    assert observed["challenger"]["requests"] == 0
    server.stop()
    assert collections.Counter(row["slot"] for row in logged(server)) == {"champion": 3000, "shadow": 3000}


def test_one_of_two_concurrent_promotions_wins(server: ModelServerProcess) -> None:
    challenge(server, 0.5)

    async def both() -> list[int]:
        async with httpx.AsyncClient(base_url=server.url, trust_env=False) as client:
            answers = await asyncio.gather(
                client.post("/control/promote", json={"version": "2", "expected": "1"}),
                client.post("/control/promote", json={"version": "2", "expected": "0"}),
            )
        return [answer.status_code for answer in answers]

    assert asyncio.run(both())[0] == 200
    assert server.promote("2", "1").status_code == 200, "the same again is a success"
    assert server.promote("1", "1").status_code == 409
    assert server.observe()["champion"]["version"] == "2"


def test_a_bundle_that_does_not_hold_is_refused_and_the_champion_stays(server: ModelServerProcess) -> None:
    wrong = server.load(tiny_bundle(server.root / "bundles", golden_shift=0.1), "2", "r1")
    assert wrong.status_code == 422
    assert "golden row" in wrong.json()["detail"]
    challenge(server, 0.5)
    taken = server.load(tiny_bundle(server.root / "bundles", bias=1), "3", "r2")
    assert taken.status_code == 409
    assert "'r1' holds the challenger slot" in taken.json()["detail"]
    again = server.load(tiny_bundle(server.root / "bundles", bias=0.5), "2", "r1")
    assert (again.status_code, again.json()["share"]) == (200, 0.5)
    for _ in range(2):
        dropped = server.client.delete("/control/challenger", params={"rollout": "r1"})
        assert (dropped.status_code, dropped.json()["challenger"]) == (200, None)
    assert server.predict(tiny_record()).json()["predictions"][0]["model_version"] == "1"


def test_a_promotion_that_cannot_be_remembered_is_refused_and_the_champion_stays(
    server: ModelServerProcess,
) -> None:
    challenge(server, 0.5)
    (server.root / "state").rename(server.root / "moved")
    (server.root / "state").write_text("a file where the folder should be")
    refused = server.promote("2", "1")
    assert refused.status_code == 503
    assert "nothing has changed" in refused.json()["detail"]
    assert server.observe()["champion"]["version"] == "1"


def test_control_needs_its_token_where_one_is_set_and_faults_need_to_be_allowed(model_servers: Start) -> None:
    server = model_servers(control_token="secret-word")
    assert server.client.get("/control/observation").status_code == 401
    assert server.client.get("/control/observation", headers={"authorization": "Bearer wrong"}).status_code == 401
    with_token = {"authorization": "Bearer secret-word"}
    assert server.client.get("/control/observation", headers=with_token).status_code == 200
    fault = server.client.post("/control/fault", json={"error_share": 1}, headers=with_token)
    assert fault.status_code == 403
    assert "ALLOW_FAULTS" in fault.json()["detail"]
    assert server.client.get("/livez").status_code == 200
    server.stop()
    assert "secret-word" not in server.log.read_text()


def test_every_wrong_request_is_a_problem_that_says_what_was_found(server: ModelServerProcess) -> None:
    client = server.client
    infer = "/v2/models/flight_delay/infer"
    wrong = {
        400: [client.post("/v1/predict", content=b"{"), client.put("/control/share", content=b"{", headers=JSON)],
        404: [
            client.get("/nowhere"),
            client.get("/v2/models/other"),
            client.post("/v2/models/other/infer", json={"inputs": []}),
            client.post("/v2/models/flight_delay/versions/9/infer", json={"inputs": []}),
            client.get("/v2/models/flight_delay/versions/9"),
        ],
        405: [client.get("/v1/predict"), client.get(infer), client.post("/livez")],
        413: [client.post("/v1/predict", content=b"x" * (9 << 20)), client.post(infer, content=b"x" * (5 << 20))],
        415: [
            client.put("/control/share", content=b"{}", headers={"content-type": "text/plain"}),
            client.post(infer, content=b"{}", headers={"content-encoding": "gzip"}),
            client.post("/v1/predict", content=b"{}", headers={"content-encoding": "deflate"}),
        ],
        422: [
            server.predict(tiny_record(distance="far")),
            client.post("/v1/predict", json={"records": []}),
            client.post(infer, json={"inputs": []}),
            client.put("/control/share", json={"rollout": "r1"}),
            client.put("/control/share", json={"rollout": "r1", "share": 2}),
            client.put("/control/share", json={"rollout": "r1", "share": 0.1, "sahdow": True}),
            client.delete("/control/challenger"),
        ],
    }
    for status, answers in wrong.items():
        for answer in answers:
            what = f"{answer.request.method} {answer.request.url.path}: {answer.status_code} {answer.text}"
            assert answer.status_code == status, what
            assert answer.headers["content-type"] == "application/problem+json", what
            problem = answer.json()
            assert problem["status"] == status, what
            assert problem["title"], what
            assert problem["detail"], what
            assert ("error" in problem) == answer.request.url.path.startswith("/v2"), what
    assert wrong[422][0].json()["errors"] == [{"field": "distance", "found": "'far'", "expected": "a number", "row": 0}]
    assert server.predict(tiny_record()).status_code == 200


JSON = {"content-type": "application/json"}


def test_the_open_inference_protocol_answers_with_the_same_scores(server: ModelServerProcess) -> None:
    client = server.client
    found = client.get("/v2/models/flight_delay").json()
    assert (found["name"], found["versions"]) == ("flight_delay", ["1"])
    records = [tiny_record(0), tiny_record(1)]
    body = {
        "id": "mine",
        "inputs": [
            {
                "name": each["name"],
                "shape": [2],
                "datatype": each["datatype"],
                "data": [record[each["name"]] for record in records],
            }
            for each in found["inputs"]
        ],
    }
    answer = client.post("/v2/models/flight_delay/infer", json=body).raise_for_status().json()
    outputs = {each["name"]: each for each in answer["outputs"]}
    assert (answer["id"], answer["model_version"]) == ("mine", "1")
    assert {name: each["datatype"] for name, each in outputs.items()} == {
        each["name"]: each["datatype"] for each in found["outputs"]
    }
    expected = server.predict(*records).json()["predictions"]
    assert outputs["score"]["data"] == [each["score"] for each in expected]
    assert outputs["decision"]["data"] == [each["decision"] for each in expected]
    pinned = client.post(
        "/v2/models/flight_delay/versions/1/infer", json={**body, "outputs": [{"name": "score"}]}
    ).json()
    assert [each["name"] for each in pinned["outputs"]] == ["score"]
    for path in ("/v2", "/v2/health/live", "/v2/health/ready", "/v2/models/flight_delay/versions/1"):
        assert client.get(path).status_code == 200


def test_metrics_count_by_version_and_slot(server: ModelServerProcess) -> None:
    challenge(server, 1.0)
    server.predict(tiny_record(0), tiny_record(1))
    server.client.post("/control/fault", json={"error_share": 1.0})
    server.predict(tiny_record(2))
    samples = {
        (sample.name, *sorted(sample.labels.values())): sample.value
        for family in text_string_to_metric_families(server.client.get("/metrics").text)
        for sample in family.samples
    }
    assert samples["paceline_predictions_total", "2", "challenger"] == 3
    assert samples["paceline_prediction_errors_total", "2", "challenger"] == 1
    assert samples["paceline_predictions_retried_total", "1", "champion"] == 1
    assert samples["paceline_prediction_latency_seconds_count", "2", "challenger"] == 2
    assert samples["paceline_scores_bucket", "0.7", "2", "challenger"] == 2
    assert samples[("paceline_challenger_share",)] == 1.0
    assert 0 < samples[("paceline_lease_left_seconds",)] <= 60
    assert samples[("paceline_log_dropped_total",)] == 0
    assert samples[("paceline_log_refused_total",)] == 0
    assert samples["paceline_responses_total", "200", "predict"] == 2


def test_the_api_page_needs_nothing_from_elsewhere_and_shows_the_live_models_schema(
    server: ModelServerProcess,
) -> None:
    page = server.client.get("/docs")
    assert page.status_code == 200
    assert not re.findall(r"(?:src|href|url)\s*[=(]\s*[\"']?(?:https?:)?//", page.text)
    assert "default-src 'none'" in page.headers["content-security-policy"]
    described = server.client.get("/openapi.json").json()
    record = described["components"]["schemas"]["Record"]
    assert record["properties"]["distance"] == {"type": "number", "minimum": 0.0}
    assert record["properties"]["carrier"]["examples"] == ["AA", "UA", "WN"]
    assert "personal" in record["properties"]["passenger"]["description"]
    references = set(re.findall(r'"#/components/schemas/(\w+)"', json.dumps(described)))
    assert references <= described["components"]["schemas"].keys()
    for path in ("/v1/predict", "/v2/models/flight_delay/infer"):
        example = described["paths"][path]["post"]["requestBody"]["content"]["application/json"]["example"]
        assert server.client.post(path, json=example).status_code == 200, path
    assert server.client.get("/model-card").text.startswith("# Tiny model")
    page = server.client.get("/model-card", headers={"accept": "text/html,*/*;q=0.8"})
    assert page.headers["content-type"] == "text/html; charset=utf-8"
    assert "<h1>Tiny model</h1>" in page.text


def test_requests_in_flight_are_finished_when_the_server_is_terminated(server: ModelServerProcess) -> None:
    body = json.dumps({"records": [tiny_record()]}).encode()
    host, port = server.url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=15) as connection:
        head = f"POST /v1/predict HTTP/1.1\r\nhost: x\r\ncontent-length: {len(body)}\r\n\r\n".encode()
        connection.sendall(head + body[:10])
        # once this is answered the server has the first half of the request above
        server.client.get("/livez").raise_for_status()
        server.process.terminate()
        wait_until(lambda: "Shutting down" in server.log.read_text())
        connection.sendall(body[10:])
        assert connection.recv(65536).startswith(b"HTTP/1.1 200")
    assert server.process.wait(15) == 0
    assert len(logged(server)) == 1


def test_a_busy_port_is_named_with_what_to_do(server: ModelServerProcess, model_servers: Start) -> None:
    port = server.url.rsplit(":", 1)[1]
    with pytest.raises(AssertionError, match=rf"(?s)ended with 2.*127\.0\.0\.1:{port} cannot be listened on.*_PORT"):
        model_servers(port=port)
