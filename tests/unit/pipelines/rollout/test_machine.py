from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from contracts.slots import Observation, ShadowCounts, SlotCounts, Tripped
from pipelines.rollout.machine import (
    Aborted,
    Drop,
    Event,
    Load,
    Loaded,
    LoadRefused,
    Looked,
    Offer,
    Offered,
    Promote,
    PromotionDone,
    PromotionRefused,
    RenewLease,
    SetShare,
    ShareRefused,
    State,
    Unreachable,
    decide,
    fold,
)
from pipelines.rollout.plan import Plan, ShadowStep, Step
from pipelines.rollout.story import lengthen, shorten

PLAN = Plan(
    shadow=ShadowStep(minimum_pairs=10, minimum_s=0, maximum_s=30),
    steps=tuple(Step(share=share, minimum_requests=5, minimum_s=0, maximum_s=30) for share in (0.1, 0.5, 1.0)),
    error_rate_margin=None,
)
OFFER = Offer(rollout="r", project="p", version="2", bundle="b", path="/b", expected_champion="1")
OFFERED = Offered(offer=OFFER, plan=PLAN, at_s=0)


def look(
    at_s: float,
    *,
    n: int = 0,
    share: float = 0.1,
    shadow: bool = False,
    champion: str | None = "1",
    challenger: str | None = "2",
    rollout: str | None = "r",
    tripped: Tripped | None = None,
    errors: int = 0,
) -> Looked:
    """A look at which each slot has counted `n` requests, and the shadow as many pairs."""
    observation = Observation(
        server="s",
        clock_s=at_s,
        rollout=rollout,
        share=share,
        shadow=shadow,
        lease_left_s=9,
        champion=None if champion is None else SlotCounts(version=champion, requests=n),
        challenger=None if challenger is None else SlotCounts(version=challenger, requests=n, errors=errors),
        shadowed=ShadowCounts(pairs=n),
        tripped=tripped,
    )
    return Looked(observation=observation, at_s=at_s)


def stepping() -> State:
    """A rollout in its first step, with one look done."""
    state, actions = fold([OFFERED, Loaded(at_s=1), look(2, shadow=True, share=0), look(3, n=10, share=0)])
    assert actions == (SetShare(share=0.1, shadow=False, lease_s=15),)
    assert state.phase_label == "10 %"
    return state


def promoting() -> State:
    state = decide(decide(decide(stepping(), look(4, n=20))[0], look(5, n=30, share=0.5))[0], look(6, n=40, share=1))[0]
    assert state.phase == "promoting"
    return state


def test_the_shadow_gets_the_sample_that_the_plan_says_and_a_step_none() -> None:
    plan = Plan(shadow=ShadowStep(minimum_pairs=1, minimum_s=0, sample=0.2))
    state, _ = decide(State(), Offered(offer=OFFER, plan=plan, at_s=0.0))
    _, actions = decide(state, Loaded(at_s=1.0))
    assert actions == (SetShare(share=0, shadow=True, lease_s=15, sample=0.2),)


def test_a_rollout_goes_from_the_shadow_through_each_share_to_the_promotion() -> None:
    events: list[Event] = [OFFERED, Loaded(at_s=1), look(2), look(3, n=10), look(4, n=20), look(5, n=30), look(6, n=40)]
    state, done = State(), []
    for event in [*events, PromotionDone(at_s=7)]:
        state, actions = decide(state, event)
        done.extend(actions)
    assert done == [
        Load(offer=OFFER, hard_limits=PLAN.hard_limits),
        SetShare(share=0, shadow=True, lease_s=15),
        SetShare(share=0, shadow=True, lease_s=15),  # the look found a share of 0.1 in force
        SetShare(share=0.1, shadow=False, lease_s=15),
        SetShare(share=0.5, shadow=False, lease_s=15),
        SetShare(share=1, shadow=False, lease_s=15),
        Promote(version="2", expected="1"),
    ]
    assert (state.phase, state.ended_s, [record.name for record in state.records]) == (
        "promoted", 7, ["shadow", "10 %", "50 %", "100 %"],
    )  # fmt: skip


def test_a_look_renews_the_lease() -> None:
    assert decide(stepping(), look(4, n=12))[1] == (RenewLease(lease_s=15),)


def test_a_share_that_is_not_in_force_is_set_again() -> None:
    assert decide(stepping(), look(4, n=12, share=0))[1] == (SetShare(share=0.1, shadow=False, lease_s=15),)


def test_a_tripped_challenger_is_rolled_back_with_the_servers_reason() -> None:
    tripped = Tripped(cause="hard_limit", reason="5 errors in the last 9 challenger requests")
    state, actions = decide(stepping(), look(4, n=19, errors=5, tripped=tripped, share=0))
    assert (state.phase, state.reason, state.tripped) == ("rolled_back", tripped.reason, tripped)
    assert actions == (Drop(reason=tripped.reason),)
    assert (state.records[-1].verdict, state.records[-1].challenger_requests) == ("rollback", 9)


@pytest.mark.parametrize(
    ("event", "reason"),
    [
        (look(4, rollout=None, challenger=None), "the server holds no rollout, expected r"),
        (look(4, rollout="other"), "the server holds rollout other, expected r"),
        (look(4, champion="7"), "the champion is version 7, this rollout compares with 1"),
        (look(4, champion=None), "the champion is version None"),
        (look(4, challenger="3"), "the challenger is version 3, expected 2"),
        (look(99), "too little traffic to judge by"),
        (ShareRefused(reason="no", at_s=4), "the server refused the share: no"),
        (Aborted(reason="freeze", by="ada", at_s=4), "aborted by ada: freeze"),
    ],
)
def test_what_ends_a_step_drops_the_challenger_and_says_why(event: Event, reason: str) -> None:
    state, actions = decide(stepping(), event)
    assert state.phase == "rolled_back"
    assert reason in state.reason
    assert actions == (Drop(reason=state.reason),)


def test_a_load_that_is_refused_ends_the_rollout_without_traffic() -> None:
    state, actions = fold([OFFERED, LoadRefused(reason="golden rows differ", at_s=1)])
    assert (state.phase, state.reason) == ("refused", "the server refused version 2: golden rows differ")
    assert actions == (Drop(reason=state.reason),)


def test_the_champion_itself_is_refused() -> None:
    state, _ = decide(State(), Offered(offer=msgspec.structs.replace(OFFER, version="1"), plan=PLAN, at_s=0))
    assert (state.phase, state.reason) == ("refused", "version 1 is the champion already")


FIRST = msgspec.structs.replace(OFFER, expected_champion=None)


def test_the_first_version_is_promoted_without_shadow_and_steps() -> None:
    state, actions = fold([Offered(offer=FIRST, plan=PLAN, at_s=0), Loaded(at_s=1)])
    assert (state.phase, actions) == ("promoting", (Promote(version="2", expected=None),))
    assert decide(state, PromotionDone(at_s=2))[0].reason == "the first champion of the project"


def test_a_plan_without_bootstrap_refuses_the_first_version() -> None:
    state, _ = decide(State(), Offered(offer=FIRST, plan=Plan(bootstrap=False), at_s=0))
    assert state.phase == "refused"
    assert "bootstrap is off" in state.reason


def test_a_plan_without_shadow_begins_with_its_first_step() -> None:
    plan = msgspec.structs.replace(PLAN, shadow=None)
    _, actions = fold([Offered(offer=OFFER, plan=plan, at_s=0), Loaded(at_s=1)])
    assert actions == (SetShare(share=0.1, shadow=False, lease_s=15),)


def test_an_action_that_was_lost_in_a_silence_is_repeated_by_the_next_look() -> None:
    state, actions = fold([OFFERED, Unreachable(reason="refused", at_s=1), look(2, rollout=None, challenger=None)])
    assert (state.phase, actions) == ("loading", (Load(offer=OFFER, hard_limits=PLAN.hard_limits),))
    state, actions = decide(decide(promoting(), Unreachable(reason="refused", at_s=7))[0], look(8, n=50))
    assert (state.phase, actions) == ("promoting", (Promote(version="2", expected="1"),))


def test_a_silence_is_borne_for_as_long_as_the_plan_says() -> None:
    state = decide(stepping(), Unreachable(reason="refused", at_s=10))[0]
    assert decide(state, Unreachable(reason="refused", at_s=69))[0].phase == "step"
    ended = decide(state, Unreachable(reason="refused", at_s=70))[0]
    assert (ended.phase, "unreachable for 60 s" in ended.reason) == ("rolled_back", True)
    heard = decide(state, look(20, n=12))[0]
    assert decide(heard, Unreachable(reason="refused", at_s=70))[0].phase == "step"


def test_a_promotion_is_not_given_up_for_a_silence_or_an_abort() -> None:
    state = promoting()
    for event in (
        Unreachable(reason="x", at_s=7),
        Unreachable(reason="x", at_s=999),
        Aborted(reason="", by="", at_s=1000),
    ):
        state, actions = decide(state, event)
        assert (state.phase, actions) == ("promoting", ())


def test_a_lease_that_ran_out_at_the_promotion_does_not_undo_it_and_a_hard_limit_does() -> None:
    lease = Tripped(cause="lease", reason="the lease ran out")
    assert decide(promoting(), look(7, tripped=lease))[1] == (Promote(version="2", expected="1"),)
    hard = Tripped(cause="hard_limit", reason="5 errors")
    state, actions = decide(promoting(), look(7, tripped=hard))
    assert (state.phase, actions) == ("rolled_back", (Drop(reason="5 errors"),))


def test_a_promotion_that_is_refused_is_a_rollback() -> None:
    state, actions = decide(promoting(), PromotionRefused(reason="the champion is 9", at_s=7))
    assert (state.phase, state.reason) == ("rolled_back", "the promotion was refused: the champion is 9")
    assert actions == (Drop(reason=state.reason),)


def test_a_rollout_that_has_ended_hears_nothing_more() -> None:
    ended = decide(promoting(), PromotionDone(at_s=7))[0]
    for event in (OFFERED, look(8), Aborted(reason="", by="", at_s=9), PromotionDone(at_s=9)):
        assert decide(ended, event) == (ended, ())


EVENTS: list[Event] = [
    OFFERED,
    Loaded(at_s=1),
    look(2, n=3),
    look(3, n=20, shadow=True, share=0),
    look(3, n=9, errors=9, tripped=Tripped(cause="lease", reason="late")),
    LoadRefused(reason="no", at_s=1),
    ShareRefused(reason="no", at_s=1),
    Unreachable(reason="x", at_s=5),
    PromotionDone(at_s=6),
    PromotionRefused(reason="x", at_s=6),
    Aborted(reason="freeze", by="ada", at_s=6),
]


@pytest.mark.parametrize("event", EVENTS, ids=lambda event: type(event).__name__)
def test_an_event_is_the_same_after_a_trip_through_the_ledger(event: Event) -> None:
    assert lengthen(msgspec.json.decode(msgspec.json.encode(shorten(event)))) == event


def test_an_event_of_an_earlier_release_is_read_without_what_it_did_not_have() -> None:
    body = shorten(look(3, n=20, shadow=True, share=0))
    del body["observation"]["shadowed"]["champion_latency"]
    assert lengthen(body) == look(3, n=20, shadow=True, share=0)


def test_a_state_is_the_same_after_a_trip_through_json() -> None:
    state = promoting()
    assert msgspec.json.decode(msgspec.json.encode(state), type=State) == state


@st.composite
def event_strategies(draw: st.DrawFn) -> Event:
    at_s = draw(st.integers(0, 300))
    kind = draw(st.sampled_from(["look", "look", "look", "look", "loaded", "done", "other"]))
    if kind == "loaded":
        return Loaded(at_s=at_s)
    if kind == "done":
        return PromotionDone(at_s=at_s)
    if kind == "look":
        n = draw(st.integers(0, 200))
        options: dict[str, Any] = {
            "n": n,
            "share": draw(st.sampled_from([0, 0.1, 0.5, 1])),
            "errors": draw(st.sampled_from([0, 0, 0, n // 2])),
        }
        if draw(st.integers(0, 9)) == 0:
            options |= draw(
                st.sampled_from(
                    [
                        {"champion": None},
                        {"champion": "2"},
                        {"rollout": None, "challenger": None},
                        {"challenger": "3"},
                        {"tripped": Tripped(cause="lease", reason="late")},
                        {"tripped": Tripped(cause="hard_limit", reason="errors")},
                    ]
                )
            )
        return look(at_s, **options)
    return draw(
        st.sampled_from(
            [
                OFFERED,
                LoadRefused(reason="no", at_s=at_s),
                ShareRefused(reason="no", at_s=at_s),
                Unreachable(reason="x", at_s=at_s),
                PromotionRefused(reason="x", at_s=at_s),
                Aborted(reason="freeze", by="ada", at_s=at_s),
            ]
        )
    )


@settings(max_examples=300, deadline=None)
@given(st.lists(event_strategies(), max_size=30))
def test_whatever_happens_shares_keep_to_the_plan_and_nothing_follows_the_end(events: list[Event]) -> None:
    state, shares, ends = State(), [0.0], 0
    planned = {0.0, *(step.share for step in PLAN.steps)}
    for event in [OFFERED, *events]:
        before = state
        state, actions = decide(state, event)
        for action in actions:
            assert not before.is_final, "an ended rollout does nothing"
            if isinstance(action, SetShare):
                assert action.lease_s > 0, "no share without a lease"
                assert action.share in planned
                assert action.share >= shares[-1], "shares only grow"
                assert action.shadow == (action.share == 0)
                shares.append(action.share)
            if isinstance(action, Promote):
                assert state.phase == "promoting"
                assert shares[-1] == 1, "no promotion before all traffic was judged"
        if state.is_final and not before.is_final:
            ends += 1
            assert (actions == ()) == (state.phase == "promoted"), "every other end drops the challenger"
            assert isinstance(event, PromotionDone) or state.phase != "promoted"
    assert ends <= 1, "never two promotions"
    assert fold([OFFERED, *events])[0] == state, "the same events replay to the same decisions"


@settings(max_examples=100, deadline=None)
@given(st.lists(event_strategies(), max_size=15), st.integers(0, 3))
def test_every_path_ends_when_looks_go_on(events: list[Event], requests_a_look: int) -> None:
    state, _ = fold([OFFERED, *events])
    at_s, n = 301.0, 1000
    for _ in range(400):
        if state.is_final:
            return
        at_s, n = at_s + 1, n + requests_a_look
        event: Event = look(at_s, n=n)
        if state.phase == "loading":
            event = Loaded(at_s=at_s)
        elif state.phase == "promoting":
            event = PromotionDone(at_s=at_s)
        state, _ = decide(state, event)
    pytest.fail(f"still in the phase {state.phase_label} after 400 looks")
