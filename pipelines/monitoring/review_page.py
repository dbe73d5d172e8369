"""The review queue for people: one page with each unusual prediction, why it is one, and its neighbours in training."""

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

from pipelines.pages import Card, render
from pipelines.pages.document import Block, Chapter, Table, html

MASKED = "masked"
_SHOWN = 100
_INSTANT = re.compile(r"^(\d{4}-\d\d-\d\d)T(\d\d:\d\d.*)$")


def review_page(title: str, rows: Sequence[Mapping[str, Any]], personal: Sequence[str]) -> str:
    """The whole page, of rows as `pipelines.tasks.reviewing` lists them."""
    shown = rows[:_SHOWN]
    masked = f" Masked, since they are about persons: {', '.join(personal)}." if personal else ""
    more = (
        [f"{len(rows) - _SHOWN:,} more are in the queue; `paceline review export` has all."]
        if len(rows) > _SHOWN
        else []
    )
    labelled = sum(row["label"] is not None for row in rows)
    return render(
        "document.html",
        title=f"{title}: unusual predictions",
        lead=[
            "Predictions whose inputs or score are unlike anything in training. What paceline review label says of one "
            f"goes into the outcomes.{masked}"
        ],
        warnings=more,
        cards=[
            Card("in the queue", f"{len(rows):,}", lead=True),
            Card("labelled", f"{labelled:,}"),
            Card("open", f"{len(rows) - labelled:,}"),
        ],
        content=html([Chapter("Queue", [_queue(shown)]), *(_chapter(row) for row in shown)]),
        footer="Made by paceline review page. Distances: numbers in standard deviations of the training rows, and "
        "words that are equal or not.",
    )


def _queue(rows: Sequence[Mapping[str, Any]]) -> Table:
    head = ("Prediction", "Event", "Version", "Score", "Label", "Why")
    return Table(
        head,
        [
            (
                f"`{row['prediction_id']}`",
                row["event_time"],
                f"{row['version']}, {row['slot']}",
                "–" if row["score"] is None else f"{row['score']:.4f}",
                "open" if row["label"] is None else f"{row['label']} by {row['labelled_by']}",
                row["reason"],
            )
            for row in rows
        ],
    )


def _chapter(row: Mapping[str, Any]) -> Chapter:
    record, neighbours = row["inputs"], row["neighbours"]
    blocks: list[Block] = [f"{row['reason']}. Score {row['score']:.4f}, version {row['version']} as {row['slot']}."]
    head = ("Field", "This prediction", *(f"Neighbour {place}" for place, _ in enumerate(neighbours, start=1)))
    told = [("how far", "–", *(f"{each['distance']:.2f}" for each in neighbours))] if neighbours else []
    told += [
        ("label", "–" if row["label"] is None else str(row["label"]), *(str(each["label"]) for each in neighbours))
    ]
    fields = [
        (name, _text(value), *(_text(each["record"].get(name)) for each in neighbours))
        for name, value in record.items()
    ]
    blocks.append(Table(head, [*told, *fields]))
    if row["note"]:
        blocks.append(row["note"])
    return Chapter(row["prediction_id"], blocks)


def _text(value: Any) -> str:
    """A value as it is read: dates with a space, in which a narrow column is broken, and a mask without its digits."""
    if value is None:
        return "–"
    if not isinstance(value, str):
        return json.dumps(value)
    return MASKED if value.startswith(f"{MASKED}:") else _INSTANT.sub(r"\1 \2", value)
