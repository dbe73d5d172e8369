"""A holdout of a server of several workers, as real processes."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil

from tests.fixtures.bundles import tiny_bundle, tiny_record
from tests.fixtures.model_servers import ModelServerProcess
from tests.fixtures.serving_load import each_worker, workers_of

Start = Callable[..., ModelServerProcess]
RECORDS = [tiny_record(tailnum=f"N{number}") for number in range(200)]
HOLDOUT = {"rollout": "r1", "share": 0.05}


def versions(client: Any) -> list[str]:
    """Which version answers each of `RECORDS`."""
    answers = client.post("/v1/predict", json={"records": RECORDS}).raise_for_status().json()["predictions"]
    return [each["model_version"] for each in answers]


def test_all_workers_keep_a_holdout_and_a_server_that_starts_again_has_it(model_servers: Start, tmp_path: Path) -> None:
    server = model_servers(workers="2")
    server.install(tiny_bundle(tmp_path / "bundles"), "1")
    server.load(tiny_bundle(tmp_path / "bundles", bias=0.5), "2", "r1").raise_for_status()
    server.promote("2", "1", holdout=HOLDOUT).raise_for_status()
    with each_worker(server) as clients:
        told, other = (versions(client) for client in clients.values())
    assert told == other
    assert 2 <= told.count("1") <= 25
    assert server.observe()["holdout"]["counts"]["requests"] == 2 * told.count("1")
    workers = workers_of(server)
    server.process.kill()
    psutil.wait_procs(workers, timeout=20)
    again = model_servers(workers="2")
    with each_worker(again) as clients:
        assert [versions(client) for client in clients.values()] == [told, told]
        again.promote("1", "2").raise_for_status()
        assert [set(versions(client)) for client in clients.values()] == [{"1"}, {"1"}]
    assert again.observe()["holdout"] is None
