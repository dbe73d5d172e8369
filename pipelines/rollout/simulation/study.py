"""Many simulated rollouts: how often equal versions are rolled back, and how soon worse ones are.

The bound that detection is held against is Wald's: a sequential test of level α that knows both rates needs at least
log(1/α) / KL(p₁‖p₀) requests on average (Wald, "Sequential tests of statistical hypotheses", 1945). A judge is told no
rate: it sees on whose side each failure falls. The challenger's share s of the requests has s·p₁ / (s·p₁ + (1-s)·p₀) of
the failures; Wald's bound of that coin against one of s, over the failures a challenger request brings, is what a
comparison of two versions needs at least. The larger the share, the fewer the champion's requests beside each of the
challenger's, and the further apart the two bounds.
"""

from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from itertools import product
from math import log
from statistics import median
from typing import NamedTuple

import msgspec

from pipelines.rollout.plan import AlphaShares, Plan, Step
from pipelines.rollout.simulation.peers import PEERS
from pipelines.rollout.simulation.traffic import World
from pipelines.rollout.simulation.trial import Trial, run_trial
from pipelines.statistics.rate_intervals import exact_interval

FAILURE_RATES = (0.001, 0.005, 0.02)
SWINGS = (1.0, 6.0)
WORSE = (0.02, 0.05, 0.2)  # failure rates that are to be detected, where the champion's is the following
USUAL = 0.005
JUDGE = "Paceline's judge"
_CHUNK = 10
_DETECTION_S = 3600.0
Progress = Callable[[int, int], None]


class FalseAlarms(NamedTuple):
    """Rollouts of equal versions in one world: how many each method rolled back, by name."""

    world: World
    rollouts: int
    rolled_back: dict[str, int]
    by_hard_limit: int
    seconds: float
    reasons: tuple[str, ...]

    def interval(self, method: str) -> tuple[float, float]:
        """The 95 % interval of that method's rate (Clopper and Pearson)."""
        return exact_interval(self.rolled_back[method], self.rollouts)


class Detection(NamedTuple):
    """How soon a challenger that fails at `rate` is rolled back in a step of `share`, and by what."""

    rate: float
    share: float
    split: str
    rollouts: int
    detected: int
    requests: float
    seconds: float
    wald: float
    compared: float  # Wald's bound for whoever compares the two versions, and knows neither rate

    @property
    def ratio(self) -> float:
        """Median challenger requests against Wald's bound."""
        return self.requests / self.wald

    @property
    def compared_ratio(self) -> float:
        """Median challenger requests against the bound of a comparison."""
        return self.requests / self.compared


def worlds(requests_per_s: float) -> list[World]:
    """Equal versions: each failure rate, constant and swinging sixfold, with equal and with heavy-tailed entities.

    Of the heavy ones three fail on every second request of theirs, whoever answers.
    """
    return [
        World(failure_rate=rate, requests_per_s=requests_per_s, swing=swing, heavy=heavy, failing=3 if heavy else 0)
        for rate, swing, heavy in product(FAILURE_RATES, SWINGS, (False, True))
    ]


def false_alarms(
    plan: Plan, rollouts: int, requests_per_s: float, look_s: float, seed: int, progress: Progress
) -> list[FalseAlarms]:
    """For each of `worlds`, `rollouts` rollouts of equal versions through all steps of `plan`."""
    steps = tuple(msgspec.structs.replace(step, coverage=None) for step in plan.steps)  # of drawn traffic there is none
    plan = msgspec.structs.replace(plan, shadow=None, steps=steps)
    found, asked = [], worlds(requests_per_s)
    for place, world in enumerate(asked):
        done = partial(_tell, progress, place * rollouts, len(asked) * rollouts)
        seeds = range(seed + place * rollouts, seed + (place + 1) * rollouts)
        trials = _run(partial(run_trial, world, plan, look_s=look_s, peers=PEERS), seeds, done)
        by_peer = {peer.name: sum(trial.alarms[index] for trial in trials) for index, peer in enumerate(PEERS)}
        ends = Counter(trial.end for trial in trials)
        reasons = tuple(trial.reason for trial in trials if trial.end == "rolled_back")
        found.append(
            FalseAlarms(
                world,
                rollouts,
                {JUDGE: ends["rolled_back"] + ends["hard_limit"], **by_peer},
                ends["hard_limit"],
                median(trial.seconds for trial in trials),
                reasons,
            )
        )
    return found


def detections(
    plan: Plan, rollouts: int, requests_per_s: float, look_s: float, seed: int, progress: Progress
) -> list[Detection]:
    """Worse challengers in a step that does not end: all of alpha on errors, and as the plan shares it out."""
    splits = {"all on errors": _all_on_errors(plan), "as the plan has it": plan}
    shares = (plan.steps[0].share, 0.5)
    asked = list(product(splits, shares, WORSE))
    found = []
    for place, (split, share, rate) in enumerate(asked):
        step = Step(share=share, minimum_requests=10**9, maximum_s=10**9)
        endless = msgspec.structs.replace(splits[split], shadow=None, steps=(step, Step(share=1.0)))
        odds = rate / (1 - rate) / (USUAL / (1 - USUAL))
        # entities enough that each request is nearly of another one: the bound is of independent requests
        world = World(failure_rate=USUAL, requests_per_s=requests_per_s, odds=odds, entities=100_000)
        done = partial(_tell, progress, place * rollouts, len(asked) * rollouts)
        trials = _run(
            partial(run_trial, world, endless, look_s=look_s, maximum_s=_DETECTION_S),
            range(seed + place * rollouts, seed + (place + 1) * rollouts),
            done,
        )
        detected = [trial for trial in trials if trial.end in ("rolled_back", "hard_limit")]
        found.append(
            Detection(
                rate,
                share,
                split,
                rollouts,
                len(detected),
                median(trial.challenger_requests for trial in trials),
                median(trial.seconds for trial in trials),
                log(1 / plan.alpha) / _divergence(rate, USUAL),
                log(1 / plan.alpha) / compared_information(rate, USUAL, share),
            )
        )
    return found


def _all_on_errors(plan: Plan) -> Plan:
    nothing = dict.fromkeys(AlphaShares.__struct_fields__, 0.0)
    return msgspec.structs.replace(plan, alpha_shares=AlphaShares(**{**nothing, "errors": 1.0}))


def _divergence(p: float, q: float) -> float:
    """The Kullback-Leibler divergence of two coins, in nats."""
    return p * log(p / q) + (1 - p) * log((1 - p) / (1 - q))


def compared_information(p: float, q: float, share: float) -> float:
    """What one challenger request tells of `p` against `q`, in nats, by the side on which failures fall."""
    failures = share * p + (1 - share) * q  # of one request of both
    return _divergence(share * p / failures, share) * failures / share


def _run(trial: Callable[..., Trial], seeds: Sequence[int], done: Callable[[int], None]) -> list[Trial]:
    """In all cores' processes, in the order of `seeds`."""
    trials = []
    with ProcessPoolExecutor() as pool:
        for found in pool.map(partial(_seeded, trial), seeds, chunksize=_CHUNK):
            trials.append(found)
            done(len(trials))
    return trials


def _seeded(trial: Callable[..., Trial], seed: int) -> Trial:
    return trial(seed=seed)


def _tell(progress: Progress, before: int, of: int, done: int) -> None:
    progress(before + done, of)
