"""Asking for a retrain and starting one, on a real ledger and the loans of credit_risk."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import date
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from pipelines import views
from pipelines.cli import app
from pipelines.tasks import ingesting, triggering
from pipelines.wiring import find_project, open_ledger

PROJECT = "credit_risk"
AS_OF = "2024-04-21"


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    root = tmp_path_factory.mktemp("triggering") / "home"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PACELINE_HOME", str(root))
        patch.delenv("PACELINE_LEDGER_URL", raising=False)
        ingesting.ingest(PROJECT)
        yield root


@pytest.fixture
def ledger(home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setenv("PACELINE_LEDGER_URL", f"sqlite:///{tmp_path}/ledger.db")
    return open_ledger()


def _begin(request: str, trigger: str = "drift", as_of: str = AS_OF, **more: Any) -> dict[str, Any]:
    return triggering.begin_retrain(PROJECT, as_of, trigger, "for the test", by="test", request=request, **more)


def test_a_request_that_nothing_speaks_against_gives_the_parameters_of_the_workflow(ledger: Any) -> None:
    asked = triggering.request_retrain(PROJECT, "drift", "the ages moved", AS_OF, {"psi": 0.4}, by="watch")
    assert asked == {
        "due": True,
        "conf": {"as_of": AS_OF, "trigger": "drift", "reason": "the ages moved"},
        "why": "",
    }
    assert triggering.request_retrain(PROJECT, "drift", "the ages moved", AS_OF, {"psi": 0.4}, by="watch") == asked
    entries = ledger.entries(project=PROJECT, kinds=(triggering.DUE,))
    assert [(entry.subject, entry.body["by"], entry.body["evidence"]) for entry in entries] == [
        (AS_OF, "watch", {"psi": 0.4})
    ]


def test_of_two_that_were_due_one_starts_and_the_other_is_in_the_ledger_with_its_reason(ledger: Any) -> None:
    for trigger in ("drift", "performance"):
        assert triggering.request_retrain(PROJECT, trigger, "found", AS_OF, by="watch")["due"]
    windows = _begin("run1")
    with pytest.raises(triggering.RetrainHeldError, match="the cool-down: 0 days since the last retrain"):
        _begin("run2", "performance")
    assert _begin("run1") == windows  # a task that is tried again
    assert [entry.body["request"] for entry in ledger.entries(project=PROJECT, kinds=("trigger",))] == ["run1"]
    suppressed = ledger.entries(project=PROJECT, kinds=(triggering.SUPPRESSED,))
    assert [(entry.body["trigger"], [held["hold"] for held in entry.body["held_by"]]) for entry in suppressed] == [
        ("performance", ["cooldown", "new_labels"])
    ]
    shown = CliRunner().invoke(app, ["status", PROJECT])
    assert "no retrain for performance: held back by the cool-down" in " ".join(shown.output.split())
    assert views.status(PROJECT)["suppressed"][0]["trigger"] == "performance"


def test_of_many_that_start_at_once_one_wins(ledger: Any) -> None:
    def start(number: int) -> str:
        try:
            _begin(f"run{number}")
        except triggering.RetrainHeldError:
            return "held"
        return "started"

    with ThreadPoolExecutor(4) as pool:
        found = sorted(pool.map(start, range(4)))
    assert found == ["held", "held", "held", "started"]
    assert len(ledger.entries(project=PROJECT, kinds=("trigger",))) == 1


def test_a_person_goes_past_the_cool_down_and_the_ledger_says_so(ledger: Any) -> None:
    _begin("run1")
    with pytest.raises(triggering.RetrainHeldError):
        _begin("run2", "schedule")
    _begin("run3", "schedule", insists=True)
    _begin("run4", "manual")
    overridden = [entry.body["overridden"] for entry in ledger.entries(project=PROJECT, kinds=("trigger",))]
    assert [[held["hold"] for held in each] for each in overridden] == [
        [],
        ["cooldown", "new_labels"],
        ["cooldown", "new_labels"],
    ]


def test_an_alert_goes_past_the_cool_down_once_a_day(ledger: Any) -> None:
    _begin("run1")
    asked = triggering.request_retrain(PROJECT, "alert", "the score is stuck", AS_OF, by="alertmanager")
    assert asked["due"]
    assert asked["why"].startswith("goes past the cool-down")
    _begin("run2", "alert")
    again = triggering.request_retrain(PROJECT, "alert", "the score is stuck", AS_OF, by="alertmanager")
    assert not again["due"]
    assert again["conf"] == {}
    assert "0 days since the last retrain for alert" in again["why"]


def test_new_labels_are_those_known_as_of_the_day(ledger: Any) -> None:
    found = find_project(PROJECT)
    everything = triggering.count_new_labels(found, None, date(2024, 4, 21))
    assert everything > triggering.count_new_labels(found, date(2024, 1, 1), date(2024, 4, 21)) > 0
    assert triggering.count_new_labels(found, date(2024, 4, 21), date(2024, 4, 21)) == 0


def test_what_is_no_trigger_or_no_project_is_refused(ledger: Any) -> None:
    with pytest.raises(ValueError, match="found 'whim', expected one of schedule"):
        triggering.request_retrain(PROJECT, "whim", "", AS_OF)
    with pytest.raises(LookupError, match="no project 'nowhere'"):
        triggering.request_retrain("nowhere", "alert", "", AS_OF)
    assert ledger.entries() == []


def test_the_command_line_asks_the_policy_too(ledger: Any) -> None:
    _begin("run1")
    refused = CliRunner().invoke(app, ["retrain", PROJECT, "--as-of", AS_OF, "--trigger", "drift"])
    assert refused.exit_code == 2
    assert "held back by the cool-down" in " ".join(refused.output.split())
