from collections.abc import Iterator
from pathlib import Path

import pytest

from pipelines.ledger import Ledger
from pipelines.tasks import commanding
from pipelines.tasks.commanding import CommandRefusedError
from pipelines.views import RolloutWatch
from pipelines.wiring import open_ledger
from tests.fixtures.rollouts import ASKING, PROJECT, ROLLOUT, open_offer, run_until, running


@pytest.fixture
def ledger(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Ledger]:
    monkeypatch.setenv("PACELINE_HOME", str(tmp_path))
    monkeypatch.delenv("PACELINE_LEDGER_URL", raising=False)
    with open_ledger() as opened:
        yield opened


def test_a_command_is_an_entry_that_says_who_and_why_and_what_was_seen(ledger: Ledger) -> None:
    run_until(ledger, looks=5)
    said = commanding.command(PROJECT, "pause", by=" ann ", reason=" the weather ", phase="20 %")
    entry = ledger.entries(kinds=("rollout.command",))[-1]
    assert (entry.project, entry.subject, entry.id) == (PROJECT, ROLLOUT, said["entry"])
    assert entry.body == {"command": "pause", "by": "ann", "reason": "the weather", "phase": "20 %"}
    assert said["answer"] is None


def test_nothing_is_written_where_no_rollout_runs(ledger: Ledger) -> None:
    open_offer(ledger)  # offered, and not begun
    with pytest.raises(LookupError, match="no rollout of flight_delay runs, nothing to abort"):
        commanding.command(PROJECT, "abort", by="ann", reason="too late")
    with pytest.raises(LookupError, match="no project 'flights'"):
        commanding.command("flights", "abort", by="ann", reason="too late")
    assert ledger.entries(kinds=("rollout.command",)) == []


def test_a_rollout_that_has_ended_takes_no_command(ledger: Ledger) -> None:
    run_until(ledger, looks=1000)
    assert [entry.body["state"] for entry in ledger.entries(subject=ROLLOUT, kinds=("rollout.promoted",))] == [
        "promoted"
    ]
    with pytest.raises(LookupError, match="no rollout of flight_delay runs"):
        commanding.command(PROJECT, "abort", by="ann", reason="too late")


@pytest.mark.parametrize(
    ("name", "phase", "why"),
    [
        ("approve", None, "nothing is asked"),
        ("resume", None, "not paused"),
        ("advance", "shadow", "meant for `shadow`, the rollout is in `20 %` now"),
    ],
)
def test_what_makes_no_sense_now_is_refused_before_it_is_written(
    ledger: Ledger, name: str, phase: str | None, why: str
) -> None:
    run_until(ledger, looks=5)
    with pytest.raises(CommandRefusedError, match=f"{ROLLOUT} cannot {name} now: .*{why}"):
        commanding.command(PROJECT, name, by="ann", reason="why not", phase=phase)
    assert ledger.entries(kinds=("rollout.command",)) == []


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"name": "stop"}, "no command 'stop'; there are: pause, resume"),
        ({"by": " "}, "a command says by"),
        ({"reason": ""}, "a command says reason"),
        ({"reason": "x" * 1001}, "at most 1000 characters, found 1001"),
        ({"wait_s": 301.0}, "between 0 and 300, found 301"),
        ({"name": "share"}, "the command share says which"),
        ({"name": "share", "share": 0.0}, "share lies between 0.0001 and 1, found 0"),
        ({"share": 0.1}, "no other does; found abort of 0.1"),
    ],
)
def test_a_command_that_says_too_little_or_too_much_is_an_error(
    ledger: Ledger, change: dict[str, object], why: str
) -> None:
    asked = {"name": "abort", "by": "ann", "reason": "it is bad", "wait_s": 0.0, **change}
    with pytest.raises(ValueError, match=why):
        commanding.command(PROJECT, **asked)  # type: ignore[arg-type]


def test_who_waits_hears_that_it_was_obeyed(ledger: Ledger) -> None:
    with running(ledger) as rollout:
        said = commanding.command(PROJECT, "resume", by="ann", reason="looked at it", wait_s=30)
        assert (said["answer"], said["why"]) == ("obeyed", "looked at it")
        rollout.join(60)  # it goes to its end
    assert ledger.champion(PROJECT).version == "2"  # type: ignore[union-attr]


def test_a_paused_rollout_is_held_at_a_smaller_share_and_has_the_plans_again_when_it_is_resumed(ledger: Ledger) -> None:
    with running(ledger) as rollout:
        said = commanding.command(PROJECT, "share", by="ann", reason="few servers", share=0.07, wait_s=30)
        assert (said["answer"], said["share"]) == ("obeyed", 0.07)
        assert ledger.entries(kinds=("rollout.command",))[-1].body["share"] == 0.07
        told = RolloutWatch().rollouts(PROJECT)["rollout"]
        assert (told["phase"], told["share"], told["paused"], told["refusals"]["share"]) == ("20 %", 0.07, True, None)
        assert told["told"][0]["what"] == "share 7 % by ann: obeyed"
        with pytest.raises(CommandRefusedError, match=r"a share of 0\.2 at most"):
            commanding.command(PROJECT, "share", by="ann", reason="more", share=0.5)
        commanding.command(PROJECT, "resume", by="ann", reason="enough servers", wait_s=30)
        rollout.join(60)
    assert ledger.champion(PROJECT).version == "2"  # type: ignore[union-attr]


def test_an_abort_ends_a_paused_rollout(ledger: Ledger) -> None:
    with running(ledger) as rollout:
        assert commanding.command(PROJECT, "abort", by="ann", reason="not today", wait_s=30)["answer"] == "obeyed"
        rollout.join(30)
    outcome = ledger.entries(subject=ROLLOUT, kinds=("rollout.rolled_back",))[-1].body
    assert outcome["reason"] == "aborted by ann: not today"
    assert ledger.champion(PROJECT).version == "1"  # type: ignore[union-attr]


def test_an_approval_is_a_command_like_the_others(ledger: Ledger) -> None:
    with running(ledger, ASKING, pause_at=10) as rollout:
        question = ledger.entries(kinds=("rollout.question",))[-1].body
        with pytest.raises(CommandRefusedError, match="meant for `20 %`"):
            commanding.command(PROJECT, "approve", by="ann", reason="good", phase="20 %")
        said = commanding.command(PROJECT, "approve", by="ann", reason="good", phase=question["phase"], wait_s=30)
        assert (said["answer"], said["phase"]) == ("obeyed", "approval of the first step")
        rollout.join(60)
    assert ledger.champion(PROJECT).version == "2"  # type: ignore[union-attr]
