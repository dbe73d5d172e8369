"""Counts of a rollout by entity, second by second (`contracts.strata`): gathered where rows are answered, closed once.

`Gathered` is what one process saw, entity by entity, of strata that are still open or not handed over yet. `UnitBook`
closes them in order: it knows which entities have failed before. Nothing here is asked while no challenger is tried.
"""

from bisect import bisect_left, bisect_right
from collections import deque
from collections.abc import Sequence
from math import isnan, nan

import msgspec

from contracts.slots import LATENCY_EDGES_S
from contracts.strata import (
    ERRORS,
    KEPT_STRATA,
    QUANTILES,
    STRATUM_S,
    UNIT_METRICS,
    UNIT_SCORE_BINS,
    Exposure,
    Stratum,
    UnitCounts,
)

MAXIMUM_ENTITIES = 500_000  # that a book remembers; of more it keeps a sample, by a hash that no arm depends on
ENOUGH = 100  # champion's entities before quantiles are taken from them
HALF_LIFE_STRATA = 60.0  # the champion's "recent" latency
_FINE = 200  # bins from which deciles of scores are taken
_NO_ANSWER = -1
_FORGETTING = 0.5 ** (1 / HALF_LIFE_STRATA)


class Seen(msgspec.Struct, array_like=True):
    """One entity in one stratum: whether any of its rows failed, its slowest answer's bucket, its first score."""

    failed: bool
    bucket: int
    score: float


class OpenStratum(msgspec.Struct, kw_only=True):
    """What one process saw in one stratum, by entity, champion first. It also travels between worker and supervisor."""

    index: int
    phase: int
    share: float
    requests: list[int] = msgspec.field(default_factory=lambda: [0, 0])
    arms: tuple[dict[int, Seen], dict[int, Seen]] = msgspec.field(default_factory=lambda: ({}, {}))

    def add(self, arm: int, unit: int, *, failed: bool, bucket: int, score: float) -> None:
        """One row of `unit`, answered by `arm` (0: champion, 1: challenger)."""
        self.requests[arm] += 1
        seen = self.arms[arm].get(unit)
        if seen is None:
            self.arms[arm][unit] = Seen(failed, bucket, score)
            return
        seen.failed |= failed
        seen.bucket = max(seen.bucket, bucket)
        if isnan(seen.score):
            seen.score = score

    def merge(self, other: "OpenStratum") -> None:
        """What another process saw in the same stratum."""
        for arm in (0, 1):
            rows = self.requests[arm] + other.requests[arm]
            for unit, seen in other.arms[arm].items():
                self.add(arm, unit, failed=seen.failed, bucket=seen.bucket, score=seen.score)
            self.requests[arm] = rows


class Gathered:
    """The strata of one process that nobody has closed yet, in order."""

    def __init__(self) -> None:
        self._open: dict[tuple[int, int], OpenStratum] = {}

    def answered(
        self,
        arm: int,
        units: Sequence[int],
        seconds: Sequence[float],
        scores: Sequence[float],
        key: tuple[int, int, float],
    ) -> None:
        """Rows that `arm` answered, each in its `seconds`; `key` is the stratum's index, phase and share."""
        stratum = self._at(key)
        for unit, took_s, score in zip(units, seconds, scores, strict=True):
            stratum.add(arm, unit, failed=False, bucket=bisect_left(LATENCY_EDGES_S, took_s), score=score)

    def failed(self, arm: int, unit: int, key: tuple[int, int, float]) -> None:
        """A row that `arm` failed on."""
        self._at(key).add(arm, unit, failed=True, bucket=_NO_ANSWER, score=nan)

    def absorb(self, strata: Sequence[OpenStratum]) -> None:
        """What another process gathered."""
        for stratum in strata:
            self._at((stratum.index, stratum.phase, stratum.share)).merge(stratum)

    def before(self, index: int) -> list[OpenStratum]:
        """Takes out all strata that lie before stratum `index`, in order."""
        over = sorted(key for key in self._open if key[0] < index)
        return [self._open.pop(key) for key in over]

    def _at(self, key: tuple[int, int, float]) -> OpenStratum:
        index, phase, share = key
        found = self._open.get((index, phase))
        if found is None:
            found = self._open[index, phase] = OpenStratum(index=index, phase=phase, share=share)
        return found


class UnitBook:
    """Closes the strata of one rollout, and keeps the last of them for whoever judges."""

    def __init__(self, *, rollout: str, champion: str, challenger: str, latency_floor_s: float = 0.0) -> None:
        self.strata: deque[Stratum] = deque(maxlen=KEPT_STRATA)
        self._rollout = rollout
        self._versions = (champion, challenger)
        self._floor_bucket = bisect_left(LATENCY_EDGES_S, latency_floor_s) if latency_floor_s > 0 else _NO_ANSWER
        self._number = 0
        self._phase = -1
        self._mask = 0
        self._known: set[int] = set()
        self._scored: set[int] = set()
        self._failed_ever: dict[str, set[int]] = {metric: set() for metric in UNIT_METRICS}
        self._failed_phase: dict[str, set[int]] = {metric: set() for metric in UNIT_METRICS}
        self._latency = [0.0] * (len(LATENCY_EDGES_S) + 1)
        self._scores = [0] * _FINE
        self._cuts: tuple[int, ...] = ()
        self._edges: tuple[float, ...] = ()

    def close(self, gathered: OpenStratum, closed_s: float) -> None:
        """Closes one stratum; they come in order. While the share is 0 only the champion's quantiles are learnt."""
        if gathered.phase < self._phase:  # of a worker that was late: its phase is over
            return
        if gathered.phase > self._phase:
            self._begin_phase(gathered.phase)
        if gathered.share > 0:
            self._number += 1
            champion, challenger = (self._count(arm, gathered) for arm in (0, 1))
            self.strata.append(
                Stratum(
                    number=self._number,
                    closed_s=closed_s,
                    seconds=STRATUM_S,
                    rollout=self._rollout,
                    share=gathered.share,
                    phase=gathered.phase,
                    champion=champion,
                    challenger=challenger,
                    latency_cuts_s=tuple(LATENCY_EDGES_S[min(cut, len(LATENCY_EDGES_S) - 1)] for cut in self._cuts),
                    score_edges=self._edges,
                )
            )
            if len(self._known) > MAXIMUM_ENTITIES:
                self._keep_half()
        self._learn(gathered)

    def _begin_phase(self, phase: int) -> None:
        self._phase = phase
        self._scored.clear()
        for failed in self._failed_phase.values():
            failed.clear()
        self._edges = self._deciles()

    def _count(self, arm: int, gathered: OpenStratum) -> UnitCounts:
        ever = {metric: [0, 0] for metric in UNIT_METRICS}
        phase = {metric: [0, 0] for metric in UNIT_METRICS}
        scores = [0] * UNIT_SCORE_BINS
        entities = new = 0
        for unit, seen in gathered.arms[arm].items():
            if unit & self._mask:
                continue
            entities += 1
            if unit not in self._known:
                self._known.add(unit)
                new += 1
            for metric, happened in self._outcomes(seen):
                for counts, failed in ((ever, self._failed_ever), (phase, self._failed_phase)):
                    if unit not in failed[metric]:
                        counts[metric][0] += 1
                        if happened:
                            counts[metric][1] += 1
                            failed[metric].add(unit)
            if self._edges and not isnan(seen.score) and unit not in self._scored:
                self._scored.add(unit)
                scores[bisect_right(self._edges, seen.score)] += 1
        return UnitCounts(
            version=self._versions[arm],
            entities=entities,
            new=new,
            requests=gathered.requests[arm],
            rollout=_exposures(ever),
            phase=_exposures(phase),
            scores=tuple(scores),
        )

    def _outcomes(self, seen: Seen) -> list[tuple[str, bool]]:
        """The metrics that this entity was at risk of in the stratum, and whether it happened."""
        found = [(ERRORS, seen.failed)]
        if seen.bucket != _NO_ANSWER and self._cuts:
            found += [(metric, seen.bucket > cut) for metric, cut in zip(UNIT_METRICS[1:], self._cuts, strict=True)]
        return found

    def _learn(self, gathered: OpenStratum) -> None:
        """The champion's quantiles for the strata to come: a cut from the same stratum would not be valid evidence."""
        self._latency = [count * _FORGETTING for count in self._latency]
        for seen in gathered.arms[0].values():
            if seen.bucket != _NO_ANSWER:
                self._latency[seen.bucket] += 1
            if not isnan(seen.score):
                self._scores[min(max(int(seen.score * _FINE), 0), _FINE - 1)] += 1
        if gathered.arms[0]:  # at a share of 1 the cuts stay those of the champion's last answers
            self._cuts = self._latency_cuts()
        if not self._edges:
            self._edges = self._deciles()

    def _latency_cuts(self) -> tuple[int, ...]:
        """The buckets above which an answer is slower than the champion's quantiles and the floor."""
        total = sum(self._latency)
        if total < ENOUGH:
            return self._cuts
        cuts, seen, wanted = [], 0.0, list(QUANTILES)
        for bucket, count in enumerate(self._latency):
            seen += count
            while wanted and seen >= wanted[0] * total:
                cuts.append(max(bucket, self._floor_bucket))
                wanted.pop(0)
        return tuple(cuts) if len(cuts) == len(QUANTILES) else self._cuts

    def _deciles(self) -> tuple[float, ...]:
        total = sum(self._scores)
        if total < ENOUGH:
            return ()
        edges, seen, place = [], 0, 1
        for fine, count in enumerate(self._scores):
            seen += count
            while place < UNIT_SCORE_BINS and seen >= total * place / UNIT_SCORE_BINS:
                edges.append((fine + 1) / _FINE)
                place += 1
        return tuple(edges)

    def _keep_half(self) -> None:
        self._mask = self._mask << 1 | 1
        for kept in (self._known, self._scored, *self._failed_ever.values(), *self._failed_phase.values()):
            kept.difference_update([unit for unit in kept if unit & self._mask])


def _exposures(counts: dict[str, list[int]]) -> dict[str, Exposure]:
    return {metric: Exposure(at_risk=at_risk, happened=happened) for metric, (at_risk, happened) in counts.items()}
