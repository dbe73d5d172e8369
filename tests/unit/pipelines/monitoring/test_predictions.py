from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.ipc
import pyarrow.parquet as pq
import pytest

from contracts.encoder import Encoder
from contracts.input_schema import Field, InputSchema
from contracts.prediction_row import PredictionRow
from pipelines.monitoring.predictions import (
    PREDICTION_COLUMNS,
    encode_inputs,
    find_prediction,
    read_holdout,
    read_predictions,
)
from pipelines.monitoring.segments import Files, LogChangesError
from serving.prediction_writer import LoggedGroup
from tests.fixtures.prediction_log import tiny_group, tiny_writer, write_segment

SCHEMA = InputSchema(
    version=1,
    entity="tailnum",
    time="scheduled",
    key=("tailnum", "scheduled"),
    fields=(
        Field(name="tailnum", kind="identifier"),
        Field(name="scheduled", kind="timestamp", parts=("minute_of_day",)),
        Field(name="carrier", kind="category", vocabulary=("AA", "UA")),
        Field(name="distance", kind="number", minimum=0),
        Field(name="income", kind="number", personal=True),
    ),
)


def _row(number: int, **changes: Any) -> PredictionRow:
    inputs = {"tailnum": "N1", "scheduled": "2013-07-01T08:30", "carrier": "UA", "distance": 700, "income": "masked:ab"}
    row = PredictionRow(
        prediction_id=f"{number:08d}",
        request_id="r",
        served_at="2026-01-02T00:00:00.000000Z",
        event_time="2013-07-01T08:30:00",
        project="flight_delay",
        version="3",
        bundle="b" * 64,
        slot="champion",
        rollout=None,
        share=0.0,
        entity="N1",
        score=0.25,
        decision=False,
        latency_us=900,
        error=None,
        inputs=msgspec.json.encode(inputs).decode(),
    )
    return msgspec.structs.replace(row, **changes)


def _write(root: Path, name: str, rows: list[PredictionRow], day: str = "2026-01-02") -> Path:
    path = root / f"day={day}" / name
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.Table.from_pylist([msgspec.to_builtins(row) for row in rows]), path)
    return path


def _ids(root: Path, start: date, end: date, **options: Any) -> list[str]:
    return read_predictions(root, start, end, **options).table["prediction_id"].to_pylist()


def test_synthetic_requests_are_in_no_monitoring_and_can_be_found_by_their_id(tmp_path: Path) -> None:
    kept = [_row(1), _row(2, uncounted="pinned")]
    _write(tmp_path, "a.parquet", [*kept, _row(3, uncounted="synthetic")])
    log = read_predictions(tmp_path, date(2013, 7, 1), date(2013, 7, 2))
    assert msgspec.convert(log.table.to_pylist(), list[PredictionRow]) == kept
    found = find_prediction(tmp_path, _row(3).prediction_id)
    assert found is not None
    assert found["uncounted"] == "synthetic"


def test_a_holdout_is_read_by_what_chance_has_assigned_since_its_promotion(tmp_path: Path) -> None:
    after = {"rollout": "r1", "share": 0.05}
    new = _row(1, slot="champion", version="2", **after)
    old = _row(2, slot="holdout", version="1", **after)
    others = [
        _row(3, slot="champion", version="2", rollout=None, share=0.0),  # in the other's place
        _row(4, slot="champion", version="1", rollout="r1", share=0.5),  # of the rollout itself
        _row(5, slot="challenger", version="2", rollout="r1", share=0.5),
        _row(6, slot="holdout", version="1", rollout="r0", share=0.05),
        _row(7, slot="champion", version="2", uncounted="synthetic", **after),
    ]
    _write(tmp_path, "a.parquet", [new, old, *others])
    log = read_holdout(tmp_path, "r1", new="2", old="1", since=datetime(2013, 7, 1, tzinfo=UTC))
    assert msgspec.convert(log.table.to_pylist(), list[PredictionRow]) == [new, old]


def test_the_columns_are_those_of_the_contract() -> None:
    assert tuple(PREDICTION_COLUMNS.names) == PredictionRow.__struct_fields__


def test_rows_come_back_as_they_were_logged_whatever_types_a_segment_inferred(tmp_path: Path) -> None:
    failed = _row(2, slot="challenger", rollout="r1", share=0.05, score=None, decision=None, error="boom")
    _write(tmp_path, "a.parquet", [_row(1)])  # its rollout and error columns are of the type null
    _write(tmp_path, "b.parquet", [failed])
    log = read_predictions(tmp_path, date(2013, 7, 1), date(2013, 7, 2))
    assert log.table.schema == PREDICTION_COLUMNS
    assert msgspec.convert(log.table.to_pylist(), list[PredictionRow]) == [_row(1), failed]
    assert (log.segments, log.damaged, log.undated) == (2, (), 0)


def test_events_are_chosen_by_their_own_local_time_from_start_up_to_without_end(tmp_path: Path) -> None:
    times = [
        "2013-06-30T23:59:59",
        "2013-07-01T00:00",
        "2013-07-01 08:30:00",
        "20130701T0830",
        "2013-07-02T00:00:00",
    ]
    _write(tmp_path, "a.parquet", [_row(number, event_time=text) for number, text in enumerate(times)])
    assert _ids(tmp_path, date(2013, 7, 1), date(2013, 7, 2)) == ["00000001", "00000002", "00000003"]
    assert _ids(tmp_path, datetime(2013, 7, 1, 8), date(2013, 7, 3)) == ["00000002", "00000003", "00000004"]
    with pytest.raises(ValueError, match="without an offset"):
        read_predictions(tmp_path, datetime.fromisoformat("2013-07-01T00:00+02:00"), date(2013, 7, 2))


def test_a_time_that_is_none_is_counted(tmp_path: Path) -> None:
    _write(tmp_path, "a.parquet", [_row(1), _row(2, event_time="tomorrow")])
    log = read_predictions(tmp_path, date(2013, 1, 1), date(2014, 1, 1))
    assert (log.table.num_rows, log.undated) == (1, 1)


def test_a_damaged_segment_is_named_and_the_others_are_read(tmp_path: Path) -> None:
    _write(tmp_path, "a.parquet", [_row(1)])
    cut = _write(tmp_path, "b.parquet", [_row(2)] * 1000)
    cut.write_bytes(cut.read_bytes()[:-100])
    alien = tmp_path / "day=2026-01-02" / "c.parquet"
    pq.write_table(pa.table({"prediction_id": ["x"]}), alien)
    log = read_predictions(tmp_path, date(2013, 7, 1), date(2013, 7, 2))
    assert log.table["prediction_id"].to_pylist() == ["00000001"]
    assert [segment.path for segment in log.damaged] == ["day=2026-01-02/b.parquet", "day=2026-01-02/c.parquet"]
    assert all(segment.reason for segment in log.damaged)
    found = find_prediction(tmp_path, "00000001")
    assert found is not None


def test_only_damaged_segments_give_no_rows_and_say_so(tmp_path: Path) -> None:
    _write(tmp_path, "a.parquet", [_row(1)]).write_bytes(b"PAR1")
    log = read_predictions(tmp_path, date(2013, 7, 1), date(2013, 7, 2))
    assert log.table.num_rows == 0
    assert len(log.damaged) == 1


def test_a_segment_damaged_in_its_body_is_named_too(tmp_path: Path) -> None:
    path = _write(tmp_path, "a.parquet", [_row(n, inputs=f'{{"x":"{n * 7919 % 1000003}"}}') for n in range(5000)])
    content = bytearray(path.read_bytes())
    content[200:4000] = bytes(3800)
    path.write_bytes(content)
    _write(tmp_path, "b.parquet", [_row(9000)])
    log = read_predictions(tmp_path, date(2013, 7, 1), date(2013, 7, 2))
    assert [segment.path for segment in log.damaged] == ["day=2026-01-02/a.parquet"]
    assert log.table["prediction_id"].to_pylist() == ["00009000"]


def test_unfinished_segments_and_other_files_are_not_read(tmp_path: Path) -> None:
    _write(tmp_path, "a.parquet", [_row(1)])
    _write(tmp_path, ".b.parquet", [_row(2)])
    (tmp_path / "day=2026-01-02" / "notes.txt").write_text("not a segment")
    assert _ids(tmp_path, date(2013, 7, 1), date(2013, 7, 2)) == ["00000001"]


def test_folders_of_days_before_are_not_read(tmp_path: Path) -> None:
    _write(tmp_path, "a.parquet", [_row(1)], day="2026-01-01").write_bytes(b"not even opened")
    _write(tmp_path, "a.parquet", [_row(2)], day="2026-01-02")
    log = read_predictions(tmp_path, date(2013, 7, 1), date(2013, 7, 2), served_from=date(2026, 1, 2))
    assert (log.table["prediction_id"].to_pylist(), log.damaged) == (["00000002"], ())


def test_a_log_that_does_not_exist_yet_is_empty(tmp_path: Path) -> None:
    log = read_predictions(tmp_path / "nothing", date(2013, 7, 1), date(2013, 7, 2))
    assert (log.table.num_rows, log.segments) == (0, 0)
    assert find_prediction(tmp_path / "nothing", "00000001") is None


def test_a_prediction_is_found_by_its_id_and_only_by_its_id(tmp_path: Path) -> None:
    _write(tmp_path, "a.parquet", [_row(1), _row(2, version="4")])
    found = find_prediction(tmp_path, "00000002")
    assert msgspec.convert(found, PredictionRow) == _row(2, version="4")
    assert find_prediction(tmp_path, "' OR 1=1 --") is None


def test_inputs_are_encoded_as_the_model_saw_them_except_what_is_masked(tmp_path: Path) -> None:
    record = {"tailnum": "N1", "scheduled": "2013-07-01T08:30", "carrier": "UA", "distance": 700, "income": 5.0}
    _write(tmp_path, "a.parquet", [_row(1), _row(2, inputs="{}"), _row(3, inputs="not json"), _row(4)])
    encoded = encode_inputs(read_predictions(tmp_path, date(2013, 7, 1), date(2013, 7, 2)).table, SCHEMA)
    expected = Encoder(SCHEMA).encode(record)[0]
    expected[-1] = np.nan
    np.testing.assert_array_equal(encoded.rows, [expected, expected])
    assert encoded.kept.tolist() == [0, 3]
    assert encoded.refused == 2
    assert encoded.first_refusal is not None
    assert "tailnum" in encoded.first_refusal


def test_no_predictions_are_encoded_as_no_rows() -> None:
    assert encode_inputs(PREDICTION_COLUMNS.empty_table(), SCHEMA).rows.shape == (0, 4)


def _segment(root: Path, *groups: LoggedGroup) -> Path:
    """A segment of one batch for each of `groups`, which its writer still holds."""
    log = tiny_writer(root)
    for group in groups:
        log.append(group)
        log._flush()
    [path] = root.glob("day=*/*.arrows")
    return path


AUGUST = (date(2013, 1, 1), date(2014, 1, 1))


def test_segments_and_parquet_files_are_read_together_also_the_segment_that_is_being_written(tmp_path: Path) -> None:
    _write(tmp_path, "old.parquet", [_row(1)])
    group = tiny_group(2, client="ada")
    _segment(tmp_path, group)
    log = read_predictions(tmp_path, *AUGUST)
    assert log.table["prediction_id"].to_pylist() == sorted(["00000001", *group.prediction_ids])
    assert log.table.schema == PREDICTION_COLUMNS
    assert sorted(log.table["client"].to_pylist(), key=str) == [None, "ada", "ada"]
    assert (log.segments, log.damaged) == (2, ())
    assert find_prediction(tmp_path, "00000001") is not None
    assert find_prediction(tmp_path, group.prediction_ids[1]) is not None


def test_parquet_files_from_before_the_later_columns_are_read_with_nulls(tmp_path: Path) -> None:
    path = _write(tmp_path, "a.parquet", [_row(1)])
    pq.write_table(pq.ParquetFile(path).read().drop_columns(["client", "unusual"]), path)
    log = read_predictions(tmp_path, *AUGUST)
    assert (log.table["client"].to_pylist(), log.table["unusual"].to_pylist()) == ([None], [None])
    assert log.damaged == ()


@pytest.mark.parametrize("cut", [1, 100, 1000])
def test_a_torn_last_batch_is_no_damage_and_costs_no_other_row(tmp_path: Path, cut: int) -> None:
    groups = [tiny_group(3) for _ in range(3)]
    path = _segment(tmp_path, *groups)
    path.write_bytes(path.read_bytes()[:-cut])
    log = read_predictions(tmp_path, *AUGUST)
    assert log.table["prediction_id"].to_pylist() == [each for group in groups[:2] for each in group.prediction_ids]
    assert log.damaged == ()


def test_a_damage_before_the_last_batch_is_named_and_the_batches_before_it_are_read(tmp_path: Path) -> None:
    groups = [tiny_group(30) for _ in range(3)]
    path = _segment(tmp_path, *groups)
    content = bytearray(path.read_bytes())
    second = content.index(b"\xff\xff\xff\xff", content.index(b"\x28\xb5\x2f\xfd"))  # after the first zstd frame
    body = content.index(b"\x28\xb5\x2f\xfd", second)
    content[body : body + 4] = b"\0\0\0\0"
    path.write_bytes(content)
    log = read_predictions(tmp_path, *AUGUST)
    assert log.table["prediction_id"].to_pylist() == list(groups[0].prediction_ids)
    [damaged] = log.damaged
    assert damaged.path == path.relative_to(tmp_path).as_posix()
    assert "from byte" in damaged.reason


def test_a_segment_that_is_whole_has_no_torn_batch_only_a_damaged_one(tmp_path: Path) -> None:
    write_segment(tmp_path, tiny_group(30))
    [path] = tmp_path.glob("day=*/*.arrows")
    content = bytearray(path.read_bytes())
    frame = content.index(b"\x28\xb5\x2f\xfd")
    content[frame : frame + 4] = b"\0\0\0\0"
    path.write_bytes(content)
    assert len(read_predictions(tmp_path, *AUGUST).damaged) == 1


def test_a_segment_that_is_none_and_one_of_other_columns_are_named(tmp_path: Path) -> None:
    folder = tmp_path / "day=2026-01-02"
    folder.mkdir()
    (folder / "a.arrows").write_bytes(b"not a stream")
    table = pa.table({"prediction_id": ["x"]})
    with pa.ipc.new_stream(folder / "b.arrows", table.schema) as stream:
        stream.write_table(table)
    (folder / "compacted-c.parquet").write_bytes(b"PAR1")
    log = read_predictions(tmp_path, *AUGUST)
    assert [each.path.partition("/")[2] for each in log.damaged] == ["a.arrows", "b.arrows", "compacted-c.parquet"]
    assert "lacks the columns request_id" in log.damaged[1].reason
    assert (log.table.num_rows, log.segments) == (0, 3)


def test_a_prediction_is_looked_for_only_in_the_days_around_the_time_in_its_id(tmp_path: Path) -> None:
    group = tiny_group(1)
    write_segment(tmp_path, group)
    (tmp_path / "day=2013-08-01").rename(tmp_path / "day=2013-08-02")  # as by a clock that runs behind
    assert find_prediction(tmp_path, group.prediction_ids[0]) is not None
    (tmp_path / "day=2013-08-02").rename(tmp_path / "day=2013-08-09")
    assert find_prediction(tmp_path, group.prediction_ids[0]) is None


def test_a_log_whose_files_go_faster_than_they_are_read_is_an_error_and_no_empty_answer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_segment(tmp_path, tiny_group(1))
    [path] = tmp_path.glob("day=*/*.arrows")

    def listed(root: Path, is_wanted: Any) -> Files:
        return Files(streams=(path.with_name("gone.arrows"),), tables=(), replaced=(), damaged=())

    monkeypatch.setattr("pipelines.monitoring.predictions.list_files", listed)
    with pytest.raises(LogChangesError, match="were gone"):
        read_predictions(tmp_path, *AUGUST)
