"""Replicas behind an autoscaler, second by second. Pure: drawn arrivals, no clock.

In a second all ready replicas serve what comes (Poisson) and what waits, up to their rate. What is over waits for the
next second, and gives up after `patience_s`. Within a second each replica is a queue (`queueing`). A request is
beyond the objective when the backlog's wait, the queue's and its own service exceed it, or when it gives up.

What this leaves out: uneven balancing, images that have to be fetched (`schedule_s` is for the pod), nodes to buy.
"""

from collections import deque
from dataclasses import dataclass

import msgspec
import numpy as np
from numpy.typing import NDArray

from pipelines.capacity.autoscaler import Autoscaler, Controller, Seen
from pipelines.capacity.queueing import beyond, service_rate, waiting
from pipelines.capacity.traffic_shapes import Rates

_FULL = 0.98  # in a second the queue of a busier replica does not reach the mean that the formula has for ever


class Replica(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What one replica does: `saturation_per_s` at p99 = `objective_s`; `start_s` measured, `schedule_s` before it."""

    saturation_per_s: float
    objective_s: float
    start_s: float
    schedule_s: float = 5.0
    patience_s: float = 1.0


class Outcome(msgspec.Struct, frozen=True, kw_only=True):
    """What came of one day, spike or sawtooth. `scale_events` are changes of the replicas that the HPA asked for."""

    requests: int
    beyond: float
    scale_events: int
    worst_hour_events: int
    replica_hours: float
    most_replicas: int

    @property
    def share_beyond(self) -> float:
        """Of the requests, those that took longer than the objective, or were given up."""
        return self.beyond / self.requests if self.requests else 0.0


@dataclass(frozen=True)
class Course:
    """What happened in each second: the rate, the replicas that were ready, and requests beyond the objective."""

    rate: Rates
    ready: NDArray[np.int64]
    beyond: NDArray[np.float64]
    outcome: Outcome


def simulate(
    rates: Rates, replica: Replica, autoscaler: Autoscaler, *, seed: int, begins: int | None = None, from_s: int = 0
) -> Course:
    """Plays `rates` from `begins` replicas on (by default what the autoscaler would have at the first rate).

    Counts begin at `from_s`. Scrapes and rounds begin at moments that the seed draws.
    """
    pool = _Pool(replica, autoscaler, begins or _settled(rates[0], replica, autoscaler), np.random.default_rng(seed))
    seconds = len(rates)
    ready, over = np.zeros(seconds, dtype=np.int64), np.zeros(seconds)
    arrived = pool.random.poisson(rates)
    held = 0
    for second in range(seconds):
        over[second] = pool.step(second, int(arrived[second]))
        ready[second] = pool.ready
        held += pool.replicas if second >= from_s else 0
    events = [at_s for at_s in pool.events if at_s >= from_s]
    outcome = Outcome(
        requests=int(arrived[from_s:].sum()),
        beyond=float(over[from_s:].sum()),
        scale_events=len(events),
        worst_hour_events=max((sum(at <= each < at + 3600 for each in events) for at in events), default=0),
        replica_hours=held / 3600,
        most_replicas=int(ready[from_s:].max()),
    )
    return Course(rates, ready, over, outcome)


def _settled(rate: float, replica: Replica, autoscaler: Autoscaler) -> int:
    """The fewest replicas whose metric is within the target."""
    for count in range(autoscaler.fewest, autoscaler.most):
        if _signal(autoscaler, replica, rate / count) <= autoscaler.target:
            return count
    return autoscaler.most


def _signal(autoscaler: Autoscaler, replica: Replica, rate: float) -> float:
    """The metric of one replica at a steady rate."""
    if autoscaler.signal == "cpu":
        return rate / replica.saturation_per_s
    return waiting(min(_FULL, rate / service_rate(replica.saturation_per_s, replica.objective_s)))


class _Pool:
    """The replicas, their queue, and what the autoscaler has seen of them."""

    def __init__(self, replica: Replica, autoscaler: Autoscaler, begins: int, random: np.random.Generator) -> None:
        self.random, self.ready, self.events = random, begins, list[int]()
        self._replica, self._autoscaler = replica, autoscaler
        self._rate = service_rate(replica.saturation_per_s, replica.objective_s)
        self._controller = Controller(autoscaler, begins)
        self._starting: deque[int] = deque()  # when each will be ready
        self._since: list[int] = [-(10**6)] * begins  # when each became so
        self._backlog = 0.0
        self._window: deque[tuple[float, float]] = deque(maxlen=autoscaler.window_s)  # rows waiting, cores used
        self._scraped: Seen | None = None
        self._scrape_at = int(random.integers(autoscaler.scrape_s))
        self._sync_at = int(random.integers(autoscaler.sync_s))

    @property
    def replicas(self) -> int:
        return self.ready + len(self._starting)

    def step(self, second: int, arrived: int) -> float:
        """One second; returns the requests beyond the objective."""
        while self._starting and self._starting[0] <= second:
            self._since.append(self._starting.popleft())
            self.ready += 1
        over = self._serve(arrived)
        if second % self._autoscaler.scrape_s == self._scrape_at:
            self._scraped = self._scrape(second)
        if second % self._autoscaler.sync_s == self._sync_at and self._scraped is not None:
            self._scale(second)
        return over

    def _serve(self, arrived: int) -> float:
        most = self.ready * self._rate
        before = self._backlog
        served = min(before + arrived, most)
        left = before + arrived - served
        given_up = max(0.0, left - most * self._replica.patience_s)
        self._backlog = left - given_up
        wait_s = (before + self._backlog) / 2 / most
        load = min(arrived / most, 1.0)
        patience_s = self._replica.objective_s - 1 / self._rate - wait_s
        late = arrived * beyond(min(load, _FULL), self._rate, patience_s)
        rows = (before + self._backlog) / 2 + self.ready * waiting(min(load, _FULL))
        self._window.append((rows, served / self._replica.saturation_per_s))
        return min(float(arrived), late + given_up)

    def _scrape(self, second: int) -> Seen:
        """The mean of the window. CPU is known of the replicas that were ready all the while."""
        rows, cores = (sum(each) / len(self._window) for each in zip(*self._window, strict=True))
        if self._autoscaler.signal == "queue":
            return Seen(self.replicas, self.ready, rows)
        known = sum(since <= second - self._autoscaler.window_s for since in self._since)
        return Seen(self.replicas, known, cores * known / self.ready)

    def _scale(self, second: int) -> None:
        assert self._scraped is not None
        before = self._controller.replicas
        # how many replicas there are is known now; the metric is from the last scrape
        seen = Seen(self.replicas, min(self._scraped.known, self.replicas), self._scraped.total)
        wanted = self._controller.sync(second, seen)
        if wanted == before:
            return
        self.events.append(second)
        for _ in range(wanted - self.replicas):
            self._starting.append(second + round(self._replica.schedule_s + self._replica.start_s))
        for _ in range(self.replicas - wanted):
            if self._starting:
                self._starting.pop()
            else:
                self._since.pop()
                self.ready -= 1
