"""The commands about rollbacks: what was found out about one, and what a person adds."""

from typing import Annotated

import typer

from pipelines.cli.console import Json, ProjectName, show, show_lines

app = typer.Typer(help="What is on record about each rollback, and what a person found.", no_args_is_help=True)
Rollout = Annotated[str, typer.Argument(metavar="ROLLOUT", help="As `paceline investigation list` names it.")]


@app.command("list")
def list_(
    project: ProjectName,
    only_open: Annotated[bool, typer.Option("--open", help="Leave out those that somebody has closed.")] = False,
    as_json: Json = False,
) -> None:
    """All rollbacks of a project, with their causes and notes."""
    from pipelines import views

    found = views.investigations(project, only_open=only_open)
    if as_json:
        show(found, as_json)
    else:
        show_lines(found, as_json, views.investigations_text(found))


@app.command("show")
def show_(project: ProjectName, rollout: Rollout, as_json: Json = False) -> None:
    """Why, who was affected, who was told, and where the page with all evidence lies."""
    from pipelines import views

    found = views.investigation(project, rollout)
    show_lines(found, as_json, views.investigation_text(found))


@app.command()
def close(
    project: ProjectName,
    rollout: Rollout,
    note: Annotated[str, typer.Option(help="What was found.")],
    by: Annotated[str, typer.Option(help="Who says so.")],
    as_json: Json = False,
) -> None:
    """Write down what was found: from then on the version is offered again without another note."""
    from pipelines.tasks import investigating

    closed = investigating.close_investigation(project, rollout, note=note, by=by)
    show_lines(closed, as_json, f"closed by {closed['by']} on {closed['at']}: {closed['note']}")
