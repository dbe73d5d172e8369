import dataclasses
import json
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec
import pytest
from typer.testing import CliRunner

from pipelines.cli import app
from pipelines.cli.console import out
from pipelines.ledger import Ledger
from pipelines.monitoring.traffic import MeasuredTraffic
from pipelines.rollout.features import FEATURES, SHADOW
from pipelines.rollout.plan import Coverage, Plan, ShadowStep, Step
from pipelines.tasks.offering import open_rollout, read_book
from pipelines.tasks.preflighting import PREFLIGHT, traffic_of
from pipelines.tasks.sites import Site
from tests.fixtures.platforms import SimulatedClock, SimulatedPlatform
from tests.fixtures.prediction_log import tiny_group, write_segment
from tests.fixtures.sites import PROJECT, MemoryRegistry, make_site
from tests.fixtures.small_installation import small_projects

SHORT = Plan(
    shadow=None, steps=(Step(share=0.5, minimum_requests=100, maximum_s=60), Step(share=1.0)), error_rate_margin=None
)


def log_requests(root: Path, count: int) -> None:
    """So many requests in the last ten minutes, and one before."""
    now_s = datetime.now(UTC).timestamp()
    write_segment(root, tiny_group(1, served_at_s=now_s - 900), tiny_group(count, served_at_s=now_s - 180))


def measured(**changes: Any) -> MeasuredTraffic:
    by_hour = tuple(100 if hour in (8, 9) else 0 for hour in range(24))
    usual: dict[str, Any] = {
        "requests": 200, "recent": 60, "entity_seconds": 100, "failed_entity_seconds": 2, "by_hour": by_hour,
        "days": 3, "seconds": 200_000.0,
    }  # fmt: skip
    return MeasuredTraffic(**{**usual, **changes})


def test_some_days_give_a_mean_by_hour_and_one_day_the_last_minutes() -> None:
    days = traffic_of(measured(), 7)
    assert (days.requests_per_s, days.entities_per_s, days.failure_rate) == (0.001, 0.0005, 0.02)
    assert (days.by_hour[8], days.by_hour[20], days.source) == (0.5, 0.0, "the last 7 days, by hour of the day")
    # two days by name, an hour around midnight by time: no mean of a day
    today = traffic_of(measured(days=2, seconds=3600.0), 7)
    assert (today.requests_per_s, today.by_hour) == (0.1, ())
    assert today.source == "the last 10 minutes; the log begins 60.0 min ago"
    none = dict.fromkeys(("requests", "recent", "entity_seconds", "failed_entity_seconds", "days", "seconds"), 0)
    nothing = traffic_of(measured(**none), 7)
    assert (nothing.requests_per_s, nothing.failure_rate) == (0.0, 0.0)


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[Ledger]:
    with Ledger.open(f"sqlite:///{tmp_path}/ledger.db") as opened:
        opened.swap_champion(PROJECT, None, "1", "b1", "bootstrap", "the first")
        yield opened


def site_of(ledger: Ledger, log: Path, policy: Any, plan: Plan = SHORT) -> Site:
    registry = MemoryRegistry({"1": "2013-01-07", "2": "2013-01-14", "3": "2013-01-21"})
    wanted = msgspec.structs.replace(plan, preflight=policy)
    made = make_site(ledger, SimulatedPlatform(SimulatedClock()), registry, wanted)
    return dataclasses.replace(made, predictions=log)


def test_a_plan_that_cannot_reach_its_verdicts_is_refused_where_it_says_so(ledger: Ledger, tmp_path: Path) -> None:
    log_requests(tmp_path / "log", count=60)
    site = site_of(ledger, tmp_path / "log", "refuse")
    opened = open_rollout(site, "2")
    assert opened.offer is None
    assert opened.reason.startswith(
        "the plan cannot reach its verdicts: 50 %: 100 requests of the challenger take 33.3 min at 0.1 requests a "
        "second, at most 60 s"
    )
    assert read_book(ledger, PROJECT).running is None
    (entry,) = ledger.entries(PROJECT, (PREFLIGHT,))
    assert (entry.subject, entry.body["version"], entry.body["refused"]) == ("flights-v2-1", "2", opened.reason)
    assert entry.body["table"][1] == ["50 %", "100 requests of the challenger", "33.3 min", "60 s", "not in its time"]
    (refused,) = ledger.entries(PROJECT, ("release.refused",))
    assert refused.body == {"version": "2", "reason": opened.reason}


def test_the_same_plan_is_reported_and_begun_where_it_says_so(ledger: Ledger, tmp_path: Path) -> None:
    log_requests(tmp_path / "log", count=60)
    assert open_rollout(site_of(ledger, tmp_path / "log", "report"), "2").offer is not None
    (entry,) = ledger.entries(PROJECT, (PREFLIGHT,))
    assert (len(entry.body["problems"]), entry.body["refused"]) == (1, None)


def test_enough_traffic_is_no_problem(ledger: Ledger, tmp_path: Path) -> None:
    log_requests(tmp_path / "log", count=3000)
    assert open_rollout(site_of(ledger, tmp_path / "log", "refuse"), "2").offer is not None
    assert ledger.entries(PROJECT, (PREFLIGHT,))[0].body["problems"] == []


def test_a_check_that_is_off_looks_at_nothing(ledger: Ledger, tmp_path: Path) -> None:
    assert open_rollout(site_of(ledger, tmp_path / "log", "off"), "2").offer is not None
    assert ledger.entries(PROJECT, (PREFLIGHT,)) == []


def test_what_the_platform_does_not_support_is_refused_whatever_the_policy(ledger: Ledger, tmp_path: Path) -> None:
    site = site_of(ledger, tmp_path / "log", "off", msgspec.structs.replace(SHORT, shadow=ShadowStep()))
    able = dataclasses.replace(site, supports=lambda: FEATURES)
    unable = dataclasses.replace(site, supports=lambda: FEATURES - {SHADOW})
    refused = open_rollout(unable, "2")
    assert refused.offer is None
    assert refused.reason.startswith("the plan's shadow needs the feature 'shadow': the platform supports")
    assert [entry.body["version"] for entry in ledger.entries(PROJECT, ("release.refused",))] == ["2"]
    assert open_rollout(able, "2").offer is not None, "it was not rolled back: no note is needed"


def test_no_traffic_at_all_is_no_verdict(ledger: Ledger, tmp_path: Path) -> None:
    refused = open_rollout(site_of(ledger, tmp_path / "none", "refuse"), "2")
    assert "no traffic of the last 7 days: no phase can reach a verdict" in refused.reason
    assert open_rollout(site_of(ledger, tmp_path / "none", "report"), "2").offer is not None


def test_the_first_champion_needs_no_traffic(tmp_path: Path) -> None:
    with Ledger.open(f"sqlite:///{tmp_path}/first.db") as ledger:
        assert open_rollout(site_of(ledger, tmp_path / "none", "refuse"), "2").offer is not None


def test_one_that_waited_and_is_refused_leaves_its_turn_to_the_next(ledger: Ledger, tmp_path: Path) -> None:
    log = tmp_path / "log"
    log_requests(log, count=3000)
    site = site_of(ledger, log, "refuse")
    first = open_rollout(site, "2")
    assert open_rollout(site, "3", note="look again", by="ann").waits == "3"
    assert first.offer is not None
    ledger.append(PROJECT, "release.ended", first.offer["rollout"], {"version": "2", "state": "rolled_back"})
    refused = open_rollout(site_of(ledger, tmp_path / "none", "refuse"), "3")
    assert refused.offer is None
    assert read_book(ledger, PROJECT).waiting == ()


def test_coverage_without_a_reference_is_a_problem_where_the_steps_would_wait(ledger: Ledger, tmp_path: Path) -> None:
    log_requests(tmp_path / "log", count=3000)
    steps = (SHORT.steps[0], Step(share=1.0, coverage=0.5))
    for version, policy, problems in (("2", "wait", 1), ("3", "ignore", 0)):
        plan = msgspec.structs.replace(SHORT, steps=steps, coverage=Coverage(without_reference=policy))  # type: ignore[arg-type]
        open_rollout(site_of(ledger, tmp_path / "log", "report", plan), version)
        found = ledger.entries(PROJECT, (PREFLIGHT,))[-1].body["problems"]
        assert len(found) == problems, found
        ended = {"version": "2", "state": "rolled_back", "reason": "too many errors"}
        ledger.append(PROJECT, "release.ended", "flights-v2-1", ended)


def test_the_command_shows_what_each_phase_needs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PACELINE_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("PACELINE_PROJECTS", str(small_projects(tmp_path / "projects", 8599)))
    log_requests(tmp_path / "home" / "predictions" / "flight_delay", count=60)
    monkeypatch.setattr(out, "width", 160)
    shown = CliRunner().invoke(app, ["preflight", "flight_delay"], env={"NO_COLOR": "1"})
    assert shown.exit_code == 2, shown.output
    assert "10 requests of the challenger" in shown.stdout
    assert "0.1 requests a second (the last 10 minutes" in " ".join(shown.stdout.split())
    asked = CliRunner().invoke(app, ["preflight", "flight_delay", "--json"])
    found = json.loads(asked.stdout)
    told = "10 %: 10 requests of the challenger take 16.7 min at 0.1 requests a second"
    assert found["problems"][0].startswith(told)
    assert (found["policy"], found["refused"]) == ("report", None)
