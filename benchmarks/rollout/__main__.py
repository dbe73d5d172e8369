"""What the judge of a rollout is worth: simulated rollouts, beside methods that others use.

`make bench-rollout` prints the tables; `ARGS=--readme` writes them into this folder's README, and draws the plots.
"""

import argparse
import os
import sys
from collections.abc import Sequence
from datetime import date
from pathlib import Path
from textwrap import wrap
from typing import Any

from rich.console import Console

from pipelines.rollout.plan import Plan
from pipelines.rollout.simulation.experiments import Experiments, experiments, experiments_table
from pipelines.rollout.simulation.pairs import Saving
from pipelines.rollout.simulation.study import Detection, FalseAlarms
from pipelines.tasks.simulating import (
    METHODS,
    PAIRS,
    alarms_table,
    detection_table,
    pairs_table,
    savings,
    simulate_rollouts,
)

FOLDER = Path(__file__).parent
README = FOLDER / "README.md"
BEGIN, END = "<!-- results -->", "<!-- end of results -->"
GOALS = {0.02: 1.5, 0.05: 2.0, 0.2: 4.0}  # of Wald's bound, at most, in the first step with all of alpha on errors
console = Console(stderr=True)


def main() -> int:
    """Exit code 1 when a goal is not reached."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--readme", action="store_true", help="write the results into the README, and draw the plots")
    parser.add_argument("--rollouts", type=int, default=1000, help="of equal versions in each case")
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    plan = Plan()
    with console.status("starting") as status:
        alarms, found = simulate_rollouts(
            plan, options.rollouts, 100.0, 2.0, options.seed, lambda done, of: status.update(f"{done:,} of {of:,}")
        )
    several = experiments(plan, options.rollouts, 100.0, 2.0, options.seed)
    text = _text(plan, options.rollouts, alarms, found, savings(options.seed)) + _several(several)
    sys.stdout.write(text)
    if options.readme:
        _plots(alarms, found)
        before, _, rest = README.read_text().partition(BEGIN)
        README.write_text(f"{before}{BEGIN}\n{text}{END}{rest.partition(END)[2]}")
    holds = all(each.false <= plan.alpha * each.experiments for each in several)
    return 0 if holds and all(map(_reached, found)) and all(_holds(each, plan) for each in alarms) else 1


def _several(found: list[Experiments]) -> str:
    rows = experiments_table(found)
    lines = ["| " + " | ".join(row) + " |" for row in rows]
    lines.insert(1, "| " + " | ".join("---" for _ in rows[0]) + " |")
    return "\n".join(
        ["", "### Several challengers at a time", "", "Alpha is shared out; lanes of equal size.", "", *lines, ""]
    )


def _reached(found: Detection) -> bool:
    is_asked = found.split == "all on errors" and found.share < 0.5
    return not is_asked or found.ratio <= GOALS[found.rate]


def _holds(found: FalseAlarms, plan: Plan) -> bool:
    return found.rolled_back[METHODS[0]] <= plan.alpha * found.rollouts


def _text(
    plan: Plan,
    rollouts: int,
    alarms: Sequence[FalseAlarms],
    found: Sequence[Detection],
    paired: Sequence[Saving],
) -> str:
    worst = max(each.rolled_back[METHODS[0]] / each.rollouts for each in alarms)
    lines = [
        f"{rollouts:,} rollouts of equal versions in each case, 100 requests a second, a look every 2 s, all five",
        f"steps of the default plan (alpha {plan.alpha:g}); run on {date.today()}, {os.cpu_count()} cores.",
        f"The judge's worst case: {worst:.1%}.",
        "",
        *_markdown(alarms_table(alarms)),
        "",
        "Versions that are worse: 0.5 % of failures become more.",
        "",
        *_markdown(detection_table(found)),
        "",
        *wrap(PAIRS, 110),
        "",
        *_markdown(pairs_table(paired)),
        "",
    ]
    return "\n".join(lines)


def _markdown(rows: Sequence[Sequence[str]]) -> list[str]:
    head, *body = rows
    return ["| " + " | ".join(row) + " |" for row in (head, ["---"] * len(head), *body)]


def _plots(alarms: Sequence[FalseAlarms], found: Sequence[Detection]) -> None:
    import matplotlib

    matplotlib.use("svg")
    matplotlib.rcParams.update({"svg.hashsalt": "paceline", "font.size": 10, "axes.spines.top": False})
    matplotlib.rcParams["axes.spines.right"] = False
    _save(_draw_alarms(alarms), "false_rollbacks.svg")
    _save(_draw_detection(found), "detection.svg")


def _draw_alarms(alarms: Sequence[FalseAlarms]) -> Any:
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(9, 4.6), layout="constrained")
    tones = ("#0f766e", "#b45309", "#7c3aed", "#be123c")
    height = 0.8 / len(METHODS)
    for place, (method, tone) in enumerate(zip(METHODS, tones, strict=True)):
        rates = [100 * each.rolled_back[method] / each.rollouts for each in alarms]
        axes.barh([row + place * height for row in range(len(alarms))], rates, height, color=tone, label=method)
    axes.axvline(1, color="#64748b", linestyle="--", linewidth=1)
    names = [
        f"{each.world.failure_rate:.1%}, {'constant' if each.world.swing == 1 else 'swinging'}, "
        f"{'heavy-tailed' if each.world.heavy else 'equal'}"
        for each in alarms
    ]
    axes.set_yticks([row + 0.4 - height / 2 for row in range(len(alarms))], names)
    axes.invert_yaxis()
    axes.set_xlabel("equal versions that were rolled back, % (dashed: the plan's alpha)")
    axes.legend(frameon=False, loc="lower left", bbox_to_anchor=(-0.25, 1), ncols=2)
    return figure


def _draw_detection(found: Sequence[Detection]) -> Any:
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(9, 3.6), layout="constrained")
    asked = [each for each in found if each.share < 0.5]
    for split, tone, marker in (("all on errors", "#0f766e", "o"), ("as the plan has it", "#b45309", "s")):
        rows = [each for each in asked if each.split == split]
        axes.plot([f"{each.rate:.0%}" for each in rows], [each.ratio for each in rows], marker, color=tone, label=split)
    axes.plot(
        [f"{rate:.0%}" for rate in GOALS], list(GOALS.values()), "_", color="#64748b", markersize=24, label="goal"
    )
    axes.axhline(1, color="#94a3b8", linewidth=1)
    axes.set_ylim(0, max(GOALS.values()) + 0.5)
    axes.set_xlabel("0.5 % of failures become …")
    axes.set_ylabel("median challenger requests\nagainst Wald's bound")
    axes.legend(frameon=False, loc="upper left")
    return figure


def _save(figure: Any, name: str) -> None:
    figure.savefig(FOLDER / name, metadata={"Date": None})


if __name__ == "__main__":
    sys.exit(main())
