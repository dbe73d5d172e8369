"""A document of chapters that is written twice: as Markdown, for files and terminals, and as HTML, with its figures."""

from collections.abc import Iterable, Sequence
from typing import NamedTuple

from markupsafe import Markup, escape

_LONG_CELL = 44  # characters: longer text is a sentence, and is broken into lines


class Table(NamedTuple):
    """Cells of text; the first column is a name, the others stand to the right."""

    head: Sequence[str]
    rows: Sequence[Sequence[str]]


class Bullets(NamedTuple):
    """A list of sentences."""

    items: Sequence[str]


class Figure(NamedTuple):
    """A drawing, which Markdown goes without: what it shows must be said beside it."""

    drawing: Markup


Block = str | Table | Bullets | Figure


class Chapter(NamedTuple):
    """A heading, and what stands below it. Text may have `code` in backticks, and no other markup."""

    title: str
    blocks: Sequence[Block]


def markdown(title: str, lead: Sequence[str], chapters: Iterable[Chapter]) -> str:
    """The document as Markdown: headings, paragraphs, lists and tables only."""
    parts = [f"# {title}", *lead]
    for chapter in chapters:
        parts.append(f"## {chapter.title}")
        parts += [_markdown(block) for block in chapter.blocks if not isinstance(block, Figure)]
    return "\n\n".join(parts) + "\n"


def html(chapters: Iterable[Chapter]) -> Markup:
    """The chapters as HTML, for the page's own frame."""
    parts = []
    for chapter in chapters:
        parts.append(Markup("<h2>{}</h2>").format(chapter.title))
        figures = [block.drawing for block in chapter.blocks if isinstance(block, Figure)]
        parts += [_html(block) for block in chapter.blocks if not isinstance(block, Figure)]
        if figures:
            parts.append(Markup('<div class="figures">{}</div>').format(Markup("").join(figures)))
    return Markup("\n").join(parts)


def _markdown(block: Block) -> str:
    if isinstance(block, Table):
        rows = [block.head, ["---"] * len(block.head), *block.rows]
        return "\n".join("| " + " | ".join(_cell(cell) for cell in row) + " |" for row in rows)
    if isinstance(block, Bullets):
        return "\n".join(f"- {item}" for item in block.items)
    return str(block)


def _html(block: Block) -> Markup:
    if isinstance(block, Table):
        head = Markup("").join(Markup("<th>{}</th>").format(_text(cell)) for cell in block.head)
        rows = Markup("").join(
            Markup("<tr>{}</tr>").format(Markup("").join(map(_data_cell, row))) for row in block.rows
        )
        return Markup('<div class="sheet"><table><tr>{}</tr>{}</table></div>').format(head, rows)
    if isinstance(block, Bullets):
        return Markup("<ul>{}</ul>").format(
            Markup("").join(Markup("<li>{}</li>").format(_text(item)) for item in block.items)
        )
    return Markup('<p class="prose">{}</p>').format(_text(str(block)))


def _data_cell(text: str) -> Markup:
    kind = ' class="wrap"' if len(text) > _LONG_CELL else ""
    return Markup("<td{}>{}</td>").format(Markup(kind), _text(text))


def _text(text: str) -> Markup:
    """`code` between backticks becomes code; all else is text."""
    parts = str(text).split("`")
    drawn = [Markup("<code>{}</code>").format(part) if place % 2 else escape(part) for place, part in enumerate(parts)]
    return Markup("").join(drawn)


def _cell(text: str) -> str:
    """Text that cannot end a cell or the table."""
    return " ".join(text.split()).replace("|", "\\|")
