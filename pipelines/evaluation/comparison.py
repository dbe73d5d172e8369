"""The challenger against the champion on the same held-out rows: metrics of both, intervals of differences."""

from collections.abc import Callable
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from pipelines.evaluation.metrics import Costs, metrics
from pipelines.statistics import resampled
from pipelines.statistics.bootstrap import Blocks, interval, together
from pipelines.statistics.classification import Confusion, confusion, log_losses

RESAMPLES = 2000
FEW_BLOCKS = 10  # below, an interval says little: it is given, and the comparison says so
MAXIMUM_BLOCKS = 400  # neighbouring days are taken together beyond that: the pairs of an AUC are blocks × blocks
Floats = NDArray[np.float64]


class Interval(msgspec.Struct, frozen=True, kw_only=True):
    """An estimate with the 95 % interval of a block bootstrap over days."""

    estimate: float
    low: float
    high: float


class Difference(Interval, frozen=True, kw_only=True):
    """Challenger minus champion, with the 95 % interval of a paired bootstrap over days."""


class ReliabilityPoint(msgspec.Struct, frozen=True, kw_only=True):
    """Among `rows` rows that were given about `mean_score`, how often it happened, with its 95 % interval."""

    rows: int
    mean_score: float
    observed: float
    low: float | None
    high: float | None


class Decisions(msgspec.Struct, frozen=True, kw_only=True):
    """How many rows were called positive at the threshold, or not, rightly or wrongly."""

    true_positives: int
    false_positives: int
    true_negatives: int
    false_negatives: int


class Comparison(msgspec.Struct, frozen=True, kw_only=True):
    """What the gates see. `champion` is None, and `differences` empty, when there is no champion yet.

    `intervals` are those of the challenger's own metrics; empty with one day only. `notes` say what to keep in mind.
    """

    rows: int
    blocks: int
    challenger: dict[str, float]
    champion: dict[str, float] | None
    differences: dict[str, Difference]
    intervals: dict[str, Interval] = {}
    decisions: dict[str, Decisions] = {}
    notes: tuple[str, ...] = ()


class Compared(msgspec.Struct, frozen=True, kw_only=True):
    """The comparison, and what only the report shows: the reliability curve of each version, by its name."""

    comparison: Comparison
    reliability: dict[str, tuple[ReliabilityPoint, ...]]


def compare(
    challenger_scores: NDArray[Any],
    champion_scores: NDArray[Any] | None,
    labels: NDArray[Any],
    days: NDArray[Any],
    threshold: float,
    seed: int,
    resamples: int = RESAMPLES,
    costs: Costs | None = None,
) -> Compared:
    """Compares the scores of both versions for the same rows; `days` is the block of each row. All of shape (rows,).

    Memory does not grow with `resamples` (see `pipelines.statistics.bootstrap`).

    Raises:
        ValueError: shapes differ, labels other than 0 and 1, one class only, a NaN score, or (with a champion) fewer
            than two days.
    """
    happened = np.asarray(labels, dtype=np.float64)
    sides = {"challenger": np.asarray(challenger_scores, dtype=np.float64)}
    if champion_scores is not None:
        sides["champion"] = np.asarray(champion_scores, dtype=np.float64)
    prices = costs or Costs()
    found = {name: _metrics(name, happened, scores, threshold, prices) for name, scores in sides.items()}
    if "auc" not in found["challenger"]:
        raise ValueError(f"all {len(happened)} rows have the label {happened[0]:g}: take a longer test window")
    if np.shape(days) != happened.shape:
        raise ValueError(f"days have the shape {np.shape(days)}, labels {happened.shape}; expected one day a row")
    ids = together(np.asarray(days, dtype=np.int64), MAXIMUM_BLOCKS)
    count = len(np.unique(ids))
    blocks = Blocks(ids, resamples=resamples, seed=seed) if count > 1 or champion_scores is not None else None
    intervals: dict[str, Interval] = {}
    differences: dict[str, Difference] = {}
    curves: dict[str, tuple[ReliabilityPoint, ...]] = {}
    if blocks is not None:
        intervals, differences = _intervals(blocks, happened, sides, threshold, prices)
        curves = {
            name: tuple(ReliabilityPoint(**point._asdict()) for point in resampled.reliability(blocks, happened, given))
            for name, given in sides.items()
        }
    few = f"only {count} days: intervals of so few are rough"
    comparison = Comparison(
        rows=len(happened),
        blocks=count,
        challenger=found["challenger"],
        champion=found.get("champion"),
        differences=differences,
        intervals=intervals,
        decisions={name: _decisions(confusion(happened, given, threshold)) for name, given in sides.items()},
        notes=(few,) if count < FEW_BLOCKS else (),
    )
    return Compared(comparison=comparison, reliability=curves)


def _metrics(name: str, labels: Floats, scores: Floats, threshold: float, costs: Costs) -> dict[str, float]:
    try:
        return metrics(labels, scores, threshold, costs)
    except ValueError as error:
        raise ValueError(f"{name}: {error}") from error


def _decisions(counts: Confusion) -> Decisions:
    return Decisions(**counts._asdict())


def _intervals(
    blocks: Blocks, labels: Floats, sides: dict[str, Floats], threshold: float, costs: Costs
) -> tuple[dict[str, Interval], dict[str, Difference]]:
    """The intervals of the challenger's metrics, and of the differences; both sides see the same resamples."""
    negative, positive = labels == 0, labels == 1
    measured: dict[str, Callable[[Floats], Floats]] = {
        "log_loss": lambda scores: blocks.mean(log_losses(labels, scores)),
        "brier": lambda scores: blocks.mean((scores - labels) ** 2),
        "auc": lambda scores: blocks.auc(labels, scores),
        "average_precision": lambda scores: resampled.average_precision(blocks, labels, scores),
        "calibration_error": lambda scores: resampled.calibration_error(blocks, labels, scores),
        "cost": lambda scores: blocks.mean(costs.of_rows(labels, scores, threshold)),
        "f1": lambda scores: blocks.ratio(2.0 * (scores >= threshold) * labels, (scores >= threshold) + labels),
        "recall": lambda scores: blocks.mean((scores >= threshold).astype(float), positive),
        "false_positive_rate": lambda scores: blocks.mean((scores >= threshold).astype(float), negative),
    }
    intervals: dict[str, Interval] = {}
    differences: dict[str, Difference] = {}
    for name, metric in measured.items():
        values = metric(sides["challenger"])
        intervals[name] = Interval(**_named(name, values, blocks))
        if "champion" in sides:
            differences[name] = Difference(**_named(name, values - metric(sides["champion"]), blocks))
    return intervals, differences


def _named(name: str, values: Floats, blocks: Blocks) -> dict[str, float]:
    try:
        return interval(values, blocks=blocks.count)._asdict()
    except ValueError as error:
        raise ValueError(f"{name}: {error}: take a longer test window") from error
