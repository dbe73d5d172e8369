"""The commands that ask the judge: about looks of one's own, and about rollouts that never happened."""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from pipelines.cli.console import Json, ProjectName, err, out, show

app = typer.Typer()
simulate = typer.Typer(no_args_is_help=True, help="What has not happened, drawn and counted.")
PlanFile = Annotated[
    Path | None,
    typer.Option("--plan", metavar="FILE", exists=True, dir_okay=False, help="YAML or JSON; default: the usual plan."),
]


@app.command()
def judge(plan: PlanFile = None) -> None:
    """Judge looks from standard input, a JSON line each; one verdict with its evidence a line comes out.

    A look has the counts of its own interval, by entity:
    {"t": 2.0, "share": 0.05, "champion": {"n": 190, "errors": 1, "slow": 9}, "challenger": {"n": 10, "errors": 4}}

    The plan's steps are gone through as a rollout does: a look's share says in which one it is. Metrics: errors, slow
    (or slow_p95), slow_p50, slow_p99 (which a plan with a slow_p99_rate_margin waits for); scores: ten counts by the
    champion's deciles; new: entities seen for the first time, where it is not n.
    """
    from pipelines.tasks import asking

    for line in asking.verdicts(plan, sys.stdin.buffer):
        sys.stdout.write(line + "\n")
        sys.stdout.flush()


@app.command()
def preflight(
    project: ProjectName,
    days: Annotated[int, typer.Option(min=1, max=28, help="Of the prediction log, before now.")] = 7,
    harm: Annotated[float, typer.Option(min=0, max=1, help="The failure rate that should be seen.")] = 0.05,
    as_json: Json = False,
) -> None:
    """Whether the plan can reach its verdicts: at this traffic, what each phase needs and how long that takes.

    Exit code 2 when a phase cannot in its time.
    """
    from pipelines.tasks import preflighting

    found = preflighting.check(project, days, harm)
    if as_json:
        show(found, as_json)
    else:
        traffic = found["traffic"]
        out.print(_table(f"The plan of {project}", found["table"]))
        out.print(
            f"{traffic['requests_per_s']:.3g} requests a second ({traffic['source']}), the champion fails at "
            f"{traffic['failure_rate']:.2%}; {found['harm']}",
            highlight=False,
        )
        for problem in found["problems"]:
            err.print(f"[bold red]not in its time:[/] {problem}", highlight=False)
    if found["problems"]:
        raise typer.Exit(2)


@simulate.command()
def rollout(
    plan: PlanFile = None,
    rollouts: Annotated[int, typer.Option(min=1, help="Of equal versions, in each case.")] = 1000,
    rate: Annotated[float, typer.Option(min=1, help="Requests a second.")] = 100.0,
    look_every: Annotated[float, typer.Option(min=0.1, help="Seconds from one look to the next.")] = 2.0,
    seed: Annotated[int, typer.Option(help="The same seed gives the same tables.")] = 1,
    as_json: Json = False,
) -> None:
    """How often equal versions are rolled back, and how soon worse ones: by the judge, and by what others do.

    Beside it what a shadow saves by comparing scores of the same requests, whatever the plan is; and three challengers
    at a time, a quarter as often, where the plan is for several.
    """
    from pipelines.tasks import simulating

    bar = Progress(TextColumn("{task.description}"), BarColumn(), TimeRemainingColumn(), console=err)
    with bar:
        task = bar.add_task("simulated rollouts")
        planned = simulating.read_plan(plan)
        alarms, found = simulating.simulate_rollouts(
            planned,
            rollouts,
            rate,
            look_every,
            seed,
            lambda done, of: bar.update(task, completed=done, total=of),
        )
        bar.update(task, description="simulated experiments", total=None)
        beside = simulating.simulate_experiments(planned, rollouts, rate, look_every, seed)
        bar.update(task, description="scores in pairs")
        paired = simulating.savings(seed)
    if as_json:
        show(simulating.study_values(alarms, found, beside, paired), as_json)
        return
    out.print(_table("Equal versions that were rolled back", simulating.alarms_table(alarms)))
    out.print(_table("Versions that are worse: 0.5 % of failures become more", simulating.detection_table(found)))
    out.print(_table(simulating.PAIRS, simulating.pairs_table(paired)))
    if beside:
        out.print(_table("Three challengers at a time, alpha shared out", simulating.experiments_table(beside)))
    else:
        err.print("no experiments: the plan is not for several challengers (docs/experiments.md)", highlight=False)


def _table(title: str, rows: Sequence[Sequence[str]]) -> Table:
    table = Table(title=title)
    for name in rows[0]:
        table.add_column(name)
    for row in rows[1:]:
        table.add_row(*row)
    return table
