"""The judge: what the counts of a look say about the challenger — advance, wait or rollback — with the evidence.

Pure. Each look adds the strata that are new to e-processes, which may be asked after every request
(`pipelines.statistics`); the plan's alpha is split between them. First comes the split: where entities are not divided
as configured, nothing else is believed. See docs/judge.md.
"""

from math import log
from typing import Literal, Self

import msgspec
import numpy as np

from contracts.slots import Observation, ShadowCounts, SlotCounts
from contracts.strata import ERRORS, MAXIMUM_SLICES, UNIT_METRICS, PairCounts, SlicePairs, Stratum
from pipelines.rollout import coverage
from pipelines.rollout.comparisons import (
    PHASES_SHARE,
    BinComparison,
    Finding,
    RankComparison,
    SplitComparison,
    UnitComparison,
    finding,
    latency_in_pairs,
    limit_of,
)
from pipelines.rollout.coverage import Covered
from pipelines.rollout.plan import Plan, ShadowStep, Step
from pipelines.rollout.quality import Outcomes
from pipelines.statistics import paired_shift, single_rate
from pipelines.statistics.mean_difference import MeanEvidence

Verdict = Literal["advance", "wait", "rollback"]

REFERENCE_MINIMUM = 20  # champion requests in a step that compares, when the step's own minimum is not lower
_RANK_SHARE, _BINS_SHARE = 0.25, 0.5  # of the alpha of scores: each direction of ranks, and the deciles


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
    """What the judge keeps between looks: the last counts, the evidence so far, and what this phase has seen.

    `stratum` is the number of the last one, of the process `server`; `phase` is the server's, at whose change the
    evidence that is of one phase begins anew; `phases` is how many had strata.
    """

    units: tuple[UnitComparison, ...]
    ranks: tuple[RankComparison, ...]
    bins: BinComparison
    split: SplitComparison = SplitComparison()
    server: str = ""
    stratum: int = 0
    phase: int = 0
    phases: int = 0
    champion: Tally | None = None
    challenger: Tally | None = None
    pairs: int = 0
    shadow_errors: int = 0
    flips: int = 0
    shadow_latency: tuple[int, ...] = ()
    shadow_champion_latency: tuple[int, ...] = ()
    discordant: PairCounts = PairCounts()
    phase_requests: int = 0
    phase_reference_requests: int = 0
    phase_pairs: int = 0
    coverage: Covered | None = None
    outcomes: Outcomes = Outcomes()

    @classmethod
    def fresh(cls, plan: Plan) -> Self:
        """Nothing seen yet; the margins are the plan's."""
        return cls(
            units=tuple(
                UnitComparison.fresh(metric, plan.error_odds_margin if metric == ERRORS else plan.latency_odds_margin)
                for metric in UNIT_METRICS
            ),
            ranks=_fresh_ranks(plan),
            bins=BinComparison.fresh(plan.score_odds_margin),
        )

    def next_phase(self) -> Self:
        """The memory at the start of another phase: the evidence stays, the phase's own counts start anew."""
        return msgspec.structs.replace(
            self, phase_requests=0, phase_reference_requests=0, phase_pairs=0, outcomes=Outcomes()
        )

    @property
    def errors(self) -> UnitComparison:
        """The comparison of failures."""
        return self.unit(ERRORS)

    def unit(self, metric: str) -> UnitComparison:
        """The comparison of `metric`, one of `UNIT_METRICS`."""
        return self.units[UNIT_METRICS.index(metric)]


def learn(memory: Memory, observation: Observation, plan: Plan) -> Memory:
    """The memory after one more look.

    Raises:
        ValueError: a slot or a stratum counts another version than the look before.
    """
    champion = None if observation.champion is None else Tally.of(observation.champion)
    challenger = None if observation.challenger is None else Tally.of(observation.challenger)
    new = None if challenger is None else challenger.since(memory.challenger)
    reference = None if champion is None else champion.since(memory.champion)
    memory = _learn_shadow(memory, observation.shadowed, observation.pairs)
    if new is not None and reference is not None:
        memory = msgspec.structs.replace(
            memory,
            phase_requests=memory.phase_requests + new.requests,
            phase_reference_requests=memory.phase_reference_requests + reference.requests,
        )
    memory = msgspec.structs.replace(memory, champion=champion, challenger=challenger)
    if observation.server != memory.server:  # another process numbers its strata anew
        memory = msgspec.structs.replace(memory, server=observation.server, stratum=0)
    for stratum in observation.strata:
        if stratum.number > memory.stratum and stratum.rollout == observation.rollout:
            memory = _learn_stratum(memory, stratum, plan)
    return memory


def judge_step(memory: Memory, step: Step, plan: Plan, seconds: float) -> Judgement:
    """The verdict on a step that has lasted for `seconds`, after `learn`."""
    findings = _findings(memory, plan)
    if bad := _bad(findings):
        return Judgement(verdict="rollback", reason=bad, findings=findings)
    requests, reference = memory.phase_requests, memory.phase_reference_requests
    seen = f"{requests:,} of {step.minimum_requests:,} requests in {seconds:.1f} s"
    # at 100 % no champion answers beside the challenger: nothing to compare with, the hard limits hold
    reference_minimum = 0 if step.share == 1 else min(REFERENCE_MINIMUM, step.minimum_requests)
    lacks = requests < step.minimum_requests
    if reference < reference_minimum:
        seen += f", {reference:,} of {reference_minimum:,} champion requests to compare with"
        lacks = True
    for asked in () if lacks else plan.rate_margins(step):
        worst = memory.unit(asked.metric).worst_difference
        if worst > asked.margin:
            seen += f", {asked.words} at most {worst:.2%} above the champion's > {asked.margin:.2%}: not shown yet"
            lacks = True
    # no data never advances, nor does traffic that is not the usual one
    holds = "no request at all" if requests == 0 or (reference_minimum > 0 and reference == 0) else None
    # as above: at 100 % nobody is left to compare with
    if plan.quality is not None and step.share < 1 and (missing := memory.outcomes.lacking(plan.quality)):
        seen, lacks = f"{seen}, {missing}", True
        holds = holds or (None if memory.outcomes.is_known else "no outcome to judge by")
    if step.coverage is not None:
        bears_no_reference = plan.coverage.without_reference == "ignore"
        if missing := coverage.lacking(memory.coverage, step.coverage, bears_no_reference=bears_no_reference):
            seen, lacks, holds = f"{seen}, {missing}", True, holds or "a step that lacks coverage does not advance"
        else:
            seen += f", {coverage.satisfied(memory.coverage)}"
    if lacks:
        return _lacking(seen, seconds, step, holds, findings)
    if seconds < step.minimum_s:
        return Judgement(verdict="wait", reason=f"{seen}, at least {step.minimum_s:g} s", findings=findings)
    return Judgement(verdict="advance", reason=f"{seen}; {_of(findings, ERRORS)}", findings=findings)


def judge_shadow(memory: Memory, shadow: ShadowStep, plan: Plan, seconds: float) -> Judgement:
    """The verdict on the shadow phase after `seconds`, after `learn`."""
    findings = _shadow_findings(memory, shadow, plan)
    if bad := _bad(findings):
        return Judgement(verdict="rollback", reason=bad, findings=findings)
    seen = f"{memory.phase_pairs:,} of {shadow.minimum_pairs:,} pairs in {seconds:.1f} s"
    missing = None if plan.quality is None else memory.outcomes.lacking(plan.quality)
    if missing is not None:
        seen = f"{seen}, {missing}"
    if memory.phase_pairs < shadow.minimum_pairs or missing is not None:
        if seconds < shadow.maximum_s:
            return Judgement(verdict="wait", reason=seen, findings=findings)
        reason = f"{seen}, at most {shadow.maximum_s:g} s: too little traffic to judge by"
        return Judgement(verdict="rollback", reason=reason, findings=findings)
    if seconds < shadow.minimum_s:
        return Judgement(verdict="wait", reason=f"{seen}, at least {shadow.minimum_s:g} s", findings=findings)
    return Judgement(verdict="advance", reason="; ".join([seen, *map(str, findings[:2])]), findings=findings)


def judge_held(memory: Memory, plan: Plan, shadow: ShadowStep | None) -> Judgement:
    """The verdict while nothing may advance: in a pause, or while a person is asked. Only `wait` or `rollback`.

    `shadow` is that of a challenger that answers in the shadow; None where it has a share, or nothing at all.
    """
    findings = _findings(memory, plan) if shadow is None else _shadow_findings(memory, shadow, plan)
    if bad := _bad(findings):
        return Judgement(verdict="rollback", reason=bad, findings=findings)
    return Judgement(verdict="wait", reason="held", findings=findings)


def _lacking(seen: str, seconds: float, step: Step, holds: str | None, findings: tuple[Finding, ...]) -> Judgement:
    """Too little data is no verdict on the challenger; when the time for it has passed, the plan says what it means."""
    if seconds < step.maximum_s or step.on_timeout == "wait":
        return Judgement(verdict="wait", reason=seen, findings=findings)
    if step.on_timeout == "advance":
        if holds is not None:
            return Judgement(verdict="wait", reason=f"{seen}: {holds}", findings=findings)
        reason = f"{seen}; {step.maximum_s:g} s have passed, and the plan advances then"
        return Judgement(verdict="advance", reason=reason, findings=findings)
    reason = f"{seen}, at most {step.maximum_s:g} s: too little traffic to judge by"
    return Judgement(verdict="rollback", reason=reason, findings=findings)


def _learn_shadow(memory: Memory, shadowed: ShadowCounts | None, pairs: PairCounts | None) -> Memory:
    """The memory with the shadow's counts, which are cumulative."""
    if shadowed is None:
        return memory
    new_pairs = shadowed.pairs - memory.pairs
    known = memory.champion is not None and new_pairs >= 0  # else the first look, or the server counts anew
    return msgspec.structs.replace(
        memory,
        pairs=shadowed.pairs,
        shadow_errors=shadowed.errors,
        flips=shadowed.flips,
        shadow_latency=tuple(shadowed.latency),
        shadow_champion_latency=tuple(shadowed.champion_latency),
        discordant=pairs or PairCounts(),
        phase_pairs=memory.phase_pairs + (new_pairs if known else 0),
    )


def _learn_stratum(memory: Memory, stratum: Stratum, plan: Plan) -> Memory:
    for counts, slot in ((stratum.champion, memory.champion), (stratum.challenger, memory.challenger)):
        if slot is not None and counts.version != slot.version:
            raise ValueError(f"counts of version {slot.version} cannot be compared with those of {counts.version}")
    units, ranks, bins = memory.units, memory.ranks, memory.bins
    if stratum.phase != memory.phase:
        units = tuple(comparison.next_phase() for comparison in units)
        ranks, bins = _fresh_ranks(plan), BinComparison.fresh(plan.score_odds_margin)
    champion, challenger = stratum.champion, stratum.challenger
    return msgspec.structs.replace(
        memory,
        stratum=stratum.number,
        phase=stratum.phase,
        phases=memory.phases + (stratum.phase != memory.phase),
        units=tuple(comparison.after(champion, challenger) for comparison in units),
        ranks=tuple(comparison.after(challenger.scores, champion.scores) for comparison in ranks),
        bins=bins.after(challenger.scores, champion.scores),
        split=memory.split.after(stratum),
    )


def _fresh_ranks(plan: Plan) -> tuple[RankComparison, ...]:
    evidence = MeanEvidence(plan.score_margin)
    return (
        RankComparison(name="higher scores", evidence=evidence),
        RankComparison(name="lower scores", evidence=evidence, is_lower=True),
    )


def _phases(plan: Plan) -> int:
    return _steps(plan) + (plan.shadow is not None)


def _steps(plan: Plan) -> int:
    again = plan.challengers > 1  # of several the chosen one has the last share but one of its lane, and then of all
    return len(plan.steps) + again


def _phase_share(memory: Memory, plan: Plan) -> float:
    """What this phase has of the alpha of all. A phase more than the plan has (another `sticky_by`) has none left."""
    return 1 / _phases(plan) if memory.phases <= _steps(plan) else 0.0


def _findings(memory: Memory, plan: Plan) -> tuple[Finding, ...]:
    """The split first: what follows is believed only where it fits."""
    alpha, shares, phase_share = plan.alpha, plan.alpha_shares, _phase_share(memory, plan)
    scores = alpha * shares.scores * phase_share
    return (
        memory.split.finding(alpha * shares.split),
        *(each.finding(alpha * getattr(shares, each.metric), phase_share) for each in memory.units),
        *(each.finding(scores * _RANK_SHARE) for each in memory.ranks),
        memory.bins.finding(scores * _BINS_SHARE),
        *_outcomes(memory, plan),
    )


def _outcomes(memory: Memory, plan: Plan) -> tuple[Finding, ...]:
    """By the outcomes of this phase, with an equal part for each phase."""
    if plan.quality is None:
        return ()
    return (memory.outcomes.finding(plan.quality, plan.alpha * plan.alpha_shares.quality / _phases(plan)),)


def _paired(memory: Memory, plan: Plan) -> Finding:
    """Of entities that only one version failed, each side is as probable as the other under equality."""
    found = memory.discordant
    mine, theirs = found.challenger_only.get(ERRORS, 0), found.champion_only.get(ERRORS, 0)
    what = f"errors of one version alone: {mine:,} of the challenger against {theirs:,} of the champion"
    limit = limit_of(plan.alpha * plan.alpha_shares.errors * PHASES_SHARE / _phases(plan))
    return finding("errors in pairs", what, single_rate.log_e_value(mine, mine + theirs, 0.5), limit)


def _shadow_findings(memory: Memory, shadow: ShadowStep, plan: Plan) -> tuple[Finding, ...]:
    slices = () if shadow.slice_by is None else (_slices(memory, shadow, plan),)
    latency = latency_in_pairs(memory.shadow_latency, memory.shadow_champion_latency)
    shifts, outcomes = _shifts(memory, shadow, plan), _outcomes(memory, plan)
    return _paired(memory, plan), _flips(memory, shadow, plan), *shifts, *slices, *outcomes, latency


def _pairs_alpha(plan: Plan) -> float:
    """What the shadow has of the scores' alpha: half for all pairs, half for those within slices."""
    return plan.alpha * plan.alpha_shares.scores / _phases(plan)


def _slices(memory: Memory, shadow: ShadowStep, plan: Plan) -> Finding:
    """A version may be good on average and wrong for one carrier.

    The mean of e-values is one, if it is fixed beforehand how much each counts: every slice that may come has its part.
    """
    logs = {value: _slice_log_e_value(pairs, shadow) for value, pairs in memory.discordant.slices.items()}
    limit = limit_of(_pairs_alpha(plan) / 2)
    if not logs:
        return finding("slices", f"slices of {shadow.slice_by}: none yet", 0.0, limit)
    worst = max(logs, key=logs.__getitem__)
    pairs = memory.discordant.slices[worst]
    what = (
        f"{shadow.slice_by} {worst}: flips {pairs.flips:,} of {pairs.pairs:,}, scores differ by "
        f"{paired_shift.mean_of(pairs.differences):+.3f} in the mean"
    )
    places = max(MAXIMUM_SLICES, len(logs))
    summed = np.logaddexp.reduce([*logs.values(), *[0.0] * (places - len(logs))])
    return finding("slices", what, float(summed) - log(places), limit)


def _slice_log_e_value(pairs: SlicePairs, shadow: ShadowStep) -> float:
    """Of flips and of shifts in both directions, a third each."""
    assert shadow.maximum_shift is not None  # a plan with slices has one
    logs = [
        single_rate.log_e_value(pairs.flips, pairs.pairs, shadow.maximum_flip_share),
        paired_shift.log_e_value(pairs.differences, shadow.maximum_shift),
        paired_shift.log_e_value(pairs.differences[::-1], shadow.maximum_shift),
    ]
    return float(np.logaddexp.reduce(logs)) - log(len(logs))


def _shifts(memory: Memory, shadow: ShadowStep, plan: Plan) -> tuple[Finding, ...]:
    """Scores of the same requests, in both directions, with the part of the scores' alpha that is this phase's."""
    if (maximum := shadow.maximum_shift) is None:
        return ()
    counts = memory.discordant.differences
    limit = limit_of(_pairs_alpha(plan) / 4)
    shift, n = paired_shift.mean_of(counts), sum(counts)

    def found(name: str, differences: tuple[int, ...]) -> Finding:
        what = f"scores of the same {n:,} requests differ by {shift:+.3f}, more than {maximum:g} {name}"
        return finding(f"pairs {name}", what, paired_shift.log_e_value(differences, maximum), limit)

    return found("higher", counts), found("lower", counts[::-1])


def _flips(memory: Memory, shadow: ShadowStep, plan: Plan) -> Finding:
    what = f"flips {memory.flips:,} of {memory.pairs:,}, more than {shadow.maximum_flip_share:.0%}"
    log_e_value = single_rate.log_e_value(memory.flips, memory.pairs, shadow.maximum_flip_share)
    return finding("flips", what, log_e_value, limit_of(plan.alpha * plan.alpha_shares.flips))


def _of(findings: tuple[Finding, ...], name: str) -> Finding:
    return next(each for each in findings if each.name == name)


def _bad(findings: tuple[Finding, ...]) -> str | None:
    """The reason to roll back, if there is one."""
    exceeded = [each for each in findings if each.exceeded]
    if not exceeded:
        return None
    if exceeded[0].name == "split":
        return f"{exceeded[0]}; entities are not divided as configured, so nothing else was believed"
    return str(max(exceeded, key=lambda each: each.e_value / each.limit))
