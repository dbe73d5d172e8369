import json
import threading
import time
from collections import Counter
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from pipelines.monitoring import compaction
from pipelines.monitoring.compaction import compact_day, locked
from pipelines.monitoring.forgetting import finish_forgetting, forget_entity
from pipelines.monitoring.forgotten import read_forgotten
from pipelines.monitoring.predictions import find_prediction, read_predictions
from pipelines.monitoring.retention import read_aggregates, reduce_day
from serving.prediction_writer import LoggedGroup
from tests.fixtures.bundles import tiny_record
from tests.fixtures.prediction_log import NOON_S, tiny_group, tiny_writer, write_segment

DAY = "2013-08-01"
NOW = datetime(2013, 8, 3, 12, tzinfo=UTC)
LATER = NOW + timedelta(hours=3)


def _group(rows: int = 4, *, days: int = 0, **changes: Any) -> LoggedGroup:
    """Planes N0, N1 …; N1's records also say who is on board."""
    changes.setdefault("record", lambda row: tiny_record(row, tailnum=f"N{row}"))
    return tiny_group(rows, served_at_s=NOON_S + 86_400 * days, **changes)


def _entities(root: Path) -> Counter[str]:
    return Counter(read_predictions(root, date(2013, 1, 1), date(2014, 1, 1)).table["entity"].to_pylist())


def _bytes(root: Path) -> bytes:
    return b"".join(path.read_bytes() for path in root.rglob("*") if path.is_file())


def _forget(root: Path, entity: str = "N1", now: datetime = NOW) -> Any:
    with locked(root):
        return forget_entity(root, entity, now)


def test_rows_go_from_segments_compacted_files_and_samples_and_all_others_stay(tmp_path: Path) -> None:
    old = _group(errors=["boom"] * 4, scores=[None] * 4)
    write_segment(tmp_path, old)
    compact_day(tmp_path, DAY)
    reduce_day(tmp_path, DAY, keep_days=30)
    counts = read_aggregates(tmp_path)
    compacted, fresh = _group(days=1), _group(days=2)
    write_segment(tmp_path, compacted)
    compact_day(tmp_path, "2013-08-02")
    write_segment(tmp_path, fresh)
    removed = _forget(tmp_path, now=NOW + timedelta(days=1))
    assert (removed.rows, removed.files, removed.is_done) == (3, 3, True)
    assert removed.days == [DAY, "2013-08-02", "2013-08-03"]
    assert sorted(removed.prediction_ids) == sorted(group.prediction_ids[1] for group in (old, compacted, fresh))
    assert _entities(tmp_path) == {"N0": 3, "N2": 3, "N3": 3}
    assert find_prediction(tmp_path, fresh.prediction_ids[1]) is None
    assert find_prediction(tmp_path, fresh.prediction_ids[2]) is not None
    assert b"N1" not in _bytes(tmp_path), "not in a file, and not in the list either"
    assert read_aggregates(tmp_path) == counts, "counts name nobody"
    assert _forget(tmp_path).rows == 0


def test_what_a_server_still_writes_is_hidden_at_once_and_gone_after_the_next_compaction(tmp_path: Path) -> None:
    writer = tiny_writer(tmp_path, flush_every_s=0.01)
    writer.start()
    writer.append(_group())
    while writer.written_rows < 4:
        time.sleep(0.01)
    removed = _forget(tmp_path)
    assert (removed.rows, removed.is_done, len(removed.held)) == (0, False, 1)
    assert _entities(tmp_path) == {"N0": 1, "N2": 1, "N3": 1}
    writer.append(_group(days=3))  # whoever comes back later is logged
    writer.stop()
    assert _entities(tmp_path)["N1"] == 1
    with locked(tmp_path):
        done = compact_day(tmp_path, DAY)
        assert done.merged == 1
        assert finish_forgetting(tmp_path, LATER) == 0
    assert read_forgotten(tmp_path) == ()
    assert _entities(tmp_path) == {"N0": 2, "N1": 1, "N2": 2, "N3": 2}


def test_rows_that_were_answered_before_and_written_after_are_not_seen_and_go_later(tmp_path: Path) -> None:
    removed = _forget(tmp_path)
    assert removed.is_done
    write_segment(tmp_path, _group())
    assert "N1" not in _entities(tmp_path)
    with locked(tmp_path):
        assert finish_forgetting(tmp_path, NOW + timedelta(minutes=1)) == 1, "more may come"
        assert b"N1" not in _bytes(tmp_path)
        assert finish_forgetting(tmp_path, LATER) == 0


@pytest.mark.parametrize("step", ["sync", "_remove"])
def test_after_a_crash_nobody_sees_a_row_of_it_and_every_other_row_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    write_segment(tmp_path, _group())
    compact_day(tmp_path, DAY)

    def crash(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(compaction, step, crash)
        with pytest.raises(KeyboardInterrupt):
            _forget(tmp_path)
    assert _entities(tmp_path) == {"N0": 1, "N2": 1, "N3": 1}
    with locked(tmp_path):
        finish_forgetting(tmp_path, LATER)
    assert _entities(tmp_path) == {"N0": 1, "N2": 1, "N3": 1}
    assert b"N1" not in _bytes(tmp_path)
    assert len(list((tmp_path / f"day={DAY}").iterdir())) == 1


def test_a_day_that_was_counted_before_a_crash_is_not_counted_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_segment(tmp_path, _group(50))
    compact_day(tmp_path, DAY)

    def crash(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("pipelines.monitoring.retention.replace", crash)
        with pytest.raises(KeyboardInterrupt):
            reduce_day(tmp_path, DAY, keep_days=30)
    assert read_aggregates(tmp_path)["requests"].to_pylist() == [50]
    assert _forget(tmp_path).rows == 1
    assert reduce_day(tmp_path, DAY, keep_days=30) is not None
    assert read_aggregates(tmp_path)["requests"].to_pylist() == [50]


def test_a_damaged_file_is_named_and_its_rows_stay_hidden(tmp_path: Path) -> None:
    for _ in range(2):
        write_segment(tmp_path, _group(30))
    broken, whole = sorted((tmp_path / f"day={DAY}").glob("*.arrows"))
    content = bytearray(broken.read_bytes())
    frame = content.index(b"\x28\xb5\x2f\xfd")  # of zstd
    content[frame : frame + 4] = b"\0\0\0\0"
    broken.write_bytes(content)
    removed = _forget(tmp_path)
    assert not removed.is_done
    assert [each.path for each in removed.damaged] == [f"day={DAY}/{broken.name}"]
    assert (removed.rows, whole.exists(), broken.exists()) == (1, False, True)
    assert "N1" not in _entities(tmp_path)
    with locked(tmp_path):
        assert finish_forgetting(tmp_path, LATER) == 1


def test_the_list_names_nobody(tmp_path: Path) -> None:
    _forget(tmp_path, "N14228")
    text = (tmp_path / ".forgotten.json").read_text()
    assert "N14228" not in text
    assert [sorted(each) for each in json.loads(text)] == [["before", "digest", "salt"]]


def test_readers_and_a_writer_that_are_at_it_see_every_other_row_once_and_nobody_sees_who_was_forgotten(
    tmp_path: Path,
) -> None:
    for days in range(3):
        write_segment(tmp_path, _group(40, days=days - 2))
    compact_day(tmp_path, "2013-07-30")
    seen: list[Counter[str]] = []
    asked, is_over = threading.Event(), threading.Event()

    def read() -> None:
        while not is_over.is_set():
            is_after = asked.is_set()
            found = _entities(tmp_path)
            seen.append(found if is_after else Counter({name: n for name, n in found.items() if name != "N1"}))

    reader = threading.Thread(target=read)
    writer = tiny_writer(tmp_path, flush_every_s=0.01)
    writer.start()
    reader.start()
    try:
        writer.append(_group(40))
        removed = _forget(tmp_path)
        asked.set()
        writer.append(_group(40))
        count = len(seen)
        deadline = time.monotonic() + 60
        while len(seen) < count + 2:
            assert time.monotonic() < deadline
            time.sleep(0.01)
    finally:
        is_over.set()
        reader.join()
        writer.stop()
    assert removed.rows >= 3
    assert all("N1" not in each for each in seen)
    assert all(3 <= each["N2"] <= 5 for each in seen), "as many as were written by then, never twice, never fewer"
    assert all(each["N2"] == each["N3"] for each in seen)
