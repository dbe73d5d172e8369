"""The state machine of a rollout: `decide(state, event) -> (state, actions)`; pure, replayable from its events.

    waiting → loading → shadow → step 1 … step n → promoting → promoted
                 ↓         ↓         ↓                 ↓
              refused   rolled back ←←←←←←←←←←←←←←←←←←←←

One of several challengers waits before the last step (`ranking`): it is chosen, and goes on alone, or it is not chosen.
A person may be asked before the first step and before 100 % (`approval`). All ways are in `state.TRANSITIONS`, which
docs/rollouts.md draws. Every look says again what should be in force (a share with its lease, a promotion), so an
action that was lost is repeated by the next look; all actions are safe to repeat.
"""

from typing import Literal

import msgspec

from contracts.slots import Observation
from pipelines.rollout import commands, judge
from pipelines.rollout.comparisons import Finding
from pipelines.rollout.events import (
    Aborted,
    Action,
    Chosen,
    Command,
    Commanded,
    Drop,
    Event,
    Load,
    Loaded,
    LoadRefused,
    Looked,
    NotChosen,
    Offer,
    Offered,
    Promote,
    PromotionDone,
    PromotionRefused,
    RenewLease,
    SetShare,
    ShareRefused,
    Unreachable,
)
from pipelines.rollout.judge import Judgement, Memory
from pipelines.rollout.state import FINAL, Answer, Asked, PhaseName, PhaseRecord, State, is_allowed

__all__ = [
    "FINAL",
    "Aborted",
    "Action",
    "Chosen",
    "Command",
    "Commanded",
    "Drop",
    "Event",
    "Load",
    "LoadRefused",
    "Loaded",
    "Looked",
    "NotChosen",
    "Offer",
    "Offered",
    "PhaseRecord",
    "Promote",
    "PromotionDone",
    "PromotionRefused",
    "RenewLease",
    "SetShare",
    "ShareRefused",
    "State",
    "Unreachable",
    "decide",
    "fold",
    "judge_at",
]

Decision = tuple[State, tuple[Action, ...]]


def decide(state: State, event: Event) -> Decision:
    """The state after `event`, and what is to be done now. Events that have no meaning in a state change nothing."""
    after, actions = _decide(state, event)
    name = type(event).__name__
    assert is_allowed(state.phase, name, after.phase), f"no way from {state.phase} by {name} to {after.phase}"
    return after, actions


def _decide(state: State, event: Event) -> Decision:
    if state.is_final:
        return state, ()
    if isinstance(event, Offered):
        return _offered(event) if state.phase == "waiting" else (state, ())
    if state.phase == "waiting":
        return state, ()
    if isinstance(event, Unreachable):
        return _unreachable(state, event)
    if isinstance(event, Commanded):
        return _commanded(state, event)
    state = msgspec.structs.replace(state, unreachable_since_s=None)
    if isinstance(event, Aborted):
        if state.phase == "promoting":  # the swap may be in force already: the way back is a rollback of the champion
            return state, ()
        return _roll_back(state, f"aborted by {event.by}: {event.reason}", event.at_s)
    if state.phase == "loading":
        return _loading(state, event)
    if state.phase == "promoting":
        return _promoting(state, event)
    if isinstance(event, Chosen | NotChosen):
        return _ranked(state, event)
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
    if (1 if offer.lane is None else offer.lane.of) != plan.challengers:
        lane = "none" if offer.lane is None else f"one of {offer.lane.of}"
        return _refuse(state, f"the plan is for {plan.challengers} challengers, the lane is {lane}", event.at_s)
    if offer.lane is not None and offer.expected_champion is None:
        reason = f"{offer.project} has no champion that several challengers could be compared with"
        return _refuse(state, reason, event.at_s)
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
        return _go_on(state, "promoting", 0, event.at_s)
    if state.plan.shadow is not None:
        return _enter(state, "shadow", 0, event.at_s)
    return _go_on(state, "step", 0, event.at_s)


def _looked(state: State, event: Looked) -> Decision:
    observation, plan, before = event.observation, state.plan, state.memory
    if before is None:
        raise ValueError(f"a rollout in the phase {state.phase} has a judge's memory; this state is not from decide")
    if problem := _problem(state, observation):
        return _roll_back(state, problem, event.at_s)
    memory = judge.learn(before, observation, plan)
    if event.coverage is not None:
        memory = msgspec.structs.replace(memory, coverage=event.coverage)
    if event.outcomes is not None and event.outcomes.share == state.share:  # else read for the phase before
        memory = msgspec.structs.replace(memory, outcomes=memory.outcomes.after(event.outcomes))
    if observation.tripped is not None:
        state = msgspec.structs.replace(state, memory=memory, tripped=observation.tripped)
        return _roll_back(state, observation.tripped.reason, event.at_s)
    state = msgspec.structs.replace(state, memory=memory)
    judgement = judge_at(state, memory, event.at_s)
    if judgement.verdict == "rollback":
        return _roll_back(state, judgement.reason, event.at_s, judgement.findings)
    if judgement.verdict == "advance":
        return _advance(state, judgement, event.at_s)
    if state.asked is not None and state.seconds(event.at_s) >= plan.approvals.timeout_s:
        return _unanswered(state, event.at_s)
    return state, _keep(state, observation)


def judge_at(state: State, memory: Memory, at_s: float) -> Judgement:
    """The verdict on a shadow, a step, or a rollout that is held, as `memory` has it at `at_s`."""
    plan, seconds = state.plan, state.seconds(at_s)
    if state.paused_since_s is not None and at_s - state.paused_since_s >= plan.maximum_pause_s:
        reason = f"paused for {at_s - state.paused_since_s:.0f} s, at most {plan.maximum_pause_s:g} s"
        return Judgement(verdict="rollback", reason=reason)
    if state.paused_since_s is not None or state.asked is not None or state.phase == "ranking":
        return judge.judge_held(memory, plan, plan.shadow if state.is_shadowing else None)
    if state.phase == "shadow":
        assert plan.shadow is not None
        return judge.judge_shadow(memory, plan.shadow, plan, seconds)
    return judge.judge_step(memory, plan.steps[state.step], plan, seconds)


def _advance(state: State, judgement: Judgement, at_s: float) -> Decision:
    """Ends this phase well, and goes on to the next."""
    state = msgspec.structs.replace(state, records=(*state.records, _record(state, judgement, "advance", at_s)))
    following = 0 if state.phase == "shadow" else state.step + 1
    if state.lane is not None and following == len(state.plan.steps) - 1:
        return _enter(state, "ranking", state.step, at_s)
    if following < len(state.plan.steps):
        return _go_on(state, "step", following, at_s)
    return _enter(state, "promoting", state.step, at_s)


def _go_on(state: State, phase: PhaseName, step: int, at_s: float) -> Decision:
    """Enters the phase, or asks a person before, where the plan says so."""
    # the first champion of a project gets everything at once: either question is about that
    approvals, steps = state.plan.approvals, 1 if phase == "promoting" else len(state.plan.steps)
    question = approvals.question(step, steps)
    if question is None:
        return _enter(state, phase, step, at_s)
    asked = Asked(question=question, phase=phase, step=step)
    state = msgspec.structs.replace(state, phase="approval", asked=asked, phase_started_s=at_s)
    return state, () if phase == "promoting" else (_share(state),)


def _ranked(state: State, event: Chosen | NotChosen) -> Decision:
    """The chosen one has the share that it has come to of all entities, and then the last step."""
    if state.phase != "ranking":
        return state, ()
    if isinstance(event, Chosen):
        return _enter(msgspec.structs.replace(state, is_alone=True), "step", state.step, event.at_s)
    ended = msgspec.structs.replace(state, phase="not_chosen", ended_s=event.at_s, reason=event.reason)
    return ended, (Drop(reason=event.reason),)


def _unanswered(state: State, at_s: float) -> Decision:
    approvals, asked = state.plan.approvals, state.asked
    assert asked is not None
    waited = f"nobody answered the {state.phase_label} in {approvals.timeout_s:g} s"
    if approvals.on_timeout == "approve":
        state = msgspec.structs.replace(state, reason=f"{waited}, and the plan approves then")
        return _enter(state, asked.phase, asked.step, at_s)
    return _roll_back(state, f"{waited}, and the plan rejects then", at_s)


def _commanded(state: State, event: Commanded) -> Decision:
    """Obeys or refuses, once: the answer is part of the state."""
    if event.entry <= state.last_command:
        return state, ()
    command, at_s = event.command, event.at_s
    refused = commands.refusal(state, command)
    answer = Answer(
        entry=event.entry,
        command=command.command,
        by=command.by,
        obeyed=refused is None,
        reason=refused or command.reason,
        phase=state.phase_label,
    )
    state = msgspec.structs.replace(state, last_command=event.entry, answers=(*state.answers, answer))
    if refused is not None:
        return state, ()
    return _obey(state, command, at_s)


def _obey(state: State, command: Command, at_s: float) -> Decision:
    by = f"by {command.by}: {command.reason}"
    match command.command:
        case "pause":
            return msgspec.structs.replace(state, paused_since_s=at_s), ()
        case "share":  # a pause at a smaller share; of a longer pause this is a part
            since_s = at_s if state.paused_since_s is None else state.paused_since_s
            state = msgspec.structs.replace(state, paused_since_s=since_s, held_share=command.share)
            return state, (_share(state),)
        case "resume":
            held, started_s = state.held_share, at_s - state.seconds(at_s)  # the pause is no time of this phase
            state = msgspec.structs.replace(state, paused_since_s=None, held_share=None, phase_started_s=started_s)
            return state, () if held is None else (_share(state),)
        case "advance":
            return _advance(state, Judgement(verdict="advance", reason=f"advanced {by}"), at_s)
        case "approve":
            asked = state.asked
            assert asked is not None  # else it was refused
            return _enter(msgspec.structs.replace(state, reason=f"approved {by}"), asked.phase, asked.step, at_s)
        case "reject":
            return _roll_back(state, f"rejected {by}", at_s)
        case "abort":
            return _roll_back(state, f"aborted {by}", at_s)
        case "rollback":
            return _roll_back(state, f"rolled back {by}", at_s)


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
    for stratum in observation.strata:
        found = (stratum.champion.version, stratum.challenger.version)
        if stratum.rollout == offer.rollout and found != (champion, offer.version):
            return f"a sample is of versions {found[0]} and {found[1]}, expected {champion} and {offer.version}"
    return None


def _enter(state: State, phase: PhaseName, step: int, at_s: float) -> Decision:
    memory = None if state.memory is None else state.memory.next_phase()
    state = msgspec.structs.replace(
        state,
        phase=phase,
        step=step,
        phase_started_s=at_s,
        memory=memory,
        asked=None,
        paused_since_s=None,
        held_share=None,
    )
    if phase == "promoting":
        offer = _offer(state)
        return state, (Promote(version=offer.version, expected=offer.expected_champion),)
    return state, (_share(state),)


def _share(state: State) -> SetShare:
    plan, shadow = state.plan, state.plan.shadow if state.is_shadowing else None
    sample = 1.0 if shadow is None else shadow.sample
    return SetShare(share=state.share, shadow=shadow is not None, lease_s=plan.lease_s, sample=sample, lane=state.lane)


def _keep(state: State, observation: Observation) -> tuple[Action, ...]:
    if state.asked is not None and state.asked.phase == "promoting":  # no champion: nothing to share, no lease
        return ()
    wanted = _share(state)
    found = (observation.share, observation.shadow, observation.lane)
    if found != (wanted.share, wanted.shadow, wanted.lane):  # an action was lost
        return (wanted,)
    return (RenewLease(lease_s=state.plan.lease_s),)


def _record(state: State, judgement: Judgement, verdict: Literal["advance", "rollback"], at_s: float) -> PhaseRecord:
    memory = state.memory
    return PhaseRecord(
        name=state.phase_label,
        share=state.share,
        shadow=state.is_shadowing,
        seconds=state.seconds(at_s),
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
