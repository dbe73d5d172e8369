"""What separate servers counted, as the judge wants it: cumulative counts of both versions, and strata. Pure.

Behind a gateway that draws by chance for each request, the request is what is assigned, so the request is what is
counted: each is a unit of its own (docs/decisions/0012). Counts come as each server's cumulative counters; a server
that began anew, one that came late and one that is gone are told apart by its name. Samples of any other version than
the two of the rollout are refused and counted.
"""

from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, field
from itertools import accumulate

import msgspec

from contracts.slots import LATENCY_EDGES_S, SCORE_BINS, HardLimits, ShadowCounts, SlotCounts
from contracts.strata import (
    ERRORS,
    KEPT_STRATA,
    QUANTILES,
    UNIT_METRICS,
    UNIT_SCORE_BINS,
    Exposure,
    PairCounts,
    Stratum,
    UnitCounts,
)

SERVERS_MAX = 10_000  # of which the last counters are kept; the longest unseen go first
EDGE_STEP = 4  # servers export one bucket to an octave (serving/metrics.py)
EDGES_S = LATENCY_EDGES_S[::EDGE_STEP]
BUCKETS = len(EDGES_S) + 1
MINIMUM_ANSWERS = 200  # of the champion before its quantiles and ranks are believed


class ServerCounts(msgspec.Struct, frozen=True, kw_only=True):
    """Cumulative counters of one version in one server process; `latency` and `scores` are per bucket, not running."""

    server: str
    version: str
    requests: int = 0
    errors: int = 0
    latency: tuple[int, ...] = (0,) * BUCKETS
    scores: tuple[int, ...] = (0,) * SCORE_BINS

    def since(self, earlier: "ServerCounts") -> "ServerCounts":
        """What came after `earlier`; all of it where the server has begun anew."""
        mine, theirs = (self.requests, self.errors, *self.latency), (earlier.requests, earlier.errors, *earlier.latency)
        if any(new < old for new, old in zip(mine, theirs, strict=True)):
            return self
        return ServerCounts(
            server=self.server,
            version=self.version,
            requests=self.requests - earlier.requests,
            errors=self.errors - earlier.errors,
            latency=tuple(new - old for new, old in zip(self.latency, earlier.latency, strict=True)),
            scores=tuple(max(0, new - old) for new, old in zip(self.scores, earlier.scores, strict=True)),
        )


@dataclass(eq=False)
class _Sum:
    """What one version did, summed over servers."""

    requests: int = 0
    errors: int = 0
    latency: list[int] = field(default_factory=lambda: [0] * BUCKETS)
    scores: list[int] = field(default_factory=lambda: [0] * SCORE_BINS)

    def add(self, other: "ServerCounts | _Sum") -> None:
        """Adds `other`."""
        self.requests += other.requests
        self.errors += other.errors
        for place, count in enumerate(other.latency):
            self.latency[place] += count
        for place, count in enumerate(other.scores):
            self.scores[place] += count


@dataclass(eq=False)
class Counting:
    """The counts of one rollout in this process, look by look. `number` is of the last stratum."""

    rollout: str
    champion: str
    challenger: str
    is_retried: bool = False
    sums: dict[str, _Sum] = field(default_factory=dict)
    strata: deque[Stratum] = field(default_factory=lambda: deque(maxlen=KEPT_STRATA))
    refused: int = 0
    number: int = 0
    recent: tuple[int, int] = (0, 0)  # the challenger's requests and errors since the look before
    _last: dict[tuple[str, str], ServerCounts] = field(default_factory=dict)
    _earlier: _Sum = field(default_factory=_Sum)
    _shadow: _Sum = field(default_factory=_Sum)
    _shadow_reference_errors: int = 0
    _has_looked: bool = False
    _closed_s: float = 0.0

    def __post_init__(self) -> None:
        self.sums = {self.champion: _Sum(), self.challenger: _Sum()}

    def look(
        self,
        found: Iterable[ServerCounts],
        now_s: float,
        *,
        share: float,
        phase: int,
        is_settled: bool,
        is_shadow: bool = False,
        latency_floor_s: float = 0.0,
    ) -> None:
        """Adds what came since the look before; `is_settled` says that the share was in force for all of that time.

        With `is_shadow` the challenger got copies: they are counted apart, beside what the champion failed on.
        """
        new = {self.champion: _Sum(), self.challenger: _Sum()}
        for counts in found:
            if counts.version not in new:
                self.refused += 1
                continue
            key = (counts.server, counts.version)
            earlier = self._last.pop(key, None)
            self._last[key] = counts  # the newest are last
            if earlier is not None:
                new[counts.version].add(counts.since(earlier))
            elif self._has_looked:
                new[counts.version].add(counts)
        while len(self._last) > SERVERS_MAX:
            del self._last[next(iter(self._last))]
        champion, mine = new[self.champion], new[self.challenger]
        if self.is_retried and not is_shadow:  # what the champion answered in the challenger's place counts for neither
            champion.requests = max(champion.errors, champion.requests - mine.errors)
        self.sums[self.champion].add(champion)
        if is_shadow:
            self._shadow.add(mine)
            self._shadow_reference_errors += champion.errors
        else:
            self.sums[self.challenger].add(mine)
        self.recent = (mine.requests, mine.errors)
        if self._has_looked and is_settled and 0 < share < 1:
            self._close(new, now_s, share, phase, latency_floor_s)
        self._has_looked, self._closed_s = True, now_s

    def slot(self, version: str) -> SlotCounts:
        """The cumulative counts of `version`, in the form of a server's slot."""
        counted = self.sums[version]
        return SlotCounts(
            version=version,
            requests=counted.requests,
            errors=counted.errors,
            latency=_fine(counted.latency),
            scores=list(counted.scores),
        )

    def shadowed(self) -> ShadowCounts:
        """The copies that the challenger got; that nothing is known of flips is for the features to say."""
        found = self._shadow
        return ShadowCounts(
            pairs=found.requests - found.errors,
            errors=found.errors,
            latency=_fine(found.latency),
            scores=list(found.scores),
        )

    def pairs(self) -> PairCounts:
        """Errors of each side in the shadow, as if no request had failed on both.

        Requests that failed on both count once on each side, which is evidence for neither: a bet on them loses, so
        the level holds, and only power is lost.
        """
        mine, theirs = {ERRORS: self._shadow.errors}, {ERRORS: self._shadow_reference_errors}
        return PairCounts(challenger_only=mine, champion_only=theirs)

    def _close(self, new: dict[str, _Sum], now_s: float, share: float, phase: int, floor_s: float) -> None:
        champion, challenger = new[self.champion], new[self.challenger]
        if champion.requests + challenger.requests == 0:
            return
        self.number += 1
        cuts = _cuts(self._earlier.latency, floor_s)
        places = _places(self._earlier.scores)
        self.strata.append(
            Stratum(
                number=self.number,
                closed_s=now_s,
                seconds=now_s - self._closed_s,
                rollout=self.rollout,
                share=share,
                phase=phase,
                champion=_units(self.champion, champion, cuts, places),
                challenger=_units(self.challenger, challenger, cuts, places),
                latency_cuts_s=tuple(EDGES_S[cut] for cut in cuts if cut < len(EDGES_S)) if cuts else (),
            )
        )
        self._earlier.add(champion)


def _fine(latency: list[int]) -> list[int]:
    """In the buckets of `LATENCY_EDGES_S`, of which servers export each fourth."""
    found = [0] * (len(LATENCY_EDGES_S) + 1)
    for place, count in enumerate(latency):
        found[min(place * EDGE_STEP, len(LATENCY_EDGES_S))] += count
    return found


def hard_limit(limits: HardLimits, recent: tuple[int, int]) -> str | None:
    """Why the challenger loses its share at once, by what it did since the look before; None: it keeps it.

    Between two looks no order is known: it trips where at least `errors` requests failed, and at the limit's rate.
    """
    requests, errors = recent
    if errors >= limits.errors and errors * limits.window >= limits.errors * requests:
        return (
            f"{errors} errors in {requests} challenger requests since the look before: "
            f"limit {limits.errors} of {limits.window}"
        )
    return None


def _cuts(earlier: list[int], floor_s: float) -> tuple[int, ...] | None:
    """For each quantile the first bucket edge at or above the champion's earlier one; None: too few answers."""
    total = sum(earlier)
    if total < MINIMUM_ANSWERS:
        return None
    running = list(accumulate(earlier))
    floor = next((place for place, edge in enumerate(EDGES_S) if edge >= floor_s), len(EDGES_S))
    return tuple(
        max(floor, next(place for place, count in enumerate(running) if count >= quantile * total))
        for quantile in QUANTILES
    )


def _places(earlier: list[int]) -> tuple[int, ...] | None:
    """Which decile of the champion's earlier ranks the middle of each score bin lies in; None: too few answers."""
    total = sum(earlier)
    if total < MINIMUM_ANSWERS:
        return None
    places, below = [], 0
    for count in earlier:
        places.append(min(UNIT_SCORE_BINS - 1, int((below + count / 2) / total * UNIT_SCORE_BINS)))
        below += count
    return tuple(places)


def _units(version: str, new: _Sum, cuts: tuple[int, ...] | None, places: tuple[int, ...] | None) -> UnitCounts:
    exposures = {ERRORS: Exposure(at_risk=new.requests, happened=new.errors)}
    answered = sum(new.latency)
    if cuts is not None:
        for metric, cut in zip(UNIT_METRICS[1:], cuts, strict=True):
            exposures[metric] = Exposure(at_risk=answered, happened=sum(new.latency[cut + 1 :]))
    scores = [0] * UNIT_SCORE_BINS
    for place, count in zip(places or (), new.scores, strict=False):
        scores[place] += count
    return UnitCounts(
        version=version,
        entities=new.requests,
        new=new.requests,
        requests=new.requests,
        rollout=exposures,
        phase=exposures,
        scores=tuple(scores),
    )
