"""What a watch found out about outcomes and quality, as metrics. Pure: from its entry in the ledger to samples.

What is not known has no sample: a rule that needs it says "no data", and never sees a zero. Ages count from the as-of
date. `pipeline_metrics` puts them beside all else that Prometheus scrapes.
"""

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

_ESTIMATES = ("auc", "log_loss", "brier", "false_positive_rate")
_OF = ("version", "slot")
# each family's labels, beside the project, and what it says
FAMILIES: Mapping[str, tuple[tuple[str, ...], str]] = {
    "paceline_watch_outcomes_due": ((), "Predictions in the window whose outcome should be known"),
    "paceline_watch_outcomes_labelled": ((), "Of these, whose outcome is known"),
    "paceline_watch_outcomes_early": ((), "Outcomes that are known before they are due, which nothing uses"),
    "paceline_watch_outcomes_corrected": ((), "Outcomes of which something else was said before"),
    "paceline_watch_label_coverage_ratio": ((), "Known outcomes of those that are due"),
    "paceline_watch_label_age_days": ((), "Days from the newest event with an outcome to the as-of date"),
    "paceline_watch_label_delay_days": ((), "Median days from an event's day until its outcome was known"),
    "paceline_watch_outcomes_quarantined": (("reason",), "Outcomes that could not be believed"),
    "paceline_watch_quality": ((*_OF, "metric"), "A measure by outcomes"),
    "paceline_watch_quality_low": ((*_OF, "metric"), "The lower end of its 95 % interval"),
    "paceline_watch_quality_high": ((*_OF, "metric"), "The upper end of its 95 % interval"),
    "paceline_watch_quality_outcomes": (_OF, "The outcomes that it rests on"),
    "paceline_watch_score_mean": (_OF, "The mean score"),
    "paceline_watch_decision_ratio": (_OF, "The share of positive decisions"),
    "paceline_watch_drift": (("of",), "1 where inputs, scores or outcomes drifted, 0 where they did not"),
    "paceline_watch_drift_distance": (
        ("column", "counts"),
        "The distance of a column to the baseline, in units of its limit; counts is no where the project ignores it",
    ),
    "paceline_watch_data_quality": (("kind", "severity"), "Columns whose data is broken"),
    "paceline_watch_relation_auc": ((), "How well a classifier tells the reference from now; 0.5 is not at all"),
    "paceline_watch_drift_highest_sum": ((), "The highest cumulative sum of the board, in units of its limit"),
}


class WatchMetric(NamedTuple):
    """One value of a family; labels in the family's order."""

    name: str
    labels: dict[str, str]
    value: float


def watch_metrics(observed: Mapping[str, Any]) -> list[WatchMetric]:
    """The samples of one watch, as `pipelines.tasks.watching.observe` returned it, or of its entry in the ledger."""
    return [WatchMetric(f"paceline_watch_{name}", labels, float(value)) for name, labels, value in _samples(observed)]


def _samples(observed: Mapping[str, Any]) -> Iterator[tuple[str, dict[str, str], float]]:
    if (coverage := observed.get("coverage")) is not None:
        for name in ("due", "labelled", "early", "corrected"):
            if name in coverage:  # entries of older code lack some
                yield f"outcomes_{name}", {}, coverage[name]
        if coverage["due"]:
            yield "label_coverage_ratio", {}, coverage["labelled"] / coverage["due"]
        for name in ("age_days", "delay_days"):
            if coverage.get(name) is not None:
                yield f"label_{name}", {}, coverage[name]
    for reason, count in observed.get("quarantine", {}).items():
        yield "outcomes_quarantined", {"reason": reason}, count
    yield from _drift(observed)
    for quality in observed.get("quality", ()):
        yield from _quality(quality, {name: quality[name] for name in _OF})


def _drift(observed: Mapping[str, Any]) -> Iterator[tuple[str, dict[str, str], float]]:
    drift = observed.get("drift") or {}
    for of in ("inputs", "scores", "outcomes"):
        if drift.get(of, "no_data") != "no_data":
            yield "drift", {"of": of}, drift[of] == "drift"
    for column in drift.get("columns", ()):
        if column["distance"] is not None:
            labels = {"column": column["column"], "counts": "yes" if column["counts"] else "no"}
            yield "drift_distance", labels, column["distance"] / column["limit"]
    if drift and "data_quality" in observed:
        counts = {("broken_join", "critical"): 0}
        for fault in observed["data_quality"]:
            key = fault["kind"], fault["severity"]
            counts[key] = counts.get(key, 0) + len(fault["columns"])
        for (kind, severity), count in counts.items():
            yield "data_quality", {"kind": kind, "severity": severity}, count
    if (relation := observed.get("relation")) is not None:
        yield "relation_auc", {}, relation["auc"]
    board = observed.get("drift_board") or {}
    if board.get("highest_sum") is not None:
        yield "drift_highest_sum", {}, board["highest_sum"]


def _quality(quality: Mapping[str, Any], labels: dict[str, str]) -> Iterator[tuple[str, dict[str, str], float]]:
    yield "quality_outcomes", labels, quality["labelled"]
    if quality["mean_score"] is not None:
        yield "score_mean", labels, quality["mean_score"]
    if quality["decision_share"] is not None:
        yield "decision_ratio", labels, quality["decision_share"]
    for metric in _ESTIMATES:
        estimate = quality[metric]
        if estimate is None:
            continue
        named = {**labels, "metric": metric}
        yield "quality", named, estimate["value"]
        if estimate["low"] is not None:
            yield "quality_low", named, estimate["low"]
            yield "quality_high", named, estimate["high"]
