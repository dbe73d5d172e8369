"""Unusual predictions for people: collected with their neighbours in training, listed, exported and labelled."""

import csv
import json
import logging
from collections.abc import Sequence
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from contracts.bundle import Bundle, BundleError, read_bundle
from contracts.input_schema import InputSchema
from pipelines.data.snapshots import SnapshotError, read_snapshot
from pipelines.monitoring.neighbours import nearest
from pipelines.monitoring.predictions import encode_inputs
from pipelines.monitoring.review import ReviewQueue, choose, explain, find_unusual
from pipelines.monitoring.review_page import MASKED, review_page
from pipelines.pages import write_whole
from pipelines.projects import Project
from pipelines.tasks import labelling
from pipelines.tasks.features import encoded
from pipelines.wiring import find_project, home, open_ledger, read_ledger

LABELLED = "review.labelled"
NEIGHBOURS = 5
_FORMULA = ("=", "+", "-", "@", "\t", "\r")  # what a spreadsheet would run
logger = logging.getLogger("paceline")


def collect(project: str, as_of: str, days: int = 7, at_most: int = 200) -> dict[str, Any]:
    """Puts the unusual predictions for events of `days` days before `as_of` into the queue. Safe to repeat.

    At most so many at a time, in turns from each kind of flags; `left_out` are more. Rows of a version whose bundle or
    snapshot is not at hand (in the archive) come without neighbours, and say so.
    """
    found, today = find_project(project), date.fromisoformat(as_of)
    start = (today - timedelta(days=days)).isoformat()
    unusual, damaged = find_unusual(home().predictions(project), start, as_of)
    queue = _queue(project)
    present = queue.ids()
    new = [row for row in unusual if row["prediction_id"] not in present]
    chosen = choose(new, at_most)
    by_bundle: dict[str, list[dict[str, Any]]] = {}
    for row in chosen:
        by_bundle.setdefault(row["bundle"], []).append(row)
    added = queue.add([each for bundle, rows in by_bundle.items() for each in _with_neighbours(found, bundle, rows)])
    if damaged:
        logger.error("%s files of the prediction log cannot be read: %s", len(damaged), damaged[0])
    return {
        "project": project,
        "as_of": as_of,
        "unusual": len(unusual),
        "added": added,
        "left_out": len(new) - len(chosen),
        "damaged": [each.path for each in damaged],
    }


def list_queue(project: str, *, only_open: bool = False) -> list[dict[str, Any]]:
    """The queue, the newest first, each with the label that somebody has given, or None."""
    find_project(project)
    given = {entry.subject: entry.body for entry in read_ledger().entries(project=project, kinds=(LABELLED,))}
    rows = []
    for row in _queue(project).rows():
        label = given.get(row["prediction_id"])
        row |= {name: json.loads(row[name]) for name in ("inputs", "neighbours")}
        row |= {"label": label and label["value"], "labelled_by": label and label["by"]}
        if label is None or not only_open:
            rows.append(row)
    return rows


def label(project: str, prediction_id: str, value: str, *, by: str, reason: str) -> dict[str, Any]:
    """A person's word on a prediction: an outcome that is known since now, and an entry in the ledger.

    Raises:
        ValueError: the value is neither 0 nor 1, or it is not said who says it and why.
        LookupError: the prediction is in no file of the log that can be read.
    """
    if not by.strip() or not reason.strip():
        raise ValueError("who labels it and why must be told: --by, --reason")
    if value not in ("0", "1"):
        raise ValueError(f"a label is 0 or 1, found {value!r}")
    labelling.history(project, prediction_id)  # LookupError where there is none
    told = {"prediction_id": prediction_id, "value": value}
    labelling.add_rows(project, [told], f"review by {by.strip()}")
    body = {"value": int(value), "by": by.strip(), "reason": reason.strip()}
    open_ledger().append(project, LABELLED, prediction_id, body)
    return {"project": project, "prediction_id": prediction_id, **body}


def export(project: str, path: Path, *, only_open: bool = False) -> int:
    """Writes the queue as CSV or Parquet, a column for each input, and returns the number of rows.

    Raises:
        ValueError: the file's name ends otherwise.
    """
    if path.suffix not in (".csv", ".parquet"):
        raise ValueError(f"{path} ends with {path.suffix!r}; a queue is exported as .csv or .parquet")
    rows = [_flat(row) for row in list_queue(project, only_open=only_open)]
    names = list(dict.fromkeys(name for row in rows for name in row)) or ["prediction_id"]
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f".{path.name}.draft")
    if path.suffix == ".csv":
        with draft.open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, names)
            writer.writeheader()
            writer.writerows([{name: _harmless(value) for name, value in row.items()} for row in rows])
    else:
        texts = [{name: value if name in _TYPED else _plain(value) for name, value in row.items()} for row in rows]
        schema = pa.schema([(name, _TYPED.get(name, pa.string())) for name in names])
        pq.write_table(pa.Table.from_pylist(texts, schema=schema), draft)
    draft.replace(path)
    return len(rows)


def write_page(project: str, path: Path | None = None, *, only_open: bool = False) -> Path:
    """The page of the queue; by default among the project's reports."""
    found = find_project(project)
    file = home().reports(project) / "review.html" if path is None else path
    file.parent.mkdir(parents=True, exist_ok=True)
    personal = [field.name for field in found.schema.fields if field.personal]
    write_whole(file, review_page(found.title, list_queue(project, only_open=only_open), personal))
    return file


def forget_rows(project: str, entity: str, prediction_ids: Sequence[str]) -> int:
    """Removes an entity's rows (as logged) from the queue, and the page, which is made again when it is asked for."""
    (home().reports(project) / "review.html").unlink(missing_ok=True)
    return _queue(project).forget(entity, prediction_ids)


def listed_text(rows: Sequence[dict[str, Any]]) -> str:
    """The queue as lines for a terminal."""
    if not rows:
        return "nothing waits for a review: `paceline review collect` looks for unusual predictions"
    lines = []
    for row in rows:
        state = "open" if row["label"] is None else f"{row['label']} by {row['labelled_by']}"
        near = row["neighbours"]
        told = f"; {len(near)} neighbours from {near[0]['distance']:.2f} on" if near else f"; {row['note']}"
        what = f"version {row['version']}  score {row['score']:.4f}  {state}"
        lines.append(f"{row['prediction_id']}  {row['event_time'][:16]}  {what}\n    {row['reason']}{told}")
    return "\n".join(lines)


_TYPED = {"score": pa.float64(), "decision": pa.bool_(), "label": pa.int64()}


def _queue(project: str) -> ReviewQueue:
    return ReviewQueue(home().reviews(project))


def _with_neighbours(found: Project, bundle_id: str, rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """The rows as the queue has them; all are of one bundle."""
    try:
        bundle = read_bundle(home().bundles / bundle_id, bundle_id)
    except (BundleError, OSError) as error:
        return [_row(row, [], f"no neighbours: the bundle is not at hand ({error})", None) for row in rows]
    try:
        neighbours = _neighbours(found, bundle, rows)
    except (SnapshotError, OSError, ValueError) as error:
        return [_row(row, [], f"no neighbours: {error}", bundle) for row in rows]
    return [
        _row(row, near, None if near else "no neighbours: the schema refuses the logged inputs", bundle)
        for row, near in zip(rows, neighbours, strict=True)
    ]


def _neighbours(found: Project, bundle: Bundle, rows: Sequence[dict[str, Any]]) -> list[list[dict[str, Any]]]:
    schema, snapshot = bundle.schema, read_snapshot(home().snapshots, bundle.manifest.snapshot)
    inputs = encode_inputs(pa.table({"inputs": [row["inputs"] for row in rows]}), schema)
    training = encoded(found, snapshot, schema, "train")
    positions, distances = nearest(
        training.features, inputs.rows, schema.categorical, columns=_compared(schema), count=NEIGHBOURS
    )
    wanted = np.unique(positions)
    shown = [field.name for field in schema.fields if not field.personal]
    taken = snapshot.table("train").select(shown).take(pa.array(wanted)).to_pylist()
    records = dict(zip(wanted.tolist(), taken, strict=True))
    personal = {field.name: MASKED for field in schema.fields if field.personal}
    near: list[list[dict[str, Any]]] = [[] for _ in rows]
    for place, at, how_far in zip(inputs.kept.tolist(), positions.tolist(), distances.tolist(), strict=True):
        near[place] = [
            {"distance": distance, "label": int(training.labels[position]), "record": records[position] | personal}
            for position, distance in zip(at, how_far, strict=True)
        ]
    return near


def _compared(schema: InputSchema) -> list[int]:
    """The columns of fields that are not personal: those are masked in the log, and cannot be compared."""
    hidden = {column for field in schema.fields if field.personal for column in field.columns}
    return [place for place, name in enumerate(schema.columns) if name not in hidden]


def _row(
    row: dict[str, Any], neighbours: Sequence[dict[str, Any]], note: str | None, bundle: Bundle | None
) -> dict[str, Any]:
    record = json.loads(row["inputs"] or "{}")
    reason = explain(row["flags"], record, row["score"], None if bundle is None else bundle.baseline)
    near = msgspec.json.encode(neighbours).decode()
    return {**row, "reason": reason, "neighbours": near, "note": note}


def _flat(row: dict[str, Any]) -> dict[str, Any]:
    flat = {name: value for name, value in row.items() if name not in ("inputs", "neighbours")}
    flat |= {f"input.{name}": value for name, value in row["inputs"].items()}
    for place, each in enumerate(row["neighbours"], start=1):
        flat |= {f"neighbour{place}.distance": each["distance"], f"neighbour{place}.label": each["label"]}
    return flat


def _plain(value: Any) -> str | None:
    if value is None or isinstance(value, str):
        return value
    return json.dumps(value)


def _harmless(value: Any) -> Any:
    """Text that came from a client is no formula for the spreadsheet that opens the file."""
    return f"'{value}" if isinstance(value, str) and value.startswith(_FORMULA) else value
