"""Where a rollout stands, as a frozen value, and the table of the ways from one phase to another."""

from typing import Literal

import msgspec

from contracts.slots import Lane, Tripped
from pipelines.rollout.comparisons import Finding
from pipelines.rollout.events import CommandName, Offer
from pipelines.rollout.judge import Memory
from pipelines.rollout.plan import Plan, Question

PhaseName = Literal[
    "waiting",
    "loading",
    "shadow",
    "approval",
    "step",
    "ranking",
    "promoting",
    "promoted",
    "rolled_back",
    "refused",
    "not_chosen",
]
FINAL: frozenset[PhaseName] = frozenset({"promoted", "rolled_back", "refused", "not_chosen"})
_QUESTIONS = {"first_step": "approval of the first step", "full": "approval of 100 %"}


class Transition(msgspec.Struct, frozen=True):
    """One way from phase to phase: by which event, and when. What is not in the table does not happen."""

    source: PhaseName
    event: str
    target: PhaseName
    when: str


def _ways(source: PhaseName, *ways: tuple[str, PhaseName, str]) -> tuple[Transition, ...]:
    return tuple(Transition(source, *way) for way in ways)


def _back(source: PhaseName) -> tuple[Transition, ...]:
    """The ways back to the champion, which every phase with a challenger on the server has."""
    return _ways(
        source,
        ("Looked", "rolled_back", "worse, tripped, not what it was, or out of time"),
        ("ShareRefused", "rolled_back", "the server refuses the share"),
        ("Unreachable", "rolled_back", "the server is silent too long"),
        ("Aborted", "rolled_back", "whoever runs it ends it"),
        ("Commanded", "rolled_back", "abort, rollback"),
    )


TRANSITIONS: tuple[Transition, ...] = (
    *_ways(
        "waiting",
        ("Offered", "loading", "there is a challenger"),
        ("Offered", "refused", "it is the champion, or there is none and bootstrap is off"),
    ),
    *_ways(
        "loading",
        ("Loaded", "shadow", "the plan has a shadow"),
        ("Loaded", "approval", "the plan asks before the first step"),
        ("Loaded", "step", "no shadow, nobody to ask"),
        ("Loaded", "promoting", "the first champion"),
        ("LoadRefused", "refused", "the server will not hold it"),
        ("Unreachable", "refused", "the server is silent too long"),
        ("Aborted", "rolled_back", "whoever runs it ends it"),
        ("Commanded", "rolled_back", "abort, rollback"),
    ),
    *_ways(
        "shadow",
        ("Looked", "step", "the judge says advance"),
        ("Looked", "approval", "advance, and the plan asks"),
        ("Commanded", "step", "advance"),
        ("Commanded", "approval", "advance, and the plan asks"),
    ),
    *_back("shadow"),
    *_ways(
        "approval",
        ("Commanded", "step", "approve"),
        ("Commanded", "promoting", "approve the first champion"),
        ("Looked", "step", "no answer in time, and the plan says approve"),
        ("Looked", "promoting", "the same, for the first champion"),
    ),
    *_back("approval"),
    *_ways(
        "step",
        ("Looked", "step", "advance to the next share"),
        ("Looked", "approval", "advance, and the plan asks before 100 %"),
        ("Looked", "promoting", "advance after the last share"),
        ("Looked", "ranking", "advance after the last share but one, beside other challengers"),
        ("Commanded", "ranking", "the same"),
        ("Commanded", "step", "advance"),
        ("Commanded", "approval", "advance, and the plan asks before 100 %"),
        ("Commanded", "promoting", "advance after the last share"),
    ),
    *_back("step"),
    *_ways(
        "ranking",
        ("Chosen", "step", "the best of the challengers that are left: on to all entities"),
        ("NotChosen", "not_chosen", "another challenger goes on"),
    ),
    *_back("ranking"),
    *_ways(
        "promoting",
        ("PromotionDone", "promoted", "ledger and server have it"),
        ("PromotionRefused", "rolled_back", "somebody else has swapped the champion"),
        ("Looked", "rolled_back", "a hard limit tripped before the swap"),
    ),
)
_TABLE = frozenset((way.source, way.event, way.target) for way in TRANSITIONS)


def is_allowed(source: PhaseName, event: str, target: PhaseName) -> bool:
    """Whether the table has that way; staying where one is needs none."""
    return source == target or (source, event, target) in _TABLE


def label_of(share: float, *, is_alone: bool = False) -> str:
    """A step as people read it; of one of several challengers that was chosen the last share comes again, `alone`."""
    return f"{share * 100:g} %" + (" alone" if is_alone and share < 1 else "")


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


class Answer(msgspec.Struct, frozen=True, kw_only=True):
    """What became of a command: obeyed, or refused with the reason."""

    entry: int
    command: CommandName
    by: str
    obeyed: bool
    reason: str
    phase: str


class Asked(msgspec.Struct, frozen=True, kw_only=True):
    """An open question to a person, and the phase that follows when it is approved."""

    question: Question
    phase: PhaseName
    step: int


class State(msgspec.Struct, frozen=True, kw_only=True):
    """Where a rollout stands. `step` counts from 0; its share is in force in `step`, and while approval is waited for.

    `paused_since_s` is None unless somebody has paused it, `held_share` unless it is paused at a smaller share than the
    plan's. `last_command` is the ledger's number of the last one.
    `is_alone` is said of one of several challengers once it was chosen: its lane is all entities then.
    """

    phase: PhaseName = "waiting"
    step: int = 0
    offer: Offer | None = None
    plan: Plan = Plan()
    memory: Memory | None = None
    started_s: float = 0.0
    phase_started_s: float = 0.0
    ended_s: float | None = None
    unreachable_since_s: float | None = None
    paused_since_s: float | None = None
    held_share: float | None = None
    asked: Asked | None = None
    is_alone: bool = False
    last_command: int = 0
    answers: tuple[Answer, ...] = ()
    records: tuple[PhaseRecord, ...] = ()
    reason: str = ""
    tripped: Tripped | None = None

    @property
    def is_final(self) -> bool:
        return self.phase in FINAL

    @property
    def share(self) -> float:
        """The share of the entities that the challenger should have: the plan's, unless a person holds it smaller."""
        return self.planned_share if self.held_share is None else min(self.held_share, self.planned_share)

    @property
    def planned_share(self) -> float:
        """The share that the plan gives it here: no command goes above it."""
        if self.phase in ("shadow", "loading") or (self.asked is not None and self.asked.step == 0):
            return 0.0
        share = self.plan.steps[self.step].share
        return share if self.plan.holdout is None else min(share, 1 - self.plan.holdout.share)

    @property
    def lane(self) -> Lane | None:
        """The entities that `share` is of; None: all."""
        return None if self.offer is None or self.is_alone else self.offer.lane

    @property
    def is_shadowing(self) -> bool:
        """Whether the challenger should answer in the champion's shadow."""
        before_steps = self.phase == "shadow" or (self.asked is not None and self.asked.step == 0)
        return before_steps and self.plan.shadow is not None

    @property
    def phase_label(self) -> str:
        """The phase as people read it: `shadow`, `5 %`, `ranking`, `50 % alone`, `approval of 100 %`, `promoting`."""
        if self.phase == "step":
            return label_of(self.plan.steps[self.step].share, is_alone=self.is_alone)
        return _QUESTIONS[self.asked.question] if self.asked is not None else self.phase

    def seconds(self, at_s: float) -> float:
        """How long this phase has lasted at `at_s`, pauses left out."""
        until_s = at_s if self.paused_since_s is None else self.paused_since_s
        return max(0.0, until_s - self.phase_started_s)
