"""How a challenger came out beside the champion: better, not worse or worse, and whether that is enough. Pure."""

from collections.abc import Sequence
from typing import Literal

import msgspec

from pipelines.evaluation.comparison import Comparison
from pipelines.evaluation.gate import Gate
from pipelines.evaluation.gates import better, both_sides
from pipelines.evaluation.limits import GateLimits
from pipelines.evaluation.metrics import TITLES

Name = Literal["first", "better", "not worse", "worse"]


class Outcome(msgspec.Struct, frozen=True, kw_only=True):
    """What the evaluation comes to, with the numbers that say so.

    `first`: there is no champion yet. `worse`: a gate against the champion failed. `better`: none did, and each metric
    of `better_in` is shown to be better. `not worse`: none did, and that is not shown.
    """

    name: Name
    reason: str


def decide(comparison: Comparison, gates: Sequence[Gate], limits: GateLimits) -> Outcome:
    """The outcome by the `gates` of all areas."""
    if comparison.champion is None:
        return Outcome(name="first", reason="there is no champion to compare with: absolute limits only")
    lost = [f"{gate.name}: {gate.reason}" for gate in gates if gate.against == "champion" and not gate.passed]
    if lost:
        return Outcome(name="worse", reason=f"not shown to be no worse: {'; '.join(lost)}")
    shown = "; ".join(both_sides(comparison, metric) for metric in limits.better_in)
    if all(better(comparison, metric) for metric in limits.better_in):
        return Outcome(name="better", reason=shown)
    enough = "fresher data are reason enough" if limits.promote_when == "not_worse" else "promote_when asks for better"
    return Outcome(name="not worse", reason=f"{shown}: not shown to be better; {enough}")


def superiority_gates(comparison: Comparison, limits: GateLimits) -> tuple[Gate, ...]:
    """One gate for each metric of `better_in`, where `promote_when` asks for better and there is a champion."""
    if comparison.champion is None or limits.promote_when != "better":
        return ()
    return tuple(_superior(comparison, metric) for metric in limits.better_in)


def _superior(comparison: Comparison, metric: str) -> Gate:
    passed = better(comparison, metric)
    side, sign = ("lower", ">") if TITLES[metric].higher_is_better else ("upper", "<")
    said = f"{side} bound {sign} 0" if passed else f"{side} bound not {sign} 0: not shown to be better"
    return Gate(
        name=f"{TITLES[metric].text} better than the champion's",
        passed=passed,
        reason=f"{both_sides(comparison, metric)}, {said}",
    )
