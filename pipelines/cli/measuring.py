"""The commands that measure training: the history of a project replayed, and what a retrain costs."""

import sys
from pathlib import Path
from typing import Annotated

import typer

from pipelines.cli.console import AsOf, Json, ProjectName, checked_date, err, show_lines

app = typer.Typer()
HtmlFile = Annotated[Path | None, typer.Option("--html", metavar="FILE", help="A page with the plots.")]


@app.command()
def backtest(
    project: ProjectName,
    start: Annotated[
        str, typer.Option("--from", metavar="DATE", help="The first day that is judged.", callback=checked_date)
    ],
    until: Annotated[
        str, typer.Option("--until", metavar="DATE", help="The day after the last.", callback=checked_date)
    ],
    every: Annotated[int, typer.Option(min=1, max=3650, help="Days from one retrain to the next.")] = 14,
    trainer: Annotated[str | None, typer.Option(help="Default: that of the project's first trial.")] = None,
    html_file: HtmlFile = None,
    as_json: Json = False,
) -> None:
    """How good the models would have been, had the project been retrained all along: walk-forward over its history."""
    from pipelines.tasks import backtesting

    with err.status("reading the events") as status:
        found = backtesting.backtest(
            project,
            start,
            until,
            every,
            trainer,
            lambda number, of, step: status.update(f"{number} of {of}: {backtesting.step_text(step)}"),
        )
    if html_file is not None:
        backtesting.write_page(found, html_file)
        err.print(f"written: {html_file}", highlight=False)
    show_lines(backtesting.backtest_values(found), as_json, backtesting.backtest_text(found))
    sys.stdout.flush()


def bench_train(
    project: ProjectName,
    as_of: AsOf,
    train_days: Annotated[int, typer.Option(min=1, max=3650, help="Days to train on: 56 are eight weeks.")] = 56,
    trainer: Annotated[str | None, typer.Option(help="Default: that of the project's first trial.")] = None,
    as_json: Json = False,
) -> None:
    """What one retrain costs, part by part: time, processor time and memory. Nothing of it is kept."""
    from pipelines.tasks import bench_training

    with err.status("starting") as status:
        found = bench_training.bench_train(project, as_of, train_days, trainer, status.update)
    show_lines(bench_training.cost_values(found), as_json, bench_training.cost_text(found))
