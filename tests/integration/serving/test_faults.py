"""Challengers that break whatever they can, on real servers: clients do not see it, and the challenger goes."""

import asyncio
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.fixtures.bundles import tiny_bundle, tiny_record
from tests.fixtures.model_servers import ModelServerProcess
from tests.fixtures.serving_load import Load, answered, workers_of
from tests.integration.serving.test_workers import each_worker, metric, wait_until

Start = Callable[..., ModelServerProcess]


@pytest.fixture
def start(model_servers: Start, tmp_path: Path) -> Start:
    def started(workers: str) -> ModelServerProcess:
        server = model_servers(workers=workers, allow_faults="yes")
        server.install(tiny_bundle(tmp_path / "bundles"), "1")
        if workers != "1":
            wait_until(lambda: metric(server, "paceline_workers") == int(workers))
        return server

    return started


def challenge(server: ModelServerProcess, share: float, **more: Any) -> None:
    server.load(tiny_bundle(server.root / "bundles", bias=0.5), "2", "r1", **more).raise_for_status()
    server.share("r1", share).raise_for_status()


def inject(server: ModelServerProcess, **fault: Any) -> None:
    server.client.post("/control/fault", json={"fault": fault}).raise_for_status()


def test_a_fault_is_told_by_its_kind_and_holds_in_every_worker(start: Start) -> None:
    server = start("2")
    refused = server.client.post("/control/fault", json={"fault": {"kind": "nan"}})
    assert (refused.status_code, "no challenger to fail" in refused.text) == (409, True)
    challenge(server, 1.0, hard_limits={"errors": 100, "window": 100})
    for message, found in (
        ({"fault": {"kind": "sleepy"}}, "sleepy"),
        ({"fault": {"kind": "wrong_for", "field": "carier", "value": "UA"}}, "expected one that is a column"),
    ):
        refused = server.client.post("/control/fault", json=message)
        assert refused.status_code == 422
        assert found in refused.json()["detail"]
    inject(server, kind="constant", score=0.125)
    with each_worker(server) as clients:
        for client in clients.values():
            prediction = client.post("/v1/predict", json={"records": [tiny_record()]}).json()["predictions"][0]
            assert (prediction["slot"], prediction["score"]) == ("challenger", 0.125)
        inject(server, kind="wrong_shape")
        for client in clients.values():
            prediction = client.post("/v1/predict", json={"records": [tiny_record()]}).json()["predictions"][0]
            assert prediction["slot"] == "champion"
    assert server.observe()["challenger"]["errors"] == 2


def test_a_challenger_that_crashes_its_worker_ends_the_rollout_and_is_loaded_by_nobody_again(start: Start) -> None:
    server = start("2")
    challenge(server, 0.3)

    async def crash() -> tuple[Load, set[int]]:
        load = Load(server)
        running = asyncio.create_task(load.run())
        await answered(load, 100)
        before = {each.pid for each in workers_of(server)}
        await asyncio.to_thread(inject, server, kind="crash", after_runs=3)
        await asyncio.to_thread(wait_until, lambda: "has ended by SIGSEGV" in server.log.read_text())
        await asyncio.to_thread(wait_until, lambda: len(workers_of(server)) == 2)
        await answered(load, 200)
        load.is_stopping = True
        await running
        return load, before

    load, before = asyncio.run(crash())
    assert {holder for holder, _ in load.failures} <= {*before, 0}, "in-flight requests of the crashed, and no answer"
    assert len(load.failures) <= load.clients * len(before)
    server.client.close()
    server.client = type(server.client)(base_url=server.url, timeout=30, trust_env=False)
    wait_until(lambda: metric(server, "paceline_workers") == 2)
    observed = server.observe()
    assert (observed["share"], observed["tripped"]["cause"]) == (0.0, "hard_limit")
    assert "a worker that held the challenger has ended by SIGSEGV" in observed["tripped"]["reason"]
    assert "does not come back" in server.share("r1", 0.1).json()["detail"]
    with each_worker(server) as clients:
        for pid, client in clients.items():
            if pid not in before:
                assert client.get("/v2/models/flight_delay").json()["versions"] == ["1"]
            slots = client.post("/v1/predict", json={"records": [tiny_record(n, tailnum=f"N{n}") for n in range(30)]})
            assert {each["slot"] for each in slots.json()["predictions"]} == {"champion"}
    after = {each.pid for each in workers_of(server)}
    assert server.predict(tiny_record()).status_code == 200
    assert {each.pid for each in workers_of(server)} == after


def test_a_server_of_one_process_that_its_challenger_has_crashed_comes_up_on_the_champion_alone(
    start: Start, model_servers: Start
) -> None:
    server = start("1")
    challenge(server, 1.0)
    inject(server, kind="crash")
    with pytest.raises(httpx.TransportError):
        server.predict(tiny_record())
    assert server.process.wait(20) == -signal.SIGSEGV
    again = model_servers(allow_faults="yes")
    observed = again.observe()
    assert (observed["champion"]["version"], observed["challenger"], observed["share"]) == ("1", None, 0.0)
    assert again.predict(tiny_record()).json()["predictions"][0]["model_version"] == "1"


@pytest.mark.parametrize("workers", ["1", "2"])
def test_a_challenger_that_leaks_memory_trips_before_it_has_taken_the_machine(start: Start, workers: str) -> None:
    server = start(workers)
    challenge(server, 1.0, hard_limits={"errors": 8, "window": 20, "memory_mb": 80})
    inject(server, kind="leak", mb_each_run=1, maximum_mb=400)

    async def ask() -> Load:
        load = Load(server, clients=4)
        running = asyncio.create_task(load.run())
        await asyncio.to_thread(wait_until, lambda: server.observe()["tripped"] is not None)
        load.is_stopping = True
        await running
        return load

    load = asyncio.run(ask())
    assert load.failures == []
    tripped = server.observe()["tripped"]
    assert tripped["cause"] == "hard_limit"
    assert "MB since it loaded the challenger > limit 80 MB" in tripped["reason"]
    assert server.predict(tiny_record()).json()["predictions"][0]["slot"] == "champion"
