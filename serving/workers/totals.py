"""What several workers count, as one: observations and metrics added up. Pure."""

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from operator import add

import msgspec
from prometheus_client.core import Metric
from prometheus_client.exposition import generate_latest
from prometheus_client.registry import Collector, CollectorRegistry

from contracts.slots import Held, Observation, ShadowCounts, SlotCounts
from contracts.strata import PairCounts, SlicePairs
from serving.workers.messages import Family

# how a gauge of all workers follows from theirs; what is not named here is a state that is the largest of them
_GAUGES: Mapping[str, Callable[[Iterable[float]], float]] = {
    "paceline_queue_rows": sum,
    "paceline_log_buffered_rows": sum,
    "paceline_cache_rows": sum,
    "paceline_ready": min,
    "paceline_lease_left_seconds": min,
    "paceline_rate_limits_shared": min,
}
_OF_A_PROCESS = ("process_", "python_")
_OF_THE_SUPERVISOR = frozenset({"paceline_trips"})
_ADDED = frozenset({"counter", "histogram"})
_SampleKey = tuple[str, tuple[tuple[str, str], ...]]

_NO_PAIRS = SlicePairs()


def add_slot(total: SlotCounts | None, more: SlotCounts | None) -> SlotCounts | None:
    """The sum; `more` counts only where it is of the same version."""
    if total is None or more is None or total.version != more.version:
        return total
    return SlotCounts(
        version=total.version,
        requests=total.requests + more.requests,
        errors=total.errors + more.errors,
        latency=_added(total.latency, more.latency),
        scores=_added(total.scores, more.scores),
    )


def add_shadow(total: ShadowCounts | None, more: ShadowCounts | None) -> ShadowCounts | None:
    """The sum."""
    if total is None or more is None:
        return total
    return ShadowCounts(
        pairs=total.pairs + more.pairs,
        errors=total.errors + more.errors,
        flips=total.flips + more.flips,
        dropped=total.dropped + more.dropped,
        absolute_difference_sum=total.absolute_difference_sum + more.absolute_difference_sum,
        latency=_added(total.latency, more.latency),
        champion_latency=_added(total.champion_latency, more.champion_latency),
        scores=_added(total.scores, more.scores),
    )


def add_observation(total: Observation, more: Observation) -> Observation:
    """`total` with the counts of `more`, as far as they are of the same versions in the same rollout."""
    is_same = total.challenger is not None and more.challenger is not None and total.rollout == more.rollout
    is_same = is_same and total.challenger.version == more.challenger.version  # type: ignore[union-attr]
    return msgspec.structs.replace(
        total,
        champion=add_slot(total.champion, more.champion),
        challenger=add_slot(total.challenger, more.challenger) if is_same else total.challenger,
        shadowed=add_shadow(total.shadowed, more.shadowed) if is_same else total.shadowed,
        pairs=_add_pairs(total.pairs, more.pairs) if is_same else total.pairs,
        holdout=_add_holdout(total.holdout, more.holdout),
    )


def _add_holdout(total: Held | None, more: Held | None) -> Held | None:
    if total is None or more is None or total.rollout != more.rollout:
        return total
    return msgspec.structs.replace(total, counts=add_slot(total.counts, more.counts))


def _add_pairs(total: PairCounts | None, more: PairCounts | None) -> PairCounts | None:
    """An entity that differs in two workers counts in both: connections, hence clients, stay with their worker."""
    if total is None or more is None:
        return total or more
    return PairCounts(
        challenger_only=dict(Counter(total.challenger_only) + Counter(more.challenger_only)),
        champion_only=dict(Counter(total.champion_only) + Counter(more.champion_only)),
        differences=tuple(map(add, total.differences, more.differences)),
        slices={
            value: _add_slices(total.slices.get(value, _NO_PAIRS), more.slices.get(value, _NO_PAIRS))
            for value in [*total.slices, *(value for value in more.slices if value not in total.slices)]
        },
    )


def _add_slices(total: SlicePairs, more: SlicePairs) -> SlicePairs:
    return SlicePairs(
        pairs=total.pairs + more.pairs,
        challenger_only=total.challenger_only + more.challenger_only,
        flips=total.flips + more.flips,
        differences=tuple(map(add, total.differences, more.differences)),
    )


def families_of(metrics: Iterable[Metric]) -> list[Family]:
    """`metrics` as they go from a worker to the supervisor."""
    return [
        Family(
            name=metric.name,
            kind=metric.type,
            help=metric.documentation,
            samples=[(sample.name, dict(sample.labels), sample.value) for sample in metric.samples],
        )
        for metric in metrics
    ]


def of_worker(families: Iterable[Family], worker: int) -> list[Family]:
    """`families` of one worker; what tells of a process is labelled with it, what the supervisor counts is left out."""
    return [
        msgspec.structs.replace(
            family,
            samples=[(name, {**labels, "worker": str(worker)}, value) for name, labels, value in family.samples],
        )
        if family.name.startswith(_OF_A_PROCESS)
        else family
        for family in families
        if family.name not in _OF_THE_SUPERVISOR
    ]


def counted(families: Iterable[Family]) -> list[Family]:
    """What must never go back: the counters and histograms of `families`, but not those of a process."""
    return [family for family in families if family.kind in _ADDED and not family.name.startswith(_OF_A_PROCESS)]


def add_families(parts: Iterable[Sequence[Family]]) -> list[Family]:
    """One family for each name: counters and histograms added up, gauges as `_GAUGES` says."""
    families: dict[str, Family] = {}
    samples: dict[str, dict[_SampleKey, list[float]]] = {}
    for part in parts:
        for family in part:
            families.setdefault(family.name, family)
            found = samples.setdefault(family.name, {})
            for name, labels, value in family.samples:
                found.setdefault((name, tuple(labels.items())), []).append(value)
    return [
        msgspec.structs.replace(
            family,
            samples=[
                (sample, dict(labels), _rule_of(family)(values)) for (sample, labels), values in samples[name].items()
            ],
        )
        for name, family in families.items()
    ]


class _Told(Collector):
    def __init__(self, families: Iterable[Family]) -> None:
        self._families = families

    def collect(self) -> Iterable[Metric]:
        for family in self._families:
            metric = Metric(family.name, family.help, family.kind)
            for name, labels, value in family.samples:
                metric.add_sample(name, labels, value)
            yield metric


def exposition(families: Iterable[Family]) -> bytes:
    """In Prometheus' text format."""
    registry = CollectorRegistry()
    registry.register(_Told(families))
    return generate_latest(registry)


def _rule_of(family: Family) -> Callable[[Iterable[float]], float]:
    return sum if family.kind in _ADDED else _GAUGES.get(family.name, max)


def _added(first: Sequence[int], second: Sequence[int]) -> list[int]:
    return [one + other for one, other in zip(first, second, strict=True)]
