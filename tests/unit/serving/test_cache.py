"""Scores that are given again: how long, how many, and for whom."""

import asyncio

from serving.cache import ScoreCache
from tests.fixtures.driven import as_future

KEY = ("1", b"row")


class Clock:
    def __init__(self) -> None:
        self.now_s = 100.0

    def __call__(self) -> float:
        return self.now_s


def kept(cache: ScoreCache, key: tuple[str, bytes] = KEY, score: float | None = 0.5) -> None:
    assert cache.join(key) is None
    cache.settle(key, score)


def test_a_score_is_given_again_until_its_time_is_over() -> None:
    clock = Clock()
    cache = ScoreCache(seconds=2, rows=10, clock=clock)
    kept(cache)
    clock.now_s += 1.99
    assert cache.find(KEY) == 0.5
    clock.now_s += 0.02
    assert cache.find(KEY) is None
    assert (len(cache), cache.hits, cache.misses) == (0, 1, 1)


def test_another_version_or_row_has_a_score_of_its_own() -> None:
    cache = ScoreCache(seconds=2, rows=10)
    kept(cache)
    assert cache.find(("2", b"row")) is None
    assert cache.find(("1", b"other")) is None


def test_no_more_rows_than_allowed_are_kept_and_the_oldest_go() -> None:
    cache = ScoreCache(seconds=60, rows=3)
    for number in range(5):
        kept(cache, ("1", bytes([number])), number / 10)
    assert [cache.find(("1", bytes([number]))) for number in range(5)] == [None, None, 0.2, 0.3, 0.4]


def test_whoever_asks_during_the_run_gets_its_score() -> None:
    async def run() -> tuple[list[float | None], ScoreCache]:
        cache = ScoreCache(seconds=2, rows=10)
        assert cache.join(KEY) is None
        waiting = [_joined(cache) for _ in range(3)]
        cache.settle(KEY, 0.7)
        return await asyncio.gather(*waiting), cache

    found, cache = asyncio.run(run())
    assert found == [0.7] * 3
    assert (cache.misses, cache.joined) == (1, 3)


def test_a_run_that_gave_no_score_is_not_kept_and_those_who_waited_hear_of_it() -> None:
    async def run() -> tuple[list[float | None], ScoreCache]:
        cache = ScoreCache(seconds=2, rows=10)
        assert cache.join(KEY) is None
        waiting = [_joined(cache) for _ in range(2)]
        cache.settle(KEY, None)
        return await asyncio.gather(*waiting), cache

    found, cache = asyncio.run(run())
    assert found == [None, None]
    assert (len(cache), cache.joined) == (0, 0)
    assert cache.join(KEY) is None, "the next one is the first again"


def _joined(cache: ScoreCache) -> "asyncio.Future[float | None]":
    async def wait() -> float | None:
        waiting = cache.join(KEY)
        assert waiting is not None
        return await waiting

    return as_future(wait())
