"""The page of the rollouts in a real browser, on the real API with Airflow's log-in: it fits, follows and commands."""

import asyncio
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import uvicorn
from fastapi import FastAPI
from playwright.sync_api import Page, expect

from pipelines.ledger import Ledger
from tests.fixtures.browsers import PageBrowser, layout
from tests.fixtures.rollouts import ASKING, PROJECT, ROLLOUT, run_until, running

NARROW = {"width": 420, "height": 900}


@pytest.fixture
def url(console: Any) -> Iterator[str]:
    """The app below its prefix, on a port of its own."""
    outer = FastAPI(docs_url=None)
    outer.mount("/paceline", console.app)
    server = uvicorn.Server(uvicorn.Config(outer, host="127.0.0.1", port=0, log_level="warning"))
    started = threading.Event()

    async def serve() -> None:
        serving = asyncio.create_task(server.serve())
        while not server.started:
            await asyncio.sleep(0.01)
        started.set()
        await serving

    thread = threading.Thread(target=asyncio.run, args=(serve(),))
    thread.start()
    assert started.wait(20)
    port = server.servers[0].sockets[0].getsockname()[1]
    yield f"http://127.0.0.1:{port}/paceline/"
    server.should_exit = True
    thread.join(20)


def opened(page: Page, url: str, airflow_tokens: dict[str, str], role: str = "user") -> Page:
    """The page, as somebody of this role has it before them."""
    page.context.add_cookies([{"name": "_token", "value": airflow_tokens[role], "url": url}])
    page.goto(url)
    page.locator("#status").wait_for()
    return page


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
def test_the_page_fits_wide_and_narrow(
    browser: PageBrowser,
    url: str,
    airflow_tokens: dict[str, str],
    rollouts_ledger: Ledger,
    tmp_path: Path,
    dark: bool,
) -> None:
    run_until(rollouts_ledger, looks=6, error_rates={"1": 0.05, "2": 0.05})

    def look(page: Page) -> tuple[dict[str, Any], dict[str, Any]]:
        wide = layout(opened(page, url, airflow_tokens), tmp_path / "wide.png")
        page.set_viewport_size(NARROW)  # type: ignore[arg-type]
        return wide, layout(page, tmp_path / "narrow.png")

    (wide, narrow), complaints = browser.visit("about:blank", look, dark=dark)
    assert complaints == []
    for found in (wide, narrow):
        assert (found["wide"], found["beyond"], found["cut"]) == (0, [], [])
    named = [drawing["name"] for drawing in wide["drawings"]]
    assert named[:2] == ["Evidence against the challenger", "Entities that failed, so far"]
    assert "errors over time" in named


def test_a_person_aborts_with_a_reason_and_the_page_follows_by_itself(
    browser: PageBrowser,
    url: str,
    airflow_tokens: dict[str, str],
    rollouts_ledger: Ledger,
) -> None:
    def work(page: Page) -> None:
        opened(page, url, airflow_tokens)
        status, told = page.locator("#status"), page.locator("#told")
        expect(status).to_have_text("waiting for a person")
        page.get_by_role("button", name="Abort").click()
        expect(told).to_have_text("Say why: it is kept in the ledger.")
        page.locator("#reason").fill("not on a Friday")
        page.get_by_role("button", name="Abort").click()
        page.get_by_role("button", name="Abort: sure?").click()
        expect(status).to_have_text("rolled back")  # by itself, without a reload
        expect(page.locator("#commands")).to_be_hidden()
        expect(page.locator("#more")).to_contain_text("abort by user-ann: obeyed")

    with running(rollouts_ledger, ASKING, pause_at=10) as rollout:
        _, complaints = browser.visit("about:blank", work)
        rollout.join(30)
    assert complaints == []
    outcome = rollouts_ledger.entries(subject=ROLLOUT, kinds=("rollout.rolled_back",))[-1].body
    assert outcome["reason"] == "aborted by user-ann: not on a Friday"


def test_a_person_approves_on_the_page(
    browser: PageBrowser,
    url: str,
    airflow_tokens: dict[str, str],
    rollouts_ledger: Ledger,
) -> None:
    def work(page: Page) -> None:
        opened(page, url, airflow_tokens)
        expect(page.get_by_role("button", name="Pause")).to_be_hidden()
        page.locator("#reason").fill("the pairs look good")
        page.get_by_role("button", name="Approve").click()
        expect(page.locator("#status")).to_have_text("promoted")

    with running(rollouts_ledger, ASKING, pause_at=10) as rollout:
        _, complaints = browser.visit("about:blank", work)
        rollout.join(60)
    assert complaints == []
    assert rollouts_ledger.champion(PROJECT).version == "2"  # type: ignore[union-attr]


def test_a_person_holds_the_challenger_at_a_smaller_share_on_the_page(
    browser: PageBrowser,
    url: str,
    airflow_tokens: dict[str, str],
    rollouts_ledger: Ledger,
) -> None:
    def work(page: Page) -> None:
        opened(page, url, airflow_tokens)
        told, hold = page.locator("#told"), page.get_by_role("button", name="Hold at")
        page.locator("#reason").fill("few servers")
        hold.click()
        expect(told).to_have_text("Say at which share, in percent.")
        page.locator("#share").fill("50")
        hold.click()
        expect(told).to_contain_text("the plan gives `20 %` a share of 0.2 at most")
        page.locator("#share").fill("7.5")
        hold.click()
        expect(told).to_have_text("share was obeyed.")
        expect(page.locator("#more")).to_contain_text("share 7.5 % by user-ann: obeyed")
        expect(page.locator("#top")).to_contain_text("7.5 %")

    with running(rollouts_ledger):
        _, complaints = browser.visit("about:blank", work)
    assert [each for each in complaints if "409" not in each] == []
    command = rollouts_ledger.entries(kinds=("rollout.command",))[1].body
    assert (command["command"], command["share"], command["by"]) == ("share", 0.075, "user-ann")


def test_a_viewer_has_no_commands(
    browser: PageBrowser,
    url: str,
    airflow_tokens: dict[str, str],
    rollouts_ledger: Ledger,
) -> None:
    run_until(rollouts_ledger, looks=5)

    def work(page: Page) -> bool:
        return opened(page, url, airflow_tokens, "viewer").locator("#commands").is_visible()

    assert browser.visit("about:blank", work) == (False, [])


def test_an_answer_that_never_comes_does_not_end_the_following(
    browser: PageBrowser,
    url: str,
    airflow_tokens: dict[str, str],
    rollouts_ledger: Ledger,
) -> None:
    run_until(rollouts_ledger, looks=5)

    def work(page: Page) -> None:
        opened(page, url, airflow_tokens)
        page.route("**/live*", lambda route: None, times=1)  # asked, and never answered
        expect(page.locator("#fresh")).to_contain_text("not fresh", timeout=40_000)
        expect(page.locator("#fresh")).to_have_text("live", timeout=20_000)

    browser.visit("about:blank", work)
