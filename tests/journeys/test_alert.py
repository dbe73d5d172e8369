"""A field breaks: the real Prometheus notices, the real Alertmanager tells Airflow, and an emergency retrain runs."""

import json
import os
import subprocess
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

from pipelines.demo import stack as stacks
from pipelines.demo.observability import ObservabilityPorts, programs
from pipelines.demo.stack import Ports, Stack
from pipelines.demo.supervisor import Supervisor
from pipelines.governance.emergency_message import ENDED
from pipelines.governance.rollback_message import SENT
from pipelines.ledger import Entry
from pipelines.tasks import judging, optimising, releasing, retraining, searching
from pipelines.wiring import open_ledger
from tests.fixtures.browsers import PageBrowser
from tests.fixtures.mailboxes import HttpMailbox, listening
from tests.fixtures.prometheus import program
from tests.fixtures.small_installation import (
    PROJECT,
    copy_of_expectations,
    free_port,
    replay_command,
    small_projects,
    small_warehouse,
    users_environment,
)

pytestmark = pytest.mark.slow
RETRAIN = f"{PROJECT}.retrain"
QUICKENED_BY = 15  # a rule's five minutes are 20 s
FIRING_TO_RUNNING_S = 30


class Alarmed:
    """The whole system with Prometheus, Alertmanager, and an on-call engineer's mailbox."""

    def __init__(self, stack: Stack, ports: ObservabilityPorts, mailbox: HttpMailbox) -> None:
        self.stack, self.ports, self.mailbox = stack, ports, mailbox

    def alert(self, name: str) -> dict[str, Any] | None:
        """What Prometheus says of an alert, while it is pending or fires."""
        answer = httpx.get(f"http://127.0.0.1:{self.ports.prometheus}/api/v1/alerts", trust_env=False).json()
        found = [each for each in answer["data"]["alerts"] if each["labels"]["alertname"] == name]
        return found[0] if found else None


@pytest.fixture
def alarmed(tmp_path: Path) -> Iterator[Alarmed]:
    program("prometheus")
    program("prometheus-alertmanager", "alertmanager")
    ports = Ports(airflow=free_port(), mlflow=free_port(), server=free_port())
    observed = ObservabilityPorts(prometheus=free_port(), alertmanager=free_port(), metrics=free_port())
    mailbox = HttpMailbox()
    before = dict(os.environ)
    os.environ.clear()
    os.environ.update(users_environment(tmp_path / "home"))
    with pytest.MonkeyPatch.context() as patch, listening(mailbox):
        patch.setenv("PACELINE_PROJECTS", str(told_projects(tmp_path / "projects", ports.server)))
        patch.setenv("PACELINE_EXPECTATIONS", str(copy_of_expectations(tmp_path / "great_expectations")))
        patch.setenv("AIRFLOW_CONN_ONCALL", json.dumps({"conn_type": "http", "host": mailbox.url}))
        patch.setenv("OMP_NUM_THREADS", "1")
        small_warehouse()
        with Supervisor(tmp_path / "home" / "logs") as supervisor:
            stack = stacks.start(PROJECT, ports, supervisor)
            started = list(programs(PROJECT, ports.server, ports.airflow, observed, QUICKENED_BY))
            for each in started:
                supervisor.start(each)
            for each in started:
                supervisor.wait_ready(each.name)
            yield Alarmed(stack, observed, mailbox)
    os.environ.clear()
    os.environ.update(before)


def told_projects(folder: Path, port: int) -> Path:
    """Quick to train, with gates that no challenger passes unless it is really better, and a channel."""
    small_projects(folder, port)
    file = folder / PROJECT / "project.yaml"
    configuration = yaml.safe_load(file.read_text())
    trials = [{"trainer": "logistic_regression", "parameters": {"c": c}} for c in (1.0, 0.1)]
    configuration["training"] = {"seed": 1, "trials": trials, "emergency": {"trials": 1}}
    configuration["emergency_split"] = {
        "train_days": 56,
        "validation_days": 7,
        "test_days": 7,
        "minimum_train_days": 28,
    }
    configuration["notify"] = {"channels": [{"kind": "webhook", "connection": "oncall"}]}
    file.write_text(yaml.safe_dump(configuration, sort_keys=False))
    return folder


def lead(as_of: str) -> list[dict[str, Any]]:
    """A first champion, trained and judged as of that day; its gates."""
    snapshot = retraining.take_snapshot(PROJECT, retraining.choose_window(PROJECT, as_of))
    planned = retraining.plan_trials(PROJECT, snapshot)
    assert len(planned) == 2
    best = searching.best_of(PROJECT, planned, [searching.run_trial(PROJECT, trial) for trial in planned])
    evaluation = judging.evaluate(PROJECT, optimising.optimise(PROJECT, best, "fp32"))
    version = str(judging.register(PROJECT, evaluation)["version"])
    releasing.roll_back(PROJECT, version, "the first", by="ada")
    return list(evaluation["gates"])


def test_a_broken_field_starts_one_emergency_retrain_within_30_s_and_the_engineer_is_told(
    alarmed: Alarmed, browser: PageBrowser, tmp_path: Path
) -> None:
    stack = alarmed.stack
    usual_gates = lead("2013-04-01")
    broken = subprocess.Popen(
        [*replay_command(tmp_path / "answers.jsonl", rate=20), "--set", "dest=QQQ"],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        wait(lambda: state(alarmed) == "firing", 90, lambda: f"no alert: {alarmed.alert('PacelineInputsBroken')}")
        wait(lambda: running(stack) is not None, 60, lambda: f"no run: {stack.airflow.runs(RETRAIN)}")
        picture(browser, alarmed, tmp_path)
    finally:
        broken.terminate()
        broken.wait(30)
    run = running(stack)
    assert run is not None
    (firing,) = entries("alert.firing")
    (decided,) = entries("alert.retrain")
    fired = datetime.fromisoformat(firing.body["starts_at"])
    began = run_began(stack, run)
    assert (began - fired).total_seconds() <= FIRING_TO_RUNNING_S
    print(f"from firing to a running run: {(began - fired).total_seconds():.1f} s")  # noqa: T201
    assert decided.body["conf"]["as_of"] == "2013-05-02"  # the day after the last labelled one is known
    wait(lambda: bool(entries(ENDED)), 400, lambda: f"no end: {stack.airflow.tasks(RETRAIN, run)}")
    (ended,) = entries(ENDED)
    assert ended.body["state"] in ("challenger", "champion_stays"), ended.body
    assert ended.body["alerts"] == ["PacelineInputsBroken"]
    wait(lambda: bool(entries(SENT)), 30, lambda: "the engineer was not told")
    told = json.loads(alarmed.mailbox.posted[0].body)
    assert (told["event"], told["facts"]["state"]) == ("paceline.emergency", ended.body["state"])

    emergency_gates = {gate["name"] for gate in entries("gates")[-1].body["gates"]}
    # never fewer: each gate of the first champion, held against the champion where that had nothing but the base rate
    usual = {gate["name"].replace("against the base rate", "against the champion") for gate in usual_gates}
    assert usual < emergency_gates
    assert len([name for name in stack.airflow.tasks(RETRAIN, run) if name.startswith("train")]) == 1  # not two trials
    wait(lambda: bool(entries("alert.resolved")), 90, lambda: "the end of the alert was not told")
    assert list(stack.airflow.runs(RETRAIN)) == [run]


def state(alarmed: Alarmed) -> str | None:
    found = alarmed.alert("PacelineInputsBroken")
    return None if found is None else str(found["state"])


def running(stack: Stack) -> str | None:
    """The run of the retrain that has begun its work."""
    return next((run for run, state in stack.airflow.runs(RETRAIN).items() if state != "queued"), None)


def run_began(stack: Stack, run: str) -> datetime:
    """When Airflow took the run up."""
    found = stack.airflow._request("GET", f"/api/v2/dags/{RETRAIN}/dagRuns/{run}")
    return datetime.fromisoformat(found["start_date"]).astimezone(UTC)


def entries(kind: str) -> list[Entry]:
    return open_ledger().entries(PROJECT, (kind,))


def picture(browser: PageBrowser, alarmed: Alarmed, folder: Path) -> None:
    """Prometheus' page of alerts, for whoever looks at what the test saw."""

    def look(page: Any) -> None:
        page.goto(f"http://127.0.0.1:{alarmed.ports.prometheus}/classic/alerts")
        page.screenshot(path=folder / "alerts.png", full_page=True)

    browser.visit("about:blank", look)


def wait(condition: Callable[[], bool], seconds: float, complaint: Callable[[], str]) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, complaint()
        time.sleep(0.2)
