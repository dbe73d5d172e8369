"""Looks as other tools have them, a JSON object each, as the strata that the judge learns from. Pure.

Each look is a stratum: its counts are of that interval alone, and of entities (or of requests, where each is of
another entity).
"""

from collections.abc import Set
from typing import Annotated, Any

import msgspec
import numpy as np

from contracts.slots import Observation, SlotCounts
from contracts.strata import ERRORS, SLOW_P50, SLOW_P95, SLOW_P99, UNIT_SCORE_BINS, Exposure, Stratum, UnitCounts
from pipelines.rollout import judge
from pipelines.rollout.comparisons import asked_limit
from pipelines.rollout.coverage import Covered
from pipelines.rollout.judge import Judgement, Memory
from pipelines.rollout.plan import Plan
from pipelines.rollout.quality import graded

MAXIMUM_COUNT = 10_000_000  # of a look: of more the exact test would take minutes, and two looks say the same
Loss = Annotated[float, msgspec.Meta(ge=0, le=1)]
Count = Annotated[int, msgspec.Meta(ge=0, le=MAXIMUM_COUNT)]
_CHAMPION, _CHALLENGER, _ROLLOUT = "champion", "challenger", "looks"


class Side(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One version in one look. `n` are those that could fail; `slow` is another name of `slow_p95`.

    A quantile that neither side gives was not looked at, which is no proof that nothing was slow.
    """

    n: Count
    errors: Count = 0
    slow: Count | None = None
    slow_p50: Count | None = None
    slow_p95: Count | None = None
    slow_p99: Count | None = None
    new: Count | None = None
    scores: tuple[Count, ...] | None = None

    def __post_init__(self) -> None:
        for name in ("errors", "slow", "slow_p50", "slow_p95", "slow_p99", "new"):
            found = getattr(self, name)
            if found is not None and found > self.n:
                raise ValueError(f"{name} is at most n, found {found} of {self.n}")
        if self.slow is not None and self.slow_p95 is not None:
            raise ValueError("slow and slow_p95 are the same metric: give one of them")
        if self.scores is not None and len(self.scores) != UNIT_SCORE_BINS:
            raise ValueError(f"scores has {UNIT_SCORE_BINS} counts, found {len(self.scores)}")

    @property
    def happened(self) -> dict[str, int | None]:
        """To how many of `n` each metric happened; None: not given."""
        slow = self.slow if self.slow_p95 is None else self.slow_p95
        return {ERRORS: self.errors, SLOW_P50: self.slow_p50, SLOW_P95: slow, SLOW_P99: self.slow_p99}

    def counts(self, version: str, metrics: Set[str]) -> UnitCounts:
        """As a model server would report it that counts `metrics`."""
        exposures = {
            metric: Exposure(at_risk=self.n, happened=count or 0)
            for metric, count in self.happened.items()
            if metric in metrics
        }
        return UnitCounts(
            version=version,
            entities=self.n,
            new=self.n if self.new is None else self.new,
            requests=self.n,
            rollout=exposures,
            phase=exposures,
            scores=self.scores or (0,) * UNIT_SCORE_BINS,
        )


class Losses(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The loss of each entity of a step whose outcome is known, by chance in their order; a log loss by log(100)."""

    champion: tuple[Loss, ...]
    challenger: tuple[Loss, ...]


class Look(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One look: `t` in seconds since the rollout began, the challenger's share, and both sides.

    `coverage` is how much of the usual traffic the challenger has seen by now, for a plan that asks. `outcomes` is for
    one with `quality`: what is known by now of this step.
    """

    t: Annotated[float, msgspec.Meta(ge=0)]
    share: Annotated[float, msgspec.Meta(gt=0, le=1)]
    champion: Side
    challenger: Side
    coverage: Annotated[float, msgspec.Meta(ge=0, le=1)] | None = None
    outcomes: Losses | None = None

    @property
    def metrics(self) -> frozenset[str]:
        """What at least one side gives."""
        given = (*self.champion.happened.items(), *self.challenger.happened.items())
        return frozenset(metric for metric, count in given if count is not None)


class Asked(msgspec.Struct, frozen=True, kw_only=True):
    """Where the looks have come to."""

    memory: Memory
    looks: int = 0
    share: float | None = None
    t: float = 0.0
    phase: int = 0
    phase_t: float = 0.0
    requests: tuple[int, int] = (0, 0)


def begin(plan: Plan) -> Asked:
    """Before the first look; both versions have counted nothing."""
    asked = Asked(memory=Memory.fresh(plan))
    return msgspec.structs.replace(asked, memory=judge.learn(asked.memory, _observation(asked, ()), plan))


def ask(asked: Asked, look: Look, plan: Plan) -> tuple[Asked, Judgement]:
    """What the judge says after one more look.

    Raises:
        ValueError: time or share went back, or no step of the plan has this share.
    """
    step = next((each for each in plan.steps if each.share == look.share), None)
    if step is None:
        shares = ", ".join(f"{each.share:g}" for each in plan.steps)
        raise ValueError(f"share is {look.share:g}, the plan has steps of {shares}")
    if look.t < asked.t or (asked.share is not None and look.share < asked.share):
        raise ValueError(
            f"a look follows the one before it; found t {look.t:g} and share {look.share:g} after "
            f"{asked.t:g} and {asked.share or 0:g}"
        )
    if look.share != asked.share:
        asked = msgspec.structs.replace(
            asked, share=look.share, phase=asked.phase + 1, phase_t=asked.t, memory=asked.memory.next_phase()
        )
    requests = (asked.requests[0] + look.champion.n, asked.requests[1] + look.challenger.n)
    asked = msgspec.structs.replace(asked, looks=asked.looks + 1, t=look.t, requests=requests)
    stratum = Stratum(
        number=asked.looks,
        closed_s=look.t,
        seconds=0.0,
        rollout=_ROLLOUT,
        share=look.share,
        phase=asked.phase,
        champion=look.champion.counts(_CHAMPION, look.metrics),
        challenger=look.challenger.counts(_CHALLENGER, look.metrics),
    )
    memory = judge.learn(asked.memory, _observation(asked, (stratum,)), plan)
    if look.coverage is not None:
        memory = msgspec.structs.replace(memory, coverage=Covered(share=look.coverage, words="as the look says"))
    if look.outcomes is not None and plan.quality is not None:
        mine, theirs = np.array(look.outcomes.challenger), np.array(look.outcomes.champion)
        found = graded(plan.quality, look.share, mine, theirs, in_pairs=False)
        memory = msgspec.structs.replace(memory, outcomes=memory.outcomes.after(found))
    return msgspec.structs.replace(asked, memory=memory), judge.judge_step(memory, step, plan, look.t - asked.phase_t)


def answer(look: Look, judgement: Judgement) -> dict[str, Any]:
    """The verdict as JSON values."""
    findings = [{**msgspec.to_builtins(found), "limit": asked_limit(found.limit)} for found in judgement.findings]
    return {"t": look.t, "share": look.share, "verdict": judgement.verdict, "reason": judgement.reason,
            "findings": findings}  # fmt: skip


def _observation(asked: Asked, strata: tuple[Stratum, ...]) -> Observation:
    champion, challenger = asked.requests
    return Observation(
        server=_ROLLOUT,
        clock_s=asked.t,
        rollout=_ROLLOUT,
        share=asked.share or 0.0,
        shadow=False,
        lease_left_s=0.0,
        champion=SlotCounts(version=_CHAMPION, requests=champion),
        challenger=SlotCounts(version=_CHALLENGER, requests=challenger),
        shadowed=None,
        strata=strata,
    )
