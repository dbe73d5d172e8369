"""The store of outcomes: what was told, all of it, for ever; and the quarantine for what cannot be believed.

Both only grow. A corrected value is one more row, so that a run for an earlier date still sees what was known then. An
outcome whose prediction nobody knows waits in the quarantine, and becomes an outcome when the prediction appears.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, time
from pathlib import Path
from typing import Any

import msgspec
import pyarrow as pa
import pyarrow.compute as pc

from pipelines.monitoring.outcome_rows import (
    OUTCOME_COLUMNS,
    QUARANTINE_COLUMNS,
    RefusedOutcome,
    ToldOutcome,
    again,
    refuse,
)
from pipelines.monitoring.parquet_batches import Batches
from pipelines.monitoring.predictions import EVENT_TIME, PredictionLog, days_of_ids, query_predictions

MERGED_FILES = 32  # more files than these become one
CANONICAL_TIME = f"strftime({EVENT_TIME}, '%Y-%m-%dT%H:%M:%S.%f')"
_OPEN = "outcome_id IS NULL OR outcome_id NOT IN (SELECT row_id FROM outcomes)"


class Added(msgspec.Struct, frozen=True, kw_only=True):
    """What became of rows: new outcomes, of which `corrections` say otherwise than before; told before; quarantined.

    `released` rows of the quarantine have found their prediction. `damaged` files of the log could not be searched.
    """

    accepted: int
    corrections: int
    repeated: int
    quarantined: dict[str, int]
    released: int
    damaged: int = 0


@dataclass(frozen=True)
class _Found:
    """The predictions that outcomes name."""

    by_id: dict[str, tuple[str, str, str | None]]  # request_id, entity, event_time
    events: frozenset[tuple[str, str]]
    damaged: int


class OutcomeStore:
    """The outcomes of one project, below `root`; predictions are looked for in the log below `predictions`."""

    def __init__(self, root: Path, predictions: Path) -> None:
        self.outcomes = Batches(root / "told", OUTCOME_COLUMNS)
        self.quarantine = Batches(root / "quarantine", QUARANTINE_COLUMNS)
        self._predictions = predictions

    def add(self, told: Sequence[ToldOutcome], refused: Sequence[RefusedOutcome], now: datetime) -> Added:
        """Takes rows as `check_rows` gives them, and tries the quarantine again. Safe to repeat, as a whole or in part.

        Raises:
            HeldError: another writer does not finish.
            OSError: the disk refuses; what was taken before stays, and the same rows may be told again.
        """
        with self.outcomes.locked("adding outcomes"):
            waiting = self._waiting()
            found = self._find([*told, *waiting])
            believed = [each for each in told if _is_known(each, found)]
            unknown = [
                refuse(each, "unknown_prediction", "no prediction in the log that can be read is meant by it")
                for each in told
                if not _is_known(each, found)
            ]
            released = [each for each in waiting if _is_known(each, found)]
            accepted, corrections = self._accept([*released, *believed], found, now)
            self._set_aside([*refused, *unknown], now)
            self.outcomes.merge(MERGED_FILES)
            self.quarantine.merge(MERGED_FILES)
        return Added(
            accepted=accepted - len(released),
            corrections=corrections,
            repeated=len(believed) - (accepted - len(released)),
            quarantined=_counted(each.reason for each in (*refused, *unknown)),
            released=len(released),
            damaged=found.damaged,
        )

    def retry(self, now: datetime) -> int:
        """Looks again for the predictions of the quarantine, and says how many have appeared."""
        return self.add((), (), now).released if self.has_waiting() else 0

    def has_waiting(self) -> bool:
        """Whether an outcome waits for its prediction."""
        return bool(self._waiting())

    def quarantined(self) -> pa.Table:
        """The rows in the quarantine, `QUARANTINE_COLUMNS`, the newest first; without those that have been released."""
        return self.quarantine.query(
            f"SELECT * FROM batches WHERE {_OPEN} ORDER BY added_at DESC, row_id", outcomes=self._row_ids()
        )

    def quarantine_counts(self) -> dict[str, int]:
        """How many rows are in the quarantine, by reason."""
        rows = self.quarantine.query(
            f"SELECT reason, count(*) AS rows FROM batches WHERE {_OPEN} GROUP BY reason ORDER BY reason",
            outcomes=self._row_ids(),
        )
        return {row["reason"]: row["rows"] for row in rows.to_pylist()}

    def told_of(self, as_of: date, start: date = date.min, end: date = date.max) -> pa.Table:
        """What was told before the day `as_of` began (UTC) of predictions for events from `start` on and before `end`.

        Without a window also what names no time of the event.
        """
        everything = (start, end) == (date.min, date.max)
        within = "true" if everything else "event_time >= ? AND event_time < ?"
        bounds = [] if everything else [f"{day.isoformat()}T" for day in (start, end)]
        return self.outcomes.query(
            f"SELECT * FROM batches WHERE known_at <= ? AND {within}",
            [datetime.combine(as_of, time(), UTC), *bounds],
        )

    def history(self, prediction: dict[str, Any]) -> list[dict[str, Any]]:
        """All that was told of a row of the log, oldest first."""
        known = pa.Table.from_pylist([prediction]).select(["prediction_id", "request_id", "entity", "event_time"])
        rows: list[dict[str, Any]] = self.outcomes.query(
            f"""SELECT o.value, o.known_at, o.added_at, o.source, o.prediction_id, o.entity, o.event_time
            FROM batches o, (SELECT prediction_id, entity, {CANONICAL_TIME} AS moment FROM predictions) p
            WHERE o.prediction_id = p.prediction_id
               OR (o.prediction_id IS NULL AND o.entity = p.entity AND o.event_time = p.moment)
            ORDER BY o.known_at, o.added_at""",
            predictions=known,
        ).to_pylist()
        return rows

    def forget(self, entity: str, prediction_ids: Sequence[str]) -> tuple[int, int]:
        """Removes the outcomes and the quarantined rows of an entity, also those told by the ids of its predictions."""
        condition = "entity = ? OR prediction_id IN (SELECT unnest(?::VARCHAR[]))"
        with self.outcomes.locked("forgetting an entity"):
            return tuple(  # type: ignore[return-value]
                batches.rewrite(condition, [entity, list(prediction_ids)])
                for batches in (self.outcomes, self.quarantine)
            )

    def _row_ids(self) -> pa.Table:
        return self.outcomes.query("SELECT row_id FROM batches")

    def _waiting(self) -> list[ToldOutcome]:
        if not self.quarantine.files():
            return []
        rows = self.quarantine.query(
            f"SELECT * FROM batches WHERE reason = 'unknown_prediction' AND ({_OPEN}) ORDER BY added_at, row_id",
            outcomes=self._row_ids(),
        )
        return [again(row) for row in rows.to_pylist()]

    def _find(self, outcomes: Sequence[ToldOutcome]) -> _Found:
        ids = sorted({each.prediction_id for each in outcomes if each.prediction_id is not None})
        events = sorted({f"{each.entity}\n{each.event_time}" for each in outcomes if each.prediction_id is None})
        damaged = 0
        by_id: dict[str, tuple[str, str, str | None]] = {}
        pairs: set[tuple[str, str]] = set()
        if ids:
            log = self._search(f"prediction_id, request_id, entity, {CANONICAL_TIME} AS moment", "prediction_id", ids)
            damaged = len(log.damaged)
            by_id = {
                row["prediction_id"]: (row["request_id"], row["entity"], row["moment"]) for row in log.table.to_pylist()
            }
        if events:
            log = self._search(
                f"DISTINCT entity, {CANONICAL_TIME} AS moment", f"entity || chr(10) || {CANONICAL_TIME}", events
            )
            damaged = max(damaged, len(log.damaged))
            pairs = {(row["entity"], row["moment"]) for row in log.table.to_pylist()}
        return _Found(by_id, frozenset(pairs), damaged)

    def _search(self, select: str, what: str, wanted: Sequence[str]) -> PredictionLog:
        days = days_of_ids(wanted) if what == "prediction_id" else None
        return query_predictions(
            self._predictions,
            select,
            f"WHERE {what} IN (SELECT unnest(?::VARCHAR[]))",
            [list(wanted)],
            lambda day: days is None or day in days,
        )

    def _accept(self, outcomes: Sequence[ToldOutcome], found: _Found, now: datetime) -> tuple[int, int]:
        """How many of `outcomes` are new, and how many of those contradict what was the last word before."""
        if not outcomes:
            return 0, 0
        rows: dict[str, dict[str, Any]] = {}
        for each in outcomes:
            request_id, entity, event_time = found.by_id.get(each.prediction_id or "", (None, *each.target[1:]))
            rows[each.row_id] = {
                "row_id": each.row_id,
                "prediction_id": each.prediction_id,
                "request_id": request_id,
                "entity": entity,
                "event_time": event_time,
                "value": each.value,
                "known_at": each.known_at,
                "added_at": now,
                "source": each.source,
                "is_dated": each.is_dated,
            }
        schema = OUTCOME_COLUMNS.append(pa.field("is_dated", pa.bool_()))
        new = self.outcomes.query(
            """WITH last AS (
                SELECT prediction_id, entity, event_time, value FROM batches
                QUALIFY row_number() OVER (PARTITION BY prediction_id, entity, event_time
                                           ORDER BY known_at DESC, added_at DESC, row_id DESC) = 1)
            SELECT t.* EXCLUDE (is_dated), last.value IS NOT NULL AND last.value <> t.value AS corrects
            FROM told t LEFT JOIN last
              ON t.prediction_id IS NOT DISTINCT FROM last.prediction_id
             AND t.entity IS NOT DISTINCT FROM last.entity AND t.event_time IS NOT DISTINCT FROM last.event_time
            WHERE t.row_id NOT IN (SELECT row_id FROM batches)
              AND (t.is_dated OR last.value IS DISTINCT FROM t.value)
            ORDER BY t.row_id""",
            told=pa.Table.from_pylist(list(rows.values()), schema=schema),
        )
        self.outcomes.append(new.drop_columns(["corrects"]))
        return new.num_rows, pc.sum(new["corrects"]).as_py() or 0

    def _set_aside(self, refused: Sequence[RefusedOutcome], now: datetime) -> None:
        if not refused:
            return
        rows = {each.row_id: {**msgspec.to_builtins(each), "added_at": now} for each in refused}
        table = pa.Table.from_pylist(list(rows.values()), schema=QUARANTINE_COLUMNS)
        self.quarantine.append(
            self.quarantine.query("SELECT * FROM told WHERE row_id NOT IN (SELECT row_id FROM batches)", told=table)
        )


def _is_known(outcome: ToldOutcome, found: _Found) -> bool:
    if outcome.prediction_id is not None:
        return outcome.prediction_id in found.by_id
    return (outcome.entity, outcome.event_time) in found.events


def _counted(reasons: Iterable[str]) -> dict[str, int]:
    counts: dict[str, int] = {}
    for reason in reasons:
        counts[reason] = counts.get(reason, 0) + 1
    return dict(sorted(counts.items()))
