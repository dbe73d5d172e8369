"""The commands of the feature flags: who may see a challenger, and by what requests stick to a version."""

from typing import Annotated

import typer

from pipelines.cli.console import Json, ProjectName, show, this_user

app = typer.Typer(no_args_is_help=True, help="Feature flags of the model server: show, set.")
_CLEARS = "names joined by commas; '' for none. Not given: as it is."


@app.command("show")
def show_flags(project: ProjectName, as_json: Json = False) -> None:
    """The flags in force, who set them and why."""
    from pipelines.tasks import flags as tasks

    show(tasks.show(project), as_json)


@app.command("set")
def set_flags(
    project: ProjectName,
    reason: Annotated[str, typer.Option(help="For the ledger and the server's log.")],
    by: Annotated[str, typer.Option(help="Who wants it; default: the user.")] = "",
    allow: Annotated[str | None, typer.Option(help=f"The only clients that may see a challenger: {_CLEARS}")] = None,
    deny: Annotated[str | None, typer.Option(help=f"Clients that never see a challenger: {_CLEARS}")] = None,
    pin: Annotated[
        str | None, typer.Option(help="CLIENT=champion or CLIENT=challenger, joined by commas; '' for none.")
    ] = None,
    sticky_by: Annotated[
        str | None, typer.Option(help="What sticks to a version: entity, client, field:NAME or header:NAME.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Change flags of the running server: valid from the next request on, in all workers, and after a restart."""
    from pipelines.tasks import flags as tasks

    changed = tasks.change(
        project,
        by=by or this_user(),
        reason=reason,
        allow=None if allow is None else _names(allow),
        deny=None if deny is None else _names(deny),
        pins=None if pin is None else tasks.pins_of(_names(pin)),
        sticky_by=sticky_by,
    )
    show(changed, as_json)


def _names(text: str) -> list[str]:
    return [name.strip() for name in text.split(",") if name.strip()]
