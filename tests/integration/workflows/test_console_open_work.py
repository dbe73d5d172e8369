"""What rollouts have left open, on their page: a holdout that runs, and rollbacks that nobody has looked into."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest
from fastapi.testclient import TestClient
from playwright.sync_api import Page

from pipelines import views
from pipelines.ledger import Ledger
from pipelines.rollout import holdouts
from pipelines.rollout.plan import Holdout
from pipelines.tasks import investigating, releasing
from pipelines.views.rollout_console import live_parts, rollout_console
from pipelines.wiring import home
from tests.fixtures.browsers import PageBrowser, layout
from tests.fixtures.rollbacks import rolled_back, two_versions
from tests.fixtures.rollouts import PLAN, PROJECT, ROLLOUT, run_until

BROKEN = f"{PROJECT}-v2-broken"
HOLDING = msgspec.structs.replace(PLAN, holdout=Holdout(share=0.05, maximum_days=14))


@pytest.fixture
def left_open(console: TestClient, rollouts_ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> TestClient:
    """Version 2 was rolled back, and then promoted with a holdout."""
    monkeypatch.setenv("PACELINE_SERVER_URL", "http://127.0.0.1:9")  # nobody: servers follow later
    _, challenger = two_versions()
    releasing.settle(PROJECT, rolled_back(challenger, {"1": 0.005, "2": 0.5}, name=BROKEN))
    run_until(rollouts_ledger, looks=1000, plan=HOLDING)
    return console


def test_the_page_links_a_holdout_and_an_investigation_until_both_are_closed(
    left_open: TestClient, rollouts_ledger: Ledger, browser: PageBrowser, tmp_path: Path
) -> None:
    more = live(left_open)
    assert "The challenger answers 95 % of the entities" in live(left_open, "top")
    assert f'href="?project={PROJECT}&amp;rollout={ROLLOUT}">Version 1 keeps 5 %</a>' in more
    assert "Nothing is said yet" in more
    (link,) = re.findall(r'href="(investigations/[^"]+)"', more)
    page = left_open.get(f"/{link}")
    assert page.status_code == 200
    assert page.text == Path(views.investigation(PROJECT, BROKEN)["page"]).read_text()
    assert "script" not in page.headers["content-security-policy"]
    told = views.rollouts_text(views.rollouts(PROJECT))
    assert f"holdout of {ROLLOUT}: version 1 keeps 5.0% of the entities beside version 2" in told
    assert f"open: why {BROKEN} was rolled back" in told
    for dark in (False, True):
        (wide, narrow), complaints = browser.visit(drawn(tmp_path / "page.html"), both_widths(tmp_path), dark=dark)
        assert complaints == []
        for found in (wide, narrow):
            assert (found["wide"], found["beyond"]) == (0, [])

    (evidence,) = (home().reports(PROJECT) / "investigations" / BROKEN).glob("*.json")
    evidence.write_text("{}")
    altered = left_open.get(f"/{link}")
    assert (altered.status_code, "is altered" in altered.json()["detail"]) == (404, True)
    investigating.close_investigation(PROJECT, BROKEN, note="a bad plane", by="ann")
    begun = holdouts.running(rollouts_ledger, PROJECT)
    assert begun is not None
    holdouts.end(rollouts_ledger, begun, "keep", "shown to be no worse", "judge")
    assert "Still open" not in live(left_open)
    del left_open.headers["Authorization"]
    assert left_open.get(f"/{link}").status_code == 401


def live(console: TestClient, part: str = "more") -> str:
    found: dict[str, Any] = console.get(f"/api/rollouts/{PROJECT}/live").json()
    return str(found[part])


def drawn(file: Path) -> str:
    """The page as its script puts it together, as a file that a browser opens."""
    watch = views.RolloutWatch()
    parts = live_parts(watch.rollouts(PROJECT), 0.0)
    frame = rollout_console(watch.overview(), PROJECT, None, "ann", "nonce")
    places = re.compile(r'(<section id="(top|more)"[^>]*>).*?(</section>)', re.DOTALL)
    whole = places.sub(lambda found: found[1] + parts[found[2]] + found[3], frame)
    file.write_text(whole[: whole.index("<script")])
    return file.as_uri()


def both_widths(pictures: Path) -> Callable[[Page], tuple[dict[str, Any], dict[str, Any]]]:
    def look(page: Page) -> tuple[dict[str, Any], dict[str, Any]]:
        wide = layout(page, pictures / "wide.png")
        page.set_viewport_size({"width": 420, "height": 900})
        return wide, layout(page, pictures / "narrow.png")

    return look
