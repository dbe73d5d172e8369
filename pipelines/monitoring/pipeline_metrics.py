"""What the pipelines are worth watching by: metrics of a project, folded from the ledger's entries. Pure.

They are what an alert on the monitor itself needs: a watch that is late, empty or partial, a retrain that is old, an
investigation that nobody has looked at. Times are Unix timestamps, so that a process that hangs ages by itself.
"""

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, date, datetime
from typing import Any, Literal, NamedTuple, Protocol

from pipelines.monitoring.score_watch import ScoreWatch, ScoreWatchLimits, threshold_edge
from pipelines.monitoring.skew_metrics import SKEW_FAMILIES, skew_metrics
from pipelines.monitoring.watch_metrics import FAMILIES, watch_metrics


class Metric(NamedTuple):
    """A family of the endpoint: its labels beside `project`, and what it says."""

    name: str
    kind: Literal["gauge", "counter"]
    labels: tuple[str, ...]
    text: str


class Sample(NamedTuple):
    """One value of a family; labels in the family's order, `project` first."""

    name: str
    labels: tuple[str, ...]
    value: float


class Entry(Protocol):
    """As much of a ledger's entry as is read here."""

    @property
    def at(self) -> datetime: ...
    @property
    def kind(self) -> str: ...
    @property
    def subject(self) -> str: ...
    @property
    def body(self) -> dict[str, Any]: ...


_SINCE = "Unix time"
METRICS: tuple[Metric, ...] = (
    Metric("paceline_watch_last_success_timestamp_seconds", "gauge", (), f"{_SINCE} of the last watch that ended well"),
    Metric("paceline_watch_due_timestamp_seconds", "gauge", (), f"{_SINCE} by which the next watch is to begin"),
    Metric(
        "paceline_watch_as_of_timestamp_seconds", "gauge", (), f"{_SINCE} of the date that the last watch was as of"
    ),
    Metric("paceline_watches", "counter", (), "Watches that ended well"),
    Metric("paceline_watch_predictions", "gauge", (), "Predictions that the last watch has read"),
    Metric("paceline_watch_undated_predictions", "gauge", (), "Of these, rows whose event time is no time"),
    Metric("paceline_watch_segments", "gauge", (), "Files of the prediction log that it has read"),
    Metric("paceline_watch_damaged_segments", "gauge", (), "Files of the prediction log that it could not read"),
    Metric("paceline_watch_days_empty", "gauge", (), "Days of its window without a single prediction"),
    Metric("paceline_watch_blind", "gauge", (), "1 where no rule could be judged for lack of data"),
    *(Metric(name, "gauge", labels, text) for name, (labels, text) in FAMILIES.items()),
    *(Metric(name, "gauge", labels, text) for name, (labels, text) in SKEW_FAMILIES.items()),
    Metric("paceline_workflow_failures", "counter", ("workflow",), "Tasks that failed for good"),
    Metric(
        "paceline_workflow_last_failure_timestamp_seconds", "gauge", ("workflow",), f"{_SINCE} of the last such failure"
    ),
    Metric("paceline_champion_info", "gauge", ("version", "bundle"), "1 for the version that leads"),
    Metric("paceline_champion_since_timestamp_seconds", "gauge", (), f"{_SINCE} since which the champion leads"),
    Metric("paceline_retrain_last_timestamp_seconds", "gauge", ("trigger",), f"{_SINCE} of the last retrain's start"),
    Metric("paceline_retrains", "counter", ("trigger",), "Retrains that were started"),
    Metric("paceline_retrains_due", "counter", ("trigger",), "Requests for a retrain that the policy let pass"),
    Metric("paceline_retrains_suppressed", "counter", ("trigger", "hold"), "Requests that it held back, by each hold"),
    Metric("paceline_rollout_running", "gauge", (), "1 while a rollout runs"),
    Metric("paceline_rollout_share", "gauge", (), "The challenger's share that the rollout has asked for"),
    Metric("paceline_rollout_paused", "gauge", (), "1 while a person has paused it"),
    Metric("paceline_rollout_asks", "gauge", (), "1 while it waits for a person's answer"),
    Metric("paceline_rollout_last_look_timestamp_seconds", "gauge", (), f"{_SINCE} of its last look"),
    Metric("paceline_rollouts_queued", "gauge", (), "Versions that wait for their rollout"),
    Metric("paceline_rollouts", "counter", ("state",), "Rollouts that have ended, by how"),
    Metric("paceline_holdout_running", "gauge", (), "1 while a holdout waits for outcomes"),
    Metric("paceline_investigations_open", "gauge", (), "Rollbacks that nobody has explained yet"),
    Metric("paceline_score_alarms", "counter", (), "Alarms of the fast watch over scores"),
    Metric("paceline_score_drift_alarm", "gauge", (), "1 while the shares of scores are not as usual"),
    Metric("paceline_score_drift_evidence_ratio", "gauge", (), "Evidence for that, on a log scale; 1 raises the alarm"),
    Metric(
        "paceline_score_drift_share", "gauge", (), "Share of the last hour's scores above the edge by the threshold"
    ),
    Metric("paceline_score_drift_usual_low", "gauge", (), "Where the usual range of that share begins, at this hour"),
    Metric("paceline_score_drift_usual_high", "gauge", (), "Where it ends"),
    Metric("paceline_score_watch_learning", "gauge", (), "1 while too few days are known to judge by"),
    Metric("paceline_score_watch_scores", "gauge", (), "Scores that the watch has seen in the last hour"),
    Metric(
        "paceline_score_watch_last_look_timestamp_seconds", "gauge", (), f"{_SINCE} of its last look: its heartbeat"
    ),
    Metric("paceline_score_watch_servers_unreachable", "gauge", (), "Servers whose counters it could not read then"),
)
# of the exporter itself: no project
OWN_METRICS: tuple[Metric, ...] = (
    Metric(
        "paceline_ledger_up", "gauge", (), "1 while the ledger answers; the metrics of the projects are absent else"
    ),
    Metric("paceline_exporter_scrape_seconds", "gauge", (), "How long it took to read what this page says"),
)
WATCHED, FAILED, SWAPPED, RESTORED = "watch", "failure", "champion.swapped", "champion.restored"
STARTED, DUE, SUPPRESSED, ENDED = "trigger", "trigger.due", "trigger.suppressed", "release.ended"
OPENED, CLOSED, SCORES, COMPARED = "investigation.opened", "investigation.closed", "scores.alarm", "skew"
KINDS = (WATCHED, FAILED, SWAPPED, RESTORED, STARTED, DUE, SUPPRESSED, ENDED, OPENED, CLOSED, SCORES, COMPARED)


@dataclass
class Record:
    """What the entries of one project, added in the ledger's order, come to."""

    watch: dict[str, Any] | None = None
    watched_at: datetime | None = None
    skew: dict[str, Any] | None = None
    compared_at: datetime | None = None
    led_since: datetime | None = None
    watches: int = 0
    score_alarms: int = 0
    failures: Counter[str] = field(default_factory=Counter)
    failed_at: dict[str, datetime] = field(default_factory=dict)
    retrains: Counter[str] = field(default_factory=Counter)
    retrained_at: dict[str, datetime] = field(default_factory=dict)
    due: Counter[str] = field(default_factory=Counter)
    suppressed: Counter[tuple[str, str]] = field(default_factory=Counter)
    rollouts: Counter[str] = field(default_factory=Counter)
    open_investigations: set[str] = field(default_factory=set)

    def add(self, entry: Entry) -> None:
        """One more entry; of a kind that is not among KINDS nothing is kept."""
        body = entry.body
        if entry.kind == WATCHED:
            self.watch, self.watched_at, self.watches = body, entry.at, self.watches + 1
        elif entry.kind == FAILED:
            self.failures[body["workflow"]] += 1
            self.failed_at[body["workflow"]] = entry.at
        elif entry.kind in (SWAPPED, RESTORED):
            self.led_since = entry.at
        elif entry.kind == STARTED:
            self.retrains[body["trigger"]] += 1
            self.retrained_at[body["trigger"]] = entry.at
        elif entry.kind == DUE:
            self.due[body["trigger"]] += 1
        elif entry.kind == SUPPRESSED:
            self.suppressed.update((body["trigger"], held["hold"]) for held in body["held_by"])
        elif entry.kind == ENDED:
            self.rollouts[body["state"]] += 1
        elif entry.kind == OPENED:
            self.open_investigations.add(entry.subject)
        elif entry.kind == CLOSED:
            self.open_investigations.discard(entry.subject)
        elif entry.kind == SCORES:
            self.score_alarms += 1
        elif entry.kind == COMPARED:
            self.skew, self.compared_at = body, entry.at


@dataclass(frozen=True)
class Leading:
    """The champion, the rollout that runs as `RolloutWatch` tells it, and whether a holdout runs."""

    version: str | None = None
    bundle: str | None = None
    rollout: Mapping[str, Any] | None = None
    queued: int = 0
    holdout: bool = False


def samples_of(project: str, record: Record, leading: Leading, due: datetime | None) -> Iterator[Sample]:
    """The samples of one project. What is not known (no watch yet, no champion) has no sample: it is not 0."""

    def one(name: str, value: float | datetime | None, *labels: str) -> Iterator[Sample]:
        if value is not None:
            number = value.timestamp() if isinstance(value, datetime) else float(value)
            yield Sample(f"paceline_{name}", (project, *labels), number)

    yield from one("watch_last_success_timestamp_seconds", record.watched_at)
    yield from one("watch_due_timestamp_seconds", due)
    yield from one("watches", record.watches)
    yield from _of_watch(project, record.watch)
    yield from one("skew_last_success_timestamp_seconds", record.compared_at)
    for metric in skew_metrics(record.skew) if record.skew is not None else ():
        yield Sample(metric.name, (project, *metric.labels), metric.value)
    for workflow, count in sorted(record.failures.items()):
        yield from one("workflow_failures", count, workflow)
        yield from one("workflow_last_failure_timestamp_seconds", record.failed_at[workflow], workflow)
    if leading.version is not None and leading.bundle is not None:
        yield from one("champion_info", 1, leading.version, leading.bundle)
        yield from one("champion_since_timestamp_seconds", record.led_since)
    for trigger, count in sorted(record.retrains.items()):
        yield from one("retrain_last_timestamp_seconds", record.retrained_at[trigger], trigger)
        yield from one("retrains", count, trigger)
    for trigger, count in sorted(record.due.items()):
        yield from one("retrains_due", count, trigger)
    for (trigger, hold), count in sorted(record.suppressed.items()):
        yield from one("retrains_suppressed", count, trigger, hold)
    yield from one("rollout_running", leading.rollout is not None)
    if leading.rollout is not None:
        yield from one("rollout_share", leading.rollout["share"])
        yield from one("rollout_paused", leading.rollout["paused"])
        yield from one("rollout_asks", leading.rollout["asks"])
        yield from one("rollout_last_look_timestamp_seconds", leading.rollout["looked_s"])
    yield from one("rollouts_queued", leading.queued)
    for state, count in sorted(record.rollouts.items()):
        yield from one("rollouts", count, state)
    yield from one("holdout_running", leading.holdout)
    yield from one("investigations_open", len(record.open_investigations))
    yield from one("score_alarms", record.score_alarms)


def _of_watch(project: str, watch: Mapping[str, Any] | None) -> Iterator[Sample]:
    if watch is None:
        return
    as_of = datetime.combine(date.fromisoformat(watch["as_of"]), datetime.min.time(), UTC)
    told = {
        "as_of_timestamp_seconds": as_of.timestamp(),
        "predictions": watch["predictions"],
        "undated_predictions": watch["undated"],
        "damaged_segments": len(watch["damaged"]),
        "segments": watch.get("segments"),  # entries of older code have none
        "days_empty": watch.get("days_empty"),
        "blind": watch["decision"]["blind"],
    }
    for name, value in told.items():
        if value is not None:
            yield Sample(f"paceline_watch_{name}", (project,), float(value))
    for metric in watch_metrics(watch):
        yield Sample(metric.name, (project, *metric.labels.values()), metric.value)


def score_samples(
    project: str, watch: ScoreWatch, unreachable: int, threshold: float, limits: ScoreWatchLimits
) -> Iterator[Sample]:
    """The samples of the fast watch over a project's scores; what it cannot judge by yet has none."""
    edge = threshold_edge(threshold)
    band = (None, None) if watch.band is None else (watch.band[0][edge], watch.band[1][edge])
    ratio = None if watch.evidence is None else max(watch.evidence / limits.log_threshold, 0.0)
    told: dict[str, float | None] = {
        "drift_alarm": watch.state == "alarm",
        "drift_evidence_ratio": ratio,
        "drift_share": watch.share_above(edge),
        "drift_usual_low": band[0],
        "drift_usual_high": band[1],
        "watch_learning": watch.state == "learning",
        "watch_scores": watch.scores,
        "watch_last_look_timestamp_seconds": watch.looked_s,
        "watch_servers_unreachable": unreachable,
    }
    for name, value in told.items():
        if value is not None:
            yield Sample(f"paceline_score_{name}", (project,), float(value))
