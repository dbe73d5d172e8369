"""What a model server would report of drawn traffic: entities with habits of their own, and base rates that swing.

It counts as `serving.units` does: each entity once in a rollout, and once in a phase, in each metric.
"""

from dataclasses import dataclass, field
from math import pi, sin

import numpy as np
from numpy.typing import NDArray

from contracts.slots import HardLimits
from contracts.strata import ERRORS, UNIT_METRICS, UNIT_SCORE_BINS, Exposure, Stratum, UnitCounts

CHAMPION, CHALLENGER = "1", "2"
SLOW_SHARES = (0.5, 0.05, 0.01)  # of the answers lie above p50, p95 and p99 of the champion
_Entities = NDArray[np.int64]


@dataclass(frozen=True, kw_only=True)
class World:
    """How traffic comes about. Rates are of requests.

    `entities` send `requests_per_s` together: all as many, or by a Pareto law of exponent 1.2 with `heavy`, where a
    tenth of them send three quarters. The failure rate swings by the factor `swing` between its highest and lowest,
    around `failure_rate`, once in `swing_s`. `failing` of the busiest entities fail on every second request of theirs,
    whoever answers. `odds` multiplies the challenger's odds of failing, `slow_odds` those of being slow.
    """

    failure_rate: float
    requests_per_s: float = 100.0
    entities: int = 5000
    heavy: bool = False
    failing: int = 0
    swing: float = 1.0
    swing_s: float = 120.0
    odds: float = 1.0
    slow_odds: float = 1.0


@dataclass
class Traffic:
    """The traffic of one rollout, look by look."""

    world: World
    random: np.random.Generator
    now_s: float = 0.0
    requests: list[int] = field(default_factory=lambda: [0, 0])
    errors: list[int] = field(default_factory=lambda: [0, 0])

    def __post_init__(self) -> None:
        world, random = self.world, self.random
        weights = random.pareto(1.2, world.entities) + 0.05 if world.heavy else np.ones(world.entities)
        self._reached = np.cumsum(weights) / weights.sum()
        self._positions = random.random(world.entities)
        self._fails_often = np.zeros(world.entities, bool)
        self._fails_often[np.argsort(weights)[world.entities - world.failing :]] = True
        self._known = np.zeros(world.entities, bool)
        self._ever = {metric: np.zeros(world.entities, bool) for metric in UNIT_METRICS}
        self._phase = {metric: np.zeros(world.entities, bool) for metric in UNIT_METRICS}
        self._scored = np.zeros(world.entities, bool)
        self._share, self._number, self._phases = 0.0, 0, 0

    def look(self, seconds: float, share: float, limits: HardLimits) -> tuple[Stratum, bool]:
        """The next `seconds` at `share`: a stratum, and whether the server's own limit would have ended it."""
        world, random = self.world, self.random
        if share != self._share:
            self._share, self._phases = share, self._phases + 1
            for seen in (*self._phase.values(), self._scored):
                seen[:] = False
        count = int(random.poisson(world.requests_per_s * seconds))
        who = np.searchsorted(self._reached, random.random(count)).astype(np.int64)
        is_challengers = self._positions[who] < share
        failed = random.random(count) < _at_odds(self._rate(), np.where(is_challengers, world.odds, 1.0))
        failed |= self._fails_often[who] & (random.random(count) < 0.5)
        slowness = random.random(count)
        outcomes = {ERRORS: failed}
        for metric, slow_share in zip(UNIT_METRICS[1:], SLOW_SHARES, strict=True):
            outcomes[metric] = slowness < _at_odds(slow_share, np.where(is_challengers, world.slow_odds, 1.0))
        self.now_s += seconds
        self._number += 1
        arms = []
        for place, version in enumerate((CHAMPION, CHALLENGER)):
            mine = is_challengers == bool(place)
            self.requests[place] += int(mine.sum())
            self.errors[place] += int(failed[mine].sum())
            arms.append(self._arm(version, who[mine], {metric: found[mine] for metric, found in outcomes.items()}))
        stratum = Stratum(
            number=self._number,
            closed_s=self.now_s,
            seconds=seconds,
            rollout="simulated",
            share=share,
            phase=self._phases,
            champion=arms[0],
            challenger=arms[1],
        )
        return stratum, _trips(who[is_challengers], failed[is_challengers], limits)

    def _rate(self) -> float:
        """Between `failure_rate` / √swing and · √swing."""
        exponent = 0.5 * sin(2 * pi * self.now_s / self.world.swing_s)
        return min(self.world.failure_rate * float(self.world.swing**exponent), 1.0)

    def _arm(self, version: str, who: _Entities, outcomes: dict[str, NDArray[np.bool_]]) -> UnitCounts:
        entities = np.unique(who)
        new = int((~self._known[entities]).sum())
        self._known[entities] = True
        first = entities[~self._scored[entities]]
        self._scored[first] = True
        windows: tuple[dict[str, Exposure], dict[str, Exposure]] = ({}, {})
        for metric, found in outcomes.items():
            happened = np.unique(who[found])
            for exposures, before in zip(windows, (self._ever[metric], self._phase[metric]), strict=True):
                fresh = happened[~before[happened]]
                at_risk = int((~before[entities]).sum())
                exposures[metric] = Exposure(at_risk=at_risk, happened=len(fresh))
                before[fresh] = True
        scores = np.bincount(self.random.integers(0, UNIT_SCORE_BINS, len(first)), minlength=UNIT_SCORE_BINS)
        return UnitCounts(
            version=version,
            entities=len(entities),
            new=new,
            requests=len(who),
            rollout=windows[0],
            phase=windows[1],
            scores=tuple(scores.tolist()),
        )


def _at_odds(rate: float, odds: NDArray[np.float64]) -> NDArray[np.float64]:
    """`rate` with its odds multiplied."""
    return rate * odds / (1 - rate + rate * odds)


def _trips(who: _Entities, failed: NDArray[np.bool_], limits: HardLimits) -> bool:
    """Whether failures of enough entities lie within the window of the server's own limit."""
    places = np.flatnonzero(failed)
    for first in range(len(places) - limits.errors + 1):
        within = places[first:][places[first:] < places[first] + limits.window]
        if len(set(who[within].tolist())) >= limits.errors:
            return True
    return False
