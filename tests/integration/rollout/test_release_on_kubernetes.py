"""`paceline release --platform kubernetes` and `paceline controller`, against the API double, which runs by itself."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from typer.testing import CliRunner

from pipelines.cli import app
from pipelines.rollout.platforms.cluster import names
from pipelines.rollout.platforms.cluster.deployments import champion_of
from pipelines.rollout.story import OUTCOMES
from pipelines.tasks import offering, releasing
from pipelines.tasks.sites import open_site
from pipelines.wiring import open_ledger, open_registry
from tests.fixtures.rollbacks import PROJECT, point_at, two_versions
from tests.fixtures.running_cluster import RunningCluster
from tests.fixtures.small_installation import free_port, small_projects

STEP = {"minimum_requests": 60, "minimum_s": 1.5, "maximum_s": 60}
ROLLOUT: dict[str, Any] = {
    "shadow": {"minimum_pairs": 60, "minimum_s": 1, "maximum_s": 60},
    "steps": [{"share": share, **STEP} for share in (0.1, 0.5, 1.0)],
    "alpha_shares": {"flips": 0, "scores": 0},
    "error_rate_margin": None,
    "look_every_s": 0.3,
    "lease_s": 3,
    "unreachable_s": 20,
}


@pytest.fixture
def running(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[RunningCluster]:
    """An installation whose versions 1 and 2 are registered, 1 leads, and its servers are on Kubernetes."""
    point_at(tmp_path, monkeypatch)
    monkeypatch.setenv("PACELINE_PROJECTS", str(small_projects(tmp_path / "projects", free_port(), ROLLOUT)))
    monkeypatch.delenv("PACELINE_PLATFORM", raising=False)
    two_versions()
    first = open_registry().version(PROJECT, "1")
    assert first is not None
    champion = {"version": "1", "bundle": first.bundle, "path": f"/bundles/{first.bundle}"}
    with RunningCluster(tmp_path, PROJECT, champion) as cluster:
        monkeypatch.setenv("KUBECONFIG", str(cluster.kubeconfig))
        monkeypatch.setenv("PACELINE_NAMESPACE", "models")
        monkeypatch.setenv("PACELINE_BUNDLES_AT", "/bundles")
        yield cluster


def release() -> tuple[int, dict[str, Any]]:
    ran = CliRunner().invoke(app, ["release", PROJECT, "--version", "2", "--platform", "kubernetes", "--json"])
    os.environ.pop("PACELINE_PLATFORM", None)
    assert ran.exception is None or isinstance(ran.exception, SystemExit), ran.output
    return ran.exit_code, json.loads(ran.stdout[ran.stdout.index("{") :])


def served(running: RunningCluster) -> str | None:
    stable = running.cluster.objects.get("deployments", names.stable(PROJECT))
    assert stable is not None
    found = champion_of(stable)
    return None if found is None else found.version


def test_a_release_goes_from_shadow_to_promotion(running: RunningCluster) -> None:
    mirrored: list[bool] = []
    running.on_tick = lambda cluster: mirrored.append(cluster.is_mirrored and cluster.weight == 0)
    code, outcome = release()
    assert (code, outcome["state"]) == (0, "promoted"), outcome
    assert [step["name"] for step in outcome["steps"]] == ["shadow", "10 %", "50 %", "100 %"]
    assert any(mirrored), "it shadowed before it answered anybody"
    assert sorted(set(running.weights)) == [0, 1000, 5000, 10_000]
    assert (served(running), running.cluster.weight, running.cluster.challenger) == ("2", 0, None)
    assert outcome["unaligned"] is None
    assert open_ledger().champion(PROJECT).version == "2"  # type: ignore[union-attr]


def test_a_broken_challenger_is_rolled_back(running: RunningCluster) -> None:
    def break_once(cluster: Any) -> None:
        if cluster.weight >= 1000:
            cluster.error_rates["2"] = 0.7

    running.on_tick = break_once
    code, outcome = release()
    assert (code, outcome["state"]) == (2, "rolled_back"), outcome
    assert "errors in" in outcome["reason"]
    assert (served(running), running.cluster.weight, running.cluster.challenger) == ("1", 0, None)
    assert max(running.weights) == 1000
    assert open_ledger().champion(PROJECT).version == "1"  # type: ignore[union-attr]


class Replica:
    """`paceline controller` in a process of its own."""

    def __init__(self, folder: Path, name: str, **environment: str) -> None:
        self.log = folder / f"{name}.log"
        command = [sys.executable, "-m", "pipelines", "controller", "--port", "0", "--lease", "3", "--renew", "0.5"]
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                command, stderr=log, stdout=log, env={**os.environ, "PACELINE_PLATFORM": "kubernetes", **environment}
            )
        self.url = ""

    def wait_until_up(self) -> None:
        until(lambda: "listens on " in self.log.read_text(), self.process)
        self.url = self.log.read_text().partition("listens on ")[2].split()[0]
        until(lambda: self.get("/readyz").status_code == 200, self.process)

    def get(self, path: str) -> httpx.Response:
        return httpx.get(self.url + path, trust_env=False, timeout=30)

    @property
    def leads(self) -> bool:
        return self.get("/readyz").text.strip() == "leads"

    def kill(self, number: signal.Signals = signal.SIGKILL) -> int:
        if self.process.poll() is None:
            self.process.send_signal(number)
        return self.process.wait(30)


def until(condition: Callable[[], bool], process: subprocess.Popen[bytes] | None = None, seconds: float = 90) -> None:
    ends_s = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < ends_s, "it does not come to be"
        assert process is None or process.poll() is None, "the process has ended"
        time.sleep(0.05)


@pytest.fixture
def replicas(running: RunningCluster, tmp_path: Path) -> Iterator[Callable[..., Replica]]:
    started: list[Replica] = []

    def start(**environment: str) -> Replica:
        started.append(Replica(tmp_path, f"controller-{len(started)}", **environment))
        return started[-1]

    yield start
    for each in started:
        each.kill()


@pytest.mark.slow
def test_a_controller_runs_what_the_ledger_has_open_and_another_goes_on_when_it_is_killed(
    running: RunningCluster, replicas: Callable[..., Replica], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PACELINE_PLATFORM", "kubernetes")
    opened = releasing.open_rollout(PROJECT, "2")
    assert opened.offer is not None, opened.reason
    both = [replicas(), replicas()]
    for replica in both:
        replica.wait_until_up()
    until(lambda: any(replica.leads for replica in both))
    until(lambda: running.cluster.weight == 1000)
    leader, other = sorted(both, key=lambda replica: not replica.leads)
    leader.kill()
    until(lambda: other.leads)
    rollout = opened.offer["rollout"]
    until(lambda: bool(open_ledger().entries(PROJECT, OUTCOMES, rollout)))
    book = offering.read_book(open_site(PROJECT).ledger, PROJECT)
    assert book.running is not None, "whoever opened it settles it"
    assert running.cluster.weight == 0
    assert other.kill(signal.SIGTERM) == 0
    lease = running.cluster.objects.get("leases", "paceline-controller")
    assert lease is not None
    assert lease["spec"]["holderIdentity"] == "", "given back: the next replica leads at once"


@pytest.mark.slow
def test_a_share_falls_with_its_lease_when_whoever_ran_the_rollout_and_the_ledger_are_gone(
    running: RunningCluster, replicas: Callable[..., Replica], tmp_path: Path
) -> None:
    controller = replicas(
        PACELINE_LEDGER_URL=f"sqlite:///{tmp_path}/nowhere/ledger.db", PACELINE_MLFLOW_URI="http://127.0.0.1:9"
    )
    command = [sys.executable, "-m", "pipelines", "release", PROJECT, "--version", "2", "--platform", "kubernetes"]
    runner = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        controller.wait_until_up()
        until(lambda: running.cluster.weight >= 1000, runner)
    finally:
        runner.kill()
        runner.wait(30)
    killed_s = time.monotonic()
    until(lambda: running.cluster.weight == 0, seconds=30)
    assert time.monotonic() - killed_s < ROLLOUT["lease_s"] + 3
    assert "paceline_controller_leases_expired_total 1.0" in controller.get("/metrics").text
