"""The commands about who vouches for bundles: a key, and signatures with it."""

from pathlib import Path
from typing import Annotated

import typer

from pipelines.cli.console import Json, ProjectName, show

app = typer.Typer(no_args_is_help=True, help="Signed bundles: key, sign.")


@app.command("key")
def make_key(
    private: Annotated[Path, typer.Argument(metavar="PRIVATE", help="The new private key (PEM, mode 0600).")],
    public: Annotated[
        Path, typer.Argument(metavar="PUBLIC", help="The public key, for PACELINE_SERVING_TRUSTED_KEYS.")
    ],
    as_json: Json = False,
) -> None:
    """Make an Ed25519 key that signs bundles."""
    from pipelines.tasks import signing

    show(signing.make_key(str(private), str(public)), as_json)


@app.command("sign")
def sign(
    project: ProjectName,
    version: Annotated[str, typer.Argument(metavar="VERSION", help="A number, or champion, challenger or previous.")],
    key: Annotated[Path | None, typer.Option(envvar="PACELINE_SIGNING_KEY", help="The private key.")] = None,
    as_json: Json = False,
) -> None:
    """Sign the bundle of a registered version; a signature by another key stays beside it."""
    from pipelines.tasks import signing

    show(signing.sign_version(project, version, None if key is None else str(key)), as_json)
