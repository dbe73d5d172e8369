import itertools
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from typer.testing import CliRunner

from pipelines import views
from pipelines.cli import app
from pipelines.ledger import Ledger
from pipelines.rollout.following import Follower
from pipelines.rollout.plan import AlphaShares, Plan, ShadowStep, Step
from pipelines.tasks import commanding
from pipelines.views import RolloutWatch
from pipelines.wiring import open_ledger
from tests.fixtures.rollouts import ASKING, PLAN, PROJECT, ROLLOUT, open_offer, run_until, running


@pytest.fixture
def ledger(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Ledger]:
    monkeypatch.setenv("PACELINE_HOME", str(tmp_path))
    monkeypatch.delenv("PACELINE_LEDGER_URL", raising=False)
    with open_ledger() as opened:
        yield opened


def paceline(*words: str) -> Any:
    return CliRunner().invoke(app, ["rollout", *words], catch_exceptions=False)


def test_a_project_without_a_rollout_has_none_to_tell_of(ledger: Ledger) -> None:
    found = views.rollouts(PROJECT)
    assert (found["running"], found["rollout"], found["past"], found["champion"]) == (None, None, [], None)
    open_offer(ledger)  # offered, and not begun
    assert views.rollouts(PROJECT)["rollout"] is None


def test_a_running_rollout_is_told_with_its_plan_phase_share_and_findings(ledger: Ledger) -> None:
    run_until(ledger, looks=5, error_rates={"1": 0.05, "2": 0.05})
    found = views.rollouts(PROJECT)
    told = found["rollout"]
    assert (found["running"], told["rollout"], told["state"], told["phase"], told["share"]) == (
        ROLLOUT,
        ROLLOUT,
        "running",
        "20 %",
        0.2,
    )
    assert (told["version"], told["expected_champion"], told["paused"], told["asks"]) == ("2", "1", False, False)
    assert [(step["phase"], step["status"]) for step in told["steps"]] == [
        ("shadow", "done"),
        ("20 %", "now"),
        ("50 %", "ahead"),
        ("100 %", "ahead"),
    ]
    assert told["steps"][0]["seen"] >= told["steps"][0]["minimum"] == 50
    assert [finding["name"] for finding in told["findings"]][:2] == ["split", "errors"]
    assert all(0 <= finding["nearness"] <= 1 and not finding["exceeded"] for finding in told["findings"])
    assert told["verdict"]["verdict"] == "wait"
    assert told["refusals"]["pause"] is None
    assert "not paused" in told["refusals"]["resume"]
    assert told["plan"]["alpha"] == PLAN.alpha
    json.dumps(found, allow_nan=False)  # no infinity, whatever the plan asks


def test_the_curves_of_the_evidence_come_from_the_looks(ledger: Ledger) -> None:
    run_until(ledger, looks=5)
    points = views.rollouts(PROJECT)["rollout"]["points"]
    assert [point["share"] for point in points] == [0.0, 0.0, 0.2, 0.2, 0.2]
    assert points == sorted(points, key=lambda point: point["seconds"])
    assert {"errors", "split"} <= points[-1]["ratios"].keys()


def test_a_long_rollout_has_as_many_points_as_can_be_drawn(ledger: Ledger) -> None:
    slow = Plan(shadow=ShadowStep(minimum_pairs=10**6, maximum_s=10**6), steps=(Step(share=1.0),))
    run_until(ledger, looks=100, plan=slow)
    points = Follower(ledger, points_max=30).follow(PROJECT, ROLLOUT).points
    assert 15 <= len(points) <= 30
    steps = {round(late.seconds - early.seconds) for early, late in itertools.pairwise(points)}
    assert len(steps) == 1  # evenly thinned


def test_a_watch_says_the_same_as_who_asks_anew(ledger: Ledger) -> None:
    watch = RolloutWatch()
    with running(ledger, pause_at=3):
        watch.rollouts(PROJECT)
        commanding.command(PROJECT, "resume", by="ann", reason="looked at it", wait_s=30)
    assert watch.rollouts(PROJECT, now_s=0) == RolloutWatch().rollouts(PROJECT, now_s=0)


def test_a_paused_rollout_says_who_paused_it_and_what_may_be_asked_of_it(ledger: Ledger) -> None:
    with running(ledger):
        told = views.rollouts(PROJECT)["rollout"]
    assert told["paused"]
    assert [(c["command"], c["by"], c["answer"]) for c in told["commands"]] == [("pause", "the test", "obeyed")]
    assert told["refusals"]["resume"] is None
    assert "resume it first" in told["refusals"]["advance"]
    assert told["told"][0]["what"] == "pause by the test: obeyed"


def test_an_open_question_is_told_and_then_its_answer(ledger: Ledger) -> None:
    with running(ledger, ASKING, pause_at=10) as rollout:
        told = views.rollouts(PROJECT)["rollout"]
        assert (told["asks"], told["phase"]) == (True, "approval of the first step")
        assert [step["status"] for step in told["steps"]] == ["done", "asked", "ahead", "ahead"]
        (question,) = told["questions"]
        assert (question["question"], question["on_timeout"], question["answer"]) == ("first_step", "reject", None)
        assert told["refusals"]["approve"] is None
        commanding.command(PROJECT, "approve", by="ann", reason="it is good", wait_s=30)
        rollout.join(60)
    told = views.rollouts(PROJECT)["rollout"]
    assert told["state"] == "promoted"
    assert told["questions"][0]["answer"]["by"] == "ann"


def test_a_rolled_back_one_says_why_and_by_which_evidence(ledger: Ledger) -> None:
    run_until(ledger, looks=1000, error_rates={"2": 0.5})
    found = views.rollouts(PROJECT)
    told = found["rollout"]
    assert (found["running"], told["state"], told["share"]) == (None, "rolled_back", 0.0)
    assert found["past"][0]["rollout"] == ROLLOUT
    assert found["past"][0]["reason"] == told["reason"]
    assert "failed" in [step["status"] for step in told["steps"]]
    assert told["told"][0]["what"] == "rolled back"
    assert all("has ended" in why for why in told["refusals"].values())


def test_who_waits_for_the_running_rollout_is_told_until_its_turn(ledger: Ledger) -> None:
    run_until(ledger, looks=5)
    tickets = [
        ledger.append(PROJECT, "release.queued", version, {"version": version, "reason": "another one runs"}).id
        for version in ("3", "4", "5")
    ]
    ledger.append(PROJECT, "release.refused", "3", {"version": "3", "reason": "older", "ticket": tickets[0]})
    ledger.append(PROJECT, "release.opened", "flight_delay-v4-1", {"version": "4"})
    assert [(each["version"], each["reason"]) for each in views.rollouts(PROJECT)["queued"]] == [
        ("5", "another one runs")
    ]
    assert "version 5 waits since" in paceline("show", PROJECT).stdout


def test_a_step_says_how_much_of_the_usual_traffic_it_has_seen(ledger: Ledger) -> None:
    covering = (Step(share=0.2, minimum_requests=20, minimum_s=1, coverage=0.8), Step(share=1.0))
    run_until(ledger, looks=12, plan=msgspec.structs.replace(PLAN, steps=covering), covered=0.4)
    step = views.rollouts(PROJECT)["rollout"]["steps"][1]
    assert (step["coverage"], step["status"]) == (0.8, "now")
    assert (step["covered"], step["progress"]) == (0.4, 0.5)  # the requests and the time are there


def test_what_a_person_ended_still_shows_the_evidence_of_that_moment(ledger: Ledger) -> None:
    with running(ledger):
        commanding.command(PROJECT, "abort", by="ann", reason="not today", wait_s=30)
    told = views.rollouts(PROJECT)["rollout"]
    assert (told["state"], told["reason"]) == ("rolled_back", "aborted by ann: not today")
    assert {"split", "errors"} <= {finding["name"] for finding in told["findings"]}
    assert not any(finding["exceeded"] for finding in told["findings"])


def test_what_the_plan_does_not_ask_has_no_limit(ledger: Ledger) -> None:
    silent = msgspec.structs.replace(PLAN, alpha_shares=AlphaShares(slow_p50=0.0))
    run_until(ledger, looks=5, plan=silent)
    told = views.rollouts(PROJECT)["rollout"]
    assert [each["name"] for each in told["findings"] if each["limit"] is None] == ["slower than p50"]
    (line,) = (line for line in paceline("show", PROJECT).stdout.splitlines() if "p50" in line)
    assert line.endswith("limit none")


def test_a_rollout_that_nobody_knows_is_an_error(ledger: Ledger) -> None:
    with pytest.raises(LookupError, match="flight_delay has no rollout 'v9' that has begun"):
        views.rollouts(PROJECT, "v9")


def test_the_command_line_shows_it_to_people_and_to_machines(ledger: Ledger) -> None:
    run_until(ledger, looks=5)
    shown = paceline("show", PROJECT)
    assert shown.exit_code == 0
    for part in (ROLLOUT, "version 2 against version 1", "✓  shadow", "▶    20 %", "e-value"):
        assert part in shown.stdout
    assert json.loads(paceline("show", PROJECT, "--json").stdout)["rollout"]["phase"] == "20 %"


def test_the_command_line_steers_it(ledger: Ledger) -> None:
    with running(ledger) as rollout:
        said = json.loads(paceline("resume", PROJECT, "--reason", "looked", "--by", "ann", "--json").stdout)
        assert (said["answer"], said["by"]) == ("obeyed", "ann")
        rollout.join(60)
    text = paceline("show", PROJECT).stdout
    assert "resume by ann (looked): obeyed" in text


def test_a_command_without_a_reason_is_refused_by_the_command_line(ledger: Ledger) -> None:
    assert paceline("abort", PROJECT).exit_code == 2
    run_until(ledger, looks=5)
    unanswered = paceline("abort", PROJECT, "--reason", "now", "--wait", "0")
    assert "no answer yet, does somebody run the rollout?" in " ".join(unanswered.stdout.split())
