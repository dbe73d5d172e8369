"""What the ledger and the on-call engineer get of an emergency retrain, by how it ended."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pipelines.governance.emergency_message import ENDED, message
from pipelines.ledger import Ledger
from pipelines.monitoring.alerts import FIRING, RETRAIN
from pipelines.tasks import emergencies
from pipelines.wiring import home, open_ledger

PROJECT, RUN, AS_OF = "flight_delay", "alert__1", "2013-07-15"


@pytest.fixture
def ledger(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Ledger]:
    """Version 3 leads; two alerts have asked for the run, a third for another one."""
    monkeypatch.setenv("PACELINE_HOME", str(tmp_path))
    monkeypatch.delenv("PACELINE_LEDGER_URL", raising=False)
    with open_ledger() as opened:
        opened.swap_champion(PROJECT, None, "3", "b" * 64, "bootstrap", "the first")
        for key, name in (("a@1", "InputsBroken"), ("b@1", "ScoresFlat"), ("c@1", "Other")):
            opened.append(PROJECT, FIRING, key[0], {"key": key, "alert": name})
        opened.append(PROJECT, RETRAIN, RUN, {"alerts": ["a@1"], "due": True})
        opened.append(PROJECT, RETRAIN, RUN, {"alerts": ["b@1"], "due": False})
        opened.append(PROJECT, RETRAIN, "alert__2", {"alerts": ["c@1"], "due": True})
        yield opened


def evaluation(passed: bool) -> dict[str, Any]:
    gates = [{"name": "auc", "passed": True, "reason": "0.7"}, {"name": "improvement", "passed": passed, "reason": "0"}]
    report = str(home().reports(PROJECT) / "evaluations" / "e.html")
    return {"outcome": "not worse", "reason": "0.001 better", "gates": gates, "passed": passed, "report": report}


def told(ended: dict[str, Any], pages_url: str | None = None) -> Any:
    return message(PROJECT, "Flight delay", RUN, ended, page="/var/e.html", pages_url=pages_url)


def test_a_challenger_that_is_no_better_wakes_somebody_with_the_gate_that_it_failed(ledger: Ledger) -> None:
    ended = emergencies.conclude(PROJECT, RUN, AS_OF, evaluation(passed=False), None)
    assert (ended["state"], ended["champion"], ended["version"]) == ("champion_stays", "3", None)
    assert ended["alerts"] == ["InputsBroken", "ScoresFlat"]
    assert ended["page"] == f"reports/{PROJECT}/evaluations/e.html"
    said = told(ended, "https://paceline.example.org/reports/")
    assert said.severity == "page"
    assert said.subject == "[flight_delay] the champion stays after an emergency retrain: InputsBroken, ScoresFlat"
    assert "the champion stays, version 3" in said.what
    assert "improvement: 0" in said.why
    assert said.link == f"https://paceline.example.org/reports/{PROJECT}/evaluations/e.html"
    assert "Follow docs/runbook/InputsBroken.md." in said.next
    assert said.facts["failed_gates"] == ["improvement"]


def test_a_challenger_that_passed_is_a_notice_and_wakes_nobody(ledger: Ledger) -> None:
    ended = emergencies.conclude(PROJECT, RUN, AS_OF, evaluation(passed=True), {"version": "4"})
    assert (ended["state"], ended["version"], ended["failed_gates"]) == ("challenger", "4", [])
    assert told(ended).severity == "notice"
    assert "its rollout begins" in told(ended).what


def test_a_retrain_that_broke_is_told_with_its_first_failure(ledger: Ledger) -> None:
    for task, error in (("validate", "the snapshot has no rows"), ("train", "later")):
        ledger.append(PROJECT, "failure", f"retrain/{RUN}", {"task": task, "error": error})
    ended = emergencies.conclude(PROJECT, RUN, AS_OF, None, None)
    assert (ended["state"], ended["reason"]) == ("failed", "validate: the snapshot has no rows")
    assert told(ended).severity == "page"
    assert RUN in told(ended).link


def test_a_retrain_that_was_held_back_is_told_with_what_held_it(ledger: Ledger) -> None:
    body = {"why": "held back by the budget: 10 retrains", "evidence": {"request": RUN}}
    ledger.append(PROJECT, "trigger.suppressed", AS_OF, body)
    ledger.append(PROJECT, "trigger.suppressed", AS_OF, {"why": "of another", "evidence": {}})
    ended = emergencies.conclude(PROJECT, RUN, AS_OF, None, None)
    assert (ended["state"], ended["reason"]) == ("held_back", "It was held back by the budget: 10 retrains")
    assert any("--insist" in step for step in told(ended).next)


def test_a_task_that_is_repeated_writes_one_end(ledger: Ledger) -> None:
    first = emergencies.conclude(PROJECT, RUN, AS_OF, evaluation(passed=False), None)
    assert emergencies.conclude(PROJECT, RUN, AS_OF, None, None) == first
    assert len(ledger.entries(PROJECT, (ENDED,))) == 1
