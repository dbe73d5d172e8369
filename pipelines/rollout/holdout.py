"""The judge of a holdout: was the new version better, the same or worse, by outcomes that have matured? Pure.

Entities come to the two versions by chance, and stay. So the unit is the entity: its loss is the mean over all of its
predictions whose outcome is known, from 0 to 1. Each day is one look at all that is known by then; the plan's alpha is
shared out over the days, so that the chance of a false verdict holds for the whole holdout, however often it is asked.
"""

from dataclasses import dataclass
from math import log
from typing import Literal

import msgspec
import numpy as np

from pipelines.rollout.comparisons import Finding, finding, limit_of
from pipelines.rollout.plan import Holdout, Quality
from pipelines.statistics import betting
from pipelines.statistics.betting import Floats
from pipelines.statistics.split import SplitEvidence

LOWEST_PROBABILITY = 0.01  # for the log loss, which has no bound otherwise
LARGEST_LOG_LOSS = -log(LOWEST_PROBABILITY)
_SPLIT_PART = 0.1  # of alpha; what is left is for either verdict, since one of the two is wrong at most

Verdict = Literal["keep", "wait", "rollback"]


@dataclass(frozen=True)
class Side:
    """One version: how many entities came to it, and the losses of those with an outcome, in an order of chance."""

    version: str
    entities: int
    losses: Floats

    @property
    def mean(self) -> float | None:
        """None while no outcome is known."""
        return float(self.losses.mean()) if self.losses.size else None


class HoldoutJudgement(msgspec.Struct, frozen=True, kw_only=True):
    """A verdict with its evidence. An `e_value` of "worse" or "not worse" above its limit proves that."""

    verdict: Verdict
    reason: str
    days: int
    entities: tuple[int, int]  # of the new version, and of the old
    with_outcome: tuple[int, int]
    mean_loss: tuple[float | None, float | None]
    findings: tuple[Finding, ...]


def losses(scores: Floats, outcomes: Floats, plan: Holdout | Quality) -> Floats:
    """The loss of each prediction, from 0 to 1: its Brier score, or its log loss by the largest that there can be."""
    if plan.loss == "brier":
        return (np.clip(scores, 0, 1) - outcomes) ** 2
    given = np.clip(scores, LOWEST_PROBABILITY, 1 - LOWEST_PROBABILITY)
    scaled: Floats = -np.log(np.where(outcomes == 1, given, 1 - given)) / LARGEST_LOG_LOSS
    return scaled


def judge_holdout(plan: Holdout, new: Side, old: Side, days: int) -> HoldoutJudgement:
    """The verdict on the version that has replaced `old`, `days` days after its promotion.

    In this order: entities that are not divided as configured make all else worthless; what is proven to be within the
    margin stays; what is proven to be worse goes; when the days are over, the plan says what happens.
    """
    findings = _findings(plan, new, old)
    split, worse, within = findings
    counted = min(new.losses.size, old.losses.size)
    verdict: Verdict = "wait"
    seen = f"{counted:,} of {plan.minimum_outcomes:,} entities on the smaller side have an outcome, after {days} days"
    reason = f"{seen}; {worse}; {within}"
    if split.exceeded:
        reason = f"{split}; entities are not divided as configured, so nothing else was believed"
    elif within.exceeded and counted >= plan.minimum_outcomes:
        verdict, reason = "keep", str(within)
    elif worse.exceeded and not within.exceeded:
        verdict, reason = "rollback", str(worse)
    if verdict == "wait" and days >= plan.maximum_days:
        verdict = plan.on_timeout
        reason = f"{plan.maximum_days} days are over, and the plan says {plan.on_timeout} then; {reason}"
    return HoldoutJudgement(
        verdict=verdict,
        reason=reason,
        days=days,
        entities=(new.entities, old.entities),
        with_outcome=(new.losses.size, old.losses.size),
        mean_loss=(new.mean, old.mean),
        findings=findings,
    )


def _findings(plan: Holdout, new: Side, old: Side) -> tuple[Finding, Finding, Finding]:
    looks = plan.maximum_days + 1
    limit = limit_of(plan.alpha * (1 - _SPLIT_PART) / looks)
    scale = 1.0 if plan.loss == "brier" else LARGEST_LOG_LOSS
    apart = betting.differences(new.losses, old.losses)
    evidence = SplitEvidence().after(new=old.entities, reference_new=new.entities, share=plan.share)
    expected = plan.share * (old.entities + new.entities)
    what = f"split: {old.entities:,} entities stayed on the old champion, expected {expected:,.1f}"
    both = _in_words(plan, new, old, scale)
    return (
        finding("split", what, evidence.log_e_value, limit_of(plan.alpha * _SPLIT_PART)),
        finding("worse", f"{both}, worse", betting.log_e_value(apart, 0.0), limit),
        finding(
            "not worse",
            f"{both}, at most {plan.margin:g} worse",
            betting.log_e_value(-apart, -plan.margin / scale),
            limit,
        ),
    )


def _in_words(plan: Holdout, new: Side, old: Side, scale: float) -> str:
    name = {"brier": "Brier score", "log_loss": "log loss"}[plan.loss]
    told = ["none" if side.mean is None else f"{side.mean * scale:.4f}" for side in (new, old)]
    sides = [f"version {side.version} (n = {side.losses.size:,})" for side in (new, old)]
    return f"mean {name} of an entity {told[0]} on {sides[0]} against {told[1]} on {sides[1]}"
