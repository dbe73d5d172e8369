"""The command `paceline`: what the DAGs do, without Airflow, and what a model server needs beside it."""

import logging
import os
import sys

import typer
from rich.logging import RichHandler

from pipelines.cli import (
    bundles,
    documents,
    flagging,
    investigations,
    judging,
    measuring,
    monitors,
    outcomes,
    reviews,
    rollouts,
    server,
    sizing,
    training,
    versions,
    workflows,
)
from pipelines.cli.console import err

app = typer.Typer(
    name="paceline",
    help="Continuous delivery of machine-learning models: validate, retrain, judge, and roll out without fear.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)
app.add_typer(training.app)
app.add_typer(workflows.app)
app.add_typer(versions.app)
app.add_typer(documents.app)
app.add_typer(measuring.app)
app.add_typer(judging.app)
app.add_typer(monitors.app)
app.add_typer(sizing.app)
app.add_typer(judging.simulate, name="simulate")
app.add_typer(rollouts.rollout, name="rollout")
app.add_typer(flagging.app, name="flags")
app.add_typer(bundles.app, name="bundle")
app.add_typer(investigations.app, name="investigation")
app.add_typer(server.keys, name="keys")
app.add_typer(server.log, name="log")
app.add_typer(outcomes.app)
app.add_typer(reviews.review, name="review")
app.add_typer(outcomes.outcomes, name="outcomes")
app.add_typer(server.bench, name="bench")
server.bench.command("train")(measuring.bench_train)


def main() -> None:
    """Entry point; expected failures end with one line and exit code 1."""
    logging.basicConfig(
        level=os.environ.get("PACELINE_LOG_LEVEL", "WARNING"),
        format="%(message)s",
        datefmt="%X",
        handlers=[RichHandler(console=err, show_path=False, show_level=False)],
    )
    logging.getLogger("paceline").setLevel(logging.INFO)
    logging.getLogger("urllib3").setLevel(
        logging.ERROR
    )  # that a request is repeated; what came of it is an error of ours
    try:
        app()
    except (ValueError, LookupError, PermissionError, ConnectionError, RuntimeError, OSError) as error:
        if os.environ.get("PACELINE_LOG_LEVEL") == "DEBUG":
            raise
        err.print(f"[bold red]paceline:[/] {type(error).__name__}: {error}", highlight=False)
        sys.exit(1)
