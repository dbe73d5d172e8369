"""Airflow dies in the middle of a canary step: the champion has all traffic within the lease's time, by itself."""

import json
import os
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from pipelines.demo import stack as stacks
from pipelines.demo.stack import AIRFLOW_PROGRAMS, Ports, Stack
from pipelines.demo.supervisor import Supervisor
from pipelines.wiring import open_ledger
from tests.fixtures.small_installation import (
    PROJECT,
    QUICK_ROLLOUT,
    QUICK_STEP,
    copy_of_expectations,
    free_port,
    replay_command,
    small_projects,
    small_warehouse,
    users_environment,
)

pytestmark = pytest.mark.slow
LEASE_S = 5.0


@pytest.fixture
def stack(tmp_path: Path) -> Iterator[Stack]:
    """The whole system, with a plan that stays at its first step."""
    ports = Ports(airflow=free_port(), mlflow=free_port(), server=free_port())
    long_step = {"share": 0.3, **QUICK_STEP, "minimum_s": 600, "maximum_s": 1200}
    rollout = QUICK_ROLLOUT | {"steps": [long_step, {"share": 1.0, **QUICK_STEP}], "lease_s": LEASE_S}
    before = dict(os.environ)
    os.environ.clear()
    os.environ.update(users_environment(tmp_path / "home"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PACELINE_PROJECTS", str(small_projects(tmp_path / "projects", ports.server, rollout)))
        patch.setenv("PACELINE_EXPECTATIONS", str(copy_of_expectations(tmp_path / "great_expectations")))
        small_warehouse()
        with Supervisor(tmp_path / "home" / "logs") as supervisor:
            started = stacks.start(PROJECT, ports, supervisor)
            yield started
    os.environ.clear()
    os.environ.update(before)  # what `start` has set, too


def test_the_champion_has_all_traffic_within_the_lease_and_no_client_sees_an_error(
    stack: Stack, tmp_path: Path
) -> None:
    _retrain(stack, "2013-04-01")
    _wait(lambda: httpx.get(f"{stack.server_url}/readyz").status_code == 200, 120, "no champion")
    champion = open_ledger().champion(PROJECT)
    answers = tmp_path / "answers.jsonl"
    replay = subprocess.Popen(
        replay_command(answers, rate=40),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        _retrain(stack, "2013-04-15")
        _wait(lambda: _observe(stack)["share"] == 0.3 and _requests(stack) > 20, 120, "no canary step")
        for name in AIRFLOW_PROGRAMS:
            stack.supervisor.kill(name)
        killed_s = time.monotonic()
        _wait(lambda: _observe(stack)["share"] == 0, LEASE_S + 2, "the challenger keeps its share")
        assert time.monotonic() - killed_s <= LEASE_S + 1
        assert _observe(stack)["tripped"]["cause"] == "lease"
        before = _requests(stack, "champion")
        _wait(lambda: _requests(stack, "champion") > before + 50, 30, "the champion answers nothing")
        assert open_ledger().champion(PROJECT) == champion

        stack.start_airflow()
        _wait(lambda: _ended() is not None, 180, "the restarted Airflow did not finish the rollout")
        ended = _ended()
        assert ended is not None
        assert ended["state"] == "rolled_back", ended
        assert open_ledger().champion(PROJECT) == champion
    finally:
        replay.terminate()
        replay.wait(30)
    found = [json.loads(line) for line in answers.read_text().splitlines()]
    assert len(found) > 500
    assert [answer for answer in found if answer["error"] is not None] == []


def _retrain(stack: Stack, as_of: str) -> None:
    run = stack.airflow.trigger(f"{PROJECT}.retrain", {"as_of": as_of, "trigger": "manual"})
    state = stack.airflow.wait_for_run(f"{PROJECT}.retrain", run, seconds=240, on_tasks=lambda tasks: None)
    assert state == "success", stack.airflow.tasks(f"{PROJECT}.retrain", run)
    assert stack.airflow.tasks(f"{PROJECT}.retrain", run)["register"] == "success"


def _ended() -> dict[str, Any] | None:
    entries = [e.body for e in open_ledger().entries(project=PROJECT, kinds=("release.ended",))]
    return next((body for body in entries if body["state"] != "promoted"), None)


def _observe(stack: Stack) -> dict[str, Any]:
    return dict(httpx.get(f"{stack.server_url}/control/observation").raise_for_status().json())


def _requests(stack: Stack, slot: str = "challenger") -> int:
    counts = _observe(stack)[slot]
    return 0 if counts is None else int(counts["requests"])


def _wait(condition: Callable[[], bool], seconds: float, complaint: str) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, complaint
        time.sleep(0.1)
