"""What went wrong in other controllers of rollouts, and must not here: each lesson is a sentence."""

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from contracts.slots import Observation, SlotCounts, Tripped
from contracts.strata import Stratum
from pipelines.rollout.events import CommandName
from pipelines.rollout.judge import Memory, judge_step, learn
from pipelines.rollout.machine import (
    Aborted,
    Command,
    Commanded,
    Drop,
    Event,
    Loaded,
    LoadRefused,
    Looked,
    Offer,
    Offered,
    Promote,
    PromotionDone,
    RenewLease,
    SetShare,
    ShareRefused,
    State,
    Unreachable,
    decide,
    fold,
)
from pipelines.rollout.plan import Approvals, Plan, ShadowStep, Step
from tests.fixtures.platforms import unit_counts

STEPS = tuple(
    Step(share=share, minimum_requests=50, minimum_s=0, maximum_s=60, on_timeout="advance") for share in (0.1, 0.5, 1.0)
)
PLAN = Plan(shadow=ShadowStep(minimum_pairs=10, minimum_s=0, maximum_s=60), steps=STEPS, error_rate_margin=None)
OFFER = Offer(rollout="r", project="p", version="2", bundle="b", path="/b", expected_champion="1")
OFFERED = Offered(offer=OFFER, plan=PLAN, at_s=0)
UNSHADOWED = Offered(offer=OFFER, plan=msgspec.structs.replace(PLAN, shadow=None), at_s=0)


def look(
    at_s: float, *, n: int = 0, champion_n: int | None = None, share: float = 0.1, strata: tuple[Stratum, ...] = ()
) -> Looked:
    observation = Observation(
        server="s",
        clock_s=at_s,
        rollout="r",
        share=share,
        shadow=False,
        lease_left_s=9,
        champion=SlotCounts(version="1", requests=n if champion_n is None else champion_n),
        challenger=SlotCounts(version="2", requests=n),
        shadowed=None,
        strata=strata,
    )
    return Looked(observation=observation, at_s=at_s)


def stratum(champion: str = "1", challenger: str = "2", rollout: str = "r") -> Stratum:
    return Stratum(
        number=1,
        closed_s=1,
        seconds=1,
        rollout=rollout,
        share=0.1,
        phase=1,
        champion=unit_counts(champion, 90),
        challenger=unit_counts(challenger, 10),
    )


def in_the_first_step(*more: Event) -> State:
    return fold([UNSHADOWED, Loaded(at_s=1), look(2), *more])[0]


ANY_EVENT = st.one_of(
    st.builds(Loaded, at_s=st.just(1.0)),
    st.builds(look, st.integers(0, 300), n=st.integers(0, 300), share=st.sampled_from([0, 0.1, 0.5, 1.0])),
    st.sampled_from(
        [
            LoadRefused(reason="no", at_s=1),
            ShareRefused(reason="no", at_s=1),
            Unreachable(reason="silent", at_s=1),
            PromotionDone(at_s=1),
            Aborted(reason="freeze", by="ada", at_s=1),
        ]
    ),
)


COMMANDS: tuple[CommandName, ...] = ("pause", "resume", "advance", "share", "approve", "reject", "abort", "rollback")


def wanted(entry: int, name: CommandName) -> Commanded:
    command = Command(command=name, by="ada", reason="so", share=0.05 if name == "share" else None)
    return Commanded(entry=entry, command=command, at_s=1.0)


ANY_COMMAND = st.builds(wanted, st.integers(1, 20), st.sampled_from(COMMANDS))


@settings(max_examples=200, deadline=None)
@given(st.sampled_from([OFFERED, UNSHADOWED]), st.lists(ANY_EVENT | ANY_COMMAND, max_size=15))
def test_a_share_goes_only_to_a_slot_that_is_ready(offered: Offered, events: list[Event]) -> None:
    state, is_ready = State(), False
    for event in [offered, *events]:
        is_ready |= isinstance(event, Loaded)
        state, actions = decide(state, event)
        gives = any(isinstance(action, SetShare | RenewLease | Promote) for action in actions)
        assert is_ready or not gives, "the server has not confirmed that it holds the challenger"


@settings(max_examples=200, deadline=None)
@given(st.lists(ANY_EVENT, max_size=30))
def test_the_champion_never_shrinks_before_the_challenger_is_proven(events: list[Event]) -> None:
    state = State()
    for event in [OFFERED, *events]:
        before = state
        state, actions = decide(state, event)
        for action in actions:
            wanted = action.share if isinstance(action, SetShare) else 1.0 if isinstance(action, Promote) else 0.0
            proven = [record.share for record in state.records if record.verdict == "advance"]
            # before the shadow has advanced there is no share; the n-th advance allows the share of step n, no more
            allowed = (0.0, *(step.share for step in STEPS), 1.0)[len(proven)]
            assert wanted <= allowed, f"{wanted:g} after the verdicts on {proven}"
        assert len(state.records) <= len(before.records) + 1, "one verdict a look"


def test_an_abort_is_final_and_idempotent() -> None:
    abort = Aborted(reason="freeze", by="ada", at_s=5)
    state, actions = decide(in_the_first_step(), abort)
    assert (state.phase, actions) == ("rolled_back", (Drop(reason="aborted by ada: freeze"),))
    for event in (abort, OFFERED, Loaded(at_s=6), look(6, n=900), PromotionDone(at_s=7), abort):
        assert decide(state, event) == (state, ())


@pytest.mark.parametrize("versions", [("1", "3"), ("3", "2"), ("2", "1")])
def test_samples_of_another_version_are_refused_by_the_verdict(versions: tuple[str, str]) -> None:
    state, actions = decide(in_the_first_step(), look(3, n=100, strata=(stratum(*versions),)))
    assert state.phase == "rolled_back"
    assert state.reason == f"a sample is of versions {versions[0]} and {versions[1]}, expected 1 and 2"
    assert actions == (Drop(reason=state.reason),)


def test_samples_of_the_rollout_before_are_not_counted() -> None:
    state, _ = decide(in_the_first_step(), look(3, n=10, strata=(stratum("1", "9", rollout="before"),)))
    assert state.phase == "step"
    assert state.memory is not None
    assert (state.memory.errors.n, state.memory.stratum) == (0, 0)
    state, _ = decide(state, look(4, n=20, strata=(stratum(),)))
    assert state.memory is not None
    assert (state.memory.errors.n, state.memory.errors.reference_n) == (10, 90)


@pytest.mark.parametrize("on_timeout", ["wait", "advance"])
@pytest.mark.parametrize("seconds", [1, 59, 61, 1e6])
def test_no_data_is_wait_and_never_advance(on_timeout: str, seconds: float) -> None:
    step = msgspec.structs.replace(STEPS[0], on_timeout=on_timeout)
    memory = learn(Memory.fresh(PLAN), look(0).observation, PLAN)
    for n, champion_n in ((0, 0), (0, 500), (500, 0)):
        seen = learn(memory, look(1, n=n, champion_n=champion_n).observation, PLAN)
        assert judge_step(seen, step, PLAN, seconds).verdict == "wait", (n, champion_n)


def test_some_data_advances_when_the_plan_says_so_and_the_time_has_passed() -> None:
    memory = learn(Memory.fresh(PLAN), look(0).observation, PLAN)
    seen = learn(memory, look(1, n=10).observation, PLAN)
    assert judge_step(seen, STEPS[0], PLAN, 59).verdict == "wait"
    assert judge_step(seen, STEPS[0], PLAN, 61).verdict == "advance"


def test_no_data_in_the_shadow_never_gives_a_share() -> None:
    state, actions = fold([OFFERED, Loaded(at_s=1), look(2), look(30), look(60), look(62)])
    assert (state.phase, [type(action) for action in actions]) == ("rolled_back", [Drop])
    assert "0 of 10 pairs" in state.reason


def waiting_for_a_person(question: str) -> State:
    """A rollout in its first step, paused, or asked whether it may have all traffic."""
    if question == "pause":
        pause = Command(command="pause", by="ada", reason="lunch")
        return in_the_first_step(Commanded(entry=1, command=pause, at_s=3))
    plan = msgspec.structs.replace(UNSHADOWED.plan, approvals=Approvals(before_full=True))
    offered = Offered(offer=OFFER, plan=plan, at_s=0)
    return fold([offered, Loaded(at_s=1), look(2), look(3, n=90), look(4, n=200, share=0.5)])[0]


@pytest.mark.parametrize("question", ["pause", "approval"])
def test_waiting_for_a_person_never_suspends_the_rollback(question: str) -> None:
    state = waiting_for_a_person(question)
    assert question in (state.phase, "pause")
    share = 0.1 if question == "pause" else 0.5
    tripped = msgspec.structs.replace(
        look(5, n=300).observation, tripped=Tripped(cause="hard_limit", reason="8 errors in 9 requests")
    )
    assert decide(state, Looked(observation=tripped, at_s=5))[0].phase == "rolled_back"
    n = round(200 * share)
    bad = msgspec.structs.replace(
        stratum(), share=share, champion=unit_counts("1", 200 - n), challenger=unit_counts("2", n, n)
    )
    state, actions = decide(state, look(5, n=300, share=share, strata=(bad,)))
    assert (state.phase, [type(action) for action in actions]) == ("rolled_back", [Drop])
    assert state.reason.startswith(f"errors for {n} of {n} against 0 of {200 - n}")
