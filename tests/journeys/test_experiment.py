"""Three trained challengers of flight_delay at a time, in a running Airflow: one breaks, the best other one leads."""

import json
import os
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import httpx
import pytest
from playwright.sync_api import FrameLocator, Page, expect

from pipelines.demo.stack import Stack
from pipelines.rollout.experiment import CHOSEN
from pipelines.wiring import open_ledger
from tests.fixtures.browsers import PageBrowser
from tests.fixtures.small_installation import PROJECT, QUICK_ROLLOUT, QUICK_STEP
from tests.fixtures.whole_systems import (
    LOGISTIC,
    RELEASE,
    SLOW_MS,
    champion,
    clients,
    framed,
    lead,
    opened,
    ours,
    register,
    wait,
    whole_system,
)

pytestmark = pytest.mark.slow
SHARE = 0.3
STEP = {"share": SHARE, **QUICK_STEP, "minimum_requests": 30, "minimum_s": 8, "maximum_s": 600}
PLAN = QUICK_ROLLOUT | {
    "steps": [STEP, {"share": 1.0, **QUICK_STEP}],
    "approvals": {"before_full": True, "timeout_s": 900},
    "preflight": "off",
    "lease_s": 6,
}
TREES = {"trainer": "boosted_trees", "parameters": {"trees": 40}}


@pytest.fixture
def stack(tmp_path: Path) -> Iterator[Stack]:
    """Version 1 leads, 2 to 4 are registered, of other days and trainers, and real flights come as requests."""
    with whole_system(tmp_path, PLAN, [LOGISTIC, TREES]) as started:
        lead(register("2013-04-01"))
        for as_of, trial in (("2013-04-15", 0), ("2013-04-15", 1), ("2013-04-22", 1)):
            register(as_of, trial)
        with clients(tmp_path / "answers.jsonl", rate=90, since="2013-03-01"):
            yield started


def test_one_of_three_breaks_and_the_best_of_the_others_leads(
    stack: Stack, browser: PageBrowser, tmp_path: Path
) -> None:
    best_first = sorted(("2", "3", "4"), key=gain, reverse=True)
    assert gain(best_first[0]) > gain(best_first[1]) > gain(best_first[2]), "the gates tell them apart"
    broken, best, other = best_first

    run, complaints = browser.visit("about:blank", lambda page: follow(page, stack, broken, best, tmp_path))

    assert ours(complaints) == []
    assert stack.airflow.wait_for_run(RELEASE, run, seconds=300, on_tasks=lambda tasks: None) == "success"
    ended = {entry.body["version"]: entry.body for entry in open_ledger().entries(PROJECT, ("release.ended",))[:3]}
    states = {broken: "rolled_back", best: "promoted", other: "not_chosen"}
    assert {version: body["state"] for version, body in ended.items()} == states
    assert ended[broken]["reason"].startswith("errors for "), "by the hard limit or by the judge"
    assert champion() == best
    observed = httpx.get(f"{stack.server_url}/control/observation", trust_env=False).json()
    assert (observed["champion"]["version"], observed["challenger"], observed["beside"]) == (best, None, [])
    (chosen,) = open_ledger().entries(PROJECT, (CHOSEN,))
    assert [each["version"] for each in chosen.body["order"]] == [best, other]
    assert [each for each in answered(tmp_path / "answers.jsonl") if each["status"] != 200] == []
    answer = stack.airflow.result(RELEASE, run, "answer_full")
    assert (answer["rollout"], answer["by"], answer["answer"]) == (f"{PROJECT}-v{best}-1", "ann", "obeyed")
    told = status(stack)
    assert [(each["version"], each["state"]) for each in told["experiment"]["challengers"]] == sorted(states.items())


def follow(page: Page, stack: Stack, broken: str, best: str, pictures: Path) -> str:
    """Starts the run in Airflow's form, breaks one, and sees on the page what comes of it; returns the run."""
    expect(opened(page, stack).locator("#status")).to_be_visible()
    page.goto(f"{stack.airflow_url}/dags/{RELEASE}")
    page.get_by_role("button", name="Trigger").first.click()
    page.locator("#element_versions").fill("2,3,4")
    page.screenshot(path=pictures / "form.png")
    with page.expect_response(lambda answer: answer.request.method == "POST" and "dagRuns" in answer.url) as started:
        page.locator("[role=dialog]").get_by_role("button", name="Trigger").click()
    assert started.value.ok  # whoever leaves the page before starts nothing
    run = str(started.value.json()["dag_run_id"])

    console = framed(page, stack)
    table = console.get_by_role("table", name="The challengers of flight_delay-x1")
    for version in ("2", "3", "4"):
        expect(row(table, version)).to_contain_text("10.0 %", timeout=SLOW_MS)
    page.screenshot(path=pictures / "beside.png")
    fault = {"rollout": f"{PROJECT}-v{broken}-1", "error_share": 1.0}
    httpx.post(f"{stack.server_url}/control/fault", json=fault, trust_env=False).raise_for_status()
    expect(row(table, broken)).to_contain_text("rolled back", timeout=SLOW_MS)
    expect(row(table, best)).not_to_contain_text("rolled back")
    page.screenshot(path=pictures / "broken.png")
    wait(lambda: stack.airflow.tasks(RELEASE, run)["approve_full"] == "deferred", 240, "nobody is asked in Airflow")
    page.screenshot(path=pictures / "asked.png", full_page=True)
    answer_unheard(stack)
    expect(row(table, best)).to_contain_text("promoted", timeout=SLOW_MS)
    page.screenshot(path=pictures / "promoted.png", full_page=True)
    return run


def answer_unheard(stack: Stack) -> None:
    """Ann's answer, as Airflow has it when it came before the task was deferred: recorded, and nobody woken by it."""
    said = {
        "responded_at": "2013-04-22 12:00:00.000000",
        "responded_by": json.dumps({"id": "7", "name": "ann"}),
        "chosen_options": json.dumps(["Approve"]),
        "params_input": json.dumps({"reason": "it leads"}),
    }
    columns = ", ".join(f"{name} = ?" for name in said)
    with closing(sqlite3.connect(stack.home.root / "airflow" / "airflow.db", timeout=60)) as database, database:
        changed = database.execute(f"UPDATE hitl_detail SET {columns} WHERE responded_at IS NULL", list(said.values()))
        assert changed.rowcount == 1


def row(table: Any, version: str) -> FrameLocator | Any:
    return table.get_by_role("row").filter(has_text=f"version {version}")


def gain(version: str) -> float:
    """By how much the gates found the version better than version 1, in log loss on held-out flights."""
    ledger = open_ledger()
    bundle = ledger.entries(PROJECT, ("registered",), version)[-1].body["bundle"]
    judged = [entry.body for entry in ledger.entries(PROJECT, ("gates",), bundle) if entry.body["champion"] == "1"]
    return -float(judged[-1]["comparison"]["differences"]["log_loss"]["estimate"])


def answered(file: Path) -> list[dict[str, Any]]:
    """What the clients saw so far; the line that is being written is left out."""
    return [json.loads(line) for line in file.read_text().splitlines(keepends=True) if line.endswith("\n")]


def status(stack: Stack) -> dict[str, Any]:
    """What the command line says of the experiment."""
    command = [sys.executable, "-m", "pipelines", "rollout", "show", PROJECT, "--rollout", f"{PROJECT}-v2-1", "--json"]
    environment = {**os.environ, **stack.environment}
    said = subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout
    found: dict[str, Any] = json.loads(said)
    return found
