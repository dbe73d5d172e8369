"""Skew: the features that the servers logged, recomputed by the training code and held against the source."""

import logging
from collections.abc import Iterator
from datetime import date, timedelta
from typing import Any

import msgspec
import pyarrow as pa

from contracts.bundle import BundleError, read_bundle
from contracts.input_schema import InputSchema
from contracts.prediction_row import SYNTHETIC
from pipelines.data.snapshots import read_events
from pipelines.data.sources import connect
from pipelines.data.windows import Window
from pipelines.monitoring.log_batches import fold_predictions
from pipelines.monitoring.predictions import EVENT_TIME
from pipelines.monitoring.skew import Skew, SkewCount
from pipelines.monitoring.source_records import SourceRecords
from pipelines.projects import Project
from pipelines.tasks.watching import log_window
from pipelines.wiring import find_project, home, open_ledger

COMPARED = "skew"
_QUERY = (
    f"SELECT prediction_id, request_id, version, bundle, inputs, features, epoch_us({EVENT_TIME}) // 86400000000 AS day"
    f" FROM predictions WHERE features IS NOT NULL AND uncounted IS DISTINCT FROM '{SYNTHETIC}'"
    f" AND {EVENT_TIME} >= ? AND {EVENT_TIME} < ?"
)
logger = logging.getLogger("paceline")


def compare(project: str, as_of: str, days: int = 7) -> dict[str, Any]:
    """The sampled rows for events of the last `days` days before `as_of`: which differ from training, and in what.

    The source is asked for what it knew at `as_of`. The ledger gets what is returned. Safe to repeat.
    """
    today = date.fromisoformat(as_of)
    compared = _compare(project, Window(today - timedelta(days=days), today), today)
    open_ledger().append(project, COMPARED, as_of, compared)
    _say(project, compared)
    return compared


def look(project: str, day: str, as_of: str) -> dict[str, Any]:
    """As `compare`, of the events of one day, and without an entry in the ledger."""
    first = date.fromisoformat(day)
    return _compare(project, Window(first, first + timedelta(days=1)), date.fromisoformat(as_of))


def _compare(project: str, window: Window, as_of: date) -> dict[str, Any]:
    found = find_project(project)
    source, no_source = _source(found, window, as_of)
    log = log_window(project, window.start, window.end)

    def fold(batches: Iterator[pa.RecordBatch]) -> Skew:
        count = SkewCount(_schema_of, source)
        for batch in batches:
            count.add(batch)
        return count.result()

    folded = fold_predictions(log, _QUERY, log.bounds, fold)
    return {
        "project": project,
        "as_of": as_of.isoformat(),
        "start": window.start.isoformat(),
        "end": window.end.isoformat(),
        **msgspec.to_builtins(folded.result),
        "no_source": no_source,
        "damaged": [msgspec.to_builtins(segment) for segment in folded.damaged],
    }


def _source(found: Project, window: Window, as_of: date) -> tuple[SourceRecords | None, str | None]:
    """What the source knew of the events at `as_of`, or why it cannot be asked."""
    kinds = {field.name: field for field in found.schema.fields}
    key = {name: kinds[name].kind for name in found.schema.key}
    if personal := [name for name in key if kinds[name].personal]:
        return None, f"the key {', '.join(personal)} is personal, and masked in the log"
    known_until = found.label.known_before(as_of)
    connection = connect()
    try:
        events = found.source().events(connection, home().warehouse(found.name))
        told = read_events(
            events, found.schema, found.label, Window(window.start, max(window.start, min(window.end, known_until)))
        )
    except FileNotFoundError as error:
        return None, str(error)
    finally:
        connection.disconnect()
    return SourceRecords(told, key, known_until), None


def _schema_of(bundle: str) -> InputSchema | None:
    try:
        return read_bundle(home().bundles / bundle, bundle).schema
    except (BundleError, OSError) as error:
        logger.warning("rows of bundle %s are not compared: %s", bundle[:12], error)
        return None


def differing(compared: dict[str, Any]) -> int:
    """How many rows differ, in either comparison."""
    return int(compared["encoding"]["differing"] + compared["source"]["differing"])


def skew_text(compared: dict[str, Any]) -> str:
    """What was found, as lines for a terminal."""
    lines = [
        f"{compared['project']}, events from {compared['start']} until before {compared['end']}: "
        f"{compared['sampled']:,} rows were logged with their features"
    ]
    lines += [f"  could not be read: {each['path']}: {each['reason']}" for each in compared["damaged"]]
    for bundle, rows in compared["without_bundle"].items():
        lines.append(f"  {rows:,} are not compared: bundle {bundle[:12]} is not at hand")
    if not compared["sampled"]:
        lines.append("  nothing to compare: PACELINE_SERVING_FEATURES_SHARE says how many are logged so (docs/skew.md)")
        return "\n".join(lines)
    lines += ["", "the server's features, against training's encoding of the same inputs"]
    lines += _comparison_lines(compared["encoding"])
    lines += ["", "the clients' inputs, against what the source has of the same events"]
    if compared["no_source"] is not None:
        return "\n".join([*lines, f"  not compared: {compared['no_source']}"])
    lines += _comparison_lines(compared["source"])
    lines.append(
        f"  not known yet: {compared['not_due']:,} not due, {compared['absent']:,} not in the source, "
        f"{compared['ambiguous']:,} more than once in it"
    )
    lines += [f"  not compared: {column}: {why}" for column, why in compared["not_compared"].items()]
    return "\n".join(lines)


def _comparison_lines(found: dict[str, Any]) -> list[str]:
    versions = ", ".join(f"version {version}: {rows:,}" for version, rows in found["versions"].items())
    lines = [f"  {found['rows']:,} compared, {found['differing']:,} differ" + (f" ({versions})" if versions else "")]
    if found["columns"]:
        lines.append(f"    {'column':<28}{'rows':>10}{'one missing':>13}{'largest':>14}")
    for column in found["columns"]:
        largest = "–" if column["largest"] is None else f"{column['largest']:.6g}"
        lines.append(f"    {column['column']:<28}{column['rows']:>10,}{column['one_missing']:>13,}{largest:>14}")
        lines += [
            f"      request {each['request_id']}, version {each['version']}: {each['found']}, "
            f"expected {each['expected']}"
            for each in column["examples"]
        ]
    return lines


def _say(project: str, compared: dict[str, Any]) -> None:
    for segment in compared["damaged"]:
        logger.error("a segment of the prediction log cannot be read, and was left out: %s", segment["path"])
    for against in ("encoding", "source"):
        found = compared[against]
        if found["differing"]:
            columns = ", ".join(column["column"] for column in found["columns"])
            logger.error(
                "%s of %s sampled rows of %s differ from the %s: %s",
                *(found["differing"], found["rows"], project, against, columns),
            )
    if not compared["sampled"]:
        logger.warning("no row of %s was logged with its features: nothing could be compared", project)
