"""What the prediction log keeps when its process is stopped or killed, or the disk is full; in real processes."""

import asyncio
import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from datetime import date
from pathlib import Path
from typing import Any

import httpx
import pytest

from contracts.prediction_row import END_OF_STREAM
from pipelines.monitoring.compaction import compact_day
from pipelines.monitoring.predictions import find_prediction, read_predictions
from tests.fixtures.bundles import tiny_bundle, tiny_record
from tests.fixtures.model_servers import ModelServerProcess

Start = Callable[..., ModelServerProcess]
CONNECTIONS = 8


def logged(root: Path) -> set[str]:
    """The ids of all logged predictions, each of which must be there once."""
    found: list[str] = read_predictions(root, date(2013, 1, 1), date(2014, 1, 1)).table["prediction_id"].to_pylist()
    assert len(found) == len(set(found))
    return set(found)


def answered_until(
    server: ModelServerProcess,
    end: Callable[[], Any],
    rows: int = 400,
    seconds: float = 0.0,
    ends: list[Exception] | None = None,
) -> dict[str, float]:
    """Sends requests over several connections, calls `end` when `rows` answers are there and the first of them is as
    many `seconds` old, and gives the id of each prediction that was answered, with when: on the monotonic clock. What
    ended each connection goes into `ends`."""
    answered: dict[str, float] = {}

    async def connection(client: httpx.AsyncClient) -> None:
        try:
            while True:
                answer = await client.post("/v1/predict", json={"records": [tiny_record(), tiny_record(1)]})
                if answer.status_code != 200:
                    return
                for prediction in answer.json()["predictions"]:
                    answered[prediction["prediction_id"]] = time.monotonic()
                age_s = time.monotonic() - next(iter(answered.values()))
                if len(answered) >= rows and age_s >= seconds and not ended.is_set():
                    ended.set()
                    end()
        except httpx.HTTPError as error:
            if ends is not None:
                ends.append(error)

    async def run() -> None:
        async with httpx.AsyncClient(base_url=server.url, trust_env=False, timeout=20) as client:
            await asyncio.gather(*(connection(client) for _ in range(CONNECTIONS)))

    ended = asyncio.Event()
    asyncio.run(run())
    assert ended.is_set()
    return answered


@pytest.fixture
def server(model_servers: Start, tmp_path: Path) -> ModelServerProcess:
    started = model_servers()
    started.install(tiny_bundle(tmp_path / "bundles"), "1")
    return started


def test_a_server_terminated_under_load_loses_no_request_and_no_row(server: ModelServerProcess) -> None:
    ends: list[Exception] = []
    answered = answered_until(server, lambda: server.process.send_signal(signal.SIGTERM), ends=ends)
    assert server.process.wait(20) == 0
    # every connection was answered to its end; only a new one finds nobody who listens
    assert [type(error) for error in ends] == [httpx.ConnectError] * CONNECTIONS
    assert set(answered) <= logged(server.predictions)
    assert find_prediction(server.predictions, next(iter(answered))) is not None


def test_a_log_that_cannot_be_written_at_the_start_is_told_and_begins_once_it_can(
    model_servers: Start, tmp_path: Path
) -> None:
    (tmp_path / "mount").touch()  # nothing can be made below a file, by root neither
    server = model_servers(predictions=str(tmp_path / "mount" / "log"))
    told = server.log.read_text()
    assert f"PACELINE_SERVING_PREDICTIONS is {tmp_path}/mount/log, which cannot be written: [Errno 20]" in told
    assert "predictions are answered and not logged until it can: let the server's user write there" in told
    assert "Traceback" not in told
    server.install(tiny_bundle(tmp_path / "bundles"), "1")
    answered = {
        each["prediction_id"] for each in server.predict(tiny_record()).raise_for_status().json()["predictions"]
    }
    (tmp_path / "mount").unlink()
    assert server.stop() == 0
    assert logged(tmp_path / "mount" / "log") == answered


def test_a_server_killed_under_load_loses_at_most_the_last_second(server: ModelServerProcess) -> None:
    killed: list[float] = []

    def kill() -> None:
        killed.append(time.monotonic())
        server.process.kill()

    answered = answered_until(server, kill, seconds=2.0)
    server.process.wait(20)
    old_enough = {each for each, moment in answered.items() if moment < killed[0] - 1.0}
    assert old_enough
    assert old_enough <= logged(server.predictions)


def test_an_audited_server_killed_under_load_has_every_row_that_it_answered(
    model_servers: Start, tmp_path: Path
) -> None:
    server = model_servers(log_policy="fail")
    server.install(tiny_bundle(tmp_path / "bundles"), "1")
    answered = answered_until(server, server.process.kill)
    server.process.wait(20)
    assert set(answered) <= logged(server.predictions)


def test_the_log_of_a_server_that_lives_can_be_read_and_compacted_meanwhile(server: ModelServerProcess) -> None:
    answer = server.predict(tiny_record(distance=99_000.0), tiny_record(carrier="ZZ")).json()
    ids = [each["prediction_id"] for each in answer["predictions"]]
    deadline = time.monotonic() + 10
    while not set(ids) <= logged(server.predictions):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    [folder] = server.predictions.glob("day=*")
    assert compact_day(server.predictions, folder.name.removeprefix("day=")).held == 1
    assert set(ids) <= logged(server.predictions)


AUDITED = """
import asyncio, sys
from pathlib import Path
from tests.fixtures.driven import as_future
from tests.fixtures.prediction_log import tiny_group, tiny_writer

log = tiny_writer(Path(sys.argv[1]), policy="fail")

async def answer():
    while True:
        group = tiny_group(2)
        log.append(group)
        await log.committed()
        print(*group.prediction_ids, flush=True)
        await asyncio.sleep(0)

async def main():
    log.start(asyncio.get_running_loop())
    await asyncio.gather(*(as_future(answer()) for _ in range(16)))

asyncio.run(main())
"""


def test_a_process_killed_under_load_has_every_row_that_it_answered_with_the_policy_fail(tmp_path: Path) -> None:
    process = subprocess.Popen([sys.executable, "-c", AUDITED, str(tmp_path)], stdout=subprocess.PIPE)
    assert process.stdout is not None
    answered: list[str] = []
    for line in process.stdout:
        if not line.endswith(b"\n"):
            break
        answered += line.decode().split()
        if len(answered) == 2000:
            process.kill()
    process.wait(20)
    assert len(answered) >= 2000
    assert set(answered) <= logged(tmp_path)
    [day] = (folder.name.removeprefix("day=") for folder in tmp_path.glob("day=*"))
    compact_day(tmp_path, day)
    assert set(answered) <= logged(tmp_path)


FULL_DISK = """
import asyncio, json, resource, sys
from pathlib import Path
from serving.prediction_writer import LogFailedError, LogFullError
from tests.fixtures.driven import as_future
from tests.fixtures.prediction_log import tiny_group, tiny_writer

policy = sys.argv[2]
log = tiny_writer(Path(sys.argv[1]), policy=policy, maximum_rows=3000, flush_every_s=0.05)
answers = {"sent": [], "failed": [], "refused": 0}
_, hard = resource.getrlimit(resource.RLIMIT_FSIZE)

async def request(rows):
    group = tiny_group(rows)
    try:
        log.append(group)
        if (waiter := log.committed()) is not None:
            await waiter
    except LogFailedError:
        answers["failed"] += group.prediction_ids
    except LogFullError:
        answers["refused"] += rows
    else:
        answers["sent"] += group.prediction_ids

async def until(holds):
    while not holds():
        await asyncio.sleep(0.01)

async def main():
    log.start(asyncio.get_running_loop())
    await as_future(request(10))
    await until(lambda: log.written_rows == 10)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, hard))  # a batch is refused in its middle
    for _ in range(4):
        await as_future(request(1000))
    await until(lambda: log.failed_flushes > 0)
    resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))
    await asyncio.sleep(1.1)
    await as_future(request(10))
    await until(lambda: log.buffered_rows == 0)
    log.stop()
    print(json.dumps({**answers, "dropped": log.dropped_rows, "failed_flushes": log.failed_flushes}))

asyncio.run(main())
"""


@pytest.mark.parametrize("policy", ["drop", "fail"])
def test_a_disk_that_is_full_in_the_middle_of_a_batch_damages_nothing(tmp_path: Path, policy: str) -> None:
    ended = subprocess.run([sys.executable, "-c", FULL_DISK, str(tmp_path), policy], capture_output=True, timeout=60)
    assert ended.returncode == 0, ended.stderr.decode()
    found = json.loads(ended.stdout)
    log = read_predictions(tmp_path, date(2013, 1, 1), date(2014, 1, 1))
    rows = log.table["prediction_id"].to_pylist()
    assert log.damaged == ()
    assert all(path.read_bytes().endswith(END_OF_STREAM) for path in tmp_path.glob("day=*/*.arrows"))  # cut back
    assert found["failed_flushes"] >= 1
    if policy == "drop":
        assert (len(rows), found["dropped"]) == (10 + 3000 + 10, 1000)
        assert set(rows) < set(found["sent"])
    else:
        assert sorted(rows) == sorted(found["sent"])
        assert len(rows) == 20
        assert (len(found["failed"]), found["refused"], found["dropped"]) == (1000, 3000, 0)


def test_unusual_predictions_are_counted_in_the_metrics(server: ModelServerProcess) -> None:
    server.load(tiny_bundle(server.root / "bundles", bias=1.0), "2", "r1").raise_for_status()
    server.share("r1", 0.0, shadow=True).raise_for_status()
    server.predict(tiny_record(distance=900.0)).raise_for_status()  # a score that no test row had
    expected = 'paceline_unusual_predictions_total{flag="extreme_score",slot="shadow",version="2"} 1.0'
    deadline = time.monotonic() + 10
    while expected not in server.client.get("/metrics").text.splitlines():
        assert time.monotonic() < deadline, server.client.get("/metrics").text
        time.sleep(0.05)
