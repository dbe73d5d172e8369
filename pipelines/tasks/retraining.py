"""From new labelled data to trials: windows, snapshot, validation, training."""

import logging
import platform
from collections.abc import Callable
from datetime import date
from typing import Any

import msgspec

from contracts.input_schema import InputSchema
from pipelines.data.snapshots import Snapshot
from pipelines.monitoring.holds import TRIGGERS
from pipelines.projects import Project
from pipelines.tasks import artifacts
from pipelines.tasks.features import encoded
from pipelines.tasks.spending import spending
from pipelines.wiring import LOCK, commit, expectations_folder, find_project, home, machine, open_ledger

logger = logging.getLogger("paceline")
URGENT = ("performance", "alert")  # triggers that train on the emergency window, where the project has one
_HOW_TO_ACCEPT = (
    " (a change that is real is accepted by a person who has looked at it: --accept-shifts NOTE, or the field of that"
    " name in the form of the retrain)"
)


class DataRejectedError(ValueError):
    """A snapshot that failed its expectations; nothing was trained, and the champion stays."""


def choose_window(project: str, as_of: str, trigger: str = "manual", reason: str = "") -> dict[str, Any]:
    """The train, validation and test windows as of a date, and the ledger's entry that a person began with them."""
    built = plan_windows(project, as_of, trigger)
    open_ledger().append(project, "trigger", as_of, {"trigger": trigger, "reason": reason, "windows": built})
    return built


def plan_windows(project: str, as_of: str, trigger: str) -> dict[str, Any]:
    """The train, validation and test windows as of a date: those of an emergency where `trigger` is urgent.

    Raises:
        ValueError: there is too little labelled data, or `trigger` is none.
    """
    from pipelines.data.snapshots import earliest_day
    from pipelines.data.windows import choose_windows

    if trigger not in TRIGGERS:
        raise ValueError(f"trigger: found {trigger!r}, expected one of {', '.join(TRIGGERS)}")
    found = find_project(project)
    rule = found.emergency_split if trigger in URGENT and found.emergency_split is not None else found.split
    connection, events = _events(found)
    earliest = earliest_day(events, found.schema)
    connection.disconnect()
    windows = choose_windows(date.fromisoformat(as_of), found.label, rule, earliest)
    built: dict[str, Any] = msgspec.to_builtins(windows)
    logger.info("windows as of %s (%s): %s", as_of, trigger, built)
    return built


def latest_day(project: str) -> date:
    """The day of the last event that the warehouse has."""
    from pipelines.data import snapshots

    found = find_project(project)
    connection, events = _events(found)
    last = snapshots.latest_day(events, found.schema)
    connection.disconnect()
    return last


def take_snapshot(project: str, windows: dict[str, Any]) -> str:
    """The id of the snapshot of these windows; the same data gives the same id. The ledger gets its provenance."""
    from pipelines.data import origins, snapshots
    from pipelines.data.windows import Windows

    found, warehouse = find_project(project), home().warehouse(project)
    connection, events = _events(found)
    parsed = msgspec.convert(windows, Windows)
    query = snapshots.select_events(events, found.schema, found.label, parsed.whole)
    provenance = origins.trace_query(connection, query, warehouse, found.source())
    taken = snapshots.take_snapshot(home().snapshots, events, parsed, found.schema, found.label, project)
    origins.refuse_changed(provenance.files, warehouse)
    connection.disconnect()
    key = f"snapshot:{taken.id}:{provenance.id}"
    open_ledger().append(project, "snapshot", taken.id, origins.as_body(provenance), key=key)
    logger.info("snapshot %s: %s rows %s", taken.id[:12], taken.manifest.rows, taken.manifest.rows_by_part)
    return taken.id


def validate(project: str, snapshot: str, accept_shifts: str | None = None) -> str:
    """The id of the snapshot, once it has passed its expectations, and is like the last accepted one.

    `accept_shifts` is the note of a person who has looked at how it differs and found the change to be real: shifts are
    told then and stop nothing, and this snapshot is what the next one is compared with.

    Raises:
        DataRejectedError: an error-level expectation failed; the message names each with what was found.
    """
    from pipelines.data import validation
    from pipelines.data.profile import Profile

    found, taken, ledger = find_project(project), _snapshot(snapshot), open_ledger()
    rules = found.validation if accept_shifts is None else found.validation.accepting_shifts()
    accepted = _last_accepted(project, taken)
    known = accepted.get("profile")
    checked = validation.validate(
        taken,
        found.schema,
        found.label,
        rules,
        None if not accepted else round(accepted["rows_per_day"] * taken.manifest.windows.whole.days),
        expectations_folder(),
        project,
        None if known is None else msgspec.convert(known, Profile),
        _still_here(accepted.get("snapshot")),
    )
    body = {
        **msgspec.to_builtins(checked),
        "snapshot": snapshot,
        "rows": taken.manifest.rows,
        "rows_per_day": taken.manifest.rows_per_day,
        "compared_with": accepted.get("snapshot"),
        "accepted_shifts": accept_shifts,
    }
    ledger.append(project, "validation", snapshot, body)
    logger.info("%s expectations checked; the page is %s", checked.checked, checked.docs)
    for failure in checked.failures:
        logger.warning("%s", failure)
    if not checked.passed:
        errors = [failure for failure in checked.failures if failure.level == "error"]
        listed = "; ".join(map(str, errors)) + (_HOW_TO_ACCEPT if any(map(validation.is_shift, errors)) else "")
        raise DataRejectedError(f"snapshot {snapshot[:12]} failed validation, the champion stays. {listed}")
    return snapshot


def plan_trials(
    project: str,
    snapshot: str,
    trainers: list[str] | None = None,
    trials: int | None = None,
    minutes: float | None = None,
    trigger: str = "manual",
) -> list[dict[str, Any]]:
    """The trials of a retrain: the plan's own, and those whose parameters a search will choose.

    `trainers` takes only theirs; `trials` and `minutes` stand in for those of the project's search. What is not named
    of an urgent `trigger` is as the plan's `emergency` says.

    Raises:
        ValueError: the project has no trials of these trainers, or one that cannot start: its parameters do not fit the
            project's own trainer, or its model is not the one with that hash.
    """
    from pipelines.tasks.searching import search_id
    from pipelines.training.search import examples, slots
    from pipelines.training.trainers import find_trainer

    found = find_project(project)
    plan = found.training
    if trigger in URGENT:
        emergency = plan.emergency
        if not trainers or set(trainers) == set(plan.trainers):  # a form names all of them unless a person chooses
            trainers = list(emergency.trainers) or trainers
        if trials is None and emergency.trials is not None:
            trials = min(emergency.trials, len(slots(plan, trainers)))
        minutes = emergency.minutes if minutes is None else minutes
    planned = slots(plan, trainers, trials)
    for spec in examples(plan, planned):
        find_trainer(spec, found.folder)
    shared: dict[str, Any] = {"snapshot": snapshot, "seed": plan.seed}
    if plan.search is not None:
        shared["search"] = search_id(found, snapshot, trainers)
        shared["minutes"] = plan.search.minutes if minutes is None else minutes
    return [
        {"name": slot.name, "number": slot.number, "trainer": slot.trainer, "parameters": slot.parameters, **shared}
        for slot in planned
    ]


def train(project: str, trial: dict[str, Any], on_step: Callable[[int, float], None] | None = None) -> dict[str, Any]:
    """Trains one trial; the graph and its learning curve are artefacts, whose ids are returned with its metrics.

    Raises:
        FrameworkMismatchError: the libraries installed here are not those of the lock, which serve.
        SigningKeyError: the project asks for signed bundles, and there is no key to sign them with.
    """
    from pipelines.tasks.signing import refuse_missing_key
    from pipelines.training import locks, trainer
    from pipelines.training.plan import TrialSpec

    locks.refuse_mismatches(LOCK)
    refuse_missing_key(project)
    found, taken = find_project(project), _snapshot(trial["snapshot"])
    schema = fitted_schema(found, taken)
    rows = {part: encoded(found, taken, schema, part) for part in ("train", "validation")}
    with spending() as spent:
        trained = trainer.train(
            TrialSpec(trainer=trial["trainer"], parameters=trial["parameters"]),
            trial["seed"],
            schema,
            (rows["train"].features, rows["train"].labels),
            (rows["validation"].features, rows["validation"].labels),
            logger.info,
            on_step=on_step,
            days=rows["validation"].days,
            folder=found.folder,
            checkpoints=home().cache / "checkpoints",
        )
    logger.info("%s: %s, parity %s", trial["trainer"], trained.metrics, trained.parity)
    return {
        **trial,
        "schema": artifacts.keep_json(schema),
        "graph": artifacts.keep(trained.graph),
        "curve": artifacts.keep_json(trained.curve),
        "metrics": trained.metrics,
        "daily": msgspec.to_builtins(trained.daily),
        "parity": msgspec.to_builtins(trained.parity),
        "spent": spent,
        "made_by": {
            "commit": commit(),
            "machine": machine(),
            "python": platform.python_version(),
            "device": trained.device,
        },
    }


def fitted_schema(project: Project, snapshot: Snapshot) -> InputSchema:
    """The project's schema with the vocabularies of the training rows."""
    from pipelines.data.schema import fit_schema

    return fit_schema(project.schema, snapshot.table("train"))


def _snapshot(snapshot: str) -> Snapshot:
    from pipelines.data.snapshots import read_snapshot

    return read_snapshot(home().snapshots, snapshot)


def _events(project: Project) -> tuple[Any, Any]:
    import ibis

    connection = ibis.duckdb.connect()
    return connection, project.source().events(connection, home().warehouse(project.name))


def _last_accepted(project: str, snapshot: Snapshot) -> dict[str, Any]:
    """The ledger's body of the last validation that another snapshot than this has passed; empty without one."""
    validations = open_ledger().entries(project=project, kinds=("validation",))
    others = (entry.body for entry in reversed(validations) if entry.body["snapshot"] != snapshot.id)
    return next((body for body in others if body["passed"]), {})


def _still_here(snapshot: str | None) -> Snapshot | None:
    """The snapshot, or None where it was archived or deleted."""
    from pipelines.data.snapshots import SnapshotError

    if snapshot is None:
        return None
    try:
        return _snapshot(snapshot)
    except SnapshotError as absent:
        logger.warning("the past is not compared: %s", absent)
        return None
