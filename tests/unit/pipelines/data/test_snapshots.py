import json
import shutil
from collections.abc import Callable
from datetime import date, datetime
from pathlib import Path
from typing import Any

import ibis
import msgspec
import numpy as np
import pytest

from contracts.encoder import Encoder
from contracts.hashing import bytes_id
from pipelines.data.schema import DeclaredSchema, Label, fit_schema
from pipelines.data.snapshots import (
    Snapshot,
    SnapshotError,
    count_labelled_events,
    earliest_day,
    labelled_events,
    read_events,
    read_manifest,
    read_snapshot,
)
from pipelines.data.windows import Window, Windows

Take = Callable[..., Snapshot]
AsEvents = Callable[[list[dict[str, Any]]], ibis.Table]


@pytest.fixture
def taken(take: Take, events: ibis.Table) -> Snapshot:
    return take(events)


def test_a_snapshot_holds_the_rows_of_its_windows_by_part(taken: Snapshot, windows: Windows) -> None:
    assert taken.manifest.rows_by_part == {"train": 42 * 20, "validation": 7 * 20, "test": 7 * 20}
    for part, window in windows.by_part().items():
        days = {moment.date() for moment in taken.table(part).column("leaves").to_pylist()}
        assert (min(days), max(days)) == (window.start, date.fromordinal(window.end.toordinal() - 1))
    assert taken.table().num_rows == taken.manifest.rows == 56 * 20
    assert taken.manifest.rows_per_day == 20
    assert taken.manifest.label_share["test"] == pytest.approx(0.2)


def test_a_snapshot_has_the_declared_columns_the_label_and_the_part_only(
    taken: Snapshot, declared: DeclaredSchema
) -> None:
    assert set(taken.table().column_names) == {*declared.names, "late", "part"} == set(taken.manifest.columns)


def test_the_same_events_give_the_same_snapshot_in_whatever_order_they_come(
    take: Take, as_events: AsEvents, rows: list[dict[str, Any]], taken: Snapshot, tmp_path: Path
) -> None:
    again, elsewhere = as_events(rows[::-1]), tmp_path / "elsewhere"
    other = take(again, elsewhere)
    assert other.id == taken.id
    assert other.data_path.read_bytes() == taken.data_path.read_bytes()
    assert take(again, elsewhere) == other
    assert [entry.name for entry in elsewhere.iterdir()] == [other.id]


def test_one_changed_value_gives_another_snapshot(
    take: Take, as_events: AsEvents, rows: list[dict[str, Any]], taken: Snapshot
) -> None:
    rows[100]["distance_km"] += 1
    assert take(as_events(rows)).id != taken.id


def test_an_altered_or_missing_snapshot_is_refused(taken: Snapshot) -> None:
    root = taken.path.parent
    assert read_snapshot(root, taken.id) == taken
    with pytest.raises(SnapshotError, match="no snapshot at"):
        read_snapshot(root, "0" * 64)
    manifest = taken.path / "manifest.json"
    encoded = manifest.read_bytes()
    manifest.write_bytes(encoded.replace(b'"deliveries"', b'"Deliveries"'))
    with pytest.raises(SnapshotError, match=f"expected {taken.id}: take it again"):
        read_manifest(root, taken.id)
    manifest.write_bytes(encoded)
    content = bytearray(taken.data_path.read_bytes())
    content[1000] ^= 1
    taken.data_path.write_bytes(content)
    with pytest.raises(SnapshotError, match=f"the manifest says {taken.manifest.data}"):
        read_snapshot(root, taken.id)
    taken.data_path.unlink()
    with pytest.raises(SnapshotError, match="no data at"):
        read_snapshot(root, taken.id)


def test_a_snapshot_of_another_format_is_refused(tmp_path: Path, taken: Snapshot) -> None:
    encoded = json.dumps(msgspec.to_builtins(taken.manifest) | {"format": 7}).encode()
    copy = tmp_path / bytes_id(encoded)
    shutil.copytree(taken.path, copy)
    (copy / "manifest.json").write_bytes(encoded)
    with pytest.raises(SnapshotError, match="has format 7, this version reads 1"):
        read_snapshot(tmp_path, copy.name)


def test_a_missing_column_is_left_for_validation_but_a_missing_time_stops(take: Take, events: ibis.Table) -> None:
    poor = take(events.drop("distance_km", "late"))
    assert "distance_km" not in poor.manifest.columns
    assert poor.manifest.label_share == {"train": None, "validation": None, "test": None}
    with pytest.raises(SnapshotError, match=r"no column 'leaves' \(time\); found van"):
        take(events.drop("leaves"))


def test_windows_without_any_event_are_refused_and_leave_nothing_behind(
    take: Take, events: ibis.Table, declared: DeclaredSchema, tmp_path: Path
) -> None:
    none = events.filter(events.distance_km > 10_000)
    with pytest.raises(SnapshotError, match="no event from 2013-01-01 to 2013-02-25: ingest first"):
        take(none, tmp_path / "none")
    assert not (tmp_path / "none").exists()
    with pytest.raises(SnapshotError, match="no event: ingest first"):
        earliest_day(none, declared)


def test_a_part_that_does_not_exist_is_refused(taken: Snapshot) -> None:
    with pytest.raises(SnapshotError, match="no part 'holdout'; its parts are train, validation, test"):
        taken.table("holdout")


def test_records_labels_and_days_fit_together_and_encode(taken: Snapshot, declared: DeclaredSchema) -> None:
    records, labels, days = taken.records("test", declared.names), taken.labels("test"), taken.days("test")
    encoded = Encoder(fit_schema(declared, taken.table("train"))).encode_rows(records)
    assert len(records) == len(labels) == len(days) == len(encoded) == 140
    assert [bool(value) for value in labels] == taken.table("test").column("late").to_pylist()
    assert labels.dtype == np.float32
    epoch = date(1970, 1, 1).toordinal()
    assert [int(day) + epoch for day in days] == [record["leaves"].toordinal() for record in records]
    assert days[0] < days[-1]


def test_outcomes_are_those_whose_labels_are_known(events: ibis.Table, declared: DeclaredSchema, label: Label) -> None:
    known = labelled_events(events, declared, label, date(2013, 1, 30), date(2013, 3, 1), date(2013, 2, 5))
    assert known.column_names == ["parcel", "leaves", "late"]
    assert {moment.date() for moment in known.column("leaves").to_pylist()} == {
        date(2013, 1, 30), date(2013, 1, 31), date(2013, 2, 1), date(2013, 2, 2),
    }  # fmt: skip
    asked = declared, label, date(2013, 1, 30), date(2013, 3, 1), date(2013, 2, 5)
    assert count_labelled_events(events, *asked) == known.num_rows > 0
    assert labelled_events(events, declared, label, date(2013, 2, 4), date(2013, 3, 1), date(2013, 2, 5)).num_rows == 0
    with pytest.raises(SnapshotError, match="outcomes need the columns parcel"):
        labelled_events(events.drop("parcel"), declared, label, date(2013, 1, 1), date(2013, 2, 1), date(2013, 3, 1))


def test_events_are_read_in_the_order_of_time(events: ibis.Table, declared: DeclaredSchema, label: Label) -> None:
    table = read_events(events, declared, label, Window(date(2013, 1, 2), date(2013, 1, 4)))
    moments = table.column("leaves").to_pylist()
    assert moments == sorted(moments)
    assert (moments[0], len(moments)) == (datetime(2013, 1, 2), 40)
    assert earliest_day(events, declared) == date(2013, 1, 1)
