"""Against a server that speaks the protocol of Redis and runs its scripts, and the real one where it is installed."""

import asyncio
import contextlib
import logging
import os
import shutil
import socket
import subprocess
import threading
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from fakeredis import TcpFakeServer
from redis.asyncio import Redis
from redis.exceptions import RedisError

from serving.access.limits import Limit
from serving.access.shared_limits import PREFIX, SharedRateLimiter

TIMEOUT_S = 20.0


@contextmanager
def fake_server(folder: Path, port: int = 0) -> Iterator[int]:
    server = TcpFakeServer(("127.0.0.1", port), server_type="redis")
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield server.server_address[1]
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


@contextmanager
def real_server(folder: Path, port: int = 0) -> Iterator[int]:
    port = port or free_port()
    command = ["redis-server", "--port", str(port), "--bind", "127.0.0.1", "--save", "", "--dir", str(folder)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    try:
        yield port
    finally:
        process.kill()
        process.wait(TIMEOUT_S)


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


IS_LACKING = shutil.which("redis-server") is None and "PACELINE_REQUIRE_REDIS" not in os.environ
SERVERS = [
    pytest.param(fake_server, id="fakeredis"),
    pytest.param(
        real_server,
        id="redis-server",
        marks=pytest.mark.skipif(IS_LACKING, reason="redis-server is not installed"),
    ),
]
Server = Callable[..., "contextmanager[int]"]  # type: ignore[type-arg]


def with_redis(server: Server, folder: Path, run: Callable[[str, Redis], Awaitable[None]]) -> None:
    async def connected(port: int) -> None:
        url = f"redis://127.0.0.1:{port}"
        async with Redis.from_url(url, socket_timeout=TIMEOUT_S, socket_connect_timeout=TIMEOUT_S) as client:
            async with asyncio.timeout(TIMEOUT_S):
                while True:
                    try:
                        await client.ping()
                        break
                    except RedisError:
                        await asyncio.sleep(0.02)
            await run(url, client)

    with server(folder) as port:  # type: ignore[attr-defined]
        asyncio.run(connected(port))


def take(limiter: SharedRateLimiter, limit: Limit, number: int, client: str = "acme") -> int:
    return sum(limiter.take(client, limit, 0.0).is_allowed for _ in range(number))


@pytest.mark.parametrize("server", SERVERS)
def test_replicas_share_one_bucket_and_what_was_too_much_is_a_debt(server: Server, tmp_path: Path) -> None:
    limit = Limit(0.001, 10)

    async def run(url: str, client: Redis) -> None:
        one, two = (SharedRateLimiter(url, clock=lambda: 0.0) for _ in range(2))
        assert take(one, limit, 4) == 4
        assert await one.exchange(client)
        assert take(two, limit, 1) == 1
        assert await two.exchange(client)
        assert two.take("acme", limit, 0.0).remaining == 4, "of 10 the other has taken 4, and this one 2"
        assert await two.exchange(client)
        assert take(one, limit, 20) == 6, "it has not heard of the two"
        assert await one.exchange(client)
        assert take(one, limit, 1) == 0
        assert await two.exchange(client)
        assert take(two, limit, 20) == 4
        assert await two.exchange(client)
        refused = two.take("acme", limit, 0.0)
        assert (refused.is_allowed, refused.remaining) == (False, 0)
        assert refused.retry_after_s > 6 / limit.rate_per_s, "6 were too much, and are refilled first"
        assert await client.pttl(PREFIX + "acme") > 0

    with_redis(server, tmp_path, run)


@pytest.mark.parametrize("server", SERVERS)
def test_the_common_bucket_fills_by_the_time_of_redis_and_no_further_than_the_burst(
    server: Server, tmp_path: Path
) -> None:
    limit = Limit(100.0, 10)

    async def run(url: str, client: Redis) -> None:
        one = SharedRateLimiter(url, clock=lambda: 0.0)
        assert take(one, limit, 20) == 10
        await one.exchange(client)
        left = 0
        async with asyncio.timeout(TIMEOUT_S):
            while left < 5:  # each look costs one token of the hundred that come in a second
                await asyncio.sleep(0.05)
                one._taken["acme"] = (1, limit)
                await one.exchange(client)
                left = int(one._buckets["acme"].tokens)
        assert left <= 9

    with_redis(server, tmp_path, run)


@pytest.mark.parametrize("server", SERVERS)
def test_what_comes_in_while_redis_answers_is_told_the_next_time(server: Server, tmp_path: Path) -> None:
    limit = Limit(0.001, 10)

    async def run(url: str, client: Redis) -> None:
        one = SharedRateLimiter(url, clock=lambda: 0.0)
        take(one, limit, 3)
        exchange = asyncio.create_task(one.exchange(client))
        await asyncio.sleep(0)
        assert take(one, limit, 2) == 2
        await exchange
        assert one.take("acme", limit, 0.0).remaining == 4
        await one.exchange(client)
        assert 3.99 < float(await client.hget(PREFIX + "acme", "tokens")) < 4.01  # type: ignore[misc]

    with_redis(server, tmp_path, run)


@pytest.mark.parametrize("server", SERVERS)
def test_while_redis_is_away_each_replica_has_the_full_limit_and_it_comes_back_by_itself(
    server: Server, tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("serving.access.shared_limits.RETRY_S", 0.05)
    caplog.set_level(logging.INFO)
    limit = Limit(0.001, 10)
    port = free_port()

    async def until(holds: Callable[[], bool]) -> None:
        async with asyncio.timeout(TIMEOUT_S):
            while not holds():
                await asyncio.sleep(0.02)

    async def run() -> None:
        limiter = SharedRateLimiter(f"redis://127.0.0.1:{port}", clock=lambda: 0.0)
        task = asyncio.create_task(limiter.run())
        try:
            assert take(limiter, limit, 4) == 4
            await until(lambda: limiter.failures >= 3)
            assert limiter.is_away
            assert take(limiter, limit, 20) == 6, "the full limit, no more and no less"
            with server(tmp_path, port):  # type: ignore[attr-defined]
                await until(lambda: not limiter.is_away)
                assert take(limiter, limit, 5, client="other") == 5
                await until(lambda: not limiter._taken)
            assert take(limiter, limit, 1, client="third") == 1
            await until(lambda: limiter.is_away)
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    asyncio.run(run())
    told = [record.getMessage() for record in caplog.records if record.name == "serving.access.shared_limits"]
    assert [text.split(",")[0] for text in told] == ["Redis is away", "Redis is back", "Redis is away"]


def test_it_ends_when_it_is_cancelled_also_where_the_cancellation_is_swallowed_below(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """redis-py does that when it comes while a connection is released."""

    async def run() -> None:
        entered = asyncio.Event()

        async def swallow(self: SharedRateLimiter, client: Redis) -> bool:
            entered.set()
            with contextlib.suppress(asyncio.CancelledError):
                await asyncio.sleep(TIMEOUT_S)
            return True

        monkeypatch.setattr(SharedRateLimiter, "exchange", swallow)
        task = asyncio.create_task(SharedRateLimiter("redis://127.0.0.1:1").run())
        await entered.wait()
        task.cancel()
        await asyncio.wait_for(task, TIMEOUT_S / 2)

    asyncio.run(run())
