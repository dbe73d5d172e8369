"""Several workers behind one port, as real processes: what one process promises, they promise together."""

import asyncio
import collections
import contextlib
import ipaddress
import json
import os
import signal
import ssl
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest
from cryptography import x509
from prometheus_client.parser import text_string_to_metric_families

from pipelines.tasks import keys
from tests.fixtures.access import Authority, hmac_part, write_rules
from tests.fixtures.bundles import tiny_bundle, tiny_record
from tests.fixtures.model_servers import ModelServerProcess
from tests.fixtures.prediction_log import logged_rows
from tests.fixtures.serving_load import Load, answered, each_worker, holder_of, workers_of

Start = Callable[..., ModelServerProcess]
_TIMEOUT_S = 20.0


@pytest.fixture
def server(model_servers: Start, tmp_path: Path) -> ModelServerProcess:
    """Two workers with version 1 as champion, where faults may be injected."""
    started = model_servers(workers="2", allow_faults="yes")
    started.install(tiny_bundle(tmp_path / "bundles"), "1")
    wait_until(lambda: metric(started, "paceline_workers") == 2)
    return started


def challenge(server: ModelServerProcess, share: float, **more: Any) -> None:
    server.load(tiny_bundle(server.root / "bundles", bias=0.5), "2", "r1", **more).raise_for_status()
    server.share("r1", share).raise_for_status()


def wait_until(holds: Callable[[], bool], timeout_s: float = _TIMEOUT_S) -> None:
    deadline = time.monotonic() + timeout_s
    while not holds():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.02)


def metrics(server: ModelServerProcess) -> dict[tuple[str, ...], float]:
    """Samples by name and label values."""
    return {
        (sample.name, *sorted(sample.labels.values())): sample.value
        for family in text_string_to_metric_families(server.client.get("/metrics").raise_for_status().text)
        for sample in family.samples
    }


def metric(server: ModelServerProcess, *key: str) -> float:
    return metrics(server)[key]


def test_connections_are_spread_over_the_workers(server: ModelServerProcess) -> None:
    async def connect() -> collections.Counter[int]:
        host, port = server.url.removeprefix("http://").split(":")
        connections = await asyncio.gather(*(asyncio.open_connection(host, int(port)) for _ in range(40)))
        for reader, writer in connections:
            writer.write(b"GET /livez HTTP/1.1\r\nhost: x\r\n\r\n")
            await reader.readuntil(b"\r\n\r\n")
        ports = {writer.get_extra_info("sockname")[1] for _, writer in connections}
        holders = collections.Counter[int]()
        for worker in workers_of(server):
            found = {each.raddr.port for each in worker.net_connections("tcp") if each.raddr}
            holders[worker.pid] = len(ports & found)
        for _, writer in connections:
            writer.close()
        return holders

    holders = asyncio.run(connect())
    assert sum(holders.values()) == 40
    assert min(holders.values()) >= 10, holders


def test_control_requests_come_to_any_worker_and_hold_for_all(server: ModelServerProcess) -> None:
    bundle = tiny_bundle(server.root / "bundles", bias=0.5)
    with each_worker(server) as clients:
        one, other = clients.values()
        load = {"version": "2", "bundle": bundle.id, "path": str(bundle.path), "rollout": "r1"}
        assert one.put("/control/challenger", json=load).raise_for_status().json()["rollout"] == "r1"
        assert other.put("/control/challenger", json=load).status_code == 200, "the same again is a success"
        share = {"rollout": "r1", "share": 1.0, "lease_s": 60}
        other.put("/control/share", json=share).raise_for_status()
        for client in clients.values():
            for number in range(5):
                answer = client.post("/v1/predict", json={"records": [tiny_record(number)]}).raise_for_status().json()
                assert answer["predictions"][0]["slot"] == "challenger"
            answer = client.post("/v1/predict", json={"records": [tiny_record(tailnum="bad", distance=-1)]})
            assert answer.status_code == 422
        for client in clients.values():
            observed = client.get("/control/observation").raise_for_status().json()
            assert (observed["challenger"]["requests"], observed["share"]) == (10, 1.0)
            assert sum(observed["challenger"]["scores"]) == sum(observed["challenger"]["latency"]) == 10
            assert 0 < observed["lease_left_s"] <= 60
        assert one.post("/control/promote", json={"version": "2", "expected": "1"}).status_code == 200
        late = other.post("/control/promote", json={"version": "2", "expected": "0"})
        assert late.status_code == 200, "the same again is a success"
        assert other.post("/control/promote", json={"version": "1", "expected": "1"}).status_code == 409
        assert other.put("/control/share", json={"rollout": "r1", "share": 2}).status_code == 422
        for client in clients.values():
            assert client.get("/readyz").json()["model_version"] == "2"
            assert client.get("/control/observation").json()["champion"]["version"] == "2"
    assert json.loads((server.root / "state" / "state.json").read_text())["champion"]["version"] == "2"


def test_a_bundle_that_is_refused_is_in_no_worker_and_the_champion_stays(server: ModelServerProcess) -> None:
    refused = server.load(tiny_bundle(server.root / "bundles", golden_shift=0.1), "2", "r1")
    assert refused.status_code == 422
    assert "golden row" in refused.json()["detail"]
    with each_worker(server) as clients:
        for client in clients.values():
            answer = client.post("/v1/predict", json={"records": [tiny_record()]}).json()
            assert answer["model_version"] == "1"
            assert client.get("/v2/models/flight_delay").json()["versions"] == ["1"]
    challenge(server, 0.5)
    assert server.observe()["share"] == 0.5


def test_a_bundle_is_swapped_under_load_without_a_failed_request(server: ModelServerProcess) -> None:
    async def swap() -> Load:
        load = Load(server)
        running = asyncio.create_task(load.run())
        await answered(load, 100)
        await asyncio.to_thread(challenge, server, 0.5)
        await answered(load, 100)
        (await asyncio.to_thread(server.promote, "2", "1")).raise_for_status()
        await answered(load, 100)
        load.is_stopping = True
        await running
        return load

    load = asyncio.run(swap())
    assert (load.failures, load.turned_away) == ([], 0)
    assert {answer["model_version"] for answer in load.answers} == {"1", "2"}
    assert {each["slot"] for answer in load.answers for each in answer["predictions"]} == {"champion", "challenger"}
    assert load.answers[-1]["model_version"] == "2"


def test_a_killed_worker_costs_its_own_requests_only_and_comes_back_in_the_same_state(
    server: ModelServerProcess,
) -> None:
    challenge(server, 0.5)
    before = server.observe()

    async def kill() -> tuple[Load, int, dict[str, Any], dict[str, Any]]:
        load = Load(server)
        running = asyncio.create_task(load.run())
        await answered(load, 200)
        victim = workers_of(server)[0].pid
        seen = await asyncio.to_thread(server.observe)
        os.kill(victim, signal.SIGKILL)
        await answered(load, 200)
        await asyncio.to_thread(wait_until, lambda: len(workers_of(server)) == 2)
        await asyncio.to_thread(wait_until, lambda: metric(server, "paceline_workers") == 2)
        await answered(load, 100)
        load.is_stopping = True
        await running
        return load, victim, seen, await asyncio.to_thread(server.observe)

    load, victim, seen, after = asyncio.run(kill())
    assert {holder for holder, _ in load.failures} <= {victim, 0}, load.failures
    assert len(load.failures) <= load.clients
    assert before["server"] == seen["server"]
    assert seen["server"] != after["server"]
    assert after["champion"]["requests"] >= seen["champion"]["requests"], "what was seen does not go back"
    assert after["challenger"]["requests"] >= seen["challenger"]["requests"]
    assert (after["rollout"], after["share"]) == ("r1", 0.5)
    assert metric(server, "paceline_worker_restarts_total") == 1
    with each_worker(server) as clients:
        assert victim not in clients
        for client in clients.values():
            answer = client.post("/v1/predict", json={"records": [tiny_record(n, tailnum=f"N{n}") for n in range(30)]})
            slots = {each["slot"] for each in answer.json()["predictions"]}
            assert slots == {"champion", "challenger"}
            assert client.get("/v2/models/flight_delay").json()["versions"] == ["1", "2"]


def test_a_killed_supervisor_leaves_no_worker_behind_and_its_rows_are_written(server: ModelServerProcess) -> None:
    answers = [server.predict(tiny_record(number)).json() for number in range(20)]
    workers = workers_of(server)
    server.process.kill()
    _, alive = psutil.wait_procs(workers, timeout=_TIMEOUT_S)
    assert alive == []
    ids = {each["prediction_id"] for answer in answers for each in answer["predictions"]}
    assert {row["prediction_id"] for row in logged_rows(server.predictions)} == ids


def test_a_terminated_server_answers_what_it_has_accepted_and_writes_every_row(server: ModelServerProcess) -> None:
    async def terminate() -> Load:
        load = Load(server)
        running = asyncio.create_task(load.run())
        await answered(load, 200)
        server.process.terminate()
        await running
        return load

    load = asyncio.run(terminate())
    assert server.process.wait(_TIMEOUT_S) == 0
    assert load.failures == []
    assert load.closed >= load.clients - load.turned_away, "each connection ended with an answer that said so"
    rows = collections.Counter(row["prediction_id"] for row in logged_rows(server.predictions))
    assert set(rows.values()) == {1}
    assert set(rows) >= {each["prediction_id"] for answer in load.answers for each in answer["predictions"]}
    assert workers_of_pid(server.process.pid) == []


def workers_of_pid(pid: int) -> list[int]:
    return [each.pid for each in psutil.process_iter(["ppid"]) if each.info["ppid"] == pid]


@pytest.mark.parametrize("pause_s", [0.0, 0.01, 0.03, 0.06])
def test_a_server_that_is_terminated_while_its_workers_start_ends_as_it_should(
    model_servers: Start, pause_s: float
) -> None:
    server = model_servers(workers="4")
    wait_until(lambda: metric(server, "paceline_workers") == 4)
    workers = workers_of(server)
    for worker in workers:
        worker.kill()
    wait_until(lambda: server.log.read_text().count(" is process ") == 8)
    time.sleep(pause_s)  # wherever in their start it comes
    assert server.stop() == 0
    assert psutil.wait_procs(workers, timeout=_TIMEOUT_S)[1] == []


def test_the_hard_limit_holds_over_all_workers_and_trips_once(server: ModelServerProcess) -> None:
    challenge(server, 1.0, hard_limits={"errors": 5, "window": 20})
    server.client.post("/control/fault", json={"error_share": 1.0}).raise_for_status()

    async def ask() -> Load:
        load = Load(server)
        running = asyncio.create_task(load.run())
        await answered(load, 300)
        load.is_stopping = True
        await running
        return load

    load = asyncio.run(ask())
    assert load.failures == [], "no client sees an error of the challenger"
    observed = server.observe()
    assert 5 <= observed["challenger"]["errors"] <= 6, "one more for each other worker that failed at the same instant"
    assert observed["challenger"]["requests"] == observed["challenger"]["errors"]
    assert (observed["share"], observed["tripped"]["cause"]) == (0.0, "hard_limit")
    assert "in the last" in observed["tripped"]["reason"]
    # one more as above, or one less: that the other worker counted before the first had read its error's position
    assert observed["tripped"]["challenger_requests_since_first_error"] in (4, 5, 6)
    with each_worker(server) as clients:
        for client in clients.values():
            assert client.get("/control/observation").json()["tripped"] == observed["tripped"]
            answer = client.post("/v1/predict", json={"records": [tiny_record()]}).json()
            assert answer["predictions"][0]["slot"] == "champion"
    found = metrics(server)
    assert (found["paceline_trips_total", "hard_limit"], found["paceline_trips_total", "lease"]) == (1, 0)
    assert found[("paceline_tripped",)] == 1
    assert server.log.read_text().count("tripped: rollout r1") == 1
    refused = server.share("r1", 0.5)
    assert refused.status_code == 409
    assert "does not come back" in refused.json()["detail"]


def test_the_lease_runs_out_in_every_worker_also_when_the_supervisor_hangs(server: ModelServerProcess) -> None:
    challenge(server, 1.0)
    server.share("r1", 1.0, lease_s=2.0).raise_for_status()
    with each_worker(server) as clients:
        first = [client.post("/v1/predict", json={"records": [tiny_record()]}).json() for client in clients.values()]
        assert {answer["predictions"][0]["slot"] for answer in first} == {"challenger"}
        server.process.send_signal(signal.SIGSTOP)
        try:
            for client in clients.values():
                wait_until(
                    lambda client=client: (
                        client.post("/v1/predict", json={"records": [tiny_record()]}).json()[  # type: ignore[misc]
                            "predictions"
                        ][0]["slot"]
                        == "champion"
                    )
                )
        finally:
            server.process.send_signal(signal.SIGCONT)
    observed = server.observe()
    assert (observed["share"], observed["tripped"]["cause"]) == (0.0, "lease")
    assert metric(server, "paceline_trips_total", "lease") == 1


def test_a_renewed_lease_holds_in_every_worker(server: ModelServerProcess) -> None:
    challenge(server, 1.0)
    server.share("r1", 1.0, lease_s=1.0).raise_for_status()
    server.client.put("/control/lease", json={"rollout": "r1", "lease_s": 60}).raise_for_status()
    first = server.observe()
    wait_until(lambda: server.observe()["clock_s"] > first["clock_s"] + 1.2)
    with each_worker(server) as clients:
        for client in clients.values():
            answer = client.post("/v1/predict", json={"records": [tiny_record()]}).json()
            assert answer["predictions"][0]["slot"] == "challenger"
    assert 50 < server.observe()["lease_left_s"] <= 60


def test_a_server_that_starts_again_is_on_the_champion_alone(server: ModelServerProcess, model_servers: Start) -> None:
    challenge(server, 1.0)
    workers = workers_of(server)
    server.process.kill()
    psutil.wait_procs(workers, timeout=_TIMEOUT_S)
    again = model_servers(workers="2")
    with each_worker(again) as clients:
        for client in clients.values():
            observed = client.get("/control/observation").json()
            assert (observed["champion"]["version"], observed["challenger"], observed["share"]) == ("1", None, 0.0)
            answer = client.post("/v1/predict", json={"records": [tiny_record()]}).json()
            assert answer["predictions"][0]["model_version"] == "1"


def test_a_champion_that_is_gone_leaves_workers_that_say_so_and_can_be_given_another(
    server: ModelServerProcess, model_servers: Start
) -> None:
    server.stop()
    (server.root / "bundles").rename(server.root / "elsewhere")
    again = model_servers(workers="2")
    with each_worker(again) as clients:
        for client in clients.values():
            answer = client.get("/readyz")
            assert answer.status_code == 503
            assert "version 1, cannot be loaded" in answer.json()["detail"]
        again.load(tiny_bundle(again.root / "elsewhere"), "1").raise_for_status()
        again.promote("1", "1").raise_for_status()
        for client in clients.values():
            assert client.get("/readyz").status_code == 200


def test_metrics_are_the_sums_and_a_worker_without_an_answer_is_left_out(server: ModelServerProcess) -> None:
    with each_worker(server) as clients:
        for client in clients.values():
            for number in range(7):
                client.post("/v1/predict", json={"records": [tiny_record(number)]}).raise_for_status()
        found = metrics(server)
        assert found["paceline_predictions_total", "1", "champion"] == 14
        assert found["paceline_prediction_latency_seconds_count", "1", "champion"] == 14
        assert found["paceline_responses_total", "200", "predict"] == 14
        assert (found[("paceline_ready",)], found[("paceline_workers",)]) == (1, 2)
        for worker in ("0", "1"):
            assert found["process_resident_memory_bytes", worker] > 1e6
        silent, other = clients
        os.kill(silent, signal.SIGSTOP)
        try:
            answer = clients[other].get("/metrics").raise_for_status().text
        finally:
            os.kill(silent, signal.SIGCONT)
        assert "\npaceline_worker_scrapes_missed_total 1.0" in answer
        assert '\npaceline_predictions_total{slot="champion",version="1"} 14.0' in answer, "counters do not go back"


def test_a_worker_that_does_not_do_what_all_do_is_replaced(server: ModelServerProcess) -> None:
    with each_worker(server) as clients:
        silent, other = clients
        os.kill(silent, signal.SIGSTOP)
        bundle = tiny_bundle(server.root / "bundles", bias=0.5)
        load = {"version": "2", "bundle": bundle.id, "path": str(bundle.path), "rollout": "r1"}
        answer = clients[other].get("/control/observation")
        assert answer.status_code == 200
        assert clients[other].put("/control/challenger", json=load).status_code == 200
    assert silent not in {worker.pid for worker in workers_of(server)}
    assert f"worker {0 if silent < other else 1} is killed" in server.log.read_text()


@pytest.mark.parametrize("setting", ["predictions", "state"])
def test_a_folder_that_no_worker_can_use_is_named_before_there_is_one(
    model_servers: Start, tmp_path: Path, setting: str
) -> None:
    (tmp_path / "file").write_text("")
    named = rf"(?s)ended with 2.*PACELINE_SERVING_{setting.upper()} is {tmp_path}/file, which cannot be"
    with pytest.raises(AssertionError, match=named):
        model_servers(workers="2", log_policy="fail", **{setting: str(tmp_path / "file")})


def test_workers_that_end_before_any_could_serve_end_the_server_with_their_reason(tmp_path: Path) -> None:
    broken = (
        "import sys\nfrom serving import __main__ as server\nfrom serving.workers import supervisor\n"
        "def run_worker(*_): raise MemoryError('no room for a worker')\n"
        "supervisor.run_worker = run_worker\nsys.exit(server.main())"
    )
    settings = {"PROJECT": "flight_delay", "PORT": "0", "WORKERS": "2"}
    folders = {name: str(tmp_path / name) for name in ("STATE", "PREDICTIONS")}
    ended = subprocess.run(
        [sys.executable, "-c", broken],
        env=os.environ | {f"PACELINE_SERVING_{name}": value for name, value in {**settings, **folders}.items()},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert ended.returncode == 1
    assert "no room for a worker" in ended.stderr
    assert "before any could serve: the server ends" in ended.stderr
    assert "all workers have ended" in ended.stderr


def test_a_busy_port_is_named_also_for_workers(server: ModelServerProcess, model_servers: Start) -> None:
    port = server.url.rsplit(":", 1)[1]
    with pytest.raises(AssertionError, match=rf"(?s)ended with 2.*127\.0\.0\.1:{port} cannot be listened on"):
        model_servers(port=port, workers="2")


def test_signed_requests_need_one_process_since_each_remembers_by_itself(model_servers: Start, tmp_path: Path) -> None:
    rules = write_rules(tmp_path / "access.toml", hmac_part())
    with pytest.raises(AssertionError, match=r"(?s)ended with 2.*signing_keys.*2 workers.*one process"):
        model_servers(workers="2", access=str(rules))
    assert model_servers(access=str(rules)).client.get("/livez").status_code == 200


def test_a_limit_of_a_client_is_that_of_all_workers_together(model_servers: Start, tmp_path: Path) -> None:
    file = tmp_path / "keys.json"
    headers = {"x-api-key": keys.create(file, "acme", scopes=["metadata"], rate_per_s=0.01, burst=6)["key"]}
    server = model_servers(workers="2", keys=str(file))
    with each_worker(server) as clients:
        answers = [client.get("/v2", headers=headers) for client in clients.values() for _ in range(6)]
    assert collections.Counter(answer.status_code for answer in answers) == {200: 6, 429: 6}


def test_connections_by_tls_are_shared_as_well(model_servers: Start, tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    certificate, key = authority.certify("localhost", x509.IPAddress(ipaddress.ip_address("127.0.0.1")))
    tls = ssl.create_default_context(cafile=str(authority.path))
    server = model_servers(tls=tls, workers="2", tls_certificate=str(certificate), tls_key=str(key))
    with pytest.raises(httpx.HTTPError):
        httpx.get(server.url.replace("https", "http"), trust_env=False)
    holders = set()
    with contextlib.ExitStack() as stack:
        for _ in range(20):
            client = stack.enter_context(httpx.Client(base_url=server.url, verify=tls, trust_env=False))
            with client.stream("GET", "/livez") as answer:
                local = answer.extensions["network_stream"].get_extra_info("client_addr")
                answer.read()
            holders.add(holder_of(server, local[1]))
    assert len(holders) == 2
    assert server.stop() == 0
