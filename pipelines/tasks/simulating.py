"""Simulated rollouts for people: the study of `pipelines.rollout.simulation` as values and as tables."""

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import msgspec.yaml

from pipelines.rollout.plan import Plan
from pipelines.rollout.simulation.experiments import Experiments, experiments, experiments_table
from pipelines.rollout.simulation.pairs import ALPHA, MARGIN, Saving, pairs_table, savings
from pipelines.rollout.simulation.peers import PEERS
from pipelines.rollout.simulation.study import JUDGE, Detection, FalseAlarms, Progress, detections, false_alarms

__all__ = ["PAIRS", "alarms_table", "detection_table", "experiments_table", "pairs_table", "read_plan"]
__all__ += ["savings", "simulate_experiments", "simulate_rollouts", "study_values"]
PAIRS = (
    "Scores that shift, found in pairs of the same requests and by two samples of different ones: requests of the "
    f"challenger at a margin of {MARGIN:g} and the level {ALPHA:g}, by z-tests of a power of 90 % that look once, and "
    "by the judge's test at any time (median, and what that one saves)."
)
METHODS = (JUDGE, *(peer.name for peer in PEERS))


def read_plan(file: Path | None) -> Plan:
    """The plan in a YAML or JSON file, with the keys of `rollout` in `project.yaml`; the default one without a file.

    Raises:
        ValueError: the file has no plan.
    """
    if file is None:
        return Plan()
    try:
        return msgspec.yaml.decode(file.read_bytes(), type=Plan)
    except msgspec.DecodeError as error:
        raise ValueError(f"{file} is no plan of a rollout: {error}") from error


def simulate_rollouts(
    plan: Plan, rollouts: int, requests_per_s: float, look_s: float, seed: int, progress: Progress
) -> tuple[list[FalseAlarms], list[Detection]]:
    """Rollouts of equal versions, and a tenth as many of worse ones in each case."""
    worse = max(20, rollouts // 10)
    found = detections(plan, worse, requests_per_s, look_s, seed, lambda done, of: progress(done, of))
    return false_alarms(plan, rollouts, requests_per_s, look_s, seed, progress), found


def simulate_experiments(
    plan: Plan, rollouts: int, requests_per_s: float, look_s: float, seed: int
) -> list[Experiments]:
    """A quarter as many experiments of three challengers in each case; none where the plan is not for several."""
    try:
        plan.among(2)
    except ValueError:
        return []
    return experiments(plan, max(5, rollouts // 4), requests_per_s, look_s, seed)


def study_values(
    alarms: Sequence[FalseAlarms],
    found: Sequence[Detection],
    beside: Sequence[Experiments],
    paired: Sequence[Saving],
) -> dict[str, Any]:
    """All tables as JSON values."""
    return {
        "experiments": [{**each._asdict(), "interval": each.interval} for each in beside],
        "false_rollbacks": [
            {
                "failure_rate": each.world.failure_rate,
                "swing": each.world.swing,
                "heavy": each.world.heavy,
                "rollouts": each.rollouts,
                "rolled_back": each.rolled_back,
                "by_hard_limit": each.by_hard_limit,
                "interval": each.interval(JUDGE),
                "median_seconds": each.seconds,
                "reasons": list(each.reasons),
            }
            for each in alarms
        ],
        "detection": [{**each._asdict(), "ratio": each.ratio} for each in found],
        "pairs": [{**asdict(each), "saved": each.saved} for each in paired],
    }


def alarms_table(alarms: Sequence[FalseAlarms]) -> list[list[str]]:
    """The false rollbacks as rows of text, the head first."""
    head = ["failures", "base rate", "entities", "rollouts", *METHODS, "95 % interval of the judge", "median minutes"]
    rows = [head]
    for each in alarms:
        low, high = each.interval(JUDGE)
        rows.append(
            [
                f"{each.world.failure_rate:.1%}",
                "constant" if each.world.swing == 1 else f"swings {each.world.swing:g}-fold",
                "heavy-tailed, 3 always failing" if each.world.heavy else "equal",
                f"{each.rollouts:,}",
                *(f"{each.rolled_back[method] / each.rollouts:.1%}" for method in METHODS),
                f"{low:.1%} to {high:.1%}",
                f"{each.seconds / 60:.1f}",
            ]
        )
    return rows


def detection_table(found: Sequence[Detection]) -> list[list[str]]:
    """How soon worse versions are rolled back, as rows of text, the head first."""
    head = ["failures become", "share", "alpha", "rolled back", "median challenger requests", "Wald's bound", "ratio"]
    head += ["bound of a comparison", "ratio"]
    return [
        head,
        *(
            [
                f"{each.rate:.0%}",
                f"{each.share:.0%}",
                each.split,
                f"{each.detected} of {each.rollouts}",
                f"{each.requests:,.0f} ({each.seconds:.0f} s)",
                f"{each.wald:,.0f}",
                f"{each.ratio:.2f}",
                f"{each.compared:,.0f}",
                f"{each.compared_ratio:.2f}",
            ]
            for each in found
        ),
    ]
