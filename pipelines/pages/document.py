"""A document of chapters that is written twice: as Markdown, for files and terminals, and as HTML, with its figures."""

import re
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from markupsafe import Markup, escape

_NUMBER = re.compile(r"(?!\d{4}-\d\d-\d\d)[+\-−]?\d")  # no date
_LONG_HEAD = 24
_LONG_CELL = 44  # characters: longer text is a sentence, and is broken into lines
_LONG_ROW = 100  # characters in all columns together: a longer row fits a page only if its cells are broken too


class Table(NamedTuple):
    """Cells of text. A column of numbers stands to the right, one with words to the left, as the first always does.

    Without a word in its head a table has none.
    """

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
        return _sheet(block)
    if isinstance(block, Bullets):
        return Markup("<ul>{}</ul>").format(
            Markup("").join(Markup("<li>{}</li>").format(_text(item)) for item in block.items)
        )
    return Markup('<p class="prose">{}</p>').format(_text(str(block)))


def _sheet(table: Table) -> Markup:
    columns = range(len(table.head))
    kinds = ["num" if _is_numeric(row[place] for row in table.rows) else "" for place in columns]
    kinds[0] = ""
    head = Markup("").join(
        _tagged("th", _wrapping(kind, cell, _LONG_HEAD), cell) for kind, cell in zip(kinds, table.head, strict=True)
    )
    rows = Markup("").join(
        Markup("<tr>{}</tr>").format(Markup("").join(map(_data_cell, kinds, row))) for row in table.rows
    )
    first = Markup("<tr>{}</tr>").format(head) if any(table.head) else ""
    look = "words" if first else "words facts"
    if sum(_width(row[place] for row in (table.head, *table.rows)) for place in columns) > _LONG_ROW:
        look += " dense"
    return Markup('<div class="sheet"><table class="{}">{}{}</table></div>').format(look, first, rows)


def _is_numeric(cells: Iterable[str]) -> bool:
    """Whether a column is of numbers, perhaps with units, intervals and gaps; an empty column is of words."""
    told = [cell for cell in cells if cell not in ("", "–")]
    return bool(told) and all(_NUMBER.match(cell) and len(cell) <= _LONG_CELL for cell in told)


def _width(column: Iterable[str]) -> int:
    """Of its longest cell that is not broken, in characters."""
    return max((len(cell) for cell in column if len(cell) <= _LONG_CELL), default=0)


def _data_cell(kind: str, text: str) -> Markup:
    return _tagged("td", _wrapping(kind, text, _LONG_CELL), text)


def _wrapping(kind: str, text: str, longest: int) -> str:
    return f"{kind} wrap".strip() if len(text) > longest else kind


def _tagged(tag: str, kind: str, text: str) -> Markup:
    said = Markup(' class="{}"').format(kind) if kind else ""
    return Markup("<{}{}>{}</{}>").format(Markup(tag), said, _text(text), Markup(tag))


def _text(text: str) -> Markup:
    """`code` between backticks becomes code; all else is text."""
    parts = str(text).split("`")
    drawn = [Markup("<code>{}</code>").format(part) if place % 2 else escape(part) for place, part in enumerate(parts)]
    return Markup("").join(drawn)


def _cell(text: str) -> str:
    """Text that cannot end a cell or the table."""
    return " ".join(text.split()).replace("|", "\\|")
