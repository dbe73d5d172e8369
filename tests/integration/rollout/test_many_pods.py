"""A look at a thousand pods: what it takes, and that it does not grow."""

import asyncio
import subprocess
import sys
import time
import tracemalloc
from collections.abc import Iterator
from pathlib import Path

import pytest

from pipelines.rollout.platforms.port import PlatformUnreachableError
from pipelines.rollout.platforms.separate import reading
from pipelines.rollout.platforms.separate.counts import Counting
from pipelines.rollout.platforms.separate.reading import Prometheus, Scraped

PODS = 1000
LOOK_S_MAX = 0.2  # of one look, by this process' own time: the machine may be busy with others
MEMORY_MB_MAX = 64
DOUBLE = Path(__file__).parents[2] / "fixtures" / "prometheus_double.py"


@pytest.fixture
def url() -> Iterator[str]:
    process = subprocess.Popen([sys.executable, str(DOUBLE), str(PODS)], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    yield process.stdout.readline().strip()
    process.kill()
    process.wait(10)
    process.stdout.close()


async def find_none() -> dict[str, str]:
    raise AssertionError("Prometheus finds the servers by itself")


def look(counting: Counting, counters: Prometheus, number: int) -> float:
    async def one() -> None:
        found = await counters.read(find_none)
        counting.look(found, float(number), share=0.1, phase=1, is_settled=True)
        await counters.aclose()

    started_s = time.process_time()
    asyncio.run(one())
    return time.process_time() - started_s


def test_a_look_at_a_thousand_pods_is_quick_and_its_memory_is_bounded(url: str) -> None:
    counting, counters = Counting("r", "1", "2"), Prometheus(url, 'namespace="models"', lag_s=30)
    took = [look(counting, counters, number) for number in range(4)]
    assert counting.slot("2").requests == 3 * 100 * PODS // 10
    assert counting.slot("1").requests == 3 * 100 * PODS * 9 // 10
    assert min(took) <= LOOK_S_MAX, took
    tracemalloc.start()
    look(counting, counters, 4)
    kept, peak = tracemalloc.get_traced_memory()
    look(counting, counters, 5)
    later, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < MEMORY_MB_MAX * 1e6, f"{peak / 1e6:.0f} MB"
    assert later < kept + 1e6, "another look keeps nothing more"


def test_an_answer_without_end_is_given_up(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reading, "ANSWER_BYTES_MAX", 10_000)
    with pytest.raises(PlatformUnreachableError, match="over 10000 bytes"):
        look(Counting("r", "1", "2"), Prometheus(url, 'namespace="models"', lag_s=30), 1)


def test_more_pods_than_can_be_asked_one_by_one_need_a_prometheus() -> None:
    async def find() -> dict[str, str]:
        return {str(number): "http://127.0.0.1:9" for number in range(201)}

    with pytest.raises(PlatformUnreachableError, match="PACELINE_PROMETHEUS_URL"):
        asyncio.run(Scraped().read(find))
