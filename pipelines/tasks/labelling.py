"""Ground truth: what is told of predictions goes into the outcome store, and predictions get their outcomes from it."""

import logging
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

import ibis
import msgspec
import pyarrow as pa

from contracts.hashing import file_id
from contracts.input_schema import InputSchema
from contracts.masking import MASK_PREFIX
from pipelines.data.snapshots import labelled_events
from pipelines.monitoring.labelled_log import LabelledLog, read_labelled, stored_outcomes
from pipelines.monitoring.log_batches import Window
from pipelines.monitoring.outcome_files import SUFFIXES, OutcomeFileError, read_rows
from pipelines.monitoring.outcome_rows import UnknownColumnError, check_rows
from pipelines.monitoring.outcome_store import Added, OutcomeStore
from pipelines.monitoring.outcomes import (
    LabelledPredictions,
    OutcomeSource,
    StoredOutcomes,
    WarehouseOutcomes,
    label_predictions,
)
from pipelines.monitoring.predictions import find_prediction, why_absent
from pipelines.projects import Project
from pipelines.wiring import find_mask, find_project, home, open_ledger

ADDED = "outcomes.added"
logger = logging.getLogger("paceline")


def open_store(project: str) -> OutcomeStore:
    """The outcome store of a project."""
    return OutcomeStore(home().outcomes(project), home().predictions(project))


def add_rows(
    project: str, rows: Iterable[Mapping[str, Any]], source: str, *, now: datetime | None = None, **about: str
) -> dict[str, Any]:
    """Tells the store outcomes: `prediction_id`, or `entity` and `event_time`; `value` (0 or 1), and `known_at`.

    What cannot be believed goes into the quarantine. Safe to repeat: what was told before changes nothing. The ledger
    has the counts, with what else is known `about` the rows.

    Raises:
        UnknownColumnError: a row has a field that nobody reads; then nothing was taken.
        HeldError: another writer of this store does not finish.
    """
    found = find_project(project)
    moment = now or datetime.now(UTC)
    told, refused = check_rows((_as_logged(found, row) for row in rows), now=moment, source=source)
    added = open_store(project).add(told, refused, moment)
    body = {"project": project, "source": source, **about, **msgspec.to_builtins(added)}
    open_ledger().append(project, ADDED, source, body)
    _say(project, added)
    return body


def add_file(project: str, path: Path, source: str | None = None) -> dict[str, Any]:
    """`add_rows` of a CSV file, JSON lines, or a Parquet file; its name is the source where none is named.

    Raises:
        OutcomeFileError: it cannot be read to its end; then nothing of it was taken.
        UnknownColumnError: it has a column that nobody reads.
    """
    return add_rows(project, read_rows(path), source or path.name, file=path.name, sha256=file_id(path))


def take_inbox(project: str) -> dict[str, Any]:
    """Adds every file of outcomes in the project's inbox, and moves it to `taken`; what is refused stays, and is named.

    Also tries the quarantine again. Safe to repeat.

    Raises:
        OutcomeFileError: a file was refused; all others were taken.
    """
    inbox = home().outcomes(project) / "inbox"
    taken: list[dict[str, Any]] = []
    refused: list[str] = []
    files = sorted(
        path for path in inbox.glob("*") if path.suffix.lower() in SUFFIXES and not path.name.startswith(".")
    )
    for path in files:
        try:
            taken.append(add_file(project, path))
        except (OutcomeFileError, UnknownColumnError) as error:
            refused.append(f"{path.name}: {error}")
            continue
        (inbox / "taken").mkdir(exist_ok=True)
        path.replace(inbox / "taken" / path.name)
    released = retry_quarantine(project)
    if refused:
        raise OutcomeFileError(f"{len(refused)} files in {inbox} were refused: {'; '.join(refused)}")
    return {"project": project, "files": taken, "released": released}


def retry_quarantine(project: str) -> int:
    """Takes outcomes out of the quarantine whose predictions have appeared, and says how many."""
    released = open_store(project).retry(datetime.now(UTC))
    if released:
        open_ledger().append(project, ADDED, "quarantine", {"project": project, "released": released})
    return released


def list_quarantine(project: str, at_most: int = 50) -> dict[str, Any]:
    """How many rows are in the quarantine, by reason, and the newest of them."""
    find_project(project)
    store = open_store(project)
    rows = store.quarantined().slice(0, at_most).to_pylist()
    shown = ("added_at", "source", "reason", "detail", "prediction_id", "entity", "event_time", "value", "known_at")
    return {
        "project": project,
        "counts": store.quarantine_counts(),
        "rows": [{name: row[name] for name in shown} | {"added_at": row["added_at"].isoformat()} for row in rows],
    }


def history(project: str, prediction_id: str) -> dict[str, Any]:
    """All that was told of a prediction, oldest first: the last is what counts.

    Raises:
        LookupError: there is no such prediction in the log.
    """
    find_project(project)
    root = home().predictions(project)
    found = find_prediction(root, prediction_id)
    if found is None:
        reason = why_absent(root, prediction_id) or "no file of the log that can be read has it"
        raise LookupError(f"no prediction {prediction_id} of {project}: {reason}")
    rows = open_store(project).history(found)
    told = [
        {
            "value": int(row["value"]),
            "known_at": row["known_at"].isoformat(),
            "added_at": row["added_at"].isoformat(),
            "source": row["source"],
            "by": "prediction_id" if row["prediction_id"] else "entity and event_time",
        }
        for row in rows
    ]
    return {"project": project, "prediction_id": prediction_id, "score": found["score"], "told": told}


def label(found: Project, schema: InputSchema, rows: pa.Table, start: date, as_of: date) -> LabelledPredictions:
    """The predictions `rows`, of events from `start` on, with the outcomes known at `as_of`, of warehouse and store."""
    sources: list[OutcomeSource] = [
        _warehouse(found, schema, start, as_of),
        StoredOutcomes(open_store(found.name)),
    ]
    return label_predictions(rows, sources, as_of=as_of, delay_days=found.label.delay_days)


def label_log(found: Project, schema: InputSchema, window: Window, slices: Sequence[str]) -> LabelledLog:
    """The predictions of `window` with the outcomes known at its end, of warehouse and store, read in batches."""

    def sources() -> list[OutcomeSource]:
        warehouse = _warehouse(found, schema, window.start, window.end)
        return [warehouse, stored_outcomes(open_store(found.name), window, window.end)]

    return read_labelled(
        window, sources, keys=schema.key, slices=slices, as_of=window.end, delay_days=found.label.delay_days
    )


def _warehouse(found: Project, schema: InputSchema, start: date, as_of: date) -> WarehouseOutcomes:
    connection = ibis.duckdb.connect()
    try:
        events = found.source().events(connection, home().warehouse(found.name))
        outcomes = labelled_events(events, found.schema, found.label, start, as_of, as_of)
    finally:
        connection.disconnect()
    return WarehouseOutcomes(outcomes, schema, found.label.column, delay_days=found.label.delay_days)


def added_text(added: dict[str, Any]) -> str:
    """What `add_rows` did, as lines for a terminal."""
    lines = [
        f"{added['project']}: {added['accepted']:,} outcomes taken from {added['source']} "
        f"({added['corrections']:,} correct an earlier value), {added['repeated']:,} were told before"
    ]
    if added["released"]:
        lines.append(f"  {added['released']:,} from the quarantine have found their prediction")
    lines += [f"  {count:,} in quarantine: {reason}" for reason, count in added["quarantined"].items()]
    if added["damaged"]:
        lines.append(
            f"  {added['damaged']:,} files of the prediction log could not be searched: `paceline watch` names them"
        )
    return "\n".join(lines)


def quarantine_text(found: dict[str, Any]) -> str:
    """`list_quarantine` as lines for a terminal."""
    if not found["counts"]:
        return f"{found['project']}: nothing is in quarantine"
    lines = [f"{found['project']}: " + ", ".join(f"{count:,} {reason}" for reason, count in found["counts"].items())]
    for row in found["rows"]:
        target = row["prediction_id"] or f"{row['entity']} at {row['event_time']}"
        lines.append(
            f"  {row['added_at'][:19]} {row['reason']}: {target} = {row['value']} ({row['source']}): {row['detail']}"
        )
    if len(found["rows"]) < sum(found["counts"].values()):
        lines.append("  …")
    return "\n".join(lines)


def masked_entity(found: Project, entity: str) -> str:
    """An entity as the prediction log has it: masked, where the project declares it as personal.

    Raises:
        LookupError: it is personal, and the model server has no mask key yet, hence has logged nobody.
    """
    is_personal = any(field.personal for field in found.schema.fields if field.name == found.schema.entity)
    if not is_personal or entity.startswith(MASK_PREFIX):
        return entity
    mask = find_mask(found.name)
    if mask is None:
        raise LookupError(
            f"{found.schema.entity} is personal, and there is no key for its mask: start the model server of "
            f"{found.name} once, or set PACELINE_SERVING_MASK_KEY to the one that it has"
        )
    return mask.value(entity)


def _as_logged(found: Project, row: Mapping[str, Any]) -> Mapping[str, Any]:
    entity = row.get("entity")
    if entity is None or not str(entity).strip():
        return row
    return {**row, "entity": masked_entity(found, str(entity).strip())}


def _say(project: str, added: Added) -> None:
    logger.info("%s outcomes of %s are new, %s were told before", added.accepted, project, added.repeated)
    for reason, count in added.quarantined.items():
        logger.warning("%s outcomes are in quarantine: %s", count, reason)
    if added.damaged:
        logger.error("%s files of the prediction log could not be searched for predictions", added.damaged)
