"""Whether a plan can reach its verdicts at the traffic that there is: what each phase needs, and how long that takes.

Pure, and before the first step. Expected values and no promises: a phase that takes longer than its `maximum_s` here
would end by time alone. Each phase goes on from where the one before ended, hour by hour of the usual day.
"""

from collections.abc import Callable
from datetime import datetime
from math import inf, isinf, log
from zoneinfo import ZoneInfo

import msgspec
import numpy as np

from pipelines.rollout.comparisons import UnitComparison
from pipelines.rollout.coverage import HOURS, Pattern
from pipelines.rollout.plan import Coverage, Plan, RateMargin, Step

HARM = 0.05  # the failure rate whose detection is foretold, where nothing else is asked
USUAL_RATE_MIN = 0.005  # of failures that a champion is taken to have at least, for that forecast
HOUR_S, DAY_S = 3600.0, 86_400.0
HORIZON_S = 28 * DAY_S
_SLICE_S = 300.0  # in which coverage is walked through; the hours of all time zones are made of them
_STEPS = 40
# challenger requests until the judge rolls back, over Wald's bound, by how many times as often the challenger fails:
# benchmarks/rollout/README.md, 0.5 % to 2, 5 and 20 % in a step of 5 %, alpha as the plan shares it out
_TIMES_WORSE, _RATIOS = (4.0, 10.0, 40.0), (1.49, 1.43, 2.81)


class Traffic(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """How much comes: the mean over a day, and the share of each hour (UTC), flat where `by_hour` is empty.

    `entities_per_s` counts an entity once a second, as the judge does; `failure_rate` is the champion's, of those.
    `source` says in words what it was measured on.
    """

    requests_per_s: float
    entities_per_s: float
    failure_rate: float
    source: str
    by_hour: tuple[float, ...] = ()


class Need(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What a phase needs for one criterion. `seconds` is from the phase's start; None: not within four weeks."""

    phase: str
    criterion: str
    needs: str
    seconds: float | None
    maximum_s: float

    @property
    def is_reached(self) -> bool:
        return self.seconds is not None and self.seconds <= self.maximum_s


class Forecast(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """All needs in order, how long all phases take together, and how soon a harm would be seen, in words."""

    traffic: Traffic
    needs: tuple[Need, ...]
    seconds: float
    harm: str

    @property
    def problems(self) -> tuple[str, ...]:
        """The phases that cannot reach a verdict in their time, a line each with both sides."""
        at = f"at {self.traffic.requests_per_s:.3g} requests a second"
        return tuple(
            f"{need.phase}: {need.needs} take {duration(need.seconds)} {at}, at most {duration(need.maximum_s)}"
            for need in self.needs
            if not need.is_reached
        )


def forecast(plan: Plan, traffic: Traffic, begins_s: float, pattern: Pattern | None, harm: float = HARM) -> Forecast:
    """How `plan` would go at `traffic`, from `begins_s` (seconds since the epoch), where no version is worse.

    `pattern` is the reference of coverage; None or an empty one: steps that ask for it have nothing to wait for. Of
    several challengers each has its lane of the traffic; the steps that the chosen one goes alone get more than that.
    """
    traffic = _of_a_lane(traffic, plan.challengers)
    walk = _Walk(traffic, begins_s)
    needs: list[Need] = []
    if plan.shadow is not None:
        pairs = plan.shadow.minimum_pairs
        needs.append(
            Need(
                phase="shadow",
                criterion="pairs",
                needs=f"{pairs:,} pairs",
                seconds=_finite(walk.seconds_for(pairs / plan.shadow.sample)),
                maximum_s=plan.shadow.maximum_s,
            )
        )
        walk.go_on(needs[-1:], plan.shadow.minimum_s, plan.shadow.maximum_s, 0.0)
    usual = _Usual(pattern, plan.coverage, begins_s) if pattern is not None and pattern.cells else None
    for step in plan.steps:
        asked = _of_step(step, plan, walk, usual)
        needs.extend(asked)
        began_s = walk.now_s
        walk.go_on(asked, step.minimum_s, step.maximum_s, step.share)
        if usual is not None:
            usual.see(began_s, walk.now_s, step.share, traffic)
    return Forecast(
        traffic=traffic, needs=tuple(needs), seconds=walk.now_s - begins_s, harm=_harm(plan, traffic, begins_s, harm)
    )


def duration(seconds: float | None) -> str:
    """Seconds as people say them; None is beyond the horizon."""
    if seconds is None:
        return "more than four weeks"
    for unit, size in (("days", DAY_S), ("h", HOUR_S), ("min", 60.0)):
        if seconds >= 2 * size:
            return f"{seconds / size:.1f} {unit}"
    return f"{seconds:.0f} s"


def _of_a_lane(traffic: Traffic, challengers: int) -> Traffic:
    if challengers == 1:
        return traffic
    return msgspec.structs.replace(
        traffic,
        requests_per_s=traffic.requests_per_s / challengers,
        entities_per_s=traffic.entities_per_s / challengers,
        source=f"{traffic.source}; one of {challengers} lanes",
    )


class _Walk:
    """Where the rollout has come to: the time, and the entities that both sides have counted."""

    def __init__(self, traffic: Traffic, now_s: float) -> None:
        self.traffic, self.now_s = traffic, now_s
        self.challenger = self.champion = 0.0

    def seconds_for(self, requests: float) -> float:
        """Until so many more requests have come; infinite where they do not within the horizon."""
        per_day = self.traffic.requests_per_s * DAY_S
        left, at_s = requests, self.now_s
        while left > 0 and at_s - self.now_s < HORIZON_S:
            ends_s = (at_s // HOUR_S + 1) * HOUR_S
            per_s = per_day * _hour_share(self.traffic, at_s) / HOUR_S
            if left <= per_s * (ends_s - at_s):
                return at_s + left / per_s - self.now_s
            left -= per_s * (ends_s - at_s)
            at_s = ends_s
        return inf if left > 0 else at_s - self.now_s

    def requests_in(self, seconds: float) -> float:
        """How many come in the next seconds."""
        return _requests(self.traffic, self.now_s, self.now_s + seconds)

    def go_on(self, needs: list[Need], minimum_s: float, maximum_s: float, share: float) -> None:
        """To the end of a phase: what takes longest in it, or its maximum."""
        longest_s = max([minimum_s, *(inf if need.seconds is None else need.seconds for need in needs)])
        seconds = min(longest_s, maximum_s)
        entities = self.requests_in(seconds) * _entities_per_request(self.traffic)
        self.challenger += entities * share
        self.champion += entities * (1 - share) if share > 0 else 0.0
        self.now_s += seconds


class _Usual:
    """What the challenger is expected to have seen of the usual traffic, cell by cell."""

    def __init__(self, pattern: Pattern, policy: Coverage, begins_s: float) -> None:
        self.policy = policy
        self.shares = np.array([share for _, _, share in pattern.cells])
        self.hours = np.array([hour for hour, _, _ in pattern.cells])
        self.seen = np.zeros(len(self.shares))
        offset = datetime.fromtimestamp(begins_s, ZoneInfo(policy.time_zone)).utcoffset()
        self.offset_s = 0.0 if offset is None else offset.total_seconds()

    @property
    def covered(self) -> float:
        return float(self.shares[self.seen >= self.policy.minimum_per_cell].sum())

    def seconds_for(self, asked: float, share: float, began_s: float, traffic: Traffic) -> float:
        """Until the share `asked` is covered; infinite where it is not within the horizon."""
        before, at_s = self.seen.copy(), began_s
        while self.covered < asked - 1e-9 and at_s - began_s < HORIZON_S:
            self.see(at_s, at_s + _SLICE_S, share, traffic)
            at_s += _SLICE_S
        found = at_s - began_s if self.covered >= asked - 1e-9 else inf
        self.seen = before
        return found

    def see(self, start_s: float, end_s: float, share: float, traffic: Traffic) -> None:
        """The challenger answers its share of what comes in that time."""
        at_s = start_s
        while at_s < end_s:
            until_s = min(end_s, (at_s // _SLICE_S + 1) * _SLICE_S)
            requests = _requests(traffic, at_s, until_s) * share
            if self.policy.by == "event":  # records of any hour come at any time
                self.seen += requests * self.shares
            else:
                now = self.hours == int((at_s + self.offset_s) // HOUR_S) % HOURS
                if (mass := self.shares[now].sum()) > 0:
                    self.seen[now] += requests * self.shares[now] / mass
            at_s = until_s


def _of_step(step: Step, plan: Plan, walk: _Walk, usual: _Usual | None) -> list[Need]:
    phase = f"{step.share * 100:g} %"

    def need(criterion: str, needs: str, seconds: float) -> Need:
        found = _finite(seconds)
        return Need(phase=phase, criterion=criterion, needs=needs, seconds=found, maximum_s=step.maximum_s)

    requests = step.minimum_requests
    found = [need("requests", f"{requests:,} requests of the challenger", walk.seconds_for(requests / step.share))]
    for asked in plan.rate_margins(step):
        entities = _entities_to_show(asked, step.share, walk)
        shown = entities * step.share + walk.challenger
        needs = "entities without end" if isinf(shown) else f"{shown:,.0f} entities"
        needs = f"{needs}, to show that {asked.words} are at most {asked.margin:.3g} above the champion's"
        seconds = walk.seconds_for(entities / max(_entities_per_request(walk.traffic), 1e-9))
        found.append(need(asked.field, needs, seconds))
    if step.coverage is not None and usual is not None:
        seconds = usual.seconds_for(step.coverage, step.share, walk.now_s, walk.traffic)
        found.append(need("coverage", f"hours that make {step.coverage:.2f} of the usual traffic", seconds))
    return found


def _entities_to_show(asked: RateMargin, share: float, walk: _Walk) -> float:
    """How many more entities of both sides it takes until the challenger is shown to be within the margin."""
    rate = walk.traffic.failure_rate if asked.usual is None else asked.usual

    def is_shown(entities: float) -> bool:
        n, reference_n = round(walk.challenger + entities * share), round(walk.champion + entities * (1 - share))
        fresh = UnitComparison.fresh(asked.metric, 1.0)
        counted = msgspec.structs.replace(
            fresh, happened=round(rate * n), n=n, reference_happened=round(rate * reference_n), reference_n=reference_n
        )
        return counted.worst_difference <= asked.margin

    if is_shown(0.0):
        return 0.0
    most = 1.0
    while not is_shown(most):
        most *= 2
        if most > 1e9:
            return inf
    return _first(is_shown, most / 2, most)


def _first(is_so: Callable[[float], bool], low: float, high: float) -> float:
    """About the least value between the two from which on it is so; it is at `high`."""
    for _ in range(_STEPS):
        middle = (low + high) / 2
        low, high = (low, middle) if is_so(middle) else (middle, high)
    return high


def _harm(plan: Plan, traffic: Traffic, begins_s: float, harm: float) -> str:
    """How soon the judge would see that the challenger fails at the rate `harm`, at the first step's share."""
    usual = max(traffic.failure_rate, USUAL_RATE_MIN)
    if plan.alpha_shares.errors == 0:
        return "failures are not compared: the plan gives them no share of alpha"
    if harm <= usual:
        return f"the champion fails at {usual:.2%} itself: {harm:.2%} is no harm"
    bound = log(1 / plan.alpha) / (harm * log(harm / usual) + (1 - harm) * log((1 - harm) / (1 - usual)))
    ratio = float(np.interp(log(harm / usual), np.log(_TIMES_WORSE), _RATIOS))
    share, entities = plan.steps[0].share, bound * ratio
    requests = entities / max(_entities_per_request(traffic), 1e-9)
    seconds = max(_Walk(traffic, begins_s).seconds_for(requests / share), plan.look_every_s)
    return (
        f"failures of {harm:.2%} in place of {usual:.2%} are seen after about {requests:,.0f} requests of the "
        f"challenger ({ratio:.2f} times Wald's bound), at {share * 100:g} % in {duration(_finite(seconds))}"
    )


def _entities_per_request(traffic: Traffic) -> float:
    return traffic.entities_per_s / traffic.requests_per_s if traffic.requests_per_s > 0 else 0.0


def _hour_share(traffic: Traffic, at_s: float) -> float:
    """Of a day's requests, those of the hour in which `at_s` lies."""
    return traffic.by_hour[int(at_s // HOUR_S) % HOURS] if traffic.by_hour else 1 / HOURS


def _requests(traffic: Traffic, start_s: float, end_s: float) -> float:
    found, at_s = 0.0, start_s
    while at_s < end_s:
        until_s = min(end_s, (at_s // HOUR_S + 1) * HOUR_S)
        found += traffic.requests_per_s * DAY_S * _hour_share(traffic, at_s) * (until_s - at_s) / HOUR_S
        at_s = until_s
    return found


def _finite(seconds: float) -> float | None:
    return None if isinf(seconds) else seconds
