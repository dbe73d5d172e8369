import fcntl
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from pipelines.monitoring.compaction import CompactionRunsError, compact_day, locked
from pipelines.monitoring.predictions import find_prediction, read_predictions
from tests.fixtures.prediction_log import NOON_S, tiny_group, tiny_writer, write_segment

DAY = "2013-08-01"


def ids(root: Path) -> list[str]:
    """Of all predictions that a reader sees; each must be seen once."""
    from datetime import date

    found: list[str] = read_predictions(root, date(2013, 1, 1), date(2014, 1, 1)).table["prediction_id"].to_pylist()
    assert len(found) == len(set(found))
    return found


def three_segments(root: Path) -> list[str]:
    groups = [tiny_group(4, scores=[None, 0.5, 0.5, 0.5], errors=["boom", None, None, None]) for _ in range(3)]
    for group in reversed(groups):
        write_segment(root, group)
    return [name for group in groups for name in group.prediction_ids]


def files(root: Path) -> list[str]:
    return sorted(path.name for path in (root / f"day={DAY}").iterdir())


def test_the_segments_of_a_day_become_one_sorted_parquet_file_with_the_same_rows(tmp_path: Path) -> None:
    expected = three_segments(tmp_path)
    before = read_rows(tmp_path)
    done = compact_day(tmp_path, DAY)
    assert (done.rows, done.merged, done.held, done.damaged) == (12, 3, 0, ())
    [name] = files(tmp_path)
    table = pq.ParquetFile(tmp_path / f"day={DAY}" / name).read()
    assert table["prediction_id"].to_pylist() == sorted(expected)
    assert read_rows(tmp_path) == before
    found = find_prediction(tmp_path, expected[0])
    assert found is not None
    assert found["error"] == "boom"


def test_a_second_compaction_changes_nothing(tmp_path: Path) -> None:
    three_segments(tmp_path)
    compact_day(tmp_path, DAY)
    before = files(tmp_path)
    assert compact_day(tmp_path, DAY).merged == 0
    assert files(tmp_path) == before


def test_a_late_segment_joins_the_file_of_its_day(tmp_path: Path) -> None:
    expected = three_segments(tmp_path)
    compact_day(tmp_path, DAY)
    late = tiny_group(2)
    write_segment(tmp_path, late)
    assert compact_day(tmp_path, DAY).merged == 2
    assert ids(tmp_path) == sorted([*expected, *late.prediction_ids])
    assert len(files(tmp_path)) == 1


def test_a_dry_run_says_what_would_be_done_and_does_not(tmp_path: Path) -> None:
    three_segments(tmp_path)
    before = files(tmp_path)
    done = compact_day(tmp_path, DAY, is_dry_run=True)
    assert (done.merged, done.rows) == (3, 12)
    assert files(tmp_path) == before


def test_parquet_segments_without_the_later_columns_are_compacted_too(tmp_path: Path) -> None:
    write_segment(tmp_path, tiny_group(3))
    compact_day(tmp_path, DAY)
    [name] = files(tmp_path)
    path = tmp_path / f"day={DAY}" / name
    old = pq.ParquetFile(path).read().drop_columns(["client", "unusual"]).replace_schema_metadata(None)
    path.unlink()
    pq.write_table(old, path.with_name("old.parquet"))
    new = tiny_group(1, client="ada")
    write_segment(tmp_path, new)
    assert compact_day(tmp_path, DAY).merged == 2
    assert [row["client"] for row in read_rows(tmp_path)] == [None, None, None, "ada"]


def test_the_segment_of_a_writer_that_lives_is_left_for_the_next_time(tmp_path: Path) -> None:
    expected = three_segments(tmp_path)
    alive = tiny_writer(tmp_path)
    alive.start()
    group = tiny_group(1)
    alive.append(group)
    deadline = time.monotonic() + 10
    while alive.written_rows < 1:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    done = compact_day(tmp_path, DAY)
    assert (done.merged, done.held) == (3, 1)
    assert ids(tmp_path) == sorted([*expected, *group.prediction_ids])
    alive.stop()
    assert compact_day(tmp_path, DAY).merged == 2
    assert ids(tmp_path) == sorted([*expected, *group.prediction_ids])


def test_a_torn_last_batch_of_a_crashed_writer_is_dropped_and_the_batches_before_it_are_kept(tmp_path: Path) -> None:
    [kept, torn] = tiny_group(3), tiny_group(2)
    log = tiny_writer(tmp_path)
    for group in (kept, torn):
        log.append(group)
        log._flush()
    [path] = (tmp_path / f"day={DAY}").iterdir()
    os.truncate(path, path.stat().st_size - 20)  # what is left of a process that was killed while it wrote
    for segment in log._segments._open.values():
        os.close(segment._handle)
    assert ids(tmp_path) == list(kept.prediction_ids)
    assert compact_day(tmp_path, DAY).rows == 3
    assert ids(tmp_path) == list(kept.prediction_ids)


def test_a_damaged_segment_is_named_and_stays_and_its_rows_are_seen_once(tmp_path: Path) -> None:
    log = tiny_writer(tmp_path)
    groups = [tiny_group(20) for _ in range(3)]
    for group in groups:
        log.append(group)
        log._flush()
    log._segments.close()
    [path] = (tmp_path / f"day={DAY}").iterdir()
    content = bytearray(path.read_bytes())
    middle = len(content) // 2
    content[middle : middle + 64] = bytes(range(64))
    path.write_bytes(content)
    other = tiny_group(1)
    write_segment(tmp_path, other)
    done = compact_day(tmp_path, DAY)
    assert (done.merged, [each.path for each in done.damaged]) == (1, [f"day={DAY}/{path.name}"])
    assert path.exists()
    assert set(groups[0].prediction_ids) | set(other.prediction_ids) <= set(ids(tmp_path))


def test_two_compactions_at_once_are_one(tmp_path: Path) -> None:
    with locked(tmp_path), pytest.raises(CompactionRunsError, match="another compaction"), locked(tmp_path):
        pass
    with locked(tmp_path):
        pass


CRASH = """
import os, signal, sys
from pathlib import Path
from pipelines.monitoring import compaction
name, call = sys.argv[2], int(sys.argv[3])
original, calls = getattr(compaction, name), []
def crash(*arguments):
    calls.append(1)
    if len(calls) == call:
        os.kill(os.getpid(), signal.SIGKILL)
    return original(*arguments)
setattr(compaction, name, crash)
compaction.compact_day(Path(sys.argv[1]), "2013-08-01")
"""


@pytest.mark.parametrize(
    ("name", "call", "replaced"),
    [
        ("_limit", 1, False),  # before the new file is begun
        ("sync", 1, False),  # it is written, and still a draft
        ("sync", 2, True),  # it is in place, nothing has been removed
        ("_remove", 2, True),  # the same, later; the first call is for left-overs
        ("sync", 3, True),  # all has been done
    ],
)
def test_a_compaction_killed_at_any_point_shows_each_row_once_and_is_finished_by_the_next(
    tmp_path: Path, name: str, call: int, replaced: bool
) -> None:
    expected = sorted(three_segments(tmp_path))
    killed = subprocess.run([sys.executable, "-c", CRASH, str(tmp_path), name, str(call)], capture_output=True)
    assert killed.returncode == -signal.SIGKILL, killed.stderr.decode()
    assert any(name.endswith(".parquet") for name in files(tmp_path)) is replaced
    assert ids(tmp_path) == expected
    compact_day(tmp_path, DAY)
    assert ids(tmp_path) == expected
    [left] = files(tmp_path)
    assert left.startswith("compacted-")


def test_a_reader_beside_compactions_sees_each_row_once_every_time(tmp_path: Path) -> None:
    expected = three_segments(tmp_path)
    context = multiprocessing.get_context("spawn")
    worker = context.Process(target=compact_again_and_again, args=(tmp_path, 4))
    worker.start()
    looks = 0
    while worker.is_alive() or looks == 0:
        assert set(expected) <= set(ids(tmp_path))
        looks += 1
    worker.join()
    assert worker.exitcode == 0
    assert len(ids(tmp_path)) == 12 + 4


def compact_again_and_again(root: Path, times: int) -> None:
    for _ in range(times):
        write_segment(root, tiny_group(1))
        compact_day(root, DAY)


def test_a_draft_that_somebody_writes_is_not_removed(tmp_path: Path) -> None:
    three_segments(tmp_path)
    stale, live = (tmp_path / f"day={DAY}" / name for name in (".stale.draft", ".live.draft"))
    stale.touch()
    with live.open("w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        compact_day(tmp_path, DAY)
        assert (stale.exists(), live.exists()) == (False, True)


def read_rows(root: Path) -> list[dict[str, Any]]:
    from datetime import date

    found: list[dict[str, Any]] = read_predictions(root, date(2013, 1, 1), date(2014, 1, 1)).table.to_pylist()
    return found


def test_other_days_are_left_alone(tmp_path: Path) -> None:
    three_segments(tmp_path)
    write_segment(tmp_path, tiny_group(1, served_at_s=NOON_S + 86_400))
    compact_day(tmp_path, DAY)
    assert [path.suffix for path in (tmp_path / "day=2013-08-02").iterdir()] == [".arrows"]
