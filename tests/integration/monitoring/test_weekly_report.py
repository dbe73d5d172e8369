"""The report of a week of real flights: kept by its content, and looked at in a real browser."""

import json
from datetime import date, timedelta
from pathlib import Path

import msgspec
import pytest
from typer.testing import CliRunner

from pipelines.cli import app
from pipelines.tasks import watching, weekly
from pipelines.wiring import find_project, home, open_ledger
from tests.fixtures.browsers import PageBrowser
from tests.fixtures.watched_flights import PROJECT, flights, serve

WEEK, MONDAY = "2013-W11", date(2013, 3, 11)
FIGURES = 6


def _flown(days: int) -> None:
    serve(flights(MONDAY, MONDAY + timedelta(days=days)))


@pytest.fixture
def full(watched: Path) -> Path:
    """Seven days of predictions, two watches, and one of each thing that a week may have."""
    _flown(7)
    records = flights(MONDAY + timedelta(days=3), MONDAY + timedelta(days=5))[::20]
    serve(records, version="8", slot="challenger")
    for day in (3, 8):
        watching.observe(PROJECT, (MONDAY + timedelta(days=day)).isoformat(), 3)
    ledger = open_ledger()
    ledger.append(PROJECT, "trigger", "2013-03-13", {"trigger": "drift", "reason": "dest"})
    held = {"hold": "cooldown", "reason": "the cool-down: 1 day since the last retrain < 7"}
    suppressed = {"trigger": "performance", "reason": "auc", "why": f"held back by {held['reason']}", "held_by": [held]}
    ledger.append(PROJECT, "trigger.suppressed", "2013-03-14", suppressed)
    nothing = {"rows": 0, "differing": 0, "versions": {}, "columns": []}
    skewed = {"rows": 40, "differing": 3, "versions": {"7": 3}, "columns": [{"column": "carrier", "rows": 3}]}
    compared = {"sampled": 40, "encoding": skewed, "source": nothing, "not_due": 30, "absent": 10, "ambiguous": 0}
    ledger.append(PROJECT, "skew", "2013-03-15", compared)
    opened = {"version": "8", "title": "Version 8 failed on its requests", "reason": "errors"}
    ledger.append(PROJECT, "investigation.opened", "flight_delay-v8-1", opened)
    return watched


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
def test_the_page_of_a_week_opens_without_a_complaint_and_fits(browser: PageBrowser, full: Path, dark: bool) -> None:
    written = weekly.write_weekly_report(PROJECT, WEEK)
    page = home().root / written["page"]
    seen = browser.look(page.as_uri(), dark=dark)
    assert seen.complaints == []
    assert (seen.wide, seen.beyond, seen.cut, seen.scrolled) == (0, [], [], [])
    assert len(seen.drawings) == FIGURES
    assert [each for each in seen.drawings if min(each.width, each.height) < 60 or not each.shown] == []
    text = page.read_text()
    assert "src=" not in text
    assert "http" not in text, "it loads nothing"


def test_what_is_not_known_yet_is_hatched_and_said(full: Path) -> None:
    page = (home().root / weekly.write_weekly_report(PROJECT, WEEK)["page"]).read_text()
    assert "not known yet: no outcome is due" in page, "the last day's outcomes are due after the week"
    assert "held back by the cool-down" in page
    assert "Version 8 failed on its requests" in page
    assert "Investigations that are open: 1." in page
    assert "3 of 40: carrier" in page
    assert "The servers encoded features otherwise than training does: see Skew." in page


def test_a_week_without_anything_says_so_and_draws_no_zero(watched: Path, browser: PageBrowser) -> None:
    page = home().root / weekly.write_weekly_report(PROJECT, "2013-W30")["page"]
    text = page.read_text()
    assert "The prediction log has no prediction for events of this week." in text
    assert "No watch ran for these days: of drift nothing is known." in text
    assert text.lower().count("not known yet") >= 4
    assert browser.look(page.as_uri()).complaints == []


def test_the_same_week_is_one_page_and_an_altered_one_is_seen(full: Path) -> None:
    first = weekly.write_weekly_report(PROJECT, WEEK)
    assert weekly.write_weekly_report(PROJECT, WEEK) == first
    assert len(open_ledger().entries(project=PROJECT, kinds=("report.weekly",))) == 1
    assert weekly.find_weekly_report(PROJECT)["state"] == "as it was"

    serve(flights(MONDAY, MONDAY + timedelta(days=1)))
    second = weekly.write_weekly_report(PROJECT, WEEK)
    assert second["sha256"] != first["sha256"]
    assert (home().root / first["page"]).is_file(), "a page that was kept is not replaced"
    (home().root / second["page"]).write_text("something else")
    assert weekly.find_weekly_report(PROJECT, WEEK)["state"] == "altered"
    (home().root / second["page"]).unlink()
    assert weekly.find_weekly_report(PROJECT, WEEK)["state"] == "gone"


def test_days_of_a_week_are_those_of_its_events_and_counted_once(full: Path) -> None:
    found = weekly.gather_week(PROJECT, WEEK)
    rows = dict.fromkeys(found.days, 0)
    for each in found.traffic.days:
        rows[each.day] += each.rows if each.version == "7" else 0
    expected = {
        day: len(flights(date.fromisoformat(day), date.fromisoformat(day) + timedelta(days=1))) for day in found.days
    }
    assert rows == expected
    assert [watch.subject for watch in found.watches] == ["2013-03-14"], "the watch as of the 19th saw another week"


def test_the_command_line_writes_it_and_says_where_it_lies(full: Path) -> None:
    runner = CliRunner()
    written = runner.invoke(app, ["report", "weekly", PROJECT, "--week", WEEK, "--json"])
    assert written.exit_code == 0, written.output
    page = json.loads(written.stdout)["page"]
    assert Path(page).is_file()
    shown = runner.invoke(app, ["report", "weekly", PROJECT, "--path"])
    assert shown.stdout.strip() == page
    refused = runner.invoke(app, ["report", "weekly", PROJECT, "--week", "2013-W60"])
    assert "found '2013-W60', expected an ISO week such as 2013-W27" in str(refused.exception)
    # the report of an evaluation is still the command's other meaning
    assert "evaluation" in str(runner.invoke(app, ["report", "--help"]).output)
    other = runner.invoke(app, ["report", PROJECT, "--json"])
    assert isinstance(other.exception, LookupError)


def test_the_weekday_of_the_project_makes_a_report_due(watched: Path) -> None:
    assert find_project(PROJECT).monitoring.report_weekday == 1
    assert weekly.is_report_due(PROJECT, "2013-03-18") == WEEK
    assert weekly.is_report_due(PROJECT, "2013-03-19") is None


def test_a_weekday_is_one_of_seven() -> None:
    from pipelines.projects.definition import MonitoringPolicy

    with pytest.raises(msgspec.ValidationError, match="report_weekday"):
        msgspec.convert({"report_weekday": 8}, MonitoringPolicy)
