import asyncio
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pyarrow.ipc
import pytest

from contracts.prediction_row import END_OF_STREAM
from pipelines.monitoring.segments import is_held
from serving.prediction_writer import (
    LogFailedError,
    LogFullError,
    LoggedGroup,
    Mask,
    PredictionIds,
    PredictionWriter,
)
from serving.suspension import drive
from tests.fixtures.bundles import tiny_record
from tests.fixtures.driven import as_future
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


def test_few_requests_with_large_bodies_fill_the_buffer_as_well_and_leave_it_when_they_are_written(
    tmp_path: Path,
) -> None:
    log = writer(tmp_path, maximum_bytes=1000)
    for size_bytes in (900, 200, 100):
        log.append(msgspec.structs.replace(group(1), size_bytes=size_bytes))
    assert (log.accepted_rows, log.dropped_rows) == (2, 1)
    log.start()
    wait_until(lambda: log.buffered_rows == 0)
    log.append(msgspec.structs.replace(group(1), size_bytes=1000))
    log.stop()
    assert (log.written_rows, log.dropped_rows) == (3, 1)


def test_rows_wait_while_the_disk_refuses_and_are_written_when_it_does_not(tmp_path: Path) -> None:
    root = tmp_path / "log"
    root.mkdir()
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


def test_the_ids_of_a_requests_rows_are_as_those_made_one_by_one() -> None:
    ids = PredictionIds(lambda: 5.0)
    made = [*ids.take(1), *ids.take(64), ids.next(), *ids.take(10_000), *ids.take(4096), ids.next()]
    assert len(made) == 14_163
    assert made == sorted(set(made))
    assert {(each[14], len(each)) for each in made} == {("7", 36)}


def test_segments_carry_the_contracts_columns(tmp_path: Path) -> None:
    log = writer(tmp_path)
    log.start()
    log.append(group(1))
    log.stop()
    [row] = read(tmp_path)
    assert list(row) == [
        "prediction_id", "request_id", "served_at", "event_time", "project", "version", "bundle", "slot", "rollout",
        "share", "entity", "score", "decision", "latency_us", "error", "inputs", "client", "unusual", "cached",
        "uncounted", "features",
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


def test_a_segment_is_held_while_it_is_written_and_ended_when_it_is_whole(tmp_path: Path) -> None:
    log = writer(tmp_path)
    log.append(group(1))
    log._flush()
    [path] = tmp_path.glob("day=*/*.arrows")
    assert is_held(path)
    assert not path.read_bytes().endswith(END_OF_STREAM)
    log._segments.close()
    assert not is_held(path)
    assert path.read_bytes().endswith(END_OF_STREAM)


def test_a_segment_is_replaced_when_it_is_large_or_old(tmp_path: Path) -> None:
    log = writer(tmp_path)

    def flush(expected: int) -> None:
        log.append(group(1))
        log._flush()
        log._segments.retire()
        assert len(list(tmp_path.glob("day=*/*.arrows"))) == expected

    flush(1)
    flush(1)
    log._segments._maximum_bytes = 100
    flush(2)
    log._segments._maximum_bytes = 1 << 20
    flush(2)
    log._segments._maximum_age_s = 0.0
    flush(2)
    flush(3)
    assert len(read(tmp_path)) == 6
    assert all(path.read_bytes().endswith(END_OF_STREAM) for path in tmp_path.glob("day=*/*.arrows"))


def test_around_midnight_rows_of_both_days_go_to_one_segment_each(tmp_path: Path) -> None:
    log = writer(tmp_path)
    for number in range(6):
        log.append(group(1, served_at_s=NOON_S + 86_400 * (number % 2)))
    log._flush()
    assert len(read(tmp_path)) == 6
    assert len(list(tmp_path.glob("day=*/*.arrows"))) == 2


def test_a_buffer_that_the_disk_does_not_empty_drops_rows_and_asks_again_without_a_rush(tmp_path: Path) -> None:
    root = tmp_path / "log"
    root.mkdir()
    log = writer(root, maximum_rows=5000, flush_every_s=0.05)
    log.start()
    (root / "day=2013-08-01").write_text("a file where the folder should be")
    for _ in range(60):
        log.append(group(100))
    assert (log.buffered_rows, log.dropped_rows) == (5000, 1000)
    wait_until(lambda: log.failed_flushes >= 2)
    (root / "day=2013-08-01").unlink()
    wait_until(lambda: log.buffered_rows == 0)
    log.stop()
    assert len(read(root)) == 5000


def test_with_the_policy_drop_no_answer_waits(tmp_path: Path) -> None:
    assert writer(tmp_path).committed() is None


def audited(root: Path, work: Callable[[PredictionWriter], Any], **more: Any) -> PredictionWriter:
    """Runs the coroutine `work` on an event loop, beside a writer of the policy `fail` that is stopped at its end."""
    log = writer(root, policy="fail", flush_every_s=3600, **more)

    async def run() -> None:
        log.start(asyncio.get_running_loop())
        try:
            await asyncio.wait_for(work(log), 20)
        finally:
            await asyncio.to_thread(log.stop)

    asyncio.run(run())
    return log


async def answer(log: PredictionWriter, logged: LoggedGroup, root: Path | None = None) -> None:
    """As a request does; with `root`, it looks whether its row is there when it may be answered."""
    log.append(logged)
    waiter = log.committed()
    assert waiter is not None
    await waiter
    if root is not None:
        assert logged.prediction_ids[0] in {row["prediction_id"] for row in read(root)}


def test_with_the_policy_fail_an_answer_waits_until_its_row_is_on_disk_and_many_share_a_commit(tmp_path: Path) -> None:
    async def work(log: PredictionWriter) -> None:
        for _ in range(3):
            await asyncio.gather(*(as_future(answer(log, group(1), tmp_path)) for _ in range(20)))

    log = audited(tmp_path, work)
    assert (log.written_rows, log.lost_rows, log.refused_rows) == (60, 0, 0)
    [path] = tmp_path.glob("day=*/*.arrows")
    with pyarrow.ipc.open_stream(path.read_bytes()) as stream:
        assert len(list(stream)) <= 30


def test_an_answer_that_asks_after_its_commit_is_not_forgotten(tmp_path: Path) -> None:
    async def work(log: PredictionWriter) -> None:
        log.append(group(1))
        log._wake.set()
        while log.written_rows < 1:
            await asyncio.sleep(0.001)

        async def late() -> None:
            waiter = log.committed()
            assert waiter is not None
            await waiter

        await as_future(late())

    audited(tmp_path, work)


def test_what_the_disk_refuses_fails_its_answers_is_not_logged_later_and_closes_the_log_for_a_second(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("serving.prediction_writer.RETRY_AFTER_S", 0.2)
    blocked = tmp_path / "day=2013-08-01"

    async def work(log: PredictionWriter) -> None:
        blocked.write_text("a file where the folder should be")
        ended = await asyncio.gather(*(as_future(answer(log, group(1))) for _ in range(5)), return_exceptions=True)
        assert [type(each) for each in ended] == [LogFailedError] * 5
        with pytest.raises(LogFullError, match="the disk has refused"):
            log.append(group(1))
        blocked.unlink()
        await asyncio.sleep(0.25)
        await as_future(answer(log, group(1, request_id="after")))

    log = audited(tmp_path, work)
    assert [row["request_id"] for row in read(tmp_path)] == ["after"]
    assert (log.written_rows, log.lost_rows, log.refused_rows, log.buffered_rows) == (1, 5, 1, 0)
    assert log.failed_flushes == 1


def test_a_full_buffer_refuses_with_the_policy_fail(tmp_path: Path) -> None:
    log = writer(tmp_path, policy="fail", maximum_rows=2)
    log.append(group(2))
    with pytest.raises(LogFullError, match="2 predictions wait for the disk"):
        log.append(group(1))
    assert (log.refused_rows, log.dropped_rows, log.accepted_rows) == (1, 0, 2)


def test_a_row_that_cannot_be_logged_fails_its_answer_and_those_committed_before_are_answered(tmp_path: Path) -> None:
    endless: dict[str, Any] = {}
    endless["humid"] = endless

    async def work(log: PredictionWriter) -> None:
        ended = await asyncio.gather(
            as_future(answer(log, group(1))),
            as_future(answer(log, group(1, record=lambda row: endless))),
            return_exceptions=True,
        )
        assert [type(each) for each in ended] == [type(None), LogFailedError]
        await as_future(answer(log, group(1)))

    assert audited(tmp_path, work).written_rows == 2


def test_what_waits_when_the_server_stops_is_committed_and_answered(tmp_path: Path) -> None:
    async def work(log: PredictionWriter) -> None:
        waiting = [as_future(answer(log, group(1))) for _ in range(50)]
        await asyncio.to_thread(log.stop)
        await asyncio.gather(*waiting)

    assert len(read(tmp_path)) == 0
    assert audited(tmp_path, work).written_rows == 50


def test_one_answer_that_cannot_be_sent_does_not_hold_up_the_others(tmp_path: Path) -> None:
    async def work(log: PredictionWriter) -> None:
        def broken(result: None) -> None:
            raise RuntimeError("the connection is gone")

        drive(answer(log, group(1)), broken, lambda error: None)
        await as_future(answer(log, group(1)))

    assert audited(tmp_path, work).written_rows == 2


def test_an_answer_that_comes_after_the_end_of_the_log_fails_and_does_not_wait_for_ever(tmp_path: Path) -> None:
    async def work(log: PredictionWriter) -> None:
        await asyncio.to_thread(log.stop)
        with pytest.raises(LogFailedError, match="has ended"):
            await as_future(answer(log, group(1)))

    audited(tmp_path, work)


def test_the_policy_fail_needs_the_event_loop(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="needs the event loop"):
        writer(tmp_path, policy="fail").start()
