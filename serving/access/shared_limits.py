"""Rate limits that several replicas share by Redis. No request waits for it.

A replica decides by its own bucket, and 50 times a second tells Redis what it took: one script refills the common
bucket by the time of Redis, takes that off, and answers what is left, which becomes the replica's own bucket. So the
long-run rate is exact, since what was admitted too much is a debt that is refilled first; and at once no more can come
in than each replica's bucket holds, at most the number of replicas times the burst: a replica hears of the others only
when it has something to tell. While Redis is away, each replica goes on with the full limit for itself.
"""

import asyncio
import logging
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from serving.access.limits import Allowance, Limit, RateLimiter

if TYPE_CHECKING:
    from redis.asyncio import Redis

EXCHANGE_EVERY_S = 0.02
TIMEOUT_S = 0.5
RETRY_S = 1.0
MAXIMUM_CLIENTS = 1000  # in one exchange; the others are in the next
PREFIX = "paceline:rate:"
# KEYS[1] the client's bucket; ARGV rate a second, burst, taken. A hash: tokens, and the time (µs) of that count
_SCRIPT = """
local rate, burst, taken = tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3])
local time = redis.call('TIME')
local now = time[1] * 1000000 + time[2]
local found = redis.call('HMGET', KEYS[1], 'tokens', 'at')
local tokens = burst
if found[1] then
  tokens = math.min(burst, tonumber(found[1]) + math.max(0, now - tonumber(found[2])) * rate / 1000000)
end
tokens = tokens - taken
redis.call('HSET', KEYS[1], 'tokens', string.format('%.6f', tokens), 'at', string.format('%.0f', now))
redis.call('PEXPIRE', KEYS[1], math.ceil((burst - tokens) * 1000 / rate) + 1000)
return string.format('%.6f', tokens)
"""
logger = logging.getLogger(__name__)


class SharedRateLimiter(RateLimiter):
    """The buckets of this replica, kept in step with those of the others by `run`."""

    def __init__(self, url: str, clock: Callable[[], float] = time.monotonic) -> None:
        """Raises ValueError where `url` is none of Redis."""
        # imported where it is configured only: it costs 0.1 s and 20 MB
        from redis.asyncio.connection import parse_url

        parse_url(url)
        super().__init__()
        self._url = url
        self._clock = clock
        self._taken: dict[str, tuple[int, Limit]] = {}
        self._is_away = False
        self.failures = 0

    @property
    def is_away(self) -> bool:
        """Whether each replica goes by itself now."""
        return self._is_away

    def take(self, client: str, limit: Limit, now_s: float) -> Allowance:
        """Takes one token of `client` here; the others learn it at the next exchange."""
        found = super().take(client, limit, now_s)
        if found.is_allowed:
            before = self._taken.get(client)
            self._taken[client] = (1 if before is None else before[0] + 1, limit)
        return found

    async def run(self) -> None:
        """Exchanges until its task is cancelled."""
        from redis.asyncio import Redis
        from redis.asyncio.retry import Retry
        from redis.backoff import NoBackoff

        client: Redis = Redis.from_url(
            self._url,
            socket_timeout=TIMEOUT_S,
            socket_connect_timeout=TIMEOUT_S,
            retry=Retry(NoBackoff(), 0),  # a lost answer is not asked for again: its tokens may have been taken
        )
        task = asyncio.current_task()
        async with client:
            # redis-py now and then swallows a cancellation that comes while it releases a connection
            while task is None or not task.cancelling():
                await asyncio.sleep(EXCHANGE_EVERY_S)
                if not await self.exchange(client):
                    await asyncio.sleep(RETRY_S)

    async def exchange(self, client: "Redis") -> bool:
        """Tells what was taken since the last time, and takes over what is left; whether Redis answered."""
        from redis.exceptions import RedisError

        told = {name: self._taken.pop(name) for name in list(self._taken)[:MAXIMUM_CLIENTS]}
        if not told and not self._is_away:
            return True
        try:
            if self._is_away:
                await client.ping()
            async with client.pipeline(transaction=False) as pipeline:
                for name, (count, limit) in told.items():
                    pipeline.eval(_SCRIPT, 1, PREFIX + name, str(limit.rate_per_s), str(limit.burst), str(count))
                answers = await pipeline.execute()
        except (RedisError, OSError, TimeoutError) as error:
            self._failed(error)
            return False
        self._succeeded()
        now_s = self._clock()
        for name, answer in zip(told, answers, strict=True):
            bucket = self._buckets.get(name)
            if bucket is not None:
                # what came in while Redis answered is told next time, and is gone from here already
                since = self._taken.get(name)
                bucket.tokens, bucket.filled_at_s = float(answer) - (since[0] if since else 0), now_s
        return True

    def _failed(self, error: Exception) -> None:
        self.failures += 1
        self._taken.clear()  # the local buckets have it; nobody is to pay for the whole time without Redis afterwards
        if not self._is_away:
            logger.error("Redis is away, each replica has the full rate limits until it is back: %s", _told(error))
        self._is_away = True

    def _succeeded(self) -> None:
        if self._is_away:
            logger.info("Redis is back, the rate limits are shared again")
        self._is_away = False


def _told(error: Exception) -> str:
    return f"{type(error).__name__}: {str(error)[:200]}"
