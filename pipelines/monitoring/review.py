"""The review queue: predictions that the server flagged as unusual, with why, and their neighbours in training.

The queue lies in Parquet files of its own: what is in it stays when the log is thinned out. Pure but for those files.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa

from contracts.bundle import Baseline
from contracts.prediction_row import SYNTHETIC
from pipelines.monitoring.parquet_batches import Batches
from pipelines.monitoring.predictions import EVENT_TIME, query_predictions
from pipelines.monitoring.segments import DamagedSegment

MERGED_FILES = 32
REVIEW_COLUMNS = pa.schema(
    [
        ("prediction_id", pa.string()),
        ("served_at", pa.string()),
        ("event_time", pa.string()),
        ("entity", pa.string()),  # as logged
        ("version", pa.string()),
        ("slot", pa.string()),
        ("score", pa.float64()),
        ("decision", pa.bool_()),
        ("flags", pa.string()),
        ("reason", pa.string()),  # in words
        ("inputs", pa.string()),  # the record as JSON, personal fields masked
        ("neighbours", pa.string()),  # JSON: distance, label and record of each, without personal fields
        ("note", pa.string()),  # why there are no neighbours
    ]
)
_TAKEN = (
    "prediction_id, served_at, event_time, entity, version, slot, bundle, score, decision, unusual AS flags, inputs, "
    "request_id"
)


class ReviewQueue:
    """The queue of one project, below `root`."""

    def __init__(self, root: Path) -> None:
        self.batches = Batches(root, REVIEW_COLUMNS)

    def add(self, rows: Sequence[Mapping[str, Any]]) -> int:
        """Adds rows that are not there yet, and says how many. Safe to repeat. Raises HeldError, OSError."""
        if not rows:
            return 0
        with self.batches.locked("adding to the review queue"):
            new = self.batches.query(
                "SELECT * FROM told WHERE prediction_id NOT IN (SELECT prediction_id FROM batches)",
                told=pa.Table.from_pylist([dict(row) for row in rows], schema=REVIEW_COLUMNS),
            )
            self.batches.append(new)
            self.batches.merge(MERGED_FILES)
        return int(new.num_rows)

    def ids(self) -> frozenset[str]:
        """The predictions that are in it."""
        found: list[str] = self.batches.query("SELECT prediction_id FROM batches")["prediction_id"].to_pylist()
        return frozenset(found)

    def rows(self) -> list[dict[str, Any]]:
        """All rows, the newest first."""
        found: list[dict[str, Any]] = self.batches.query(
            "SELECT * FROM batches ORDER BY served_at DESC, prediction_id"
        ).to_pylist()
        return found

    def forget(self, entity: str, prediction_ids: Sequence[str]) -> int:
        """Removes the rows of an entity, and says how many."""
        with self.batches.locked("forgetting an entity"):
            return self.batches.rewrite(
                "entity = ? OR prediction_id IN (SELECT unnest(?::VARCHAR[]))", [entity, list(prediction_ids)]
            )


def find_unusual(root: Path, start: str, end: str) -> tuple[list[dict[str, Any]], tuple[DamagedSegment, ...]]:
    """The flagged rows that somebody got, of events from `start` up to `end` (ISO 8601), and files that are damaged."""
    log = query_predictions(
        root,
        _TAKEN,
        "WHERE unusual IS NOT NULL AND score IS NOT NULL AND slot <> 'shadow'"
        f" AND uncounted IS DISTINCT FROM '{SYNTHETIC}'"
        f" AND {EVENT_TIME} >= CAST(? AS TIMESTAMP) AND {EVENT_TIME} < CAST(? AS TIMESTAMP) ORDER BY prediction_id",
        [start, end],
    )
    return log.table.to_pylist(), log.damaged


def choose(rows: Sequence[dict[str, Any]], at_most: int) -> list[dict[str, Any]]:
    """At most so many of `rows`, taken in turns from each kind of flags: a flood of one kind hides no other.

    >>> [row["n"] for row in choose([{"flags": "a", "n": 1}, {"flags": "a", "n": 2}, {"flags": "b", "n": 3}], 2)]
    [1, 3]
    """
    kinds: dict[str, list[dict[str, Any]]] = {}
    for row in rows:
        kinds.setdefault(row["flags"], []).append(row)
    chosen: list[dict[str, Any]] = []
    turn = 0
    while len(chosen) < min(at_most, len(rows)):
        taken = [kind[turn] for kind in kinds.values() if turn < len(kind)]
        chosen += taken[: at_most - len(chosen)]
        turn += 1
    return chosen


def explain(flags: str, record: Mapping[str, Any], score: float | None, baseline: Baseline | None) -> str:
    """Why the server has flagged a row, in words, with the value and what training had."""
    return "; ".join(_explained(flag, record, score, baseline) for flag in flags.split(","))


def _explained(flag: str, record: Mapping[str, Any], score: float | None, baseline: Baseline | None) -> str:
    kind, _, field = flag.partition(":")
    if kind == "extreme_score":
        return (
            f"the score {score:g} is beyond all that the version gave on its test rows" if score is not None else kind
        )
    value = record.get(field)
    if kind == "outside_baseline":
        numbers = None if baseline is None else baseline.numbers.get(field)
        known = f", which has {numbers.edges[0]:g} to {numbers.edges[-1]:g}" if numbers and numbers.edges else ""
        return f"{field} is {value}, far outside of training{known}"
    if kind == "unseen_category":
        categories = None if baseline is None else baseline.categories.get(field)
        known = f", which has {len(categories.counts)} other words" if categories else ""
        return f"{field} is {value!r}, a word that no training row had{known}"
    return flag
