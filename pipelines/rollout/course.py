"""The course of a rollout, told again from its events: at each look the counts and the evidence; pure.

The same events through the same machine give the same evidence, so a page may show how it grew towards its limit.
"""

from collections.abc import Sequence

import msgspec

from pipelines.rollout.comparisons import Finding
from pipelines.rollout.machine import Event, Looked, State, decide, judge_at

_SHOWN_LOOKS = 240
_LAST_LOOKS = 30  # all of them: what matters happens at the end


class Look(msgspec.Struct, frozen=True, kw_only=True):
    """What the judge had at a look. Counts are cumulative, of requests; `at_s` is since the epoch."""

    at_s: float
    phase: str
    share: float
    challenger_requests: int
    challenger_errors: int
    champion_requests: int
    champion_errors: int
    findings: tuple[Finding, ...] = ()


class Entered(msgspec.Struct, frozen=True, kw_only=True):
    """A phase began: `shadow`, `5 %`, `promoting`, or how it ended."""

    at_s: float
    phase: str
    share: float


class Course(msgspec.Struct, frozen=True, kw_only=True):
    """The looks (of a long rollout some), how many there were, the phases, and where the machine stands at the end."""

    looks: tuple[Look, ...]
    phases: tuple[Entered, ...]
    looked: int
    state: State


def retell(events: Sequence[Event]) -> Course:
    """The course of the rollout that has these events, in their order."""
    looks = sum(isinstance(event, Looked) for event in events)
    every = max(1, looks // _SHOWN_LOOKS)
    state, told, phases, number = State(), list[Look](), list[Entered](), 0
    for event in events:
        before = state
        state, _ = decide(state, event)
        if (label := _label(state)) != _label(before):
            share = state.share if state.phase == "step" else 0.0
            phases.append(Entered(at_s=event.at_s, phase=label, share=share))
        if not isinstance(event, Looked):
            continue
        number += 1
        if number % every == 0 or number > looks - _LAST_LOOKS:
            told.append(_look(event, before, state))
    return Course(looks=tuple(told), phases=tuple(phases), looked=looks, state=state)


def _label(state: State) -> str:
    return state.phase if state.is_final else state.phase_label


def _look(event: Looked, before: State, after: State) -> Look:
    champion, challenger = event.observation.champion, event.observation.challenger
    return Look(
        at_s=event.at_s,
        phase=before.phase_label,
        share=event.observation.share,
        challenger_requests=0 if challenger is None else challenger.requests,
        challenger_errors=0 if challenger is None else challenger.errors,
        champion_requests=0 if champion is None else champion.requests,
        champion_errors=0 if champion is None else champion.errors,
        findings=_findings(before, after, event.at_s),
    )


def _findings(before: State, after: State, at_s: float) -> tuple[Finding, ...]:
    """What the judge found at this look; of the look that ended the rollout, what it was ended for."""
    if after.is_final and after.records and after.records[-1].findings:
        return after.records[-1].findings
    if after.memory is None or before.phase not in ("shadow", "approval", "step", "ranking"):
        return ()
    return judge_at(before, after.memory, at_s).findings
