"""The judge: what the counts of a look say about the challenger — advance, wait or rollback — with the evidence.

Pure. Each look adds the difference of the cumulative counts to e-processes, which may be asked after every request
(`pipelines.statistics`); the plan's alpha is split between them. The cut above which an answer is slow comes from the
champion's counts at earlier looks only, else the evidence would not be valid.
"""

from bisect import bisect_left
from typing import Literal, Self

import msgspec

from contracts.slots import LATENCY_EDGES_S, Observation, ShadowCounts, SlotCounts
from pipelines.rollout.comparisons import Comparison, Finding, ScoreComparison, finding
from pipelines.rollout.plan import Plan, ShadowStep, Step
from pipelines.statistics import single_rate
from pipelines.statistics.mean_difference import MeanEvidence
from pipelines.statistics.odds_ratio import Evidence

Verdict = Literal["advance", "wait", "rollback"]

# how the plan's alpha is split; the sum is 1
ALPHA_SHARES = {"errors": 0.4, "slow answers": 0.2, "higher scores": 0.1, "lower scores": 0.1, "flips": 0.2}
REFERENCE_MINIMUM = 20  # champion requests in a step that compares, when the step's own minimum is not lower
CUT_MINIMUM = 100  # champion answers before a cut is taken from them
_SLOW_QUANTILE = 0.95


class Tally(msgspec.Struct, frozen=True, kw_only=True):
    """Cumulative counts of one version at a look: `SlotCounts`, frozen."""

    version: str
    requests: int
    errors: int
    latency: tuple[int, ...]
    scores: tuple[int, ...]

    @classmethod
    def of(cls, counts: SlotCounts) -> Self:
        """The counts as they are now."""
        return cls(
            version=counts.version,
            requests=counts.requests,
            errors=counts.errors,
            latency=tuple(counts.latency),
            scores=tuple(counts.scores),
        )

    def since(self, earlier: "Tally | None") -> "Tally | None":
        """What was counted since `earlier`; None when there is nothing earlier, or the difference makes no sense.

        It does not after counts that started anew, nor with more errors than requests.

        Raises:
            ValueError: `earlier` counts another version.
        """
        if earlier is None:
            return None
        if earlier.version != self.version:
            raise ValueError(f"counts of version {self.version} cannot be compared with those of {earlier.version}")
        difference = Tally(
            version=self.version,
            requests=self.requests - earlier.requests,
            errors=self.errors - earlier.errors,
            latency=tuple(new - old for new, old in zip(self.latency, earlier.latency, strict=True)),
            scores=tuple(new - old for new, old in zip(self.scores, earlier.scores, strict=True)),
        )
        lowest = min(difference.errors, *difference.latency, *difference.scores)
        return difference if lowest >= 0 and difference.errors <= difference.requests else None


class Judgement(msgspec.Struct, frozen=True, kw_only=True):
    """A verdict, its reason in words, and all findings, also those that did not decide."""

    verdict: Verdict
    reason: str
    findings: tuple[Finding, ...] = ()


class Memory(msgspec.Struct, frozen=True, kw_only=True):
    """What the judge keeps between looks: the last counts, the evidence so far, and what this phase has seen."""

    errors: Comparison
    slow: Comparison
    scores: tuple[ScoreComparison, ScoreComparison]
    champion: Tally | None = None
    challenger: Tally | None = None
    pairs: int = 0
    shadow_errors: int = 0
    flips: int = 0
    phase_requests: int = 0
    phase_reference_requests: int = 0
    phase_pairs: int = 0

    @classmethod
    def fresh(cls, plan: Plan) -> Self:
        """Nothing seen yet; the margins are the plan's."""
        return cls(
            errors=Comparison(name="errors", evidence=Evidence(margin=plan.error_odds_margin)),
            slow=Comparison(name="slow answers", evidence=Evidence(margin=plan.latency_odds_margin)),
            scores=(
                ScoreComparison(name="higher scores", evidence=MeanEvidence(plan.score_margin)),
                ScoreComparison(name="lower scores", evidence=MeanEvidence(plan.score_margin), is_lower=True),
            ),
        )

    def next_phase(self) -> Self:
        """The memory at the start of another phase: the evidence stays, the phase's own counts start anew."""
        return msgspec.structs.replace(self, phase_requests=0, phase_reference_requests=0, phase_pairs=0)


def learn(memory: Memory, observation: Observation, plan: Plan) -> Memory:
    """The memory after one more look.

    Raises:
        ValueError: a slot counts another version than at the look before.
    """
    champion = None if observation.champion is None else Tally.of(observation.champion)
    challenger = None if observation.challenger is None else Tally.of(observation.challenger)
    new = None if challenger is None else challenger.since(memory.challenger)
    reference = None if champion is None else champion.since(memory.champion)
    # a look of which one side cannot be told apart from what was before compares nothing, so it does not count
    memory, errors, requests = _learn_shadow(memory, observation.shadowed, is_compared=reference is not None)
    if new is not None and reference is not None:
        assert memory.champion is not None  # reference is the difference to it
        memory = msgspec.structs.replace(
            _compare(memory, new, reference, memory.champion, plan),
            phase_requests=memory.phase_requests + new.requests,
            phase_reference_requests=memory.phase_reference_requests + reference.requests,
        )
        errors, requests = errors + new.errors, requests + new.requests
    if reference is not None:
        # Shadowed and answered requests are one stratum: the look after the shadow phase has both, and two comparisons
        # with the same champion requests would not multiply to an e-value. The question is the same, and a request that
        # fails on both sides makes the split more even than independent arms would, which only errs towards waiting.
        compared = memory.errors.after(errors, requests, reference.errors, reference.requests)
        memory = msgspec.structs.replace(memory, errors=compared)
    return msgspec.structs.replace(memory, champion=champion, challenger=challenger)


def judge_step(memory: Memory, step: Step, plan: Plan, seconds: float) -> Judgement:
    """The verdict on a step that has lasted for `seconds`, after `learn`."""
    findings = _findings(memory, plan)
    if bad := _worst(findings):
        return Judgement(verdict="rollback", reason=str(bad), findings=findings)
    requests, reference = memory.phase_requests, memory.phase_reference_requests
    seen = f"{requests:,} of {step.minimum_requests:,} requests in {seconds:.1f} s"
    # at 100 % no champion answers beside the challenger: nothing to compare with, the hard limits hold
    reference_minimum = 0 if step.share == 1 else min(REFERENCE_MINIMUM, step.minimum_requests)
    if requests < step.minimum_requests or reference < reference_minimum:
        if reference < reference_minimum:
            seen += f", {reference:,} of {reference_minimum:,} champion requests to compare with"
        return _lacking(seen, seconds, step.maximum_s, findings)
    if seconds < step.minimum_s:
        return Judgement(verdict="wait", reason=f"{seen}, at least {step.minimum_s:g} s", findings=findings)
    told = f"{seen}; {findings[0]}"
    return Judgement(verdict="advance", reason=told, findings=findings)


def judge_shadow(memory: Memory, shadow: ShadowStep, plan: Plan, seconds: float) -> Judgement:
    """The verdict on the shadow phase after `seconds`, after `learn`."""
    flips = _flips(memory, shadow, plan)
    findings = (*_findings(memory, plan), flips)
    if bad := _worst(findings):
        return Judgement(verdict="rollback", reason=str(bad), findings=findings)
    seen = f"{memory.phase_pairs:,} of {shadow.minimum_pairs:,} pairs in {seconds:.1f} s"
    if memory.phase_pairs < shadow.minimum_pairs:
        return _lacking(seen, seconds, shadow.maximum_s, findings)
    if seconds < shadow.minimum_s:
        return Judgement(verdict="wait", reason=f"{seen}, at least {shadow.minimum_s:g} s", findings=findings)
    return Judgement(verdict="advance", reason=f"{seen}; {findings[0]}; {flips}", findings=findings)


def _lacking(seen: str, seconds: float, maximum_s: float, findings: tuple[Finding, ...]) -> Judgement:
    """Too little data is no verdict on the challenger, until the time for it has passed."""
    if seconds < maximum_s:
        return Judgement(verdict="wait", reason=seen, findings=findings)
    reason = f"{seen}, at most {maximum_s:g} s: too little traffic to judge by"
    return Judgement(verdict="rollback", reason=reason, findings=findings)


def _learn_shadow(memory: Memory, shadowed: ShadowCounts | None, *, is_compared: bool) -> tuple[Memory, int, int]:
    """The memory with the shadow's counts, and its errors and requests of this look that are to be compared."""
    if shadowed is None:
        return memory, 0, 0
    pairs, errors, flips = shadowed.pairs, shadowed.errors, shadowed.flips
    new_pairs, new_errors = pairs - memory.pairs, errors - memory.shadow_errors
    known = msgspec.structs.replace(memory, pairs=pairs, shadow_errors=errors, flips=flips)
    if not is_compared or new_pairs < 0 or new_errors < 0:  # the first look, or the server counts anew
        return known, 0, 0
    known = msgspec.structs.replace(known, phase_pairs=memory.phase_pairs + new_pairs)
    return known, new_errors, new_pairs + new_errors


def _compare(memory: Memory, new: Tally, reference: Tally, before: Tally, plan: Plan) -> Memory:
    slow = memory.slow
    if (cut := _slow_cut(before.latency, plan.latency_floor_ms / 1000)) is not None:
        slow = slow.after(
            sum(new.latency[cut:]), sum(new.latency), sum(reference.latency[cut:]), sum(reference.latency)
        )
    higher, lower = memory.scores
    return msgspec.structs.replace(
        memory,
        slow=slow,
        scores=(higher.after(new.scores, reference.scores), lower.after(new.scores, reference.scores)),
    )


def _slow_cut(latency: tuple[int, ...], floor_s: float) -> int | None:
    """The first bucket of which all answers are slower than the champion's p95 and the floor."""
    total = sum(latency)
    if total < CUT_MINIMUM:
        return None
    seen = 0
    for bucket, count in enumerate(latency):
        seen += count
        if seen >= _SLOW_QUANTILE * total:
            return max(bucket, bisect_left(LATENCY_EDGES_S, floor_s)) + 1
    return None


def _findings(memory: Memory, plan: Plan) -> tuple[Finding, ...]:
    return tuple(
        comparison.finding(1 / (plan.alpha * ALPHA_SHARES[comparison.name]))
        for comparison in (memory.errors, memory.slow, *memory.scores)
    )


def _flips(memory: Memory, shadow: ShadowStep, plan: Plan) -> Finding:
    what = f"flips {memory.flips:,} of {memory.pairs:,}, more than {shadow.maximum_flip_share:.0%}"
    log_e_value = single_rate.log_e_value(memory.flips, memory.pairs, shadow.maximum_flip_share)
    return finding("flips", what, log_e_value, 1 / (plan.alpha * ALPHA_SHARES["flips"]))


def _worst(findings: tuple[Finding, ...]) -> Finding | None:
    exceeded = [finding for finding in findings if finding.exceeded]
    return max(exceeded, key=lambda finding: finding.e_value / finding.limit, default=None)
