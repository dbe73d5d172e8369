"""Prometheus metrics, read from plain counters when they are scraped: counting an answer costs a few additions."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import accumulate

from prometheus_client import GCCollector, PlatformCollector, ProcessCollector
from prometheus_client.core import (
    CollectorRegistry,
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)
from prometheus_client.exposition import generate_latest
from prometheus_client.registry import Collector

from contracts.prediction_row import API_VERSION
from contracts.slots import LATENCY_EDGES_S, SCORE_BINS, SlotCounts
from serving.batching import SIZE_EDGES, WAIT_EDGES_S, Batcher
from serving.cache import ScoreCache
from serving.challenger import count_answer, count_answers, count_each
from serving.gpu_memory import gpu_memory
from serving.prediction_writer import PredictionWriter
from serving.slots import Slots

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
_MAXIMUM_SERIES = 60  # versions × slots that are kept; the oldest go, so that a year of retrains does not pile up
_EDGE_STEP = 4  # one exported bucket to an octave
_LABELS = ("version", "slot")


@dataclass(eq=False)
class Totals:
    """What one version did in one slot since the process began."""

    counts: SlotCounts
    retried: int = 0
    latency_sum_s: float = 0.0
    score_sum: float = 0.0

    def answered(self, seconds: float, score: float) -> None:
        """One more answer."""
        self.counts.requests += 1
        self.latency_sum_s += seconds
        self.score_sum += score
        count_answer(self.counts, seconds, score)

    def answered_together(self, seconds: float, scores: Sequence[float]) -> None:
        """More answers, of the rows of one request."""
        self.latency_sum_s += seconds * len(scores)
        self.score_sum += sum(scores)
        count_answers(self.counts, seconds, scores)

    def failed(self) -> None:
        """One more row that the version could not score."""
        self.counts.requests += 1
        self.counts.errors += 1


@dataclass(eq=False)
class Metrics(Collector):
    """All metrics of one server process."""

    slots: Slots
    writer: PredictionWriter
    batcher: Batcher = field(default_factory=Batcher)
    cache: ScoreCache | None = None
    totals: dict[tuple[str, str], Totals] = field(default_factory=dict)
    responses: dict[tuple[str, int], int] = field(default_factory=dict)
    shadow_pairs: int = 0
    shadow_flips: int = 0
    shadow_dropped: int = 0

    def of(self, version: str, slot: str) -> Totals:
        """The totals of `version` in `slot`."""
        found = self.totals.get((version, slot))
        if found is None:
            found = self.totals[version, slot] = Totals(SlotCounts(version=version))
            if len(self.totals) > _MAXIMUM_SERIES:
                del self.totals[next(iter(self.totals))]
        return found

    def responded(self, route: str, status: int, count: int = 1) -> None:
        """More responses of a prediction route."""
        self.responses[route, status] = self.responses.get((route, status), 0) + count

    def answered_each(
        self, champion: SlotCounts, version: str, seconds: Sequence[float], scores: Sequence[float]
    ) -> None:
        """More answers of the champion, one a request; also in its own counts."""
        totals = self.of(version, "champion")
        totals.latency_sum_s += sum(seconds)
        totals.score_sum += sum(scores)
        count_each((champion, totals.counts), seconds, scores)

    async def exposition(self) -> bytes:
        """In Prometheus' text format."""
        return generate_latest(self._registry())

    def gather(self) -> Iterable[Metric]:
        """All families, also those of the process."""
        return self._registry().collect()

    def _registry(self) -> CollectorRegistry:
        registry = CollectorRegistry()
        registry.register(self)
        for collector in (ProcessCollector, PlatformCollector, GCCollector):
            collector(registry=registry)
        return registry

    def collect(self) -> Iterable[Metric]:
        """The metric families at this instant."""
        yield from self._of_versions()
        yield from self._of_slots()
        yield from self._of_the_log()
        yield from self._of_batches()
        responses = CounterMetricFamily(
            "paceline_responses", "Responses of the prediction routes", labels=("route", "status")
        )
        for (route, status), count in self.responses.items():
            responses.add_metric((route, str(status)), count)
        yield responses

    def _of_versions(self) -> Iterator[Metric]:
        requests = CounterMetricFamily("paceline_predictions", "Rows that a version was asked for", labels=_LABELS)
        errors = CounterMetricFamily("paceline_prediction_errors", "Rows that a version failed on", labels=_LABELS)
        retried = CounterMetricFamily(
            "paceline_predictions_retried",
            "Rows that this version answered after the challenger failed",
            labels=_LABELS,
        )
        latency = HistogramMetricFamily(
            "paceline_prediction_latency_seconds", "Encoding and scoring of the group of rows", labels=_LABELS
        )
        scores = HistogramMetricFamily("paceline_scores", "Scores given", labels=_LABELS)
        for key, totals in self.totals.items():
            counts = totals.counts
            requests.add_metric(key, counts.requests)
            errors.add_metric(key, counts.errors)
            retried.add_metric(key, totals.retried)
            running = list(accumulate(counts.latency))
            edges = [(f"{edge:g}", running[i]) for i, edge in enumerate(LATENCY_EDGES_S) if i % _EDGE_STEP == 0]
            latency.add_metric(key, [*edges, ("+Inf", running[-1])], totals.latency_sum_s)
            running = list(accumulate(counts.scores))
            edges = [(f"{(i + 1) / SCORE_BINS:g}", count) for i, count in enumerate(running)]
            scores.add_metric(key, [*edges, ("+Inf", running[-1])], totals.score_sum)
        yield from (requests, errors, retried, latency, scores)

    def _of_batches(self) -> Iterator[Metric]:
        waiting = GaugeMetricFamily("paceline_queue_rows", "Rows that wait for their graph run: what to scale on")
        waiting.add_metric((), self.batcher.waiting_rows)
        yield waiting
        batcher = self.batcher
        yield _histogram("paceline_graph_rows", "Rows in the runs of a graph", SIZE_EDGES, batcher.sizes, batcher.rows)
        yield _histogram(
            "paceline_queue_seconds",
            "How long rows waited for their run",
            WAIT_EDGES_S,
            batcher.waits,
            batcher.wait_sum_s,
        )
        yield CounterMetricFamily("paceline_rows_shed", "Rows refused: too many waited", value=batcher.shed)
        yield CounterMetricFamily("paceline_rows_expired", "Rows dropped: their time was over", value=batcher.expired)
        if self.cache is not None:
            asked = CounterMetricFamily(
                "paceline_cache", "Rows asked of the cache: kept, in another's run, or new", labels=("result",)
            )
            for result, count in (("hit", self.cache.hits), ("joined", self.cache.joined), ("miss", self.cache.misses)):
                asked.add_metric((result,), count)
            yield asked
            yield _gauge("paceline_cache_rows", "Rows in the cache", len(self.cache))

    def _of_slots(self) -> Iterator[Metric]:
        seen = self.slots.observe()
        info = GaugeMetricFamily("paceline_model_info", "The versions in the slots", labels=(*_LABELS, "bundle"))
        for name, slot in self.slots.by_name():
            info.add_metric((slot.model.version, name, slot.model.bundle.id), 1)
        yield info
        yield from self._of_models()
        api = GaugeMetricFamily("paceline_api_info", "The version of the prediction API", labels=("api_version",))
        api.add_metric((API_VERSION,), 1)
        yield api
        yield _gauge("paceline_ready", "1 while a champion serves", float(seen.champion is not None))
        lanes = [(seen.share, seen.lane), *((each.share, each.lane) for each in seen.beside)]
        share = sum(share if lane is None else share / lane.of for share, lane in lanes)
        leases = [seen.lease_left_s, *(each.lease_left_s for each in seen.beside)]
        shadows = seen.shadow or any(each.shadow for each in seen.beside)
        has_tripped = bool(seen.tripped or any(each.tripped for each in seen.beside))
        yield _gauge("paceline_challenger_share", "The challengers' share of the entities", share)
        held = seen.holdout.share if seen.holdout else 0.0
        yield _gauge("paceline_holdout_share", "The share of the entities that stays on the old champion", held)
        yield _gauge("paceline_challenger_shadow", "1 while a challenger shadows", float(shadows))
        yield _gauge("paceline_lease_left_seconds", "Until the first lease of a challenger runs out", min(leases))
        yield _gauge("paceline_tripped", "1 while a challenger is in place that has tripped", float(has_tripped))
        trips = CounterMetricFamily("paceline_trips", "Shares that the server itself took away", labels=("cause",))
        for cause, count in self.slots.trips.items():
            trips.add_metric((cause,), count)
        yield trips
        yield CounterMetricFamily("paceline_shadow_pairs", "Rows that both versions scored", value=self.shadow_pairs)
        yield CounterMetricFamily("paceline_shadow_flips", "Pairs with another decision", value=self.shadow_flips)
        yield CounterMetricFamily(
            "paceline_shadow_dropped",
            "Rows not shadowed: queue full",
            value=self.shadow_dropped,
        )

    def _of_models(self) -> Iterator[Metric]:
        provider = GaugeMetricFamily(
            "paceline_execution_provider",
            "1 for what a graph really runs on: the provider of most of its operators",
            labels=(*_LABELS, "provider"),
        )
        load = GaugeMetricFamily(
            "paceline_model_load_seconds", "From a bundle's files to a model that can answer", labels=("version",)
        )
        gpus = set()
        for name, slot in self.slots.by_name():
            model = slot.model
            provider.add_metric((model.version, name, next(iter(model.providers))), 1)
            load.add_metric((model.version,), model.load_s)
            gpus.add(model.gpu)
        yield from (provider, load)
        used = GaugeMetricFamily("paceline_gpu_memory_used_bytes", "Of a GPU that a model uses", labels=("device",))
        total = GaugeMetricFamily("paceline_gpu_memory_total_bytes", "All that this GPU has", labels=("device",))
        for gpu in sorted(gpu for gpu in gpus if gpu is not None):
            found = gpu_memory(gpu)
            if found is not None:
                used.add_metric((str(gpu),), found.used)
                total.add_metric((str(gpu),), found.total)
        yield from (used, total)

    def _of_the_log(self) -> Iterator[Metric]:
        writer = self.writer
        yield CounterMetricFamily("paceline_log_rows", "Predictions on disk", value=writer.written_rows)
        yield CounterMetricFamily(
            "paceline_log_dropped", "Predictions never logged", value=writer.dropped_rows + writer.lost_rows
        )
        yield CounterMetricFamily(
            "paceline_log_refused", "Predictions not given: their rows could not be logged", value=writer.refused_rows
        )
        unusual = CounterMetricFamily(
            "paceline_unusual_predictions", "Rows unlike the bundle's baseline", labels=(*_LABELS, "flag")
        )
        for key, rows in list(writer.unusual.items()):
            unusual.add_metric(key, rows)
        yield unusual
        yield CounterMetricFamily("paceline_log_failures", "Flushes that the disk refused", value=writer.failed_flushes)
        yield _gauge("paceline_log_buffered_rows", "Predictions not on disk yet", writer.buffered_rows)
        yield _gauge("paceline_log_lag_seconds", "Age of the oldest of them", writer.lag_s)


def _histogram(name: str, text: str, edges: Sequence[float], counts: Sequence[int], total: float) -> Metric:
    family = HistogramMetricFamily(name, text)
    running = list(accumulate(counts))
    buckets = [(f"{edge:g}", float(count)) for edge, count in zip(edges, running, strict=False)]
    family.add_metric((), [*buckets, ("+Inf", running[-1])], total)
    return family


def _gauge(name: str, text: str, value: float) -> Metric:
    return GaugeMetricFamily(name, text, value=value)
