"""The pages that people are shown, opened in a real browser: quiet, drawn, and as wide as the window."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Page
from typer.testing import CliRunner

from pipelines.cli import app
from tests.fixtures.browsers import PageBrowser, Seen, layout, seen
from tests.fixtures.model_servers import ModelServerProcess
from tests.fixtures.small_installation import PROJECT
from tests.integration.pages.conftest import Retrained

SMALLEST_DRAWING = 100  # pixels, in either direction


@pytest.fixture(scope="module")
def pages(retrained: Retrained, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Every page that one retrain has, by its name."""
    from pipelines import views
    from pipelines.tasks import backtesting

    folder = tmp_path_factory.mktemp("pages")
    walked = backtesting.backtest(PROJECT, "2013-03-18", "2013-04-15", 14)
    backtesting.write_page(walked, folder / "walk_forward.html")
    views.write_trace_page(views.trace(f"{PROJECT}:{retrained.champion}"), folder / "lineage.html")
    return {
        "report": retrained.report,
        "card": retrained.card,
        "walk-forward": folder / "walk_forward.html",
        "lineage": folder / "lineage.html",
    }


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
@pytest.mark.parametrize(("name", "drawings"), [("report", 6), ("card", 1), ("walk-forward", 2), ("lineage", 1)])
def test_a_page_opens_without_a_complaint_and_fits(
    browser: PageBrowser, pages: dict[str, Path], tmp_path: Path, name: str, drawings: int, dark: bool
) -> None:
    seen = browser.look(pages[name].as_uri(), dark=dark, picture=tmp_path / "page.png")
    assert seen.complaints == []
    assert (seen.wide, seen.beyond, seen.cut) == (0, [], [])
    assert len(seen.drawings) >= drawings
    assert [each for each in seen.drawings if min(each.width, each.height) < SMALLEST_DRAWING or not each.shown] == []
    assert [each for each in seen.drawings if not each.name] == []  # said to those who do not see it
    assert (tmp_path / "page.png").stat().st_size > 10_000


@pytest.mark.parametrize("name", ["report", "card", "walk-forward"])
def test_no_table_has_to_be_scrolled(browser: PageBrowser, pages: dict[str, Path], name: str) -> None:
    assert browser.look(pages[name].as_uri()).scrolled == []


def test_a_page_is_dark_where_its_reader_is(browser: PageBrowser, pages: dict[str, Path]) -> None:
    light, dark = (browser.look(pages["card"].as_uri(), dark=dark).paper for dark in (False, True))
    assert light != dark


def test_the_browser_hears_what_is_wrong_with_a_page(browser: PageBrowser, tmp_path: Path) -> None:
    page = tmp_path / "page.html"
    page.write_text(
        '<!doctype html><img src="absent.png"><script>console.error("said"); nothing()</script>'
        '<div style="width: 3000px">wide</div><svg viewBox="0 0 10 10" width="0"></svg>'
        '<svg viewBox="0 0 10 10" width="100"><text x="9">outside</text></svg>'
    )
    seen: Seen = browser.look(page.as_uri())
    heard: Any = "\n".join(seen.complaints)
    for part in ("absent.png", "error: said", "nothing is not defined"):
        assert part in heard
    assert seen.wide > 1000
    assert seen.beyond == ["div wide"]
    assert seen.drawings[0].width == 0
    assert seen.cut == [": outside"]


def test_the_page_of_the_api_opens_the_card_with_its_plots_and_its_style(
    browser: PageBrowser, retrained: Retrained, model_servers: Callable[..., ModelServerProcess]
) -> None:
    server = model_servers()
    server.install(retrained.bundle, "7")

    def click(page: Page) -> tuple[str, dict[str, Any]]:
        page.locator("#card summary").click()
        with page.expect_popup() as opened:
            page.get_by_role("button", name="Open it with its plots").click()
        card = opened.value
        card.wait_for_load_state("load")
        return card.title(), layout(card)

    (title, found), complaints = browser.visit(f"{server.url}/docs", click)
    alone = browser.look(retrained.card.as_uri())
    # whatever the policy of the server's page forbids would be a complaint, and the layout another
    assert complaints == []
    assert title == "Flight delay: model card"
    assert seen(found, []) == alone
    assert alone.drawings


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
def test_the_page_of_the_api_fits(
    browser: PageBrowser, retrained: Retrained, model_servers: Callable[..., ModelServerProcess], dark: bool
) -> None:
    server = model_servers()
    server.install(retrained.bundle, "7")

    def unfold(page: Page) -> dict[str, Any]:
        page.locator("#card summary").click()
        for summary in page.locator("#paths summary").all()[:2]:
            summary.click()
        return layout(page)

    found, complaints = browser.visit(f"{server.url}/docs", unfold, dark=dark)
    assert complaints == []
    assert (found["wide"], found["beyond"]) == (0, [])


def paceline(*words: str) -> str:
    shown = CliRunner().invoke(app, list(words), catch_exceptions=False)
    assert shown.exit_code == 0
    return shown.stdout


def test_the_card_of_the_champion_is_printed_and_written_as_a_page(retrained: Retrained, tmp_path: Path) -> None:
    printed = paceline("card", PROJECT)
    assert printed.startswith("# Flight delay\n")
    assert "Trainer `logistic_regression`" in printed
    assert "| `c` | `1.0` |" in printed  # its default is told as well
    page = tmp_path / "card.html"
    assert paceline("card", PROJECT, retrained.champion, "--html", str(page)) == ""
    lies = Path(paceline("card", PROJECT, "champion", "--path").strip())
    assert page.read_bytes() == lies.read_bytes()
    assert json.loads(paceline("card", PROJECT, "--json"))["text"] == printed


def test_the_report_of_a_version_is_where_it_was_written(retrained: Retrained) -> None:
    from pipelines.tasks import reporting

    lies = Path(reporting.find_report(PROJECT)["report"])
    assert lies == Path(paceline("report", PROJECT, retrained.champion).strip())
    moved = lies.with_suffix(".moved")
    lies.rename(moved)
    with pytest.raises(LookupError, match="is gone; it is also among the artifacts of the run"):
        reporting.find_report(PROJECT, "champion")
    moved.rename(lies)
    with pytest.raises(LookupError, match="no version '9'; its versions: 1"):
        reporting.find_report(PROJECT, "9")
