"""The counters of a model server as Prometheus samples: from its own text, or from Prometheus' answers. Pure.

Only four metrics are read; everything else in a text is passed over line by line, and never held.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.samples import Sample

from contracts.slots import SCORE_BINS
from pipelines.rollout.platforms.separate.counts import BUCKETS, EDGES_S, ServerCounts

REQUESTS, FAILED = "paceline_predictions_total", "paceline_prediction_errors_total"
LATENCY, SCORES = "paceline_prediction_latency_seconds_bucket", "paceline_scores_bucket"
METRICS = (REQUESTS, FAILED, LATENCY, SCORES)
SLOT = "champion"  # each of the separate servers has one model, in its champion's slot
_PLACES = {f"{edge:g}": place for place, edge in enumerate(EDGES_S)} | {"+Inf": BUCKETS - 1}
_BINS = {f"{(place + 1) / SCORE_BINS:g}": place for place in range(SCORE_BINS)}
_BUCKETS_OF = {LATENCY: _PLACES, SCORES: _BINS}


@dataclass(eq=False)
class _Running:
    requests: float = 0
    errors: float = 0
    latency: list[float] = field(default_factory=lambda: [0.0] * BUCKETS)
    scores: list[float] = field(default_factory=lambda: [0.0] * SCORE_BINS)


class Gathering:
    """Puts samples of many servers together, in any order."""

    def __init__(self) -> None:
        self._found: dict[tuple[str, str], _Running] = {}

    def add(self, metric: str, samples: Iterable[tuple[str, str, str, float]]) -> None:
        """Samples of one metric: server, version, a histogram bucket's upper edge, value."""
        found = self._found
        places = _BUCKETS_OF.get(metric)
        for server, version, le, value in samples:
            running = found.get((server, version))
            if running is None:
                running = found[server, version] = _Running()
            if places is None:
                if metric == REQUESTS:
                    running.requests = value
                elif metric == FAILED:
                    running.errors = value
            elif (place := places.get(le)) is not None:
                (running.latency if places is _PLACES else running.scores)[place] = value

    def counts(self) -> Iterator[ServerCounts]:
        """Each version in each server."""
        for (server, version), running in self._found.items():
            yield ServerCounts(
                server=server,
                version=version,
                requests=int(running.requests),
                errors=int(running.errors),
                latency=_apart(running.latency),
                scores=_apart(running.scores),
            )


def counts_of_text(server: str, lines: Iterable[str]) -> tuple[ServerCounts, ...]:
    """What one server's `/metrics` says. Raises ValueError where it is no such text."""
    gathered = Gathering()
    for family in text_string_to_metric_families("\n".join(line for line in lines if line.startswith(METRICS))):
        for sample in family.samples:
            _add(gathered, server, sample)
    return tuple(gathered.counts())


def _add(gathered: Gathering, server: str, sample: Sample) -> None:
    labels = sample.labels
    if labels.get("slot") == SLOT and "version" in labels:
        # without its TYPE line, which is not read, the parser knows a counter by its full name
        gathered.add(sample.name, [(server, labels["version"], labels.get("le", ""), sample.value)])


def _apart(running: list[float]) -> tuple[int, ...]:
    """Per bucket, from Prometheus' running counts."""
    before, found = 0.0, []
    for count in running:
        found.append(max(0, int(count - before)))
        before = count
    return tuple(found)
