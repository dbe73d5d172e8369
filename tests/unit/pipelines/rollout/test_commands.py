import asyncio
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from contracts.slots import Observation
from pipelines.ledger import Ledger
from pipelines.rollout.commands import refusal
from pipelines.rollout.controller import Outcome, run_rollout
from pipelines.rollout.events import Command, Commanded, Event, Loaded, PromotionDone, RenewLease, SetShare
from pipelines.rollout.machine import Drop, Promote, State, decide, fold
from pipelines.rollout.plan import Approvals, Holdout, Plan
from pipelines.rollout.state import TRANSITIONS
from pipelines.rollout.story import COMMAND, QUESTION
from tests.fixtures.platforms import SimulatedClock, SimulatedPlatform
from tests.unit.pipelines.rollout.test_controller import OFFER as FLIGHTS
from tests.unit.pipelines.rollout.test_controller import PLAN as QUICK
from tests.unit.pipelines.rollout.test_machine import (
    FIRST,
    OFFER,
    OFFERED,
    PLAN,
    Offered,
    event_strategies,
    look,
    promoting,
    stepping,
)

NAMES = ("pause", "resume", "advance", "share", "abort", "rollback", "approve", "reject")
BOTH = Approvals(before_first_step=True, before_full=True, timeout_s=100)


def commanded(
    name: str, at_s: float = 10, entry: int = 1, phase: str | None = None, share: float | None = None
) -> Commanded:
    body = {"command": name, "by": "ada", "reason": "I say so", "phase": phase, "share": share}
    command = msgspec.convert(body, Command)
    return Commanded(entry=entry, command=command, at_s=at_s)


def asking(plan: Plan = PLAN, approvals: Approvals = BOTH) -> State:
    """A rollout whose shadow has ended well, and that asks before its first step."""
    plan = msgspec.structs.replace(plan, approvals=approvals)
    state, actions = fold([Offered(offer=OFFER, plan=plan, at_s=0), Loaded(at_s=1), look(2, shadow=True, share=0)])
    state, actions = decide(state, look(3, n=10, share=0, shadow=True))
    assert (state.phase, state.phase_label) == ("approval", "approval of the first step")
    assert actions == (SetShare(share=0, shadow=True, lease_s=15),)
    return state


def test_a_paused_rollout_keeps_its_share_and_its_lease_and_goes_nowhere() -> None:
    state, _ = decide(stepping(), commanded("pause", 4))
    for at_s in (5, 25, 90):
        state, actions = decide(state, look(at_s, n=1000 + int(at_s)))
        assert (state.phase_label, actions) == ("10 %", (RenewLease(lease_s=15),))


def test_a_paused_rollout_is_rolled_back_all_the_same() -> None:
    state, _ = decide(stepping(), commanded("pause", 4))
    state = decide(state, look(5, n=20))[0]
    ended, actions = decide(state, look(6, champion="7"))
    assert (ended.phase, actions) == ("rolled_back", (Drop(reason=ended.reason),))


def test_a_pause_is_no_time_of_its_step() -> None:
    state, _ = decide(stepping(), commanded("pause", 13))
    state, _ = decide(state, commanded("resume", 1000, entry=2))
    assert state.seconds(1005) == 15, "10 s before the pause, 5 s after it"
    assert decide(state, look(1006, n=11))[0].phase == "step"


def test_a_pause_that_nobody_ends_is_a_rollback() -> None:
    state = decide(stepping(), commanded("pause", 4))[0]
    ended = decide(state, look(4 + PLAN.maximum_pause_s, n=12))[0]
    assert (ended.phase, ended.reason) == ("rolled_back", "paused for 86400 s, at most 86400 s")


def test_a_person_may_hold_a_step_smaller_and_it_stays_there_until_resume() -> None:
    state, actions = decide(stepping(), commanded("share", 13, share=0.03))
    assert actions == (SetShare(share=0.03, shadow=False, lease_s=15),)
    for at_s in (14, 60, 900):
        state, actions = decide(state, look(at_s, n=1000 + at_s, share=0.03))
        assert (state.phase_label, actions) == ("10 %", (RenewLease(lease_s=15),))
    state, actions = decide(state, commanded("resume", 1000, entry=2))
    assert actions == (SetShare(share=0.1, shadow=False, lease_s=15),)
    assert state.seconds(1005) == 15, "10 s before it was held, 5 s after"
    _, actions = decide(state, look(1006, n=5000))
    assert actions == (SetShare(share=0.5, shadow=False, lease_s=15),), "the next step has the plan's share"


def test_a_held_share_that_was_lost_is_set_again_and_never_the_plans() -> None:
    state = decide(stepping(), commanded("share", 4, share=0.03))[0]
    assert decide(state, look(5, n=12))[1] == (SetShare(share=0.03, shadow=False, lease_s=15),)


def test_a_held_rollout_is_rolled_back_all_the_same_and_when_nobody_resumes_it() -> None:
    state = decide(stepping(), commanded("share", 4, share=0.03))[0]
    assert decide(state, look(6, champion="7", share=0.03))[0].phase == "rolled_back"
    smaller = decide(state, commanded("share", 80000, entry=2, share=0.02))[0]
    assert smaller.share == 0.02
    ended = decide(smaller, look(4 + PLAN.maximum_pause_s, n=12, share=0.02))[0]
    assert (ended.phase, ended.reason) == ("rolled_back", "paused for 86400 s, at most 86400 s")


def test_beside_a_holdout_no_more_may_be_held_than_it_leaves() -> None:
    plan = msgspec.structs.replace(PLAN, shadow=None, steps=PLAN.steps[2:], holdout=Holdout(share=0.05))
    state, _ = fold([Offered(offer=OFFER, plan=plan, at_s=0), Loaded(at_s=1)])
    assert "a share of 0.95 at most" in str(refusal(state, commanded("share", share=0.97).command))
    assert decide(state, commanded("share", share=0.9))[0].share == 0.9


def test_a_person_may_advance_a_step_and_the_record_says_who() -> None:
    state = decide(stepping(), look(4, n=12))[0]
    state, actions = decide(state, commanded("advance", 5, phase="10 %"))
    assert actions == (SetShare(share=0.5, shadow=False, lease_s=15),)
    assert state.records[-1].reason == "advanced by ada: I say so"


@pytest.mark.parametrize("name", ["abort", "rollback", "reject"])
def test_what_ends_a_rollout_says_who_and_why(name: str) -> None:
    state, actions = decide(asking(), commanded(name))
    verb = {"abort": "aborted", "rollback": "rolled back", "reject": "rejected"}[name]
    assert (state.phase, state.reason) == ("rolled_back", f"{verb} by ada: I say so")
    assert actions == (Drop(reason=state.reason),)


def test_a_person_is_asked_before_the_first_step_and_before_everybody_gets_it() -> None:
    state, actions = decide(asking(), commanded("approve", phase="approval of the first step"))
    assert (state.phase_label, actions) == ("10 %", (SetShare(share=0.1, shadow=False, lease_s=15),))
    state = decide(state, look(11, n=30))[0]
    assert state.phase_label == "50 %"
    state, actions = decide(state, look(13, n=60, share=0.5))
    assert (state.phase_label, actions) == ("approval of 100 %", (SetShare(share=0.5, shadow=False, lease_s=15),))
    state, actions = decide(state, commanded("approve", 20, entry=2))
    assert (state.phase_label, actions) == ("100 %", (SetShare(share=1, shadow=False, lease_s=15),))


def test_the_first_champion_of_a_project_is_asked_about_too() -> None:
    plan = msgspec.structs.replace(PLAN, approvals=Approvals(before_full=True))
    state, actions = fold([Offered(offer=FIRST, plan=plan, at_s=0), Loaded(at_s=1)])
    assert (state.phase, actions) == ("approval", ())
    state, actions = decide(state, look(2, champion=None, share=0))
    assert (state.phase, actions) == ("approval", ())
    state, actions = decide(state, commanded("approve"))
    assert (state.phase, actions) == ("promoting", (Promote(version="2", expected=None),))


@pytest.mark.parametrize(("default", "phase"), [("approve", "step"), ("reject", "rolled_back")])
def test_without_an_answer_the_plans_default_counts(default: Any, phase: str) -> None:
    state = asking(approvals=msgspec.structs.replace(BOTH, on_timeout=default))
    waiting = decide(state, look(102, n=12, share=0, shadow=True))[0]
    assert waiting.phase == "approval"
    answered = decide(waiting, look(103, n=13, share=0, shadow=True))[0]
    assert (answered.phase, "nobody answered the approval of the first step in 100 s" in answered.reason) == (
        phase,
        True,
    )


@pytest.mark.parametrize(
    ("state", "name", "phase", "why"),
    [
        (State(), "pause", None, "has not begun"),
        (fold([OFFERED])[0], "pause", None, "is being loaded"),
        (stepping(), "resume", None, "is not paused"),
        (stepping(), "approve", None, "nothing is asked in `10 %`"),
        (stepping(), "advance", "5 %", "was meant for `5 %`, the rollout is in `10 %` now"),
        (stepping(), "advance", "10 %", "has answered nothing in `10 %` yet"),
        (decide(stepping(), commanded("pause", 4))[0], "pause", None, "is paused already"),
        (decide(stepping(), commanded("pause", 4))[0], "advance", None, "resume it first"),
        (asking(), "pause", None, "waits for the approval of the first step"),
        (promoting(), "abort", None, "`paceline rollback` puts the old champion back"),
        (decide(promoting(), PromotionDone(at_s=9))[0], "abort", None, "it was promoted"),
    ],
)
def test_what_makes_no_sense_is_refused_with_what_to_do(state: State, name: str, phase: str | None, why: str) -> None:
    event = commanded(name, entry=99, phase=phase)
    assert why in str(refusal(state, event.command))
    after, actions = decide(state, event)
    assert (after.phase, actions) == (state.phase, ())
    if state.offer is not None and not state.is_final:
        assert (after.answers[-1].obeyed, after.answers[-1].entry) == (False, 99)


def test_a_command_is_obeyed_once() -> None:
    state = decide(stepping(), look(4, n=12))[0]
    once = decide(state, commanded("advance", 5, entry=7))[0]
    assert decide(once, commanded("advance", 6, entry=7)) == (once, ())


@pytest.mark.parametrize(
    ("state", "share", "why"),
    [
        (stepping(), 0.2, "the plan gives `10 %` a share of 0.1 at most: `advance` goes on to a larger one"),
        (stepping(), 0.1, "a share of 0.1 is in force already"),
        (decide(stepping(), commanded("share", 4, share=0.05))[0], 0.05, "a share of 0.05 is in force already"),
        (decide(stepping(), commanded("share", 4, share=0.05))[0], 0.1, "`resume` gives it again"),
        (fold([OFFERED, Loaded(at_s=1)])[0], 0.05, "held smaller in a step, the rollout is in `shadow`"),
        (asking(), 0.05, "waits for the approval of the first step"),
        (promoting(), 0.05, "is being promoted"),
    ],
)
def test_a_share_that_the_plan_does_not_give_is_refused_with_what_to_do(state: State, share: float, why: str) -> None:
    event = commanded("share", entry=99, share=share)
    assert why in str(refusal(state, event.command))
    after, actions = decide(state, event)
    assert (after.share, after.paused_since_s, actions) == (state.share, state.paused_since_s, ())
    assert (after.answers[-1].obeyed, after.answers[-1].entry) == (False, 99)


@pytest.mark.parametrize(
    ("name", "share", "why"),
    [
        ("share", None, "says which"),
        ("pause", 0.1, "no other does"),
        ("share", 0.0, "between 0.0001 and 1, found 0"),
        ("share", 1.5, "between 0.0001 and 1, found 1.5"),
        ("share", float("nan"), "between 0.0001 and 1, found nan"),
    ],
)
def test_only_the_command_share_has_one_and_it_is_a_part_of_all(name: Any, share: float | None, why: str) -> None:
    with pytest.raises(ValueError, match=why):
        Command(command=name, by="ada", reason="I say so", share=share)


@pytest.mark.parametrize(("by", "reason"), [("", "why"), ("ada", " ")])
def test_a_command_names_a_person_and_a_reason(by: str, reason: str) -> None:
    with pytest.raises(ValueError, match="who wants it, and why"):
        Command(command="abort", by=by, reason=reason)


@st.composite
def wishes(draw: st.DrawFn) -> Event:
    if draw(st.booleans()):
        return draw(event_strategies())
    phase = draw(st.sampled_from([None, None, "shadow", "10 %", "approval of 100 %"]))
    name = draw(st.sampled_from(NAMES))
    share = draw(st.sampled_from([0.02, 0.1, 0.3, 0.5, 1.0])) if name == "share" else None
    return commanded(name, draw(st.integers(0, 300)), draw(st.integers(1, 60)), phase, share)


PLANS = [
    msgspec.structs.replace(PLAN, shadow=shadow, approvals=approvals)
    for shadow in (PLAN.shadow, None)
    for approvals in (Approvals(), BOTH, msgspec.structs.replace(BOTH, on_timeout="approve"))
]


@settings(max_examples=300, deadline=None)
@given(st.sampled_from(PLANS), st.lists(wishes(), max_size=40))
def test_whatever_is_wanted_shares_keep_to_the_plan_and_each_way_is_in_the_table(
    plan: Plan, events: list[Event]
) -> None:
    state, promoted, largest = State(), 0, 0.0
    ways = {(way.source, way.event, way.target) for way in TRANSITIONS}
    for event in [Offered(offer=OFFER, plan=plan, at_s=0), *events]:
        before, (state, actions) = state, decide(state, event)
        if before.phase != state.phase:
            assert (before.phase, type(event).__name__, state.phase) in ways
        for action in actions:
            if isinstance(action, SetShare):
                assert action.lease_s == plan.lease_s
                assert action.share <= state.planned_share in {0.0, *(step.share for step in plan.steps)}
                assert action.share == state.planned_share or state.paused_since_s is not None, "held by a person"
                assert state.planned_share >= largest or before.is_final
                largest = max(largest, state.planned_share)
            if isinstance(action, Promote):
                assert largest == 1, "no promotion before all traffic was judged"
                assert state.held_share is None
        promoted += state.phase == "promoted" != before.phase
        if before.phase == "approval" and state.phase in ("step", "promoting"):
            assert isinstance(event, Commanded) or plan.approvals.on_timeout == "approve"
    assert promoted <= 1


@settings(max_examples=100, deadline=None)
@given(st.sampled_from(PLANS), st.lists(wishes(), max_size=20), st.integers(0, 3))
def test_every_path_ends_whoever_has_paused_it_or_does_not_answer(
    plan: Plan, events: list[Event], requests_a_look: int
) -> None:
    plan = msgspec.structs.replace(plan, maximum_pause_s=50)
    state, _ = fold([Offered(offer=OFFER, plan=plan, at_s=0), *events])
    at_s, n = 301.0, 1000
    for _ in range(600):
        if state.is_final:
            return
        at_s, n = at_s + 1, n + requests_a_look
        event: Event = look(at_s, n=n)
        if state.phase == "loading":
            event = Loaded(at_s=at_s)
        elif state.phase == "promoting":
            event = PromotionDone(at_s=at_s)
        state, _ = decide(state, event)
    pytest.fail(f"still in the phase {state.phase_label} after 600 looks")


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[Ledger]:
    with Ledger.open(f"sqlite:///{tmp_path}/ledger.db") as ledger:
        ledger.swap_champion("flights", None, "1", "b1", "bootstrap", "the first")
        yield ledger


def run(ledger: Ledger, plan: Plan, on_look: Callable[[Observation], None]) -> Outcome:
    platform = SimulatedPlatform(SimulatedClock())
    clock = platform.clock
    return asyncio.run(run_rollout(platform, ledger, plan, FLIGHTS, clock=clock, sleep=clock.sleep, on_look=on_look))


def want(ledger: Ledger, name: str, key: str | None = None, **more: Any) -> None:
    body = {"command": name, "by": "ada", "reason": "I say so", "phase": None, **more}
    ledger.append("flights", COMMAND, FLIGHTS.rollout, body, key or name)


def test_a_running_rollout_obeys_the_ledger_and_says_so(ledger: Ledger) -> None:
    looks = 0

    def steer(observation: Observation) -> None:
        nonlocal looks
        looks += 1
        if looks == 2:
            want(ledger, "pause")
            want(ledger, "approve")
        if looks == 40:
            assert observation.share == 0.2, "paused since the second look, after which it had a share"
            want(ledger, "resume")

    outcome = run(ledger, QUICK, steer)
    assert (outcome.state, looks > 40) == ("promoted", True)
    answers = [(e.kind, e.body["command"]) for e in ledger.entries() if e.kind.startswith(f"{COMMAND}.")]
    obeyed, refused = f"{COMMAND}.obeyed", f"{COMMAND}.refused"
    assert answers == [(obeyed, "pause"), (refused, "approve"), (obeyed, "resume")]


def test_a_running_rollout_obeys_a_smaller_share_and_refuses_a_larger_one(ledger: Ledger) -> None:
    seen: list[float] = []

    def steer(observation: Observation) -> None:
        seen.append(observation.share)
        if len(seen) == 3:
            want(ledger, "share", "smaller", share=0.07)
            want(ledger, "share", "larger", share=0.9)
        if len(seen) == 40:
            want(ledger, "resume")

    assert run(ledger, QUICK, steer).state == "promoted"
    answers = [(e.kind, e.body["reason"]) for e in ledger.entries() if e.kind.startswith(f"{COMMAND}.")]
    assert [kind.rpartition(".")[2] for kind, _ in answers] == ["obeyed", "refused", "obeyed"]
    assert answers[1][1] == "the plan gives `20 %` a share of 0.2 at most: `advance` goes on to a larger one"
    assert set(seen[5:40]) == {0.07}, "held until it was resumed"
    assert seen[40] == 0.2, "the plan's again"
    assert seen[-1] == 1


def test_a_question_is_in_the_ledger_with_its_numbers_and_its_answer_goes_on(ledger: Ledger) -> None:
    plan = msgspec.structs.replace(QUICK, approvals=Approvals(before_full=True))

    def approve(_: Observation) -> None:
        for question in ledger.entries(kinds=[QUESTION]):
            assert question.body["evidence"]["name"] == "20 %"
            assert question.body["on_timeout"] == "reject"
            want(ledger, "approve")

    assert run(ledger, plan, approve).state == "promoted"
    assert len(ledger.entries(kinds=[QUESTION])) == 1


def test_an_entry_that_is_no_command_is_passed_over(ledger: Ledger) -> None:
    ledger.append("flights", COMMAND, FLIGHTS.rollout, {"command": "explode", "by": "eve", "reason": "?"})
    want(ledger, "abort")
    outcome = run(ledger, QUICK, lambda _: None)
    assert (outcome.state, outcome.reason) == ("rolled_back", "aborted by ada: I say so")
