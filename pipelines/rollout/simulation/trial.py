"""One simulated rollout, through the real machine: offered, loaded, and looked at until it ends."""

from typing import Literal, NamedTuple

import msgspec
import numpy as np

from contracts.slots import Lane, Observation, SlotCounts
from contracts.strata import Stratum
from pipelines.rollout.machine import Chosen, Event, Loaded, Looked, Offer, Offered, PromotionDone, State, decide
from pipelines.rollout.plan import Plan
from pipelines.rollout.simulation.peers import Peer
from pipelines.rollout.simulation.traffic import CHALLENGER, CHAMPION, Traffic, World

MAXIMUM_LOOKS = 20_000
OFFER = Offer(
    rollout="simulated", project="simulated", version=CHALLENGER, bundle="", path="", expected_champion=CHAMPION
)


End = Literal["promoted", "rolled_back", "hard_limit", "not_chosen", "undecided"]


class Trial(NamedTuple):
    """How one rollout ended, and which peers would have rolled back before that."""

    end: End
    reason: str
    seconds: float
    challenger_requests: int
    share: float
    alarms: tuple[bool, ...] = ()
    was_chosen: bool = False


def run_trial(
    world: World,
    plan: Plan,
    seed: int,
    look_s: float,
    peers: tuple[type[Peer], ...] = (),
    maximum_s: float = 1e9,
    lane: tuple[int, int] | None = None,
    is_chosen: bool = True,
) -> Trial:
    """One rollout of `plan` (without its shadow) in `world`, with a look every `look_s` seconds for `maximum_s`.

    With a `lane` (its place, of how many) it is that of one of several challengers, and `is_chosen` says whether it
    goes on alone when it has come so far.
    """
    offer = OFFER
    if lane is not None:
        offer = msgspec.structs.replace(OFFER, lane=Lane(experiment="simulated", place=lane[0], of=lane[1]))
    was_chosen = False
    traffic = Traffic(world, np.random.default_rng(seed))
    others = [peer() for peer in peers]
    events: list[Event] = [Offered(offer=offer, plan=plan, at_s=0.0), Loaded(at_s=0.0), _look(traffic, ())]
    state = State()
    for event in events:
        state, _ = decide(state, event)
    for _ in range(MAXIMUM_LOOKS):
        share = plan.steps[state.step].share
        before = tuple(zip(traffic.errors, traffic.requests, strict=True))
        stratum, trips = traffic.look(look_s, share, plan.hard_limits)
        champion, challenger = (
            (errors - old_errors, requests - old_requests)
            for errors, requests, (old_errors, old_requests) in zip(
                traffic.errors, traffic.requests, before, strict=True
            )
        )
        for other in others:
            other.learn(champion, challenger, look_s)
        if trips:
            return _ended("hard_limit", "the server's own limit", traffic, share, others, was_chosen)
        state, _ = decide(state, _look(traffic, (stratum,)))
        if state.phase == "ranking":
            if not is_chosen:
                return _ended("not_chosen", "another one goes on", traffic, share, others)
            was_chosen = True
            state, _ = decide(state, Chosen(reason="chosen", at_s=traffic.now_s))
        if state.phase == "promoting":
            state, _ = decide(state, PromotionDone(at_s=traffic.now_s))
            return _ended("promoted", state.reason, traffic, share, others)
        if state.phase == "rolled_back":
            return _ended("rolled_back", state.reason, traffic, share, others, was_chosen)
        if traffic.now_s >= maximum_s:
            break
    return _ended("undecided", "", traffic, share, others)


def _look(traffic: Traffic, strata: tuple[Stratum, ...]) -> Looked:
    champion, challenger = (
        SlotCounts(version=version, requests=requests, errors=errors)
        for version, requests, errors in zip((CHAMPION, CHALLENGER), traffic.requests, traffic.errors, strict=True)
    )
    observation = Observation(
        server="simulated",
        clock_s=traffic.now_s,
        rollout=OFFER.rollout,
        share=0.0,
        shadow=False,
        lease_left_s=1.0,
        champion=champion,
        challenger=challenger,
        shadowed=None,
        strata=strata,
    )
    return Looked(observation=observation, at_s=traffic.now_s)


def _ended(
    end: End, reason: str, traffic: Traffic, share: float, others: list[Peer], was_chosen: bool = False
) -> Trial:
    alarms = tuple(other.has_alarmed for other in others)
    return Trial(end, reason, traffic.now_s, traffic.requests[1], share, alarms, was_chosen)
