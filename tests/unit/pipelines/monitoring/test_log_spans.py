"""A watch reads the files with events of its days, and finds in them what a reading of the whole log finds."""

import os
from datetime import date, datetime
from pathlib import Path

import pytest

from pipelines.monitoring import log_spans
from pipelines.monitoring.compaction import compact_day
from pipelines.monitoring.log_spans import WindowFiles, files_within
from pipelines.monitoring.predictions import read_predictions
from tests.fixtures.bundles import tiny_record
from tests.fixtures.prediction_log import NOON_S, tiny_group, write_segment

DAY_S = 86_400
START, END = datetime(2013, 7, 2), datetime(2013, 7, 3)


@pytest.fixture
def log(tmp_path: Path) -> Path:
    """Three days of serving in a file each; their events are a month earlier, and one of the first has no time."""
    root = tmp_path / "log"
    for day in range(3):
        times = [f"2013-07-0{day + 1}T{hour:02}:30" for hour in range(10)] + ["soon"] * (day == 0)
        records = [tiny_record(row, scheduled=time) for row, time in enumerate(times)]
        write_segment(root, tiny_group(len(times), record=records.__getitem__, served_at_s=NOON_S + day * DAY_S))
        compact_day(root, f"2013-08-0{day + 1}")
    return root


def _chosen(found: WindowFiles) -> list[str]:
    return [path.parent.name for path in found.files.tables]


def test_only_files_with_events_of_the_window_are_read_and_all_are_counted(log: Path, tmp_path: Path) -> None:
    found = files_within(log, tmp_path / "spans.json", START, END)
    assert _chosen(found) == ["day=2013-08-02"]
    whole = read_predictions(log, date(2013, 7, 2), date(2013, 7, 3))
    assert whole.table.num_rows == 10
    assert (found.listed, found.undated) == (whole.segments, whole.undated) == (3, 1)


def test_when_the_events_of_a_file_are_is_found_out_once(
    log: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = tmp_path / "spans.json"
    first = files_within(log, cache, START, END)
    asked: list[Path] = []
    monkeypatch.setattr(log_spans, "connected", lambda root, files, damaged: asked.extend(files.all))
    assert files_within(log, cache, START, END) == first
    assert asked == []
    cache.write_bytes(b"{")
    monkeypatch.undo()
    assert files_within(log, cache, START, END) == first


def test_a_segment_is_read_where_it_has_events_of_the_window_and_asked_again_when_it_has_grown(
    log: Path, tmp_path: Path
) -> None:
    cache = tmp_path / "spans.json"
    write_segment(log, tiny_group(2, record=lambda row: tiny_record(row, scheduled="2013-07-05T10:00")))
    before = files_within(log, cache, START, END)
    assert (before.files.streams, before.listed) == ((), 4)
    (segment,) = log.glob("*/*.arrows")
    os.utime(segment, ns=(1, 1))
    cache.write_bytes(cache.read_bytes().replace(b"2013-07-05", b"2013-07-02"))
    assert files_within(log, cache, START, END) == before
    whole = files_within(log, cache, datetime(2013, 7, 5), datetime(2013, 7, 6))
    assert whole.files.streams == (segment,)


def test_a_damaged_segment_is_read_as_far_as_it_can_be(log: Path, tmp_path: Path) -> None:
    cache = tmp_path / "spans.json"
    write_segment(log, tiny_group(2, record=lambda row: tiny_record(row, scheduled="2013-07-05T10:00")))
    (segment,) = log.glob("*/*.arrows")
    content = bytearray(segment.read_bytes())
    batch = content.index(b"\xff\xff\xff\xff", 4) + 8  # behind the schema
    content[batch : batch + 16] = bytes(16)
    segment.write_bytes(content)
    for _ in range(2):
        found = files_within(log, cache, START, END)
        assert found.files.streams == (segment,)
        assert found.name(START, END) is None


def test_a_file_that_is_damaged_after_it_was_read_once_is_named_wherever_its_events_are(
    log: Path, tmp_path: Path
) -> None:
    cache = tmp_path / "spans.json"
    files_within(log, cache, START, END)
    (broken,) = (log / "day=2013-08-03").glob("*.parquet")
    broken.write_bytes(b"PAR1 and nothing else PAR1")
    for _ in range(2):
        found = files_within(log, cache, START, END)
        assert [each.path for each in found.files.damaged] == [broken.relative_to(log).as_posix()]
        assert _chosen(found) == ["day=2013-08-02"]
