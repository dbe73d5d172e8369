"""What the challenger does against what the champion does, stratum by stratum: the evidence, and its counts. Pure.

All counts are of entities (`contracts.strata`). `UnitComparison` is of something that happens or does not (an error, a
slow answer), `RankComparison` and `BinComparison` are of scores, `SplitComparison` of how entities are divided.
"""

import sys
from math import exp, log

import msgspec
import numpy as np

from contracts.slots import LATENCY_EDGES_S
from contracts.strata import QUANTILES, UNIT_SCORE_BINS, Exposure, Stratum, UnitCounts
from pipelines.statistics import rate_bounds
from pipelines.statistics.mean_difference import MeanEvidence
from pipelines.statistics.odds_ratio import Evidence
from pipelines.statistics.split import SplitEvidence

# Of a metric's alpha: for the evidence since the rollout began, and for all that begins anew in each phase, together.
# The first sees a version that is bad from the start, the second one that turns bad when many have failed once already.
WHOLE_SHARE, PHASES_SHARE = 0.8, 0.2
_RANKS = tuple((place + 0.5) / UNIT_SCORE_BINS for place in range(UNIT_SCORE_BINS))
_NONE = Exposure()
NEVER = sys.float_info.max  # the limit of what is not asked: no e-value exceeds it, and JSON has no infinity
_BOUND_ALPHA = 0.025  # of each of the two bounds that show that a challenger is not much worse


class Finding(msgspec.Struct, frozen=True, kw_only=True):
    """One line of evidence, `what` in words with both sides; an `e_value` above `limit` is a reason to roll back."""

    name: str
    what: str
    e_value: float
    limit: float

    @property
    def exceeded(self) -> bool:
        return self.e_value > self.limit

    def __str__(self) -> str:
        if self.limit == NEVER:
            return f"{self.what}: not asked"
        relation = ">" if self.exceeded else "<="
        return f"{self.what}: e-value {_show(self.e_value)} {relation} {_show(self.limit)}"


class UnitComparison(msgspec.Struct, frozen=True, kw_only=True):
    """The evidence that `metric` happens to entities at higher odds on the challenger than on the champion."""

    metric: str
    whole: Evidence
    phase: Evidence
    happened: int = 0
    n: int = 0
    reference_happened: int = 0
    reference_n: int = 0

    @classmethod
    def fresh(cls, metric: str, margin: float) -> "UnitComparison":
        """Nothing seen yet."""
        return cls(metric=metric, whole=Evidence(margin=margin), phase=Evidence(margin=margin))

    @property
    def name(self) -> str:
        """The metric in words."""
        return self.metric.replace("slow_p", "slower than p")

    def after(self, champion: UnitCounts, challenger: UnitCounts) -> "UnitComparison":
        """The comparison after one more stratum."""
        whole, mine, theirs = _after(self.whole, self.metric, challenger.rollout, champion.rollout)
        return UnitComparison(
            metric=self.metric,
            whole=whole,
            phase=_after(self.phase, self.metric, challenger.phase, champion.phase)[0],
            happened=self.happened + mine[0],
            n=self.n + mine[1],
            reference_happened=self.reference_happened + theirs[0],
            reference_n=self.reference_n + theirs[1],
        )

    def next_phase(self) -> "UnitComparison":
        """At the start of another phase."""
        return msgspec.structs.replace(self, phase=Evidence(margin=self.phase.margin))

    def finding(self, alpha: float, phase_share: float) -> Finding:
        """The nearer to its limit of the two kinds of evidence, with `alpha` for both.

        Of what all phases have of it, `phase_share` is this one's.
        """
        what = (
            f"{self.name} for {self.happened:,} of {self.n:,} against "
            f"{self.reference_happened:,} of {self.reference_n:,}"
        )
        whole = finding(self.name, what, self.whole.log_e_value, limit_of(alpha * WHOLE_SHARE))
        phase_limit = limit_of(alpha * PHASES_SHARE * phase_share)
        phase = finding(self.name, f"{what}, in this phase", self.phase.log_e_value, phase_limit)
        return max(whole, phase, key=lambda each: each.e_value / each.limit)

    @property
    def worst_difference(self) -> float:
        """An upper bound, at all times, of how much more often it happens on the challenger (rates by entity).

        The challenger's upper bound less the champion's lower one, each a confidence sequence of 97.5 %.
        """
        if self.n == 0:
            return 1.0
        lower = rate_bounds.lower_bound(self.reference_happened, self.reference_n, _BOUND_ALPHA)
        return rate_bounds.upper_bound(self.happened, self.n, _BOUND_ALPHA) - lower


class RankComparison(msgspec.Struct, frozen=True, kw_only=True):
    """The evidence that the challenger's scores rank too high among the champion's, or too low with `is_lower`."""

    name: str
    evidence: MeanEvidence
    is_lower: bool = False
    total: float = 0.0
    n: int = 0
    reference_total: float = 0.0
    reference_n: int = 0

    def after(self, counts: tuple[int, ...], reference: tuple[int, ...]) -> "RankComparison":
        """The comparison after one more stratum, with first scores of both sides counted by the champion's deciles."""
        n, reference_n = sum(counts), sum(reference)
        if n == 0 or reference_n == 0:
            return self
        total, reference_total = _total(counts), _total(reference)
        mean, reference_mean = total / n, reference_total / reference_n
        if self.is_lower:  # lower ranks are higher distances from 1
            mean, reference_mean = 1 - mean, 1 - reference_mean
        return msgspec.structs.replace(
            self,
            evidence=self.evidence.after(mean=mean, n=n, reference_mean=reference_mean, reference_n=reference_n),
            total=self.total + total,
            n=self.n + n,
            reference_total=self.reference_total + reference_total,
            reference_n=self.reference_n + reference_n,
        )

    def finding(self, alpha: float) -> Finding:
        """The finding so far."""
        what = f"{self.name}: none to compare"
        if self.n:
            what = (
                f"mean rank of scores {self.total / self.n:.2f} (n = {self.n:,}) against "
                f"{self.reference_total / self.reference_n:.2f} (n = {self.reference_n:,}), more than "
                f"{self.evidence.margin:g} {'lower' if self.is_lower else 'higher'}"
            )
        return finding(self.name, what, self.evidence.log_e_value, limit_of(alpha))


class BinComparison(msgspec.Struct, frozen=True, kw_only=True):
    """The evidence that more of the challenger's scores fall into some decile of the champion's than into its own."""

    bins: tuple[Evidence, ...]
    counts: tuple[int, ...] = (0,) * UNIT_SCORE_BINS
    reference: tuple[int, ...] = (0,) * UNIT_SCORE_BINS

    @classmethod
    def fresh(cls, margin: float) -> "BinComparison":
        """Nothing seen yet; `margin` is the odds ratio that is not too much."""
        return cls(bins=(Evidence(margin=margin),) * UNIT_SCORE_BINS)

    def after(self, counts: tuple[int, ...], reference: tuple[int, ...]) -> "BinComparison":
        """The comparison after one more stratum."""
        n, reference_n = sum(counts), sum(reference)
        if n == 0 or reference_n == 0:
            return self
        bins = tuple(
            evidence.after(failures=mine, n=n, reference_failures=theirs, reference_n=reference_n)
            for evidence, mine, theirs in zip(self.bins, counts, reference, strict=True)
        )
        return BinComparison(bins=bins, counts=_sum(self.counts, counts), reference=_sum(self.reference, reference))

    def finding(self, alpha: float) -> Finding:
        """The mean of the e-values of all deciles, which is one; in words the decile that says most."""
        logs = [evidence.log_e_value for evidence in self.bins]
        place = max(range(UNIT_SCORE_BINS), key=logs.__getitem__)
        what = (
            f"scores in decile {place + 1} of the champion's: {self.counts[place]:,} of {sum(self.counts):,} against "
            f"{self.reference[place]:,} of {sum(self.reference):,}"
        )
        return finding("score deciles", what, float(np.logaddexp.reduce(logs)) - log(len(logs)), limit_of(alpha))


class SplitComparison(msgspec.Struct, frozen=True, kw_only=True):
    """The evidence that entities are not divided as configured: then all other counts mean nothing."""

    evidence: SplitEvidence = SplitEvidence()
    new: int = 0
    expected: float = 0.0

    def after(self, stratum: Stratum) -> "SplitComparison":
        """The comparison after one more stratum."""
        new, reference_new = stratum.challenger.new, stratum.champion.new
        return SplitComparison(
            evidence=self.evidence.after(new=new, reference_new=reference_new, share=stratum.share),
            new=self.new + new,
            expected=self.expected + stratum.share * (new + reference_new),
        )

    def finding(self, alpha: float) -> Finding:
        """The finding so far."""
        what = f"split: {self.new:,} new entities came to the challenger, expected {self.expected:,.1f}"
        return finding("split", what, self.evidence.log_e_value, limit_of(alpha))


def latency_in_pairs(mine: tuple[int, ...], theirs: tuple[int, ...]) -> Finding:
    """How long both versions took for the same requests: told, and never a reason to roll back.

    In its shadow a challenger gives way to the champion's clients, so it is slower there by itself.
    """
    what, n = "latency in pairs: none to compare", sum(mine)
    if n and sum(theirs):
        took = f"{_quantiles(mine)} against {_quantiles(theirs)}"
        what = f"answers to the same {n:,} requests took {took} (p50, p95, p99)"
    return finding("slower in pairs", what, 0.0, NEVER)


def _quantiles(latency: tuple[int, ...]) -> str:
    """The upper edges of the buckets in which the quantiles lie."""
    running, found = np.cumsum(latency), []
    for quantile in QUANTILES:
        place = min(int(np.searchsorted(running, quantile * running[-1])), len(LATENCY_EDGES_S) - 1)
        found.append(f"{LATENCY_EDGES_S[place] * 1000:.3g}")
    return f"{', '.join(found[:-1])} and {found[-1]} ms"


def finding(name: str, what: str, log_e_value: float, limit: float) -> Finding:
    """A finding from the logarithm of its e-value, which may be too large for a number."""
    return Finding(name=name, what=what, e_value=exp(min(log_e_value, log(1e300))), limit=limit)


def limit_of(alpha: float) -> float:
    """What an e-value must exceed at level `alpha`; nothing does at 0."""
    return 1 / alpha if alpha > 0 else NEVER


def asked_limit(limit: float | None) -> float | None:
    """`limit` as people and JSON have it: None for what is not asked."""
    return None if limit is None or limit >= NEVER else limit


def _after(
    evidence: Evidence, metric: str, mine: dict[str, Exposure], theirs: dict[str, Exposure]
) -> tuple[Evidence, tuple[int, int], tuple[int, int]]:
    one, other = mine.get(metric, _NONE), theirs.get(metric, _NONE)
    after = evidence.after(
        failures=one.happened, n=one.at_risk, reference_failures=other.happened, reference_n=other.at_risk
    )
    return after, (one.happened, one.at_risk), (other.happened, other.at_risk)


def _sum(one: tuple[int, ...], other: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(mine + theirs for mine, theirs in zip(one, other, strict=True))


def _total(counts: tuple[int, ...]) -> float:
    return sum(count * rank for count, rank in zip(counts, _RANKS, strict=True))


def _show(value: float) -> str:
    return f"{value:.3g}" if value < 1000 else f"{value:,.0f}" if value < 1e6 else f"{value:.1e}"
