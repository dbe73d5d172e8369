"""How others decide to roll back, fed with the same requests: they count requests, and know nothing of entities.

Each is as its own documentation shows it, on windows of ten seconds in place of the minutes there, since a simulated
rollout lasts minutes.
"""

from math import sqrt
from typing import ClassVar, Protocol

WINDOW_S = 10.0
Counts = tuple[int, int]


class Peer(Protocol):
    """Learns from each look; `has_alarmed` stays once it is so."""

    name: ClassVar[str]
    has_alarmed: bool

    def learn(self, champion: Counts, challenger: Counts, seconds: float) -> None:
        """One more look of `seconds`, with the requests of each side that failed, and all of them."""


class RepeatedZTest:
    """A one-sided z-test of two proportions at 1 %, on all counts so far, at every look."""

    name: ClassVar[str] = "z-test at each look"
    critical = 2.326

    def __init__(self) -> None:
        self.has_alarmed = False
        self._counts = [0, 0, 0, 0]

    def learn(self, champion: Counts, challenger: Counts, seconds: float) -> None:
        for place, value in enumerate((*challenger, *champion)):
            self._counts[place] += value
        failed, n, reference_failed, reference_n = self._counts
        if min(n, reference_n) == 0 or failed + reference_failed == 0:
            return
        pooled = (failed + reference_failed) / (n + reference_n)
        spread = sqrt(pooled * (1 - pooled) * (1 / n + 1 / reference_n))
        if spread > 0 and (failed / n - reference_failed / reference_n) / spread > self.critical:
            self.has_alarmed = True


class _Thresholds:
    """A success rate that each window must reach; more than `failures_allowed` windows below it end the rollout."""

    name: ClassVar[str]
    success_rate: ClassVar[float]
    failures_allowed: ClassVar[int]

    def __init__(self) -> None:
        self.has_alarmed = False
        self._failures = 0
        self._window = [0.0, 0, 0]

    def learn(self, champion: Counts, challenger: Counts, seconds: float) -> None:
        failed, n = challenger
        self._window = [self._window[0] + seconds, self._window[1] + failed, self._window[2] + n]
        if self._window[0] < WINDOW_S:
            return
        _, failed_in, n_in = self._window
        self._window = [0.0, 0, 0]
        if n_in and 1 - failed_in / n_in < self.success_rate:
            self._failures += 1
            self.has_alarmed |= self._failures > self.failures_allowed


class Flagger(_Thresholds):
    """Flagger's documentation: `request-success-rate` of at least 99, `threshold: 5` failed checks roll back."""

    name = "Flagger: success >= 99 %, 5 failed checks"
    success_rate, failures_allowed = 0.99, 4


class ArgoRollouts(_Thresholds):
    """Argo Rollouts' documentation: `successCondition: result[0] >= 0.95`, `failureLimit: 3`."""

    name = "Argo Rollouts: success >= 95 %, limit 3"
    success_rate, failures_allowed = 0.95, 3


PEERS: tuple[type[Peer], ...] = (RepeatedZTest, Flagger, ArgoRollouts)
