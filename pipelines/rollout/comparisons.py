"""What the challenger does against what the champion does, look by look: the evidence, and the counts behind it. Pure.

`Comparison` is of something that happens or does not (an error, a slow answer), `ScoreComparison` of mean scores.
"""

from math import exp, log

import msgspec

from contracts.slots import SCORE_BINS
from pipelines.statistics.mean_difference import MeanEvidence
from pipelines.statistics.odds_ratio import Evidence

# A score counts as the middle of its bin, at most 0.05 off. The difference of two means is off by at most 0.1, and by
# far less where scores spread over bins; choose a margin well above that.
_MIDDLES = tuple((place + 0.5) / SCORE_BINS for place in range(SCORE_BINS))


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
        relation = ">" if self.exceeded else "<="
        return f"{self.what}: e-value {_show(self.e_value)} {relation} {_show(self.limit)}"


class Comparison(msgspec.Struct, frozen=True, kw_only=True):
    """The evidence that something happens at higher odds to the challenger than to the champion."""

    name: str
    evidence: Evidence
    happened: int = 0
    n: int = 0
    reference_happened: int = 0
    reference_n: int = 0

    def after(self, happened: int, n: int, reference_happened: int, reference_n: int) -> "Comparison":
        """The comparison after one more look; one without requests of the challenger compares nothing."""
        if n == 0:
            return self
        return msgspec.structs.replace(
            self,
            evidence=self.evidence.after(
                failures=happened, n=n, reference_failures=reference_happened, reference_n=reference_n
            ),
            happened=self.happened + happened,
            n=self.n + n,
            reference_happened=self.reference_happened + reference_happened,
            reference_n=self.reference_n + reference_n,
        )

    def finding(self, limit: float) -> Finding:
        """The finding so far, against `limit`."""
        sides = f"{self.happened:,} of {self.n:,} against {self.reference_happened:,} of {self.reference_n:,}"
        return finding(self.name, f"{self.name} {sides}", self.evidence.log_e_value, limit)


class ScoreComparison(msgspec.Struct, frozen=True, kw_only=True):
    """The evidence that the challenger's mean score is too high beside the champion's, or too low with `is_lower`."""

    name: str
    evidence: MeanEvidence
    is_lower: bool = False
    total: float = 0.0
    n: int = 0
    reference_total: float = 0.0
    reference_n: int = 0

    def after(self, counts: tuple[int, ...], reference: tuple[int, ...]) -> "ScoreComparison":
        """The comparison after one more look, with the scores of both sides counted in bins of equal width."""
        n, reference_n = sum(counts), sum(reference)
        if n == 0 or reference_n == 0:
            return self
        total, reference_total = _total(counts), _total(reference)
        mean, reference_mean = total / n, reference_total / reference_n
        if self.is_lower:  # lower scores are higher distances from 1
            mean, reference_mean = 1 - mean, 1 - reference_mean
        return msgspec.structs.replace(
            self,
            evidence=self.evidence.after(mean=mean, n=n, reference_mean=reference_mean, reference_n=reference_n),
            total=self.total + total,
            n=self.n + n,
            reference_total=self.reference_total + reference_total,
            reference_n=self.reference_n + reference_n,
        )

    def finding(self, limit: float) -> Finding:
        """The finding so far, against `limit`."""
        what = f"{self.name}: none to compare"
        if self.n:
            what = (
                f"mean score {self.total / self.n:.2f} (n = {self.n:,}) against "
                f"{self.reference_total / self.reference_n:.2f} (n = {self.reference_n:,}), more than "
                f"{self.evidence.margin:g} {'lower' if self.is_lower else 'higher'}"
            )
        return finding(self.name, what, self.evidence.log_e_value, limit)


def finding(name: str, what: str, log_e_value: float, limit: float) -> Finding:
    """A finding from the logarithm of its e-value, which may be too large for a number."""
    return Finding(name=name, what=what, e_value=exp(min(log_e_value, log(1e300))), limit=limit)


def _total(counts: tuple[int, ...]) -> float:
    return sum(count * middle for count, middle in zip(counts, _MIDDLES, strict=True))


def _show(value: float) -> str:
    return f"{value:.3g}" if value < 1000 else f"{value:,.0f}" if value < 1e6 else f"{value:.1e}"
