from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from pipelines.ledger import Ledger
from pipelines.rollout.plan import Approvals
from pipelines.tasks import approving, commanding
from pipelines.wiring import open_ledger
from tests.fixtures.rollouts import ASKING, PLAN, PROJECT, ROLLOUT, run_until, running

HASTY = msgspec.structs.replace(PLAN, approvals=Approvals(before_first_step=True, timeout_s=5, on_timeout="approve"))


@pytest.fixture
def ledger(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Ledger]:
    monkeypatch.setenv("PACELINE_HOME", str(tmp_path))
    monkeypatch.delenv("PACELINE_LEDGER_URL", raising=False)
    with open_ledger() as opened:
        yield opened


def find() -> dict[str, Any]:
    found = approving.find_question(PROJECT, ROLLOUT, "first_step")
    assert found is not None
    return found


def test_a_question_is_found_once_it_is_asked(ledger: Ledger) -> None:
    run_until(ledger, looks=1, plan=ASKING)  # in the shadow
    assert approving.find_question(PROJECT, ROLLOUT, "first_step") is None


def test_a_question_is_told_with_the_comparison_it_rests_on(ledger: Ledger) -> None:
    ledger.append(PROJECT, "registered", "2", {"version": "2", "bundle": "b2"})
    gates = [{"name": "auc", "passed": True, "reason": "0.71 | 0.70"}]
    ledger.append(PROJECT, "gates", "b2", {"bundle": "b2", "gates": gates})
    run_until(ledger, looks=8, plan=ASKING)
    question = find()
    assert approving.question_subject(PROJECT, question) == ("flight_delay: may version 2 get its first live traffic?")
    text = approving.question_text(PROJECT, question)
    for part in ("**shadow** went on", "| errors in pairs |", "| auc | 0.71 \\| 0.70 |", "the plan says **reject**"):
        assert part in text
    (latency,) = (line for line in text.splitlines() if line.startswith("| slower in pairs |"))
    assert latency.endswith("| none |"), "what is not asked has no limit"
    assert approving.find_end(PROJECT, ROLLOUT, "first_step") is None


def test_an_answer_ends_the_question_wherever_it_came_from(ledger: Ledger) -> None:
    with running(ledger, ASKING, pause_at=10) as rollout:
        said = approving.answer(PROJECT, find(), approved=True, by="ann", reason="it is good")
        assert said["answer"] == "obeyed"
        assert approving.find_end(PROJECT, ROLLOUT, "first_step") == "approve by ann: it is good"
        rollout.join(60)
    late = approving.answer(PROJECT, find(), approved=False, by="bob", reason="too late")
    assert late["answer"] == "refused"
    assert "no rollout of flight_delay runs" in late["why"]
    assert ledger.champion(PROJECT).version == "2"  # type: ignore[union-attr]


def test_a_rejection_without_a_word_says_so_and_the_champion_stays(ledger: Ledger) -> None:
    with running(ledger, ASKING, pause_at=10) as rollout:
        approving.answer(PROJECT, find(), approved=False, by="ann", reason=" ")
        rollout.join(60)
    outcome = ledger.entries(subject=ROLLOUT, kinds=("rollout.rolled_back",))[-1].body
    assert outcome["reason"] == "rejected by ann: no reason given"


def test_an_answer_to_a_question_that_is_over_is_refused(ledger: Ledger) -> None:
    with running(ledger, ASKING, pause_at=10):
        question = find()
        commanding.command(PROJECT, "abort", by="ann", reason="not today", wait_s=30)
    said = approving.answer(PROJECT, question, approved=True, by="bob", reason="late")
    assert said["answer"] == "refused"
    assert approving.find_end(PROJECT, ROLLOUT, "first_step") == (
        "the rollout ended meanwhile, rolled_back: aborted by ann: not today"
    )


def test_the_plans_default_ends_the_question(ledger: Ledger) -> None:
    run_until(ledger, looks=1000, plan=HASTY)
    assert approving.find_end(PROJECT, ROLLOUT, "first_step") == (
        "nobody answered in 5 s: the plan approved, and 20 % began"
    )


def test_a_rollout_that_ends_without_asking_says_so(ledger: Ledger) -> None:
    run_until(ledger, looks=1000, plan=ASKING, error_rates={"2": 0.9})
    assert find() == {"ended": f"{ROLLOUT} was rolled_back and did not ask"}


def test_a_ledger_that_is_away_is_no_answer(ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PACELINE_LEDGER_URL", "sqlite:////dev/null/ledger.db")
    assert approving.find_question(PROJECT, ROLLOUT, "first_step") is None
    assert approving.find_end(PROJECT, ROLLOUT, "first_step") is None
