"""The commands that show what is written about a version: its model card, and the report of its evaluation."""

import sys
from pathlib import Path
from typing import Annotated

import typer

from pipelines.cli.console import Json, ProjectName, err, show_lines

app = typer.Typer()
VersionName = Annotated[
    str,
    typer.Argument(
        metavar="[VERSION]",
        help="A number, or champion, challenger or previous; default: the champion, else the challenger.",
    ),
]


@app.command()
def card(
    project: ProjectName,
    version: VersionName = "",
    html: Annotated[Path | None, typer.Option(metavar="FILE", help="Write the page with its plots.")] = None,
    path: Annotated[bool, typer.Option("--path", help="Print where it lies, and not what it says.")] = False,
    as_json: Json = False,
) -> None:
    """The model card of a version, as Markdown or as a page."""
    from pipelines.pages import write_whole
    from pipelines.tasks import reporting

    found = reporting.find_card(project, version)
    if html is not None:
        if found["page"] is None:
            raise ValueError(f"the bundle of {project} version {found['version']} has no page, but a text")
        write_whole(html, Path(found["page"]).read_text())
        err.print(f"the card of version {found['version']} is at {html}", highlight=False)
    if path:
        show_lines(found, as_json, found["page"] or found["card"])
    elif as_json or html is None:
        text = Path(found["card"]).read_text()
        if as_json:
            show_lines({**found, "text": text}, as_json, text)
        else:
            sys.stdout.write(text)


@app.command()
def report(project: ProjectName, version: VersionName = "", as_json: Json = False) -> None:
    """Where the report of a version's newest evaluation lies: a page with gates, comparison and all evidence."""
    from pipelines.tasks import reporting

    found = reporting.find_report(project, version)
    show_lines(found, as_json, found["report"])
