"""The commands for unusual predictions: collect, list, show, export and label them."""

from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import typer

from pipelines.cli.console import AsOf, Json, ProjectName, err, show, show_lines, this_user

review = typer.Typer(
    no_args_is_help=True,
    help="Unusual predictions: why they are flagged, what training had that was most like them, and labels for them.",
)
OnlyOpen = Annotated[bool, typer.Option("--open", help="Only what has no label yet.")]


@review.command("collect")
def collect(
    project: ProjectName,
    as_of: AsOf = "",
    days: Annotated[int, typer.Option(min=1, max=400, help="How many days of events before it.")] = 7,
    at_most: Annotated[int, typer.Option(min=1, help="How many are taken, in turns from each kind of flags.")] = 200,
    as_json: Json = False,
) -> None:
    """Put the unusual predictions of the last days into the queue. Nightly in Airflow; safe to repeat."""
    from pipelines.tasks import reviewing

    show(reviewing.collect(project, as_of or datetime.now(UTC).date().isoformat(), days, at_most), as_json)


@review.command("list")
def list_queue(project: ProjectName, only_open: OnlyOpen = False, as_json: Json = False) -> None:
    """The queue, the newest first."""
    from pipelines.tasks import reviewing

    rows = reviewing.list_queue(project, only_open=only_open)
    show_lines(rows, as_json, reviewing.listed_text(rows))


@review.command("page")
def page(
    project: ProjectName,
    html: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Where it goes; default: among the project's reports.")
    ] = None,
    only_open: OnlyOpen = False,
    as_json: Json = False,
) -> None:
    """Write the queue as a page, each prediction beside its neighbours."""
    from pipelines.tasks import reviewing

    written = reviewing.write_page(project, html, only_open=only_open)
    show_lines({"page": str(written)}, as_json, f"the page is at {written}")


@review.command("export")
def export(
    project: ProjectName,
    file: Annotated[Path, typer.Argument(metavar="FILE", help="It ends with .csv or .parquet.")],
    only_open: OnlyOpen = False,
    as_json: Json = False,
) -> None:
    """Write the queue to a file, a column for each input."""
    from pipelines.tasks import reviewing

    rows = reviewing.export(project, file, only_open=only_open)
    show_lines({"rows": rows, "file": str(file)}, as_json, f"{rows:,} rows are in {file}")


@review.command("label")
def label(
    project: ProjectName,
    prediction_id: Annotated[str, typer.Argument(metavar="ID", help="Of the prediction.")],
    value: Annotated[str, typer.Argument(metavar="VALUE", help="0 or 1.")],
    reason: Annotated[str, typer.Option(help="Why, for the ledger.")],
    by: Annotated[str, typer.Option(help="Who says so; default: the user.")] = "",
    as_json: Json = False,
) -> None:
    """Say what became of a prediction: it goes into the outcomes, and into the ledger."""
    from pipelines.tasks import reviewing

    done = reviewing.label(project, prediction_id, value, by=by or this_user(), reason=reason)
    if not as_json:
        err.print(f"{prediction_id} is {done['value']}, by {done['by']}", highlight=False)
    show(done, as_json)
