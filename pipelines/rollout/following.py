"""Rollouts as somebody who watches reads them from the ledger: where they stand, and how the evidence grew.

The state is folded by the same `decide` that the controller runs. A `Follower` goes on where it was at its last call,
so asking every second costs what is new.
"""

import threading
from math import log10

import msgspec

from pipelines.ledger import Ledger
from pipelines.rollout.comparisons import Finding
from pipelines.rollout.events import Event, Looked
from pipelines.rollout.judge import Judgement
from pipelines.rollout.machine import decide, judge_at
from pipelines.rollout.state import State
from pipelines.rollout.story import COMMAND, EVENT, OUTCOMES, lengthen

OPENED, ENDED = "release.opened", "release.ended"
OBEYED, REFUSED = f"{COMMAND}.obeyed", f"{COMMAND}.refused"
_JUDGED = ("shadow", "approval", "step", "ranking")
POINTS_MAX = 240  # of a curve; beyond, every second one is left out
RATIO_MIN = 1e-6  # smaller evidence is drawn as this much
COURSES_MAX = 16  # rollouts that are kept between calls


class Point(msgspec.Struct, frozen=True, kw_only=True):
    """One look: seconds since the rollout began, the share that was in force, and what had been counted by then.

    `ratios` is each finding's e-value over its limit: above 1 the challenger goes. Rates are of entities that failed.
    """

    seconds: float
    share: float
    challenger_requests: int
    failure_rate: float | None
    reference_failure_rate: float | None
    ratios: dict[str, float]


class Followed(msgspec.Struct, frozen=True, kw_only=True):
    """A rollout as its events have it: `looked_s` is the time of the last look; `judgement` what was said at it."""

    state: State
    looked_s: float | None
    judgement: Judgement | None
    points: tuple[Point, ...]


class _Course:
    """What is kept of one rollout between calls."""

    def __init__(self, points_max: int) -> None:
        self.points_max = points_max
        self.entry = 0
        self.looks = 0
        self.stride = 1
        self.state = State()
        self.looked_s: float | None = None
        self.findings: tuple[Finding, ...] = ()  # at the end, where nothing but a person's word ended it
        self.points: list[Point] = []

    def learn(self, event: Event) -> None:
        before = self.state
        self.state, _ = decide(before, event)
        if self.state.is_final and (found := judgement_at(before, event.at_s)) is not None:
            self.findings = found.findings
        if not isinstance(event, Looked):
            return
        self.looked_s = event.at_s
        if len(self.state.records) > len(before.records):  # the look at which a phase ended is always drawn
            self.points.append(_point(self.state, event, self.state.records[-1].findings))
        elif self.looks % self.stride == 0 and (found := judgement_at(self.state, event.at_s)) is not None:
            self.points.append(_point(self.state, event, found.findings))
        self.looks += 1
        if len(self.points) > self.points_max:
            self.points, self.stride = self.points[::2], self.stride * 2


class Follower:
    """Reads rollouts from `ledger`. Safe to use from many threads; blocking."""

    def __init__(self, ledger: Ledger, points_max: int = POINTS_MAX) -> None:
        self._ledger = ledger
        self._points_max = points_max
        self._courses: dict[tuple[str, str], _Course] = {}
        self._lock = threading.Lock()

    def running(self, project: str) -> str | None:
        """The name of the rollout of `project` that has begun and has not ended, or None; of several the first."""
        return next(iter(self.all_running(project)), None)

    def all_running(self, project: str) -> list[str]:
        """The names of all rollouts of `project` that have begun and have not ended: several in an experiment.

        Of several that were opened by themselves, only the last one runs.
        """
        opened = self._ledger.entries(project=project, kinds=(OPENED,))
        ended = {entry.subject for entry in self._ledger.entries(project=project, kinds=(*OUTCOMES, ENDED))}
        waiting = {entry.subject: entry for entry in reversed(opened) if entry.subject not in ended}
        begun = [entry for entry in waiting.values() if self._ledger.entries(project, (EVENT,), entry.subject, limit=1)]
        if not begun:
            return []
        experiment = (begun[0].body.get("experiment") or {}).get("name")
        mine = [each for each in begun if experiment and (each.body.get("experiment") or {}).get("name") == experiment]
        return [entry.subject for entry in reversed(mine)] or [begun[0].subject]

    def follow(self, project: str, rollout: str) -> Followed:
        """The rollout as the ledger has it now; one that has no event yet is in the phase `waiting`."""
        with self._lock:
            course = self._courses.pop((project, rollout), None) or _Course(self._points_max)
            self._courses[project, rollout] = course  # the last one asked for is the last one forgotten
            if len(self._courses) > COURSES_MAX:
                del self._courses[next(iter(self._courses))]
            for entry in self._ledger.entries(project, (EVENT,), rollout, after=course.entry):
                course.learn(lengthen(entry.body))
                course.entry = entry.id
            return Followed(
                state=course.state,
                looked_s=course.looked_s,
                judgement=_last_judgement(course),
                points=tuple(course.points),
            )


def judgement_at(state: State, at_s: float) -> Judgement | None:
    """What the judge says of `state` at `at_s`; None in phases that it does not judge, and before the first look."""
    memory = state.memory
    if memory is None or memory.champion is None or state.phase not in _JUDGED:
        return None
    return judge_at(state, memory, at_s)


def _last_judgement(course: _Course) -> Judgement | None:
    state = course.state
    if state.is_final and state.records:
        last = state.records[-1]
        return Judgement(verdict=last.verdict, reason=last.reason, findings=last.findings or course.findings)
    return None if course.looked_s is None else judgement_at(state, course.looked_s)


def _point(state: State, event: Looked, findings: tuple[Finding, ...]) -> Point:
    assert state.memory is not None  # a rollout that was looked at has one
    errors, challenger = state.memory.errors, event.observation.challenger
    return Point(
        seconds=max(0.0, event.at_s - state.started_s),
        share=event.observation.share,
        challenger_requests=0 if challenger is None else challenger.requests,
        failure_rate=errors.happened / errors.n if errors.n else None,
        reference_failure_rate=errors.reference_happened / errors.reference_n if errors.reference_n else None,
        ratios={each.name: ratio(each) for each in findings},
    )


def ratio(finding: Finding) -> float:
    """How much of its limit a finding's e-value has reached, not below `RATIO_MIN`."""
    return max(RATIO_MIN, finding.e_value / finding.limit)


def nearness(finding: Finding) -> float:
    """How far a finding is on the way from no evidence (0) to its limit (1), in orders of magnitude."""
    if finding.e_value <= 1:
        return 0.0
    return min(1.0, log10(finding.e_value) / log10(finding.limit)) if finding.limit > 1 else 1.0
