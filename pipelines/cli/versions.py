"""The commands that keep what there is: versions made again, archived, restored; and a backup of everything."""

from pathlib import Path
from typing import Annotated

import typer

from pipelines.cli.console import Json, ProjectName, err, show_lines

app = typer.Typer()


@app.command()
def reproduce(
    project: ProjectName,
    version: Annotated[str, typer.Argument(metavar="VERSION", help="A number, or champion, challenger or previous.")],
    tolerance: Annotated[
        float,
        typer.Option(help="Of a score; counts only where a GPU or another processor makes equal bytes impossible."),
    ] = 0.01,
    accept_dirty: Annotated[
        bool,
        typer.Option("--accept-dirty", help="Try the commit also where changes on top of it were never committed."),
    ] = False,
    as_json: Json = False,
) -> None:
    """Train a registered version again, from its snapshot, its commit and its lock, and compare the bundles.

    Nothing is registered: all is made in a scratch folder; the ledger gets the entry `reproduction`. Exit code 0 when
    the bundle has the same hash (or its scores are within the tolerance, where that is all that can be asked for),
    2 when it differs, 1 when it cannot be made again.
    """
    from pipelines.tasks import reproducing

    with err.status("reading what is on record") as status:
        result = reproducing.reproduce(
            project, version, tolerance=tolerance, accept_dirty=accept_dirty, progress=status.update
        )
    show_lines(result, as_json, reproducing.reproduced_text(result))
    if result["outcome"] == "different":
        raise typer.Exit(2)


@app.command()
def archive(
    project: ProjectName,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would go, and why the rest stays.")] = False,
    as_json: Json = False,
) -> None:
    """Archive old versions with their exact snapshots, and clean up what nobody refers to.

    The last versions that led stay at hand (`retention` in project.yaml; 5 by default), and so do champion, challenger,
    the champion before, and what an open rollout or a prediction refers to. No version is ever deleted.
    """
    from pipelines.tasks import archiving

    with err.status("looking at what there is") as status:
        result = archiving.archive(project, is_dry_run=dry_run, progress=status.update)
    show_lines(result, as_json, archiving.archived_text(result))


@app.command()
def restore(
    project: ProjectName,
    version: Annotated[
        str, typer.Argument(metavar="VERSION", help="A number in the registry, or the id of an archived snapshot.")
    ],
    as_json: Json = False,
) -> None:
    """Bring an archived version back, bundle and snapshot, byte for byte; it stays at hand for a while again."""
    from pipelines.tasks import archiving

    result = archiving.restore(project, version)
    show_lines(result, as_json, archiving.restored_text(result))


@app.command()
def backup(
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="A new one, or the last backup; on another disk.")],
    as_json: Json = False,
) -> None:
    """Copy everything below PACELINE_HOME that cannot be computed again, while all of it is in use.

    SQLite databases as of one instant and checked, bundles verified by their hashes. A copy that is there is brought
    up to date. What lies elsewhere (PostgreSQL, a registry's server) is named, and has tools of its own.
    """
    from pipelines.tasks import backing_up

    with err.status("copying"):
        result = backing_up.back_up(folder)
    show_lines(result, as_json, backing_up.backed_up_text(result))
