"""Pages for people: one look (`templates/base.html`), charts as inline SVG (`plots`), files that load nothing else."""

from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import jinja2

from pipelines.pages.plots import number_text

__all__ = ["Card", "render", "write_whole"]


class Card(NamedTuple):
    """A number that a reader sees first."""

    label: str
    figure: str
    unit: str = ""
    more: str = ""
    tone: str = ""
    lead: bool = False


def render(template: str, folders: Sequence[Path] = (), **values: Any) -> str:
    """A page from a template in one of `folders`, or of this package; it may extend `base.html`."""
    return _environment(tuple(folders)).get_template(template).render(**values)


@cache
def _environment(folders: tuple[Path, ...]) -> jinja2.Environment:
    """Kept, since a page that follows a rollout is drawn every second, and compiling its templates takes longest."""
    environment = jinja2.Environment(
        loader=jinja2.ChoiceLoader(
            [jinja2.PackageLoader("pipelines.pages"), *(jinja2.FileSystemLoader(folder) for folder in folders)]
        ),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    environment.filters["figure"] = number_text
    return environment


def write_whole(path: Path, text: str) -> None:
    """Writes the file whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f".{path.name}.draft")
    draft.write_text(text, encoding="utf-8")
    draft.replace(path)
