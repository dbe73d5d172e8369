"""Many simulated experiments: several challengers at a time, each in its lane, with alpha shared out.

A false rollback is one of any challenger that is equal to the champion: the rate is that of the experiments.
"""

from concurrent.futures import ProcessPoolExecutor
from functools import partial
from typing import NamedTuple

import msgspec

from pipelines.rollout.plan import Plan
from pipelines.rollout.simulation.traffic import World
from pipelines.rollout.simulation.trial import run_trial
from pipelines.statistics.rate_intervals import exact_interval

CHALLENGERS = 3
USUAL, BAD = 0.005, 0.05  # failure rates
BACK = ("rolled_back", "hard_limit")


class Experiments(NamedTuple):
    """Experiments of one kind: `equal` challengers among them, and one that is worse where there are more.

    `false` counts experiments in which an equal one was rolled back, `caught` those in which the bad one was,
    `promoted` those that an equal one has won.
    """

    challengers: int
    bad: int
    swing: float
    experiments: int
    false: int
    caught: int
    promoted: int

    @property
    def interval(self) -> tuple[float, float]:
        """The 95 % interval of the rate of false rollbacks (Clopper and Pearson)."""
        return exact_interval(self.false, self.experiments)


def experiments(plan: Plan, count: int, requests_per_s: float, look_s: float, seed: int) -> list[Experiments]:
    """`count` experiments each: all equal, at a constant and a swinging base rate; and one bad one among three."""
    steps = tuple(msgspec.structs.replace(step, coverage=None) for step in plan.steps)
    plan = msgspec.structs.replace(plan, shadow=None, steps=steps)
    found = []
    with ProcessPoolExecutor() as pool:
        for place, (bad, swing) in enumerate(((0, 1.0), (0, 6.0), (1, 1.0))):
            run = partial(run_experiment, plan, bad, swing, requests_per_s, look_s)
            seeds = range(seed + place * count, seed + (place + 1) * count)
            ends = list(pool.map(run, seeds, chunksize=max(1, count // 40)))
            found.append(_summed(bad, swing, ends))
    return found


def run_experiment(plan: Plan, bad: int, swing: float, requests_per_s: float, look_s: float, seed: int) -> list[str]:
    """How each of three challengers ended, of which the first `bad` fail ten times as often.

    Of those that are left the last one goes on alone, so that no bad one that was overlooked is favoured. It goes on at
    the traffic of its lane, which changes only how long it takes.
    """
    ends: list[str] = []
    is_decided = False
    for place in reversed(range(CHALLENGERS)):
        odds = BAD / (1 - BAD) / (USUAL / (1 - USUAL)) if place < bad else 1.0
        world = World(
            failure_rate=USUAL,
            requests_per_s=requests_per_s / CHALLENGERS,
            entities=5000 // CHALLENGERS,
            swing=swing,
            odds=odds,
        )
        trial = run_trial(
            world,
            plan.among(CHALLENGERS),
            seed * CHALLENGERS + place,
            look_s,
            lane=(place, CHALLENGERS),
            is_chosen=not is_decided,
        )
        is_decided = is_decided or trial.end not in BACK or trial.was_chosen
        ends.insert(0, trial.end)
    return ends


def _summed(bad: int, swing: float, ends: list[list[str]]) -> Experiments:
    return Experiments(
        challengers=CHALLENGERS,
        bad=bad,
        swing=swing,
        experiments=len(ends),
        false=sum(any(end in BACK for end in each[bad:]) for each in ends),
        caught=sum(all(end in BACK for end in each[:bad]) for each in ends) if bad else 0,
        promoted=sum("promoted" in each[bad:] for each in ends),
    )


def experiments_table(found: list[Experiments]) -> list[list[str]]:
    """As rows of text, the head first."""
    head = ["challengers", "base rate", "experiments", "an equal one rolled back", "95 % interval"]
    return [
        [*head, "the bad one rolled back", "an equal one leads"],
        *(
            [
                f"{each.challengers - each.bad} equal" + (f", {each.bad} that fails at {BAD:.0%}" if each.bad else ""),
                "constant" if each.swing == 1 else f"swings {each.swing:g}-fold",
                f"{each.experiments:,}",
                f"{each.false / each.experiments:.1%}",
                f"{each.interval[0]:.1%} to {each.interval[1]:.1%}",
                f"{each.caught / each.experiments:.1%}" if each.bad else "–",
                f"{each.promoted / each.experiments:.1%}",
            ]
            for each in found
        ),
    ]
