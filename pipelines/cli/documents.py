"""The commands that show what is written about a version: its model card, and the report of its evaluation."""

import sys
from datetime import date, timedelta
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

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


class _EvaluationByDefault(TyperGroup):
    """`paceline report PROJECT` goes on meaning the report of an evaluation."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """With `evaluation` first where the first argument names no subcommand."""
        is_named = not args or args[0] in ("--help", *self.commands)
        return super().parse_args(ctx, args if is_named else ["evaluation", *args])


reports = typer.Typer(cls=_EvaluationByDefault, help="Reports: of a version's evaluation, and of a project's week.")
app.add_typer(reports, name="report")


@reports.command("weekly")
def weekly_report(
    project: ProjectName,
    week: Annotated[str, typer.Option(help="An ISO week such as 2013-W27; default: the last one that is over.")] = "",
    path: Annotated[bool, typer.Option("--path", help="Say where the last one lies, and write none.")] = False,
    as_json: Json = False,
) -> None:
    """Write the page of a week: traffic, latency, quality, drift, retrains, rollouts, open investigations."""
    from pipelines.tasks import weekly
    from pipelines.wiring import home

    if path:
        found = weekly.find_weekly_report(project, week)
    else:
        wanted = week or weekly.week_of(date.today() - timedelta(days=7))
        found = weekly.write_weekly_report(project, wanted)
        found["page"] = str(home().root / found["page"])
    show_lines(found, as_json, found["page"])


@reports.command("evaluation")
def report(project: ProjectName, version: VersionName = "", as_json: Json = False) -> None:
    """Where the report of a version's newest evaluation lies: a page with gates, comparison and all evidence."""
    from pipelines.tasks import reporting

    found = reporting.find_report(project, version)
    show_lines(found, as_json, found["report"])
