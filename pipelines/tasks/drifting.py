"""Drift of a champion's live predictions, and what is broken in their data: against the days that it learnt from."""

import logging
from collections.abc import Mapping, Set
from datetime import date, timedelta
from typing import Any, NamedTuple

import ibis
import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from contracts.bundle import Bundle
from contracts.encoder import Encoder, InvalidRecordError
from pipelines.data.snapshots import SnapshotError, earliest_day, read_events, read_snapshot
from pipelines.data.windows import Window
from pipelines.inference import score
from pipelines.monitoring.board import BoardReading, BoardState, read_board
from pipelines.monitoring.board_reference import Reference, make_reference
from pipelines.monitoring.data_quality import DataQuality, find_faults
from pipelines.monitoring.day_summaries import Days, Layout, blocks, concatenate, layout_of, summarise, with_outcomes
from pipelines.monitoring.drift import DriftReport, columns_named, compare
from pipelines.monitoring.kept_days import summarise_days
from pipelines.monitoring.log_batches import Window as LogWindow
from pipelines.monitoring.logged_days import LoggedDays
from pipelines.monitoring.outcomes import OUTCOME
from pipelines.monitoring.quality import hours_of
from pipelines.monitoring.relation import Relation, tell_apart
from pipelines.monitoring.summary_files import read_days, write_days
from pipelines.monitoring.weighing import weigh
from pipelines.projects import Project
from pipelines.statistics.alarm_budget import TooFewUnitsError
from pipelines.tasks.features import encoded
from pipelines.wiring import home, read_ledger

logger = logging.getLogger("paceline")
_EPOCH = date(1970, 1, 1)
_PARTS = ("train", "validation", "test")
_YEAR_DAYS = 365
_CHUNK_ROWS = 16_384


class Drifted(NamedTuple):
    """The report with the answers that count, what is broken by day, and the board's reading with its state."""

    report: DriftReport | None
    faults: tuple[tuple[date, DataQuality], ...]
    reading: BoardReading | None
    relation: Relation | None = None

    def entry(self) -> dict[str, Any]:
        """As it stands in the ledger's entry of the watch."""
        return {
            "drift": None if self.report is None else msgspec.to_builtins(self.report),
            "data_quality": [{"day": day.isoformat(), **msgspec.to_builtins(fault)} for day, fault in self.faults],
            "relation": None if self.relation is None else msgspec.to_builtins(self.relation),
            "drift_board": None if self.reading is None else msgspec.to_builtins(self.reading),
        }


def find(project: Project, bundle: Bundle, version: str, window: LogWindow, labelled: pa.Table) -> Drifted:
    """Of what `version` answered as champion for the events of `window`, whose end is today.

    Args:
        labelled: the predictions of the window with their outcomes, as far as these are known at `today`.
    """
    layout = layout_of(bundle.baseline, bundle.schema)
    start, today = window.start, window.end
    folder = home().cache / "logged_days"
    logged = summarise_days(window, folder, schema=bundle.schema, layout=layout, version=version, bundle=bundle.id)
    if logged.refused:
        refused = sum(logged.refused.values())
        logger.warning("%s logged inputs do not fit the champion's schema: %s", refused, logged.first_refusal)
    if not logged.rows:
        return Drifted(None, (), None)
    limits = project.monitoring.drift
    live = _with_outcomes(logged.days, labelled, version)
    total = blocks(live, int(live.days[-1] - live.days[0]) + 1)
    report = compare(bundle.baseline, bundle.schema, layout, total, limits)
    if limits.false_alarms_per_year is None:
        return Drifted(weigh(report, None, (), limits), (), None)
    try:
        past = reference_days(project, bundle, layout)
        season = _season(project, bundle, layout, start, today)
        ignored = columns_named(limits.ignored, bundle.schema)
        masked = {column for field in bundle.schema.fields if field.personal for column in field.columns}
        reference = make_reference(layout, past, ignored | masked, limits, season=season)
    except (SnapshotError, FileNotFoundError, TooFewUnitsError) as error:
        logger.warning("drift of %s cannot be told: %s", project.name, error)
        return Drifted(weigh(report, None, (), limits, str(error)), (), None)
    state = _state(project.name, bundle.id, today)
    faults = _faults(reference, logged, live, state, project, masked)
    sound = _sound(live, {day for day, _ in faults}, reference.unit_days)
    known_before = today - timedelta(days=project.label.delay_days)
    reading = read_board(reference, sound, state, limits, known_before=known_before)
    reading = msgspec.structs.replace(reading, state=_seen(reading.state, [day for day, _ in faults]))
    relation = tell_apart(
        past, live, layout.columns, tuple(bundle.schema.categorical), ignored | masked | _same_all_day(layout)
    )
    if relation is not None:
        logger.info("the reference and now are told apart with an %s", relation)
    return Drifted(weigh(report, reading, [fault for _, fault in faults], limits), faults, reading, relation)


def reference_days(project: Project, bundle: Bundle, layout: Layout) -> Days:
    """The days of the snapshot that a bundle was trained and judged on, with its own scores; counted once, then cached.

    Raises:
        SnapshotError, FileNotFoundError: the snapshot is not at hand.
    """
    path = home().cache / "days" / f"{bundle.id}.npz"
    try:
        return read_days(path)
    except FileNotFoundError:
        snapshot = read_snapshot(home().snapshots, bundle.manifest.snapshot)
        parts = []
        for number, name in enumerate(_PARTS):
            part = encoded(project, snapshot, bundle.schema, name)
            scores = score(bundle.model_path, part.features)
            days = summarise(layout, part.features, scores, part.days, seed=number)
            parts.append(with_outcomes(days, part.days, part.labels > 0.5))
        write_days(path, concatenate(parts, layout))
        return read_days(path)


def _with_outcomes(days: Days, labelled: pa.Table, version: str) -> Days:
    mine = pc.and_(pc.equal(labelled["version"], version), pc.equal(labelled["slot"], "champion"))
    rows = labelled.filter(pc.and_(mine, pc.is_valid(labelled[OUTCOME])))
    if not rows.num_rows:
        return days
    outcomes = rows[OUTCOME].to_numpy(zero_copy_only=False).astype(bool)
    return with_outcomes(days, hours_of(rows["event_time"]) // 24, outcomes)


def _season(project: Project, bundle: Bundle, layout: Layout, start: date, today: date) -> Days | None:
    """The same days of earlier years, with some before and after them; None where the source has none."""
    connection = ibis.duckdb.connect()
    try:
        events = project.source().events(connection, home().warehouse(project.name))
        earliest = earliest_day(events, project.schema)
        around = timedelta(days=project.monitoring.drift.season_days)
        found = []
        for years in range(1, (today - earliest).days // _YEAR_DAYS + 1):
            back = timedelta(days=_YEAR_DAYS * years)
            window = Window(max(earliest, start - back - around), today - back + around)
            if window.days > 0:
                found.append(
                    _days_of(project, bundle, layout, read_events(events, project.schema, project.label, window))
                )
        return concatenate(found, layout) if found else None
    finally:
        connection.disconnect()


def _days_of(project: Project, bundle: Bundle, layout: Layout, events: pa.Table) -> Days:
    encoder, names = Encoder(bundle.schema), [field.name for field in bundle.schema.fields]
    rows, days = [np.empty((0, len(bundle.schema.columns)), np.float32)], [np.empty(0, np.int64)]
    for batch in events.to_batches(max_chunksize=_CHUNK_ROWS):
        try:
            rows.append(encoder.encode_rows(batch.select(names).to_pylist()))
        except (InvalidRecordError, KeyError) as error:  # another year's data, which nobody has validated for this
            logger.warning("events of another year are left out: %s", str(error)[:200])
            continue
        moments = batch.column(project.schema.time).to_numpy(zero_copy_only=False)
        days.append(moments.astype("datetime64[D]").astype(np.int64))
    features = np.concatenate(rows)
    return summarise(layout, features, score(bundle.model_path, features), np.concatenate(days))


def _state(project: str, bundle: str, today: date) -> BoardState:
    """What the last watch of this bundle before `today` left."""
    for entry in reversed(read_ledger().entries(project=project, kinds=("watch",))):
        board: Mapping[str, Any] | None = entry.body.get("drift_board")
        if board and entry.body["as_of"] < today.isoformat() and board["state"]["bundle"] == bundle:
            return msgspec.convert(board["state"], BoardState)
    return BoardState(bundle=bundle)


def _same_all_day(layout: Layout) -> frozenset[str]:
    """What tells one day from another by its date alone."""
    return frozenset(name for name in layout.columns if name.endswith((".day_of_week", ".day_of_year")))


def _seen(state: BoardState, broken: list[date]) -> BoardState:
    """Broken days were looked at as well: they are told once."""
    last = max([*broken, *([state.last_day] if state.last_day else [])], default=None)
    return msgspec.structs.replace(state, last_day=last)


def _faults(
    reference: Reference, logged: LoggedDays, live: Days, state: BoardState, project: Project, masked: Set[str]
) -> tuple[tuple[date, DataQuality], ...]:
    """What is broken in the days that no watch before has seen."""
    found: list[tuple[date, DataQuality]] = []
    units = blocks(live, reference.unit_days)
    for place, number in enumerate(units.days.tolist()):
        day = _EPOCH + timedelta(days=number)
        if state.last_day is not None and day <= state.last_day:
            continue
        unseen = _unseen(logged, range(number - reference.unit_days + 1, number + 1))
        unit = units.take([place])
        limits = project.monitoring.drift
        faults = find_faults(reference.layout, reference.units, unit, limits, unseen=unseen, masked=masked)
        found += [(day, fault) for fault in faults]
    for day, fault in found:
        logger.error("the data of %s is broken (%s): %s: %s", day, fault.kind, ", ".join(fault.columns), fault.reason)
    return tuple(found)


def _unseen(logged: LoggedDays, days: range) -> dict[str, dict[str, int]]:
    found: dict[str, dict[str, int]] = {}
    for day in days:
        for name, words in logged.unseen.get(day, {}).items():
            counted = found.setdefault(name, {})
            for word, count in words.items():
                counted[word] = counted.get(word, 0) + count
    return found


def _sound(live: Days, broken: set[date], unit_days: int) -> Days:
    """The days whose data is not broken: a change in the others is none of the world."""
    numbers = {(day - _EPOCH).days - back for day in broken for back in range(unit_days)}
    return live.take([place for place, day in enumerate(live.days.tolist()) if day not in numbers])
