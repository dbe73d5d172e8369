"""Reading and labelling the log in batches comes to what labelling all of it at once comes to."""

from collections.abc import Sequence
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

import msgspec
import pyarrow as pa
import pytest

from pipelines.monitoring import log_batches
from pipelines.monitoring.compaction import compact_day
from pipelines.monitoring.labelled_log import LabelledLog, read_labelled, stored_outcomes
from pipelines.monitoring.log_batches import Window
from pipelines.monitoring.outcome_rows import check_rows
from pipelines.monitoring.outcome_store import OutcomeStore
from pipelines.monitoring.outcomes import (
    LabelledPredictions,
    OutcomeSource,
    StoredOutcomes,
    WarehouseOutcomes,
    label_predictions,
)
from pipelines.monitoring.predictions import read_predictions
from pipelines.monitoring.quality import measure_quality
from pipelines.monitoring.quality_parts import measure_parts
from tests.fixtures.bundles import TINY_SCHEMA, tiny_record
from tests.fixtures.prediction_log import NOON_S, tiny_group, write_segment

NOW, AS_OF, START = datetime(2013, 8, 10, 12, tzinfo=UTC), date(2013, 8, 11), date(2013, 8, 1)
ROWS, SLICES = 60, ("carrier",)


def _record(row: int) -> dict[str, Any]:
    return tiny_record(row, scheduled=f"2013-08-{1 + row % 12:02}T{row % 24:02}:15", carrier=("AA", "UA")[row % 2])


def _serve(log: Path) -> list[str]:
    """A champion's and a shadow's rows; one request has one plane's flight twice, one row has no time, one no score."""
    scores = [None if row == 5 else (row * 7 % 50) / 50 for row in range(ROWS)]
    errors = ["broken" if row == 5 else None for row in range(ROWS)]
    columns: dict[str, Any] = {"record": _record, "scores": scores, "errors": errors}
    groups = [
        tiny_group(ROWS, **columns, decisions=[bool(row % 3) for row in range(ROWS)]),
        tiny_group(ROWS, **columns, slot="shadow", version="8"),
        tiny_group(2, record=lambda _: _record(3), entities=["N3", "N3"], request_id="twice"),
        tiny_group(1, record=lambda row: tiny_record(row, scheduled="soon")),
        tiny_group(3, record=_record, uncounted="synthetic"),
        tiny_group(4, record=_record, served_at_s=NOON_S + 86_400, request_id="later"),
    ]
    write_segment(log, *groups)
    compact_day(log, "2013-08-01")
    return [each for group in (*groups[:1], groups[2]) for each in group.prediction_ids]


@pytest.fixture
def read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[LabelledLog, LabelledPredictions]:
    """The log by batches of a few rows, and at once; of the store and of a warehouse."""
    monkeypatch.setattr(log_batches, "BATCH_ROWS", 7)
    log = tmp_path / "log"
    store, ids = OutcomeStore(tmp_path / "outcomes", log), _serve(log)
    named = [*ids[:20], *ids[ROWS:]]
    rows: list[dict[str, Any]] = [
        {"prediction_id": each, "value": place % 2, "known_at": "2013-08-09T09:00:00Z"}
        for place, each in enumerate(named)
    ]
    rows[2:4] = [row | {"value": 1 - row["value"], "known_at": "2013-08-10T09:00:00Z"} for row in rows[2:4]] + rows[2:4]
    rows.append({"entity": "N7", "event_time": "2013-08-08T07:15", "value": 1, "known_at": "2013-08-10T10:00:00Z"})
    store.add(*check_rows(rows[10:], now=NOW, source="test"), NOW)
    store.add(*check_rows(rows[:9], now=NOW, source="test"), NOW)
    schema = TINY_SCHEMA
    known = [{name: _record(row)[name] for name in schema.key} | {"late": row % 3 == 0} for row in range(9, 40)]
    warehouse = WarehouseOutcomes(pa.Table.from_pylist(known), schema, "late", delay_days=1)
    window = Window(log, START, AS_OF, tmp_path / "spans.json")

    def sources() -> Sequence[OutcomeSource]:
        return [warehouse, stored_outcomes(store, window, AS_OF)]

    batched = read_labelled(window, sources, keys=schema.key, slices=SLICES, as_of=AS_OF, delay_days=1)
    whole = read_predictions(log, START, AS_OF)
    assert (batched.segments, batched.damaged, batched.undated) == (whole.segments, whole.damaged, whole.undated)
    at_once = label_predictions(whole.table, [warehouse, StoredOutcomes(store)], as_of=AS_OF, delay_days=1)
    return batched, at_once


def test_coverage_quality_and_parts_are_the_same(read: tuple[LabelledLog, LabelledPredictions]) -> None:
    batched, at_once = read
    assert batched.coverage == at_once.coverage
    assert batched.coverage.corrected > 0
    assert 0 < batched.coverage.labelled <= batched.coverage.due < batched.coverage.predictions
    assert batched.undated == 1
    for batch, whole in zip(measure_quality(batched.table), measure_quality(at_once.table), strict=True):
        _assert_same(batch, whole)
    mine, theirs = (measure_parts(table, SLICES, with_both=True) for table in (batched.table, at_once.table))
    assert len(mine) > 20
    for batch, whole in zip(mine, theirs, strict=True):
        _assert_same(batch, whole)


def test_the_days_are_those_of_the_events(read: tuple[LabelledLog, LabelledPredictions]) -> None:
    batched, at_once = read
    assert batched.days == len({text[:10] for text in at_once.table["event_time"].to_pylist()}) == 10


def test_no_ids_and_no_inputs_but_slices_are_kept(read: tuple[LabelledLog, LabelledPredictions]) -> None:
    batched, _ = read
    assert not {"inputs", "prediction_id", "request_id", "entity"} & set(batched.table.column_names)
    assert batched.table.num_rows == batched.coverage.predictions


def _assert_same(one: msgspec.Struct, other: msgspec.Struct) -> None:
    """All but the last digits of sums, whose order is another one."""
    mine, theirs = _flat(one), _flat(other)
    floats = [name for name, value in mine.items() if isinstance(value, float)]
    assert [mine.pop(name) for name in floats] == pytest.approx([theirs.pop(name) for name in floats], rel=1e-9)
    assert mine == theirs


def _flat(found: msgspec.Struct) -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in msgspec.to_builtins(found).items():
        flat |= {f"{name}.{key}": each for key, each in value.items()} if isinstance(value, dict) else {name: value}
    return flat
