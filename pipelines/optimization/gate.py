"""Whether a candidate may stand in for the graph as trained, and which one does. Pure.

A loss on any part of the rows counts, however good the mean; so does time at p99, and never its mean.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import msgspec
import numpy as np
from numpy.typing import NDArray

from pipelines.inference import Latency
from pipelines.optimization.limits import BatchSize, Name, OptimizationLimits
from pipelines.statistics.clustered_mean import cluster_sums, clustered_mean

ERROR = 0.05  # of accepting a candidate that is worse than a margin on some part
ALL_ROWS = "all rows"
_MINIMUM_DAYS = 5  # fewer say nothing of how days differ

Floats = NDArray[np.float64]


class Slice(NamedTuple):
    """A part of the rows that is judged alone: its title, such as `carrier UA`, and which rows are in it."""

    title: str
    rows: NDArray[np.bool_]


class PartQuality(msgspec.Struct, frozen=True, kw_only=True):
    """The candidate's log loss on a part of the rows, and how much more it is than that of the graph as trained.

    `bound` is what the difference is at most, and None where the part has too few rows to be judged.
    """

    title: str
    rows: int
    log_loss: float
    difference: float
    bound: float | None
    margin: float

    @property
    def passed(self) -> bool:
        return self.bound is None or self.bound <= self.margin


class Judged(NamedTuple):
    """Accepted or not, with the numbers."""

    accepted: bool
    reason: str


class Contender(NamedTuple):
    """What is chosen among."""

    name: Name
    accepted: bool
    latency: tuple[Latency, ...]


def compare_losses(
    losses: Floats,
    reference: Floats,
    days: NDArray[np.int64] | None,
    slices: Sequence[Slice],
    limits: OptimizationLimits,
) -> tuple[PartQuality, ...]:
    """The parts of the rows, all rows first, each with the upper bound of its paired difference.

    `losses` and `reference` are log losses row by row, of the candidate and of the graph as trained. The bounds hold
    all at once with a confidence of 95 % (Bonferroni: each at 1 - 5 % / number of parts judged), so that the worst one
    may be read as it stands, and more slices make the gate stricter. The standard error is the larger of that of rows
    and that of days, whose rows share their weather: days may agree by chance; fewer than five days count as rows.
    """
    differences = losses - reference
    judged = [part for part in slices if int(part.rows.sum()) >= limits.minimum_slice_rows]
    level = 1 - ERROR / (1 + len(judged))
    everything = Slice(ALL_ROWS, np.ones(len(losses), dtype=bool))
    judged_titles = {ALL_ROWS, *(part.title for part in judged)}
    found = []
    for title, rows in (everything, *slices):
        if not rows.any():
            continue
        of_part, of_days = differences[rows], None if days is None else days[rows]
        found.append(
            PartQuality(
                title=title,
                rows=int(rows.sum()),
                log_loss=float(losses[rows].mean()),
                difference=float(of_part.mean()),
                bound=upper_bound(of_part, of_days, level) if title in judged_titles else None,
                margin=limits.log_loss_margin if title == ALL_ROWS else limits.slice_log_loss_margin,
            )
        )
    return tuple(found)


def upper_bound(differences: Floats, days: NDArray[np.int64] | None, level: float) -> float:
    """What the mean of `differences` is at most, with the confidence `level`.

    Student's t with as many degrees of freedom as days, less one, or the normal quantile for rows.
    """
    from scipy.special import ndtri, stdtrit

    spread = float(differences.std(ddof=1)) if len(differences) > 1 else 0.0
    error, quantile = spread / float(np.sqrt(len(differences))), float(ndtri(level))
    if days is not None:
        clusters = cluster_sums(differences, days)
        if (count := len(clusters.rows)) >= _MINIMUM_DAYS:
            _, by_days = clustered_mean(clusters.sums, clusters.rows)
            error, quantile = max(error, by_days or 0.0), float(stdtrit(count - 1, level))
    return float(differences.mean()) + quantile * error


def judge(
    parts: Sequence[PartQuality],
    latency: Sequence[Latency],
    budgets_us_p99: dict[int, float],
    beside_difference: float,
    limits: OptimizationLimits,
) -> Judged:
    """Whether a candidate is as good, in time at p99, and gives a row one score whatever stands beside it."""
    failures = []
    worst = max(parts, key=lambda part: -np.inf if part.bound is None else part.bound - part.margin)
    if not worst.passed:
        failures.append(f"log loss at most {worst.bound:+.5f} > margin {worst.margin:g} {_on(worst, parts)}")
    failures += [
        f"p99 of {measured.rows} rows {measured.us_p99:,.0f} µs > budget {budget:,.0f} µs"
        for measured in latency
        if (budget := budgets_us_p99.get(measured.rows)) is not None and measured.us_p99 > budget
    ]
    if beside_difference > limits.beside_difference_max:
        failures.append(
            f"the score of a row changes by up to {beside_difference:.1g} > {limits.beside_difference_max:g} "
            "with the rows that share its run"
        )
    if failures:
        return Judged(accepted=False, reason="; ".join(failures))
    return Judged(True, f"log loss at most {worst.bound:+.5f} <= margin {worst.margin:g} {_on(worst, parts)}")


def _on(worst: PartQuality, parts: Sequence[PartQuality]) -> str:
    judged = sum(part.bound is not None for part in parts)
    return f"on {worst.title} (n = {worst.rows:,}), the worst of {judged} parts"


def budgets(batches: Sequence[BatchSize], one_row_us: float) -> dict[int, float]:
    """The budget at p99 of each batch size that has one; for one row the stricter of the project's and its own."""
    declared = {batch.rows: batch.latency_us_p99_max for batch in batches if batch.latency_us_p99_max is not None}
    return {**declared, 1: min(one_row_us, declared.get(1, one_row_us))}


def choose(contenders: Sequence[Contender], limits: OptimizationLimits) -> tuple[Name, str]:
    """The accepted candidate that `limits` name or that is fastest, and why; the first of `contenders` is fp32.

    Where the graph as trained is over its budget and others are not, the fastest of these is taken whatever it saves.
    """
    reference, *_ = contenders
    accepted = {contender.name: contender for contender in contenders if contender.accepted}
    if limits.choose != "fastest":
        if limits.choose in accepted:
            return limits.choose, f"{limits.choose} was asked for"
        return "fp32", f"{limits.choose} was asked for and refused: fp32 serves"
    if not accepted:
        return "fp32", "no candidate was accepted: fp32 serves"
    share = _relative_time(reference, limits.batches)
    fastest = min(accepted.values(), key=share)
    saved = 1 - share(fastest)
    if not reference.accepted:
        return fastest.name, f"the fastest of {len(accepted)} accepted; fp32 is over its budget"
    if fastest is reference:
        others = f"none of {len(accepted) - 1} accepted is faster" if len(accepted) > 1 else "no other was accepted"
        return "fp32", f"{others}: fp32 serves"
    if saved < limits.minimum_saving:
        return "fp32", f"{fastest.name} would save {saved:.1%} < {limits.minimum_saving:.1%} of the time: fp32 serves"
    return fastest.name, f"the fastest of {len(accepted)} accepted: it saves {saved:.0%} of fp32's time"


def _relative_time(reference: Contender, batches: Sequence[BatchSize]) -> Callable[[Contender], float]:
    """The weighted mean over batch sizes of a candidate's median time as a share of the reference's."""
    weights = {batch.rows: batch.weight for batch in batches}

    def share(contender: Contender) -> float:
        pairs = list(zip(contender.latency, reference.latency, strict=True))
        return float(
            np.average(
                [ours.us_p50 / theirs.us_p50 for ours, theirs in pairs],
                weights=[weights[theirs.rows] for _, theirs in pairs],
            )
        )

    return share
