"""The fast watch over scores: within minutes, whether their shares have left what is usual at this hour. Pure.

Usual is the range, over the last days, of the share of scores above each bin's edge in this hour of the day (UTC) and
those beside it, widened by a margin. Leaving it is tested look after look by e-detectors (`change_detector`): however
often is looked, there are at most as many false alarms a year as the project declares, as long as the shares stay
within that range. The edge next to the decision threshold ("the approvals") has half of the weight.

While an alarm lasts nothing becomes usual. It ends when the shares are back, or when a person accepts the new ones.
"""

from collections.abc import Iterator, Mapping
from datetime import UTC, datetime, timedelta
from typing import Literal

import msgspec
import numpy as np

from contracts.slots import SCORE_BINS
from pipelines.statistics.change_detector import ODDS, Floats, advance, log_e_values, log_mixture

EDGES = SCORE_BINS - 1
RECENT_S = 3600.0
_YEAR_S = 365.25 * 86400
_THRESHOLD_WEIGHT = 0.5
_SHAPE = (EDGES, 2, len(ODDS))
_OVERSHOOT = 4.0  # how far beyond the threshold evidence grows: what is over is over within some looks
_TOLD_LOOKS = 10
_GAP_LOOKS = 5  # a longer pause than this many looks: what was counted meanwhile belongs to no hour
State = Literal["learning", "quiet", "alarm"]


class ScoreWatchLimits(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """When the scores' shares count as moved.

    At most `false_alarms_per_year` while shares stay within the last days' range and `margin` beside it. A day has a
    say in an hour with at least `minimum_requests` scores; without `minimum_days` such days nothing is judged, and
    `reference_days` are remembered. `look_s` is the time between looks; the scores of one count as at most
    `effective_requests` independent ones, since one client may send many.
    """

    false_alarms_per_year: float = 0.5
    margin: float = 0.1
    reference_days: int = 14
    minimum_days: int = 3
    minimum_requests: int = 100
    look_s: float = 60.0
    effective_requests: int = 20

    def __post_init__(self) -> None:
        for name in ("false_alarms_per_year", "look_s"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} is above 0, found {getattr(self, name)}")
        if not 0 <= self.margin < 1:
            raise ValueError(f"margin lies in [0, 1), found {self.margin}")
        for name in ("minimum_days", "minimum_requests", "effective_requests"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is at least 1, found {getattr(self, name)}")
        if self.reference_days < self.minimum_days:
            raise ValueError(f"reference_days is {self.reference_days}, less than minimum_days, {self.minimum_days}")

    @property
    def log_threshold(self) -> float:
        """What the evidence has to reach: the logarithm of the looks in which one false alarm is allowed."""
        return float(np.log(_YEAR_S / self.look_s / self.false_alarms_per_year))


class Alarm(msgspec.Struct, frozen=True, kw_only=True):
    """An alarm: since when (Unix time), and what it saw; `edge` is the score whose share moved most clearly."""

    since_s: float
    edge: float
    share: float
    low: float
    high: float
    scores: int
    reason: str


class ScoreWatch(msgspec.Struct, frozen=True, kw_only=True):
    """All that the watch remembers. `usual` has, by date and hour of the day (UTC), the scores in each bin; `recent`
    the looks of the last hour, which become usual when they leave it without an alarm; `band` is what is usual in the
    `hour` (since 1970) of the last look, None where too little is known; `detectors` the logarithms of the e-detectors,
    and `evidence` that of their mean, None before the first scores that were judged."""

    usual: dict[str, dict[int, list[int]]] = {}
    recent: list[tuple[float, list[int]]] = []
    detectors: list[float] | None = None
    evidence: float | None = None
    looked_s: float | None = None
    state: State = "learning"
    alarm: Alarm | None = None
    hour: int | None = None
    band: tuple[list[float], list[float]] | None = None

    @property
    def scores(self) -> int:
        """How many scores the last hour had."""
        return sum(sum(counts) for _, counts in self.recent)

    def share_above(self, edge: int) -> float | None:
        """The share of the last hour's scores above an edge (0 is 0.1); None where there was none."""
        total = self.scores
        return None if total == 0 else sum(sum(counts[edge + 1 :]) for _, counts in self.recent) / total


def threshold_edge(threshold: float) -> int:
    """The edge next to a decision threshold: 0 is 0.1.

    >>> threshold_edge(0.4), threshold_edge(0.02), threshold_edge(0.97)
    (3, 0, 8)
    """
    return min(max(round(threshold * SCORE_BINS), 1), EDGES) - 1


def is_gap(watch: ScoreWatch, now_s: float, limits: ScoreWatchLimits) -> bool:
    """Whether the watch was away for so long that what was counted meanwhile is not judged."""
    return watch.looked_s is None or not 0 <= now_s - watch.looked_s <= _GAP_LOOKS * limits.look_s


def look(watch: ScoreWatch, counts: list[int], now_s: float, threshold: float, limits: ScoreWatchLimits) -> ScoreWatch:
    """The watch after one more look: `counts` are the scores in each bin since the one before.

    Raises:
        ValueError: there are not as many counts as bins, or one is below 0.
    """
    if len(counts) != SCORE_BINS or min(counts) < 0:
        raise ValueError(f"expected {SCORE_BINS} counts of at least 0, found {counts}")
    seen = _in_this_hour(_remembering(watch, now_s, limits), now_s, limits)
    seen = msgspec.structs.replace(seen, recent=[*seen.recent, (now_s, counts)], looked_s=now_s)
    if seen.band is None:
        return msgspec.structs.replace(seen, state="learning", alarm=None, detectors=None, evidence=None)
    seen = _judged(seen, np.array(counts, float), threshold_edge(threshold), limits)
    if seen.state == "alarm":
        return msgspec.structs.replace(seen, alarm=watch.alarm or _alarm(seen, now_s))
    return msgspec.structs.replace(seen, alarm=None)


def accepted(watch: ScoreWatch) -> ScoreWatch:
    """The watch after a person has said that the scores are right as they are now: what is usual is learnt anew."""
    return ScoreWatch(recent=watch.recent, looked_s=watch.looked_s)


def _in_this_hour(watch: ScoreWatch, now_s: float, limits: ScoreWatchLimits) -> ScoreWatch:
    """With the band of this hour; of days before today, so that it stays the same for the whole hour."""
    hour = int(now_s // 3600)
    if hour == watch.hour:
        return watch
    found = usual_band(watch.usual, datetime.fromtimestamp(now_s, UTC), limits)
    band = None if found is None else (found[0].tolist(), found[1].tolist())
    return msgspec.structs.replace(watch, hour=hour, band=band)


def usual_band(
    usual: Mapping[str, Mapping[int, list[int]]], now: datetime, limits: ScoreWatchLimits
) -> tuple[Floats, Floats] | None:
    """The lower and upper ends of the shares above each edge, at this hour; None where too few days are known.

    An hour that too few days have is compared with all hours.
    """
    today = now.date().isoformat()
    days = {day: hours for day, hours in usual.items() if day < today}
    near = {(now.hour + step) % 24 for step in (-1, 0, 1)}
    for wanted in (near, set(range(24))):
        told = list(_shares(days, wanted, limits.minimum_requests))
        if len({day for day, _ in told}) >= limits.minimum_days:
            shares = np.array([share for _, share in told])
            return np.maximum(shares.min(0) - limits.margin, 0.0), np.minimum(shares.max(0) + limits.margin, 1.0)
    return None


def _shares(days: Mapping[str, Mapping[int, list[int]]], hours: set[int], minimum: int) -> Iterator[tuple[str, Floats]]:
    for day, by_hour in days.items():
        for hour, counts in by_hour.items():
            total = sum(counts)
            if hour in hours and total >= minimum:
                yield day, np.asarray(np.cumsum(counts[::-1])[::-1][1:] / total)


def _judged(watch: ScoreWatch, counts: Floats, edge: int, limits: ScoreWatchLimits) -> ScoreWatch:
    assert watch.band is not None
    low, high = (np.array(end) for end in watch.band)
    above, trials = np.cumsum(counts[::-1])[::-1][1:], int(counts.sum())
    before = np.full(_SHAPE, -np.inf) if watch.detectors is None else np.array(watch.detectors).reshape(_SHAPE)
    threshold = limits.log_threshold
    if trials == 0:  # no trial: it neither adds evidence nor uses up the budget
        return watch if watch.state == "alarm" else msgspec.structs.replace(watch, state="quiet")
    log_e = log_e_values(above, trials, low, high, limits.effective_requests)
    detectors = advance(before, log_e, at_most=threshold + _OVERSHOOT)
    weights = np.full(EDGES, (1 - _THRESHOLD_WEIGHT) / (EDGES - 1))
    weights[edge] = _THRESHOLD_WEIGHT
    evidence = float(log_mixture(detectors, weights))
    # an alarm ends later than it begins, so that it does not flicker
    is_alarm = bool(evidence >= (threshold / 2 if watch.state == "alarm" else threshold))
    return msgspec.structs.replace(
        watch, detectors=detectors.ravel().tolist(), evidence=evidence, state="alarm" if is_alarm else "quiet"
    )


def _alarm(watch: ScoreWatch, now_s: float) -> Alarm:
    assert watch.band is not None
    detectors = np.array(watch.detectors).reshape(_SHAPE)
    edge, direction, _ = (int(place) for place in np.unravel_index(int(detectors.argmax()), _SHAPE))
    low, high = watch.band[0][edge], watch.band[1][edge]
    last = watch.recent[-_TOLD_LOOKS:]
    total = sum(sum(counts) for _, counts in last)
    share = sum(sum(counts[edge + 1 :]) for _, counts in last) / total
    at, where = (edge + 1) / SCORE_BINS, "above" if direction == 0 else "below"
    reason = (
        f"{share:.1%} of the last {total:,} scores lie above {at:g}, {where} what is usual at this hour: "
        f"{low:.1%} to {high:.1%}, margin included"
    )
    return Alarm(since_s=now_s, edge=at, share=share, low=low, high=high, scores=total, reason=reason)


def _remembering(watch: ScoreWatch, now_s: float, limits: ScoreWatchLimits) -> ScoreWatch:
    """With the looks that are older than an hour among what is usual, unless there is an alarm; old days forgotten."""
    if not watch.recent or watch.recent[0][0] > now_s - RECENT_S:
        return watch
    left = [(when, counts) for when, counts in watch.recent if when <= now_s - RECENT_S]
    recent = watch.recent[len(left) :]
    first = (datetime.fromtimestamp(now_s, UTC).date() - timedelta(days=limits.reference_days)).isoformat()
    usual = {day: hours for day, hours in watch.usual.items() if day >= first}
    for when, counts in left if watch.state != "alarm" else []:
        moment = datetime.fromtimestamp(when, UTC)
        day, hour = moment.date().isoformat(), moment.hour
        hours = usual.get(day, {})
        earlier = hours.get(hour, [0] * SCORE_BINS)
        usual[day] = {**hours, hour: [one + other for one, other in zip(earlier, counts, strict=True)]}
    return msgspec.structs.replace(watch, usual=usual, recent=recent)
