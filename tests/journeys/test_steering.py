"""People steer rollouts of flight_delay in Airflow's UI: one is aborted; another is paused, resumed, and approved."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from playwright.sync_api import FrameLocator, Page, expect

from pipelines.demo.stack import Stack
from pipelines.ledger.ledger import RESTORED, SWAPPED
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
STEP_S = 60.0  # of the first step: time for a person
PLAN = QUICK_ROLLOUT | {
    "steps": [{"share": 0.3, **QUICK_STEP, "minimum_s": STEP_S, "maximum_s": 1200}, {"share": 1.0, **QUICK_STEP}],
    "approvals": {"before_full": True, "timeout_s": 900},
}


@pytest.fixture
def stack(tmp_path: Path) -> Iterator[Stack]:
    """The whole system: version 1 leads, version 2 is registered, and real flights come as requests."""
    with whole_system(tmp_path, PLAN, [LOGISTIC]) as started:
        lead(register("2013-04-01"))
        register("2013-04-15")
        with clients(tmp_path / "answers.jsonl", rate=30):
            yield started


def test_one_rollout_is_aborted_and_another_paused_resumed_and_approved(
    stack: Stack, browser: PageBrowser, tmp_path: Path
) -> None:
    first, complaints = browser.visit("about:blank", lambda page: abort(page, stack, tmp_path / "aborted.png"))
    assert ours(complaints) == []
    assert stack.airflow.wait_for_run(RELEASE, first, seconds=300, on_tasks=lambda tasks: None) == "failed"
    tasks = stack.airflow.tasks(RELEASE, first)
    assert (tasks["roll_out"], tasks["wait_for_full"], tasks["approve_full"]) == ("success", "skipped", "skipped")
    assert ended() == [("flight_delay-v2-1", "rolled_back", "aborted by admin: not on a Friday")]
    assert champion() == "1"

    second, complaints = browser.visit("about:blank", lambda page: steer(page, stack, tmp_path))
    assert ours(complaints) == []
    assert stack.airflow.wait_for_run(RELEASE, second, seconds=300, on_tasks=lambda tasks: None) == "success"
    answer = stack.airflow.result(RELEASE, second, "answer_full")
    assert (answer["command"], answer["by"], answer["answer"]) == ("approve", "admin", "obeyed")
    commands = open_ledger().entries(PROJECT, ("rollout.command.obeyed",), "flight_delay-v2-2")
    assert [(entry.body["command"], entry.body["by"], entry.body["reason"]) for entry in commands] == [
        ("pause", "admin", "a storm comes in"),
        ("resume", "admin", "the storm has passed"),
        ("approve", "admin", "the comparison is good"),
    ]
    assert ended()[-1][:2] == ("flight_delay-v2-2", "promoted")
    assert champion() == "2"
    assert httpx.get(f"{stack.server_url}/control/observation").json()["champion"]["version"] == "2"

    decided = decisions()
    for run, end in ((first, "failed"), (second, "success")):  # what is over does not come back by a cleared task
        stack.airflow.clear(RELEASE, run, "roll_out")
        assert stack.airflow.wait_for_run(RELEASE, run, seconds=300, on_tasks=lambda tasks: None) == end
        assert stack.airflow.tasks(RELEASE, run)["settle"] == "success"
    assert decisions() == decided
    assert champion() == "2"
    observed = httpx.get(f"{stack.server_url}/control/observation").json()
    assert (observed["champion"]["version"], observed["challenger"], observed["share"]) == ("2", None, 0.0)


def abort(page: Page, stack: Stack, picture: Path) -> str:
    """Logs in, finds the page in the menu, and ends a rollout there; returns the run that rolled out."""
    console = opened(page, stack)
    run = stack.airflow.trigger(RELEASE, {"version": "2"})
    expect(console.get_by_role("button", name="Abort")).to_be_enabled(timeout=SLOW_MS)
    tell(console, "Abort", "not on a Friday", sure=True)
    expect(console.locator("#status")).to_have_text("rolled back", timeout=SLOW_MS)
    expect(console.locator("#more")).to_contain_text("abort by admin: obeyed")
    page.screenshot(path=picture)
    return run


def steer(page: Page, stack: Stack, pictures: Path) -> str:
    """Pauses and resumes on the page, and approves where Airflow keeps what people must do; returns the run."""
    console = opened(page, stack)
    run = stack.airflow.trigger(RELEASE, {"version": "2", "note": "it was a Friday"})
    status = console.locator("#status")
    expect(console.locator("#top .now .name")).to_have_text("30 %", timeout=SLOW_MS)
    tell(console, "Pause", "a storm comes in")
    expect(status).to_have_text("paused", timeout=SLOW_MS)
    page.screenshot(path=pictures / "paused.png")
    answered = requests(stack)
    wait(lambda: requests(stack) > answered + 20, 60, "a pause took the challenger's share away")
    expect(status).to_have_text("paused")
    tell(console, "Resume", "the storm has passed")
    expect(status).to_have_text("waiting for a person", timeout=SLOW_MS)
    page.screenshot(path=pictures / "asked.png")

    wait(lambda: stack.airflow.tasks(RELEASE, run)["approve_full"] == "deferred", 120, "nobody is asked in Airflow")
    page.goto(f"{stack.airflow_url}/required_actions")
    page.get_by_text("may version 2 get all traffic").first.click()
    expect(page.get_by_text("Without an answer until")).to_be_visible(timeout=SLOW_MS)
    page.locator("#element_reason").fill("the comparison is good")
    page.screenshot(path=pictures / "approval.png")
    with page.expect_response(lambda answer: answer.request.method == "PATCH" and "hitlDetails" in answer.url) as said:
        page.get_by_test_id("hitl-option-Approve").click()
    assert said.value.ok

    console = framed(page, stack)
    try:
        expect(console.locator("#status")).to_have_text("promoted", timeout=SLOW_MS)
    except AssertionError as error:
        told = [(entry.kind, entry.body) for entry in open_ledger().entries(PROJECT)[-8:]]
        error.add_note(f"page: {console.locator('#fresh').text_content()}; tasks: {stack.airflow.tasks(RELEASE, run)}")
        error.add_note(f"the ledger's last entries: {told}")
        raise
    page.screenshot(path=pictures / "promoted.png")
    return run


def tell(console: FrameLocator, command: str, reason: str, sure: bool = False) -> None:
    """Presses the button of `command`, and waits for the rollout's answer."""
    console.locator("#reason").fill(reason)
    console.get_by_role("button", name=command, exact=True).click()
    if sure:
        console.get_by_role("button", name=f"{command}: sure?").click()
    expect(console.locator("#told")).to_have_text(f"{command.lower()} was obeyed.", timeout=SLOW_MS)


def ended() -> list[tuple[str, str, str]]:
    entries = open_ledger().entries(PROJECT, ("release.ended",))
    return [(entry.subject, entry.body["state"], entry.body["reason"]) for entry in entries]


def decisions() -> list[tuple[str, str]]:
    """What the ledger has of rollouts and champions."""
    kinds = ("release.ended", "rollout.event", "rollout.promoted", "rollout.rolled_back", SWAPPED, RESTORED)
    return [(entry.kind, entry.subject) for entry in open_ledger().entries(PROJECT, kinds)]


def requests(stack: Stack) -> int:
    observed: dict[str, Any] = httpx.get(f"{stack.server_url}/control/observation").raise_for_status().json()
    assert observed["share"] == 0.3
    return int(observed["challenger"]["requests"])
