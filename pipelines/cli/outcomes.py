"""The commands for ground truth: tell outcomes, look into the quarantine, see what was told of a prediction."""

from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import typer

from pipelines.cli.console import AsOf, Json, ProjectName, err, show_lines

app = typer.Typer()
outcomes = typer.Typer(
    no_args_is_help=True, help="Ground truth for predictions: tell it, late or again; see what could not be believed."
)


@app.command()
def quality(
    project: ProjectName,
    as_of: AsOf = "",
    days: Annotated[int, typer.Option(min=1, max=400, help="How many days of predictions before it.")] = 14,
    html: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Where the page goes; default: among the project's reports.")
    ] = None,
    as_json: Json = False,
) -> None:
    """How good live predictions were by version, slot, slice and day, with intervals, as far as outcomes are known.

    Writes a page with charts; what is not known yet is hatched there, and is no zero.
    """
    from pipelines.tasks import assessing

    found = assessing.assess(project, as_of or datetime.now(UTC).date().isoformat(), days)
    page = assessing.write_page(found, html)
    err.print(f"the page is at {page}", highlight=False)
    show_lines(assessing.assessed_json(found), as_json, assessing.assessed_text(found))


@outcomes.command("add")
def add(
    project: ProjectName,
    file: Annotated[
        Path, typer.Argument(metavar="FILE", exists=True, dir_okay=False, help="CSV, JSON lines or Parquet.")
    ],
    source: Annotated[str | None, typer.Option(help="Who tells it; default: the file's name.")] = None,
    as_json: Json = False,
) -> None:
    """Take outcomes from a file. Its columns: prediction_id, or entity and event_time (local, as in the records);
    value, 0 or 1; and known_at, the instant since which it is known (with its offset from UTC; default: now).

    Late, repeated, unordered and corrected rows are all right: of one prediction the value known last counts. Rows that
    cannot be believed go into the quarantine; a file with another column, or that cannot be read to its end, goes back.
    """
    from pipelines.tasks import labelling

    added = labelling.add_file(project, file, source)
    show_lines(added, as_json, labelling.added_text(added))


@outcomes.command("quarantine")
def quarantine(
    project: ProjectName,
    at_most: Annotated[int, typer.Option(min=0, help="How many rows are shown, the newest first.")] = 50,
    retry: Annotated[
        bool, typer.Option("--retry", help="First look again for the predictions that were unknown.")
    ] = False,
    as_json: Json = False,
) -> None:
    """The outcomes that could not be believed: how many for which reason, and the newest of them."""
    from pipelines.tasks import labelling

    if retry:
        labelling.retry_quarantine(project)
    found = labelling.list_quarantine(project, at_most)
    show_lines(found, as_json, labelling.quarantine_text(found))


@outcomes.command("show")
def show_history(
    project: ProjectName,
    prediction_id: Annotated[str, typer.Argument(metavar="ID", help="Of the prediction.")],
    as_json: Json = False,
) -> None:
    """All that was told of a prediction, oldest first: the value known last counts."""
    from pipelines.tasks import labelling

    found = labelling.history(project, prediction_id)
    lines = [f"{prediction_id}: score {found['score']}"]
    lines += [
        f"  {each['value']} known at {each['known_at']}, told {each['added_at']} by {each['source']}"
        for each in found["told"]
    ]
    show_lines(found, as_json, "\n".join(lines if found["told"] else [*lines, "  not known yet"]))
