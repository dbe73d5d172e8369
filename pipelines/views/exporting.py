"""What Prometheus scrapes of the pipelines: the ledger, told as metrics. Without Airflow."""

import logging
import time
from collections.abc import Iterable, Iterator
from datetime import datetime
from typing import Any

from prometheus_client.core import CollectorRegistry, CounterMetricFamily, GaugeMetricFamily
from prometheus_client.core import Metric as Family
from prometheus_client.registry import Collector

from pipelines.ledger import Ledger, LedgerUnavailableError
from pipelines.monitoring.pipeline_metrics import (
    KINDS,
    METRICS,
    OWN_METRICS,
    Leading,
    Metric,
    Record,
    Sample,
    samples_of,
    score_samples,
)
from pipelines.monitoring.score_memory import read_memory
from pipelines.projects import Project
from pipelines.views.rollouts import RolloutWatch
from pipelines.wiring import all_projects, home, open_ledger, schedules_are_on

logger = logging.getLogger("paceline")


class LedgerCollector(Collector):
    """The families of METRICS, for all projects, as the ledger has them at the moment of a scrape.

    Entries are read once and folded, so a scrape costs what has been written since the last one. While the ledger does
    not answer, `paceline_ledger_up` is 0 and nothing is said of the projects: their metrics are absent, not stale.
    """

    def __init__(self) -> None:
        self._ledger: Ledger | None = None
        self._watch: RolloutWatch | None = None
        self._records: dict[str, Record] = {}
        self._seen = 0

    def collect(self) -> Iterable[Family]:
        """The families at this instant."""
        started = time.monotonic()
        try:
            samples = list(self._samples())
        except LedgerUnavailableError as away:
            logger.error("the ledger does not answer: %s", away)
            samples, up = [], 0.0
        else:
            up = 1.0
        yield from _families(METRICS, [*samples, *_of_scores()], ("project",))
        own = [Sample(OWN_METRICS[0].name, (), up), Sample(OWN_METRICS[1].name, (), time.monotonic() - started)]
        yield from _families(OWN_METRICS, own, ())

    def describe(self) -> Iterable[Family]:
        """The families without values: registering must not ask the ledger."""
        yield from _families((*METRICS, *OWN_METRICS), [], ("project",))

    def _samples(self) -> Iterator[Sample]:
        if self._ledger is None or self._watch is None:
            self._ledger, self._watch = open_ledger(creates=False), RolloutWatch()
        for entry in self._ledger.entries(kinds=KINDS, after=self._seen):
            self._records.setdefault(entry.project, Record()).add(entry)
            self._seen = entry.id
        for name, project in all_projects().items():
            record = self._records.get(name, Record())
            leading = self._leading(name, self._ledger, self._watch)
            yield from samples_of(name, record, leading, _due(project, record, leading))

    def _leading(self, project: str, ledger: Ledger, watch: RolloutWatch) -> Leading:
        from pipelines.rollout import holdouts

        champion = ledger.champion(project)
        told = watch.rollouts(project)
        return Leading(
            version=None if champion is None else champion.version,
            bundle=None if champion is None else champion.bundle,
            rollout=told["rollout"] if told["running"] else None,
            queued=len(told["queued"]),
            holdout=holdouts.running(ledger, project) is not None,
        )


def _of_scores() -> Iterator[Sample]:
    """What the fast watches over scores remember, also while the ledger is away."""
    for name, project in all_projects().items():
        try:
            kept = read_memory(home().scores(name))
        except ValueError as damaged:
            logger.error("%s", damaged)
            continue
        if kept is not None:
            limits = project.monitoring.scores
            yield from score_samples(name, kept.watch, kept.unreachable, project.decision_threshold, limits)


def _due(project: Project, record: Record, leading: Leading) -> datetime | None:
    """When the next watch is to begin by the schedule: after the last one, or since the first champion leads."""
    from croniter import croniter

    since = record.watched_at or record.led_since
    if project.schedules.watch is None or leading.version is None or since is None or not schedules_are_on():
        return None
    following: datetime = croniter(project.schedules.watch, since).get_next(datetime)
    return following


def _families(metrics: Iterable[Metric], samples: list[Sample], first: tuple[str, ...]) -> Iterator[Family]:
    made: dict[str, Any] = {}
    for metric in metrics:
        kind = CounterMetricFamily if metric.kind == "counter" else GaugeMetricFamily
        made[metric.name] = kind(metric.name, metric.text, labels=(*first, *metric.labels))
    for sample in samples:
        made[sample.name].add_metric(sample.labels, sample.value)
    yield from made.values()


def metrics_registry() -> CollectorRegistry:
    """What `paceline metrics` serves: the ledger's metrics and those of its own process."""
    from prometheus_client import ProcessCollector

    registry = CollectorRegistry()
    registry.register(LedgerCollector())
    ProcessCollector(registry=registry)
    return registry
