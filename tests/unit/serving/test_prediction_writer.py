import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow.ipc

from serving.prediction_writer import Mask, PredictionIds
from tests.fixtures.bundles import tiny_record
from tests.fixtures.prediction_log import NOON_S
from tests.fixtures.prediction_log import logged_rows as read
from tests.fixtures.prediction_log import tiny_group as group
from tests.fixtures.prediction_log import tiny_writer as writer


def test_what_is_left_is_written_when_the_writer_stops(tmp_path: Path) -> None:
    log = writer(tmp_path, flush_every_s=3600)
    log.start()
    log.append(group(3))
    log.stop()
    rows = read(tmp_path)
    assert [row["entity"] for row in rows] == ["N0", "N1", "N2"]
    assert rows[0]["served_at"] == "2013-08-01T12:00:00.000000+00:00"
    assert rows[0]["event_time"] == "2013-07-01T08:30:00"
    assert (rows[0]["score"], rows[0]["decision"], rows[0]["error"]) == (0.25, False, None)
    assert (log.buffered_rows, log.written_rows, log.dropped_rows) == (0, 3, 0)
    assert not [path for path in tmp_path.rglob("*") if path.is_file() and path.suffix != ".arrows"]


def test_rows_lie_in_the_folder_of_the_day_on_which_they_were_served(tmp_path: Path) -> None:
    log = writer(tmp_path, flush_every_s=3600)
    log.start()
    log.append(group(1))
    log.append(group(1, served_at_s=NOON_S + 86_400))
    log.stop()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["day=2013-08-01", "day=2013-08-02"]


def test_personal_values_are_masked_alike_and_missing_ones_stay_missing(tmp_path: Path) -> None:
    log = writer(tmp_path, flush_every_s=3600)
    log.start()
    log.append(group(2))
    log.append(group(1, record=lambda row: tiny_record(row, passenger=None)))
    log.stop()
    inputs = [row["inputs"] for row in read(tmp_path)]
    assert "Ada" not in "".join(inputs)
    masked = Mask(b"key").value("Ada Lovelace")
    assert [masked in each for each in inputs] == [True, True, False]
    assert '"passenger":null' in inputs[2]
    assert Mask(b"another").value("Ada Lovelace") != masked


def test_a_full_buffer_drops_and_counts_and_never_waits(tmp_path: Path) -> None:
    log = writer(tmp_path, maximum_rows=10)
    log.append(group(8))
    log.append(group(3))
    log.append(group(2))
    assert (log.accepted_rows, log.dropped_rows, log.buffered_rows) == (10, 3, 10)


def test_rows_wait_while_the_disk_refuses_and_are_written_when_it_does_not(tmp_path: Path) -> None:
    root = tmp_path / "log"
    log = writer(root, flush_every_s=0.01)
    log.start()
    blocked = root / "day=2013-08-01"
    blocked.write_text("a file where the folder should be")
    log.append(group(2))
    wait_until(lambda: log.failed_flushes > 0)
    assert log.buffered_rows == 2
    assert log.lag_s > 0
    blocked.unlink()
    log.stop()
    assert len(read(root)) == 2
    assert log.lost_rows == 0


def test_a_request_that_cannot_be_logged_costs_only_itself(tmp_path: Path) -> None:
    log = writer(tmp_path, flush_every_s=3600)
    log.start()
    endless: dict[str, Any] = {}
    endless["humid"] = endless
    log.append(group(1, record=lambda row: endless))
    log.append(group(2))
    log.stop()
    assert len(read(tmp_path)) == 2
    assert (log.lost_rows, log.buffered_rows) == (1, 0)


def test_a_reader_never_sees_half_a_segment(tmp_path: Path) -> None:
    log = writer(tmp_path, flush_every_s=0.001)
    log.start()
    failures: list[Exception] = []
    finished = threading.Event()

    def look() -> None:
        while not finished.is_set():
            try:
                read(tmp_path)
            except Exception as error:  # noqa: BLE001  any error of the reader is what this test is about
                failures.append(error)

    reader = threading.Thread(target=look)
    reader.start()
    for _ in range(50):
        log.append(group(20))
        time.sleep(0)
    log.stop()
    finished.set()
    reader.join()
    assert failures == []
    assert len(read(tmp_path)) == 1000


def test_ids_are_unique_and_sort_by_time_even_when_the_clock_steps_back() -> None:
    times = iter([5.0, 5.0, 4.0, 5.001, *[6.0] * 5000])
    ids = PredictionIds(lambda: next(times))
    made = [ids.next() for _ in range(5004)]
    assert made == sorted(set(made))
    assert {each[14] for each in made} == {"7"}
    assert {len(each) for each in made} == {36}


def test_segments_carry_the_contracts_columns(tmp_path: Path) -> None:
    log = writer(tmp_path)
    log.start()
    log.append(group(1))
    log.stop()
    [row] = read(tmp_path)
    assert list(row) == [
        "prediction_id", "request_id", "served_at", "event_time", "project", "version", "bundle", "slot", "rollout",
        "share", "entity", "score", "decision", "latency_us", "error", "inputs", "client", "unusual",
    ]  # fmt: skip


def wait_until(holds: Callable[[], bool], timeout_s: float = 10.0) -> None:
    deadline = time.monotonic() + timeout_s
    while not holds():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.005)


def test_rows_that_come_while_a_segment_is_written_wait_for_the_next_flush(tmp_path: Path) -> None:
    """Chasing them would make a stream of tiny batches, each with its own fsync, under steady traffic."""
    log = writer(tmp_path)

    class BringsAnother(dict[str, Any]):
        def get(self, key: str, default: Any = None) -> Any:
            if key == "scheduled" and log.accepted_rows < 5:
                log.append(group(record=lambda row: BringsAnother(tiny_record(row))))
            return super().get(key, default)

    log.append(group(record=lambda row: BringsAnother(tiny_record(row))))
    for flushes in (1, 2, 3):
        log._flush()
        assert (log.written_rows, log.buffered_rows) == (flushes, 1)
        [segment] = tmp_path.glob("day=*/*.arrows")
        with pyarrow.ipc.open_stream(segment.read_bytes()) as stream:
            assert [batch.num_rows for batch in stream] == [1] * flushes
