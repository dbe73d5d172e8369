"""The state machine of a rollout: `decide(state, event) -> (state, actions)`; pure, replayable from its events.

    waiting → loading → shadow → step 1 … step n → promoting → promoted
                 ↓         ↓         ↓                 ↓
              refused   rolled back ←←←←←←←←←←←←←←←←←←←←

Every look says again what should be in force (a share with its lease, a promotion), so an action that was lost is
repeated by the next look; all actions are safe to repeat.
"""

from typing import Literal

import msgspec

from contracts.slots import HardLimits, Observation, Tripped
from pipelines.rollout import judge
from pipelines.rollout.comparisons import Finding
from pipelines.rollout.judge import Judgement, Memory
from pipelines.rollout.plan import Plan

PhaseName = Literal["waiting", "loading", "shadow", "step", "promoting", "promoted", "rolled_back", "refused"]
FINAL: frozenset[PhaseName] = frozenset({"promoted", "rolled_back", "refused"})


class Offer(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A challenger that wants to lead: `version` of `project` in the bundle at `path`, against `expected_champion`.

    `rollout` names this attempt and salts the assignment of entities. No `expected_champion` asks for the bootstrap.
    """

    rollout: str
    project: str
    version: str
    bundle: str
    path: str
    expected_champion: str | None


class Offered(msgspec.Struct, frozen=True, tag=True, kw_only=True):
    """The rollout begins. The plan is part of it, so that a changed configuration does not change a running rollout."""

    offer: Offer
    plan: Plan
    at_s: float


class Loaded(msgspec.Struct, frozen=True, tag=True, kw_only=True):
    """The server has verified the challenger's bundle and holds it in the challenger's slot."""

    at_s: float


class LoadRefused(msgspec.Struct, frozen=True, tag=True, kw_only=True):
    """The server will not hold the challenger."""

    reason: str
    at_s: float


class ShareRefused(msgspec.Struct, frozen=True, tag=True, kw_only=True):
    """The server will not give the share, or renew its lease, and has not tripped."""

    reason: str
    at_s: float


class Looked(msgspec.Struct, frozen=True, tag=True, kw_only=True):
    """What both slots show. `at_s` of all events is the controller's clock, seconds since the epoch."""

    observation: Observation
    at_s: float


class Unreachable(msgspec.Struct, frozen=True, tag=True, kw_only=True):
    """The server did not answer."""

    reason: str
    at_s: float


class PromotionDone(msgspec.Struct, frozen=True, tag=True, kw_only=True):
    """The ledger and the server both have the challenger as champion."""

    at_s: float


class PromotionRefused(msgspec.Struct, frozen=True, tag=True, kw_only=True):
    """The compare-and-swap failed; neither ledger nor server has the challenger as champion."""

    reason: str
    at_s: float


class Aborted(msgspec.Struct, frozen=True, tag=True, kw_only=True):
    """Somebody wants the rollout to end. Comes too late for one that is being promoted."""

    reason: str
    by: str
    at_s: float


Event = (
    Offered | Loaded | LoadRefused | ShareRefused | Looked | Unreachable | PromotionDone | PromotionRefused | Aborted
)


class Load(msgspec.Struct, frozen=True, tag=True, kw_only=True):
    """Put the challenger into its slot."""

    offer: Offer
    hard_limits: HardLimits


class SetShare(msgspec.Struct, frozen=True, tag=True, kw_only=True):
    """Give the challenger a share of the entities, or let it shadow, under a lease."""

    share: float
    shadow: bool
    lease_s: float


class RenewLease(msgspec.Struct, frozen=True, tag=True, kw_only=True):
    """Keep the share that is in force."""

    lease_s: float


class Promote(msgspec.Struct, frozen=True, tag=True, kw_only=True):
    """Swap the champion: first in the ledger, then on the server."""

    version: str
    expected: str | None


class Drop(msgspec.Struct, frozen=True, tag=True, kw_only=True):
    """All traffic to the champion, the challenger's slot empty, the ledger as it was."""

    reason: str


Action = Load | SetShare | RenewLease | Promote | Drop


class PhaseRecord(msgspec.Struct, frozen=True, kw_only=True):
    """How one phase ended: its share, how long it took, what it saw, and the verdict."""

    name: str
    share: float
    shadow: bool
    seconds: float
    challenger_requests: int
    champion_requests: int
    pairs: int
    verdict: Literal["advance", "rollback"]
    reason: str
    findings: tuple[Finding, ...] = ()


class State(msgspec.Struct, frozen=True, kw_only=True):
    """Where a rollout stands. `step` counts from 0 and has a meaning in the phase `step` only."""

    phase: PhaseName = "waiting"
    step: int = 0
    offer: Offer | None = None
    plan: Plan = Plan()
    memory: Memory | None = None
    started_s: float = 0.0
    phase_started_s: float = 0.0
    ended_s: float | None = None
    unreachable_since_s: float | None = None
    records: tuple[PhaseRecord, ...] = ()
    reason: str = ""
    tripped: Tripped | None = None

    @property
    def is_final(self) -> bool:
        return self.phase in FINAL

    @property
    def phase_label(self) -> str:
        """The phase as people read it: `shadow`, `5 %`, `promoting`."""
        return f"{self.plan.steps[self.step].share * 100:g} %" if self.phase == "step" else self.phase


Decision = tuple[State, tuple[Action, ...]]


def decide(state: State, event: Event) -> Decision:
    """The state after `event`, and what is to be done now. Events that have no meaning in a state change nothing."""
    if state.is_final:
        return state, ()
    if isinstance(event, Offered):
        return _offered(event) if state.phase == "waiting" else (state, ())
    if state.phase == "waiting":
        return state, ()
    if isinstance(event, Unreachable):
        return _unreachable(state, event)
    state = msgspec.structs.replace(state, unreachable_since_s=None)
    if isinstance(event, Aborted):
        if state.phase == "promoting":  # the swap may be in force already: the way back is a rollback of the champion
            return state, ()
        return _roll_back(state, f"aborted by {event.by}: {event.reason}", event.at_s)
    if state.phase == "loading":
        return _loading(state, event)
    if state.phase == "promoting":
        return _promoting(state, event)
    if isinstance(event, ShareRefused):
        return _roll_back(state, f"the server refused the share: {event.reason}", event.at_s)
    if isinstance(event, Looked):
        return _looked(state, event)
    return state, ()


def fold(events: list[Event]) -> Decision:
    """The state after `events` in order, and the actions of the last of them, which may not have been carried out."""
    state: State = State()
    actions: tuple[Action, ...] = ()
    for event in events:
        state, actions = decide(state, event)
    return state, actions


def _offered(event: Offered) -> Decision:
    offer, plan = event.offer, event.plan
    state = State(
        phase="loading",
        offer=offer,
        plan=plan,
        memory=Memory.fresh(plan),
        started_s=event.at_s,
        phase_started_s=event.at_s,
    )
    if offer.expected_champion == offer.version:
        return _refuse(state, f"version {offer.version} is the champion already", event.at_s)
    if offer.expected_champion is None and not plan.bootstrap:
        reason = f"{offer.project} has no champion and the plan's bootstrap is off: promote a first version by hand"
        return _refuse(state, reason, event.at_s)
    return state, (Load(offer=offer, hard_limits=plan.hard_limits),)


def _loading(state: State, event: Event) -> Decision:
    offer = _offer(state)
    if isinstance(event, LoadRefused):
        return _refuse(state, f"the server refused version {offer.version}: {event.reason}", event.at_s)
    if isinstance(event, Looked):  # an attempt to load was lost
        return state, (Load(offer=offer, hard_limits=state.plan.hard_limits),)
    if not isinstance(event, Loaded):
        return state, ()
    if offer.expected_champion is None:
        return _enter(state, "promoting", 0, event.at_s)
    if state.plan.shadow is not None:
        return _enter(state, "shadow", 0, event.at_s)
    return _enter(state, "step", 0, event.at_s)


def _looked(state: State, event: Looked) -> Decision:
    observation, plan, before = event.observation, state.plan, state.memory
    if before is None:
        raise ValueError(f"a rollout in the phase {state.phase} has a judge's memory; this state is not from decide")
    if problem := _problem(state, observation):
        return _roll_back(state, problem, event.at_s)
    memory = judge.learn(before, observation, plan)
    if observation.tripped is not None:
        state = msgspec.structs.replace(state, memory=memory, tripped=observation.tripped)
        return _roll_back(state, observation.tripped.reason, event.at_s)
    seconds = max(0.0, event.at_s - state.phase_started_s)
    if state.phase == "shadow":
        assert plan.shadow is not None
        judgement = judge.judge_shadow(memory, plan.shadow, plan, seconds)
    else:
        judgement = judge.judge_step(memory, plan.steps[state.step], plan, seconds)
    state = msgspec.structs.replace(state, memory=memory)
    if judgement.verdict == "rollback":
        return _roll_back(state, judgement.reason, event.at_s, judgement.findings)
    if judgement.verdict == "wait":
        return state, (_keep(state, observation),)
    state = msgspec.structs.replace(state, records=(*state.records, _record(state, judgement, "advance", event.at_s)))
    following = 0 if state.phase == "shadow" else state.step + 1
    if following < len(plan.steps):
        return _enter(state, "step", following, event.at_s)
    return _enter(state, "promoting", state.step, event.at_s)


def _promoting(state: State, event: Event) -> Decision:
    offer = _offer(state)
    if isinstance(event, PromotionDone):
        reason = state.records[-1].reason if state.records else "the first champion of the project"
        ended = msgspec.structs.replace(state, phase="promoted", ended_s=event.at_s, reason=reason)
        return ended, ()
    if isinstance(event, PromotionRefused):
        return _roll_back(state, f"the promotion was refused: {event.reason}", event.at_s)
    if isinstance(event, Looked):
        champion, tripped = event.observation.champion, event.observation.tripped
        promoted = champion is not None and champion.version == offer.version
        # an expired lease says nothing about the challenger: its promotion was decided, and is finished
        if tripped is not None and tripped.cause == "hard_limit" and not promoted:
            return _roll_back(msgspec.structs.replace(state, tripped=tripped), tripped.reason, event.at_s)
        return state, (Promote(version=offer.version, expected=offer.expected_champion),)
    return state, ()


def _unreachable(state: State, event: Unreachable) -> Decision:
    since_s = event.at_s if state.unreachable_since_s is None else state.unreachable_since_s
    state = msgspec.structs.replace(state, unreachable_since_s=since_s)
    silent_s = event.at_s - since_s
    # a promotion may have arrived although its answer did not: only the server's word can end that phase
    if state.phase == "promoting" or silent_s < state.plan.unreachable_s:
        return state, ()
    reason = (
        f"the server was unreachable for {silent_s:.0f} s >= {state.plan.unreachable_s:g} s ({event.reason}); "
        f"the lease of {state.plan.lease_s:g} s has expired"
    )
    return _refuse(state, reason, event.at_s) if state.phase == "loading" else _roll_back(state, reason, event.at_s)


def _problem(state: State, observation: Observation) -> str | None:
    """Why the counts of this look must not be judged at all, or None."""
    offer = _offer(state)
    if observation.rollout != offer.rollout or observation.challenger is None:
        held = "no rollout" if observation.rollout is None else f"rollout {observation.rollout}"
        return (
            f"the server holds {held}, expected {offer.rollout}: it was restarted, or somebody dropped the challenger"
        )
    if observation.challenger.version != offer.version:
        return f"the challenger is version {observation.challenger.version}, expected {offer.version}"
    champion = None if observation.champion is None else observation.champion.version
    if champion != offer.expected_champion:
        return f"the champion is version {champion}, this rollout compares with {offer.expected_champion}"
    return None


def _enter(state: State, phase: PhaseName, step: int, at_s: float) -> Decision:
    memory = None if state.memory is None else state.memory.next_phase()
    state = msgspec.structs.replace(state, phase=phase, step=step, phase_started_s=at_s, memory=memory)
    if phase == "promoting":
        offer = _offer(state)
        return state, (Promote(version=offer.version, expected=offer.expected_champion),)
    return state, (_share(state),)


def _share(state: State) -> SetShare:
    shadow = state.phase == "shadow"
    share = 0.0 if shadow else state.plan.steps[state.step].share
    return SetShare(share=share, shadow=shadow, lease_s=state.plan.lease_s)


def _keep(state: State, observation: Observation) -> Action:
    wanted = _share(state)
    if (observation.share, observation.shadow) != (wanted.share, wanted.shadow):  # an action was lost
        return wanted
    return RenewLease(lease_s=state.plan.lease_s)


def _record(state: State, judgement: Judgement, verdict: Literal["advance", "rollback"], at_s: float) -> PhaseRecord:
    memory = state.memory
    return PhaseRecord(
        name=state.phase_label,
        share=state.plan.steps[state.step].share if state.phase == "step" else 0.0,
        shadow=state.phase == "shadow",
        seconds=max(0.0, at_s - state.phase_started_s),
        challenger_requests=0 if memory is None else memory.phase_requests,
        champion_requests=0 if memory is None else memory.phase_reference_requests,
        pairs=0 if memory is None else memory.phase_pairs,
        verdict=verdict,
        reason=judgement.reason,
        findings=judgement.findings,
    )


def _roll_back(state: State, reason: str, at_s: float, findings: tuple[Finding, ...] = ()) -> Decision:
    judgement = Judgement(verdict="rollback", reason=reason, findings=findings)
    return _end(state, "rolled_back", judgement, at_s)


def _refuse(state: State, reason: str, at_s: float) -> Decision:
    return _end(state, "refused", Judgement(verdict="rollback", reason=reason), at_s)


def _end(state: State, phase: PhaseName, judgement: Judgement, at_s: float) -> Decision:
    records = (*state.records, _record(state, judgement, "rollback", at_s))
    reason = judgement.reason
    ended = msgspec.structs.replace(state, phase=phase, ended_s=at_s, records=records, reason=reason)
    return ended, (Drop(reason=reason),)


def _offer(state: State) -> Offer:
    if state.offer is None:
        raise ValueError(f"a rollout in the phase {state.phase} has an offer; this state is not from decide")
    return state.offer
