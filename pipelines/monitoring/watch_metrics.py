"""What a watch saw, as metrics for Prometheus. Pure: from the entry of the ledger to names, labels and values.

What is not known has no sample: a rule that needs it says "no data" instead of a zero. Ages count from the as-of date.
"""

from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from typing import Any, NamedTuple

from prometheus_client import CollectorRegistry, Gauge, generate_latest

PREFIX = "paceline_watch_"
_ESTIMATES = ("auc", "log_loss", "brier", "false_positive_rate")
HELP: Mapping[str, str] = {
    "predictions": "Predictions in the window that the last watch looked at.",
    "window_days": "Days of predictions that the last watch looked at.",
    "as_of_timestamp_seconds": "The start of the day (UTC) that the last watch took as today.",
    "undated_predictions": "Predictions whose event time is no time; no window has them.",
    "damaged_segments": "Files of the prediction log that the last watch could not read, or not to their end.",
    "outcomes_due": "Predictions in the window whose outcome should be known.",
    "outcomes_labelled": "Predictions in the window whose outcome is due and known.",
    "outcomes_early": "Predictions in the window whose outcome is known before it is due; nothing uses those.",
    "outcomes_corrected": "Predictions in the window of whose outcome something else was said before.",
    "label_coverage_ratio": "Outcomes that are known, of those that are due.",
    "label_age_days": "Days from the newest event with an outcome to the as-of date.",
    "label_delay_days": "Median days from an event's day until its outcome was known.",
    "quarantined_outcomes": "Outcomes in the quarantine, by reason.",
    "quality": "A measure of quality by outcomes, by version and slot.",
    "quality_low": "The lower end of its 95 % interval.",
    "quality_high": "The upper end of its 95 % interval.",
    "quality_outcomes": "The outcomes that it rests on.",
    "score_mean": "The mean score, by version and slot.",
    "decision_ratio": "The share of positive decisions, by version and slot.",
}


class Metric(NamedTuple):
    """One sample: a name, its labels, and its value."""

    name: str
    labels: dict[str, str]
    value: float


def watch_metrics(observed: Mapping[str, Any]) -> list[Metric]:
    """The samples of one watch, as `pipelines.tasks.watching.observe` returned it, or of its entry in the ledger."""
    return [Metric(PREFIX + name, labels, float(value)) for name, labels, value in _samples(observed)]


def _samples(observed: Mapping[str, Any]) -> Iterator[tuple[str, dict[str, str], float]]:
    whose = {"project": str(observed["project"])} if "project" in observed else {}
    yield "predictions", whose, observed["predictions"]
    yield "window_days", whose, observed["days"]
    yield "as_of_timestamp_seconds", whose, datetime.fromisoformat(observed["as_of"]).replace(tzinfo=UTC).timestamp()
    yield "undated_predictions", whose, observed["undated"]
    yield "damaged_segments", whose, len(observed["damaged"])
    coverage = observed["coverage"]
    for name in ("due", "labelled", "early", "corrected"):
        yield f"outcomes_{name}", whose, coverage.get(name, 0)
    if coverage["due"]:
        yield "label_coverage_ratio", whose, coverage["labelled"] / coverage["due"]
    for name in ("age_days", "delay_days"):
        if coverage.get(name) is not None:
            yield f"label_{name}", whose, coverage[name]
    for reason, count in observed.get("quarantine", {}).items():
        yield "quarantined_outcomes", {**whose, "reason": reason}, count
    for quality in observed["quality"]:
        yield from _quality(quality, {**whose, "version": quality["version"], "slot": quality["slot"]})


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


def exposition(metrics: list[Metric]) -> bytes:
    """`metrics` in Prometheus' text format, each family once with its help; all are gauges.

    Raises:
        KeyError: a metric has no line in `HELP`.
    """
    registry = CollectorRegistry()
    gauges: dict[str, Gauge] = {}
    for metric in metrics:
        gauge = gauges.get(metric.name)
        if gauge is None:
            said = HELP[metric.name.removeprefix(PREFIX)]
            gauge = gauges[metric.name] = Gauge(metric.name, said, sorted(metric.labels), registry=registry)
        (gauge.labels(**metric.labels) if metric.labels else gauge).set(metric.value)
    return generate_latest(registry)
