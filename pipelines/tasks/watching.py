"""What the live predictions say: quality and drift of each version, a report, and whether a retrain is due."""

import logging
from collections.abc import Iterator
from datetime import date, timedelta
from typing import Any

import msgspec
import pyarrow as pa

from contracts.bundle import Bundle, read_bundle
from contracts.prediction_row import SYNTHETIC
from pipelines.data.snapshots import read_snapshot
from pipelines.monitoring.exclusive import HeldError, exclusively
from pipelines.monitoring.labelled_log import LabelledLog
from pipelines.monitoring.log_batches import Window, fold_predictions
from pipelines.monitoring.predictions import EVENT_TIME, encode_inputs
from pipelines.monitoring.quality import measure_quality
from pipelines.monitoring.quality_parts import measure_parts
from pipelines.monitoring.report import MAXIMUM_ROWS
from pipelines.monitoring.triggers import TriggerDecision, Watched, decide_trigger
from pipelines.tasks import drifting, labelling, triggering
from pipelines.tasks.assessing import slice_fields
from pipelines.tasks.features import encoded
from pipelines.tasks.flags import audit
from pipelines.wiring import find_project, home, read_ledger

__all__ = ["HeldError", "NothingToWatchError", "due_retrain", "log_window", "observe", "report"]
logger = logging.getLogger("paceline")


class NothingToWatchError(LookupError):
    """The project has no champion yet."""


def observe(project: str, as_of: str, days: int = 7) -> dict[str, Any]:
    """Quality and drift of the predictions for events of the last `days` days before `as_of`, and the decision.

    Only outcomes that are known at `as_of` are used. The entry in the ledger has all numbers behind the decision.

    Raises:
        HeldError: another watch of this project is at work.
    """
    find_project(project)
    audit(project)
    with exclusively(home().predictions(project) / ".watch.lock", f"the watch of {project} as of {as_of}"):
        return _observe(project, as_of, days)


def _observe(project: str, as_of: str, days: int) -> dict[str, Any]:
    found, ledger = find_project(project), read_ledger()
    today = date.fromisoformat(as_of)
    start = today - timedelta(days=days)
    window = log_window(project, start, today)
    champion = ledger.champion(project)
    if champion is None:
        raise NothingToWatchError(f"{project} has no champion to watch: release one first")
    bundle = read_bundle(home().bundles / champion.bundle, champion.bundle)
    labelling.retry_quarantine(project)
    log = labelling.label_log(found, bundle.schema, window, slice_fields(found))
    for segment in log.damaged:
        logger.error("a segment of the prediction log cannot be read, and was left out: %s", segment)
    quality = measure_quality(log.table)
    drifted = drifting.find(found, bundle, champion.version, window, log.table)
    drift = drifted.report
    watched = Watched(
        as_of=today,
        drift=drift,
        quality=next((q for q in quality if q.version == champion.version and q.slot == "champion"), None),
        baseline_metrics=bundle.baseline.metrics,
        past=triggering.read_past(found, today, with_labels=True),
    )
    decision = decide_trigger(watched, found.monitoring.triggers)
    observed: dict[str, Any] = {
        "project": project,
        "as_of": as_of,
        "days": days,
        "champion": champion.version,
        "predictions": log.table.num_rows,
        "undated": log.undated,
        "segments": log.segments,
        "days_empty": days - log.days,
        "damaged": [msgspec.to_builtins(segment) for segment in log.damaged],
        "coverage": msgspec.to_builtins(log.coverage),
        "quarantine": labelling.open_store(project).quarantine_counts(),
        "quality": msgspec.to_builtins(quality),
        "quality_parts": msgspec.to_builtins(measure_parts(log.table, slice_fields(found))),
        **drifted.entry(),
        "decision": msgspec.to_builtins(decision),
    }
    ledger.append(project, "watch", as_of, observed)
    _say(log, decision)
    return observed


def report(project: str, observed: dict[str, Any]) -> str | None:
    """Evidently's page on the champion's test rows against the live ones; None where there are no predictions."""
    from pipelines.monitoring.report import write_drift_report

    found, today = find_project(project), date.fromisoformat(observed["as_of"])
    bundle = _champion_bundle(project)
    live = _some_of(log_window(project, today - timedelta(days=observed["days"]), today), observed["champion"])
    if live.num_rows == 0:
        logger.warning("no report: version %s made no predictions in this window", observed["champion"])
        return None
    current = encode_inputs(live, bundle.schema)
    reference = encoded(found, read_snapshot(home().snapshots, bundle.manifest.snapshot), bundle.schema, "test")
    path = home().reports(project) / f"drift-{observed['as_of']}-{observed['days']}d.html"
    path.parent.mkdir(parents=True, exist_ok=True)
    write_drift_report(path, bundle.schema, reference=reference.features, current=current.rows)
    logger.info("the drift report is at %s", path)
    return str(path)


def due_retrain(project: str, observed: dict[str, Any]) -> dict[str, Any] | None:
    """The parameters of the retrain that is due, or None; the ledger gets what was found and what held it back."""
    decision = observed["decision"]
    if decision["found"] is None:
        logger.info("no retrain of %s: %s", project, decision["reason"])
        return None
    why = "; ".join(rule["reason"] for rule in decision["rules"] if rule["answer"] == "fired")
    evidence = {"champion": observed["champion"], "days": observed["days"], "rules": decision["rules"]}
    asked = triggering.request_retrain(
        project, decision["found"], f"{decision['found']}: {why}", observed["as_of"], evidence, by="watch"
    )
    return asked["conf"] if asked["due"] else None


def _champion_bundle(project: str) -> Bundle:
    champion = read_ledger().champion(project)
    if champion is None:
        raise NothingToWatchError(f"{project} has no champion")
    return read_bundle(home().bundles / champion.bundle, champion.bundle)


def log_window(project: str, start: date, today: date) -> Window:
    """The log of the events from `start` until before `today`."""
    return Window(home().predictions(project), start, today, home().cache / "spans" / f"{project}.json")


def _some_of(window: Window, version: str) -> pa.Table:
    """Predictions of `version` as champion, at most as many as a report draws: the same ones of the same log."""
    query = (
        f"SELECT inputs FROM predictions WHERE uncounted IS DISTINCT FROM '{SYNTHETIC}' AND version = ?"
        f" AND slot = 'champion' AND score IS NOT NULL AND {EVENT_TIME} >= ? AND {EVENT_TIME} < ?"
        f" ORDER BY hash(prediction_id) LIMIT {MAXIMUM_ROWS}"
    )
    schema = pa.schema([("inputs", pa.string())])

    def fold(batches: Iterator[pa.RecordBatch]) -> pa.Table:
        return pa.Table.from_batches(batches, schema)

    return fold_predictions(window, query, [version, *window.bounds], fold).result


def _say(log: LabelledLog, decision: TriggerDecision) -> None:
    logger.info("%s predictions in %s segments", log.table.num_rows, log.segments)
    for rule in decision.rules:
        logger.info("%s: %s (%s)", rule.name, rule.answer, rule.reason)
    if decision.blind:
        logger.warning("nothing could be judged: that deserves a look")
