"""The replay against the real model server with a small bundle."""

import asyncio
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest

from pipelines.backtest.replay import Answer, replay
from tests.fixtures.bundles import tiny_bundle, tiny_record
from tests.fixtures.model_servers import ModelServerProcess


@pytest.fixture
def server(model_servers: Callable[..., ModelServerProcess], tmp_path: Path) -> ModelServerProcess:
    started = model_servers()
    started.install(tiny_bundle(tmp_path / "bundles"), "1")
    return started


def test_every_record_is_sent_and_its_answer_is_written(server: ModelServerProcess, tmp_path: Path) -> None:
    records = [tiny_record(number) for number in range(50)]
    answers = tmp_path / "answers.jsonl"
    summary = asyncio.run(replay(server.url, records, entity="id", rate=500, answers=answers))
    assert (summary.requests, summary.failed) == (50, 0)
    found = [msgspec.json.decode(line, type=Answer) for line in answers.read_bytes().splitlines()]
    assert len({answer.prediction_id for answer in found}) == 50
    assert {answer.slot for answer in found} == {"champion"}
    assert sum(summary.by_version.values()) == 50


def test_a_refused_record_is_a_failure_with_its_reason(server: ModelServerProcess) -> None:
    records = [tiny_record(1), {"nonsense": 1}]
    summary = asyncio.run(replay(server.url, records, entity="id", rate=500))
    assert (summary.requests, summary.failed) == (2, 1)
    assert summary.first_error is not None
    assert "422" in summary.first_error


def test_a_server_that_is_not_there_is_a_failure_of_each_request() -> None:
    summary = asyncio.run(replay("http://127.0.0.1:9", [tiny_record(1)], entity="id", rate=10))
    assert summary.failed == 1
    assert summary.first_error is not None
    assert "ConnectError" in summary.first_error


def test_it_stops_when_it_is_told_to(server: ModelServerProcess) -> None:
    async def stopped() -> int:
        stop = asyncio.Event()
        stop.set()
        summary = await replay(server.url, [tiny_record(n) for n in range(10)], entity="id", rate=10, stop=stop)
        return summary.requests

    assert asyncio.run(stopped()) == 0


def test_a_rate_of_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="rate: found 0"):
        asyncio.run(replay("http://127.0.0.1:9", [], entity="id", rate=0))
