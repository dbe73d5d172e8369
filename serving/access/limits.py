"""Rate limits: one token bucket a client, in memory. Pure but for its own state: the caller brings the clock."""

import math
from dataclasses import dataclass, field
from typing import NamedTuple

Headers = tuple[tuple[bytes, bytes], ...]
_SWEEP_AT = 1024


@dataclass(frozen=True)
class Limit:
    """`burst` requests at once, and `rate_per_s` in the long run.

    `headers` tells it as `RateLimit-Limit` and `RateLimit-Policy` (draft-ietf-httpapi-ratelimit-headers-06): `burst`
    requests in the seconds that an empty bucket needs to fill.
    """

    rate_per_s: float
    burst: int
    headers: Headers = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        if not 0 < self.rate_per_s < math.inf or self.burst < 1:
            raise ValueError(
                f"found {self.rate_per_s} requests a second and a burst of {self.burst}, expected both > 0"
            )
        window_s = math.ceil(self.burst / self.rate_per_s)
        told = ((b"ratelimit-limit", b"%d" % self.burst), (b"ratelimit-policy", b"%d;w=%d" % (self.burst, window_s)))
        object.__setattr__(self, "headers", told)

    @classmethod
    def of(cls, rate_per_s: float, burst: int | None) -> "Limit":
        """Without a burst it is what one second brings, at least 1."""
        return cls(rate_per_s, burst if burst is not None else max(1, math.ceil(rate_per_s)))


class Allowance(NamedTuple):
    """Whether one more request may come in; `retry_after_s` is until the next token, `full_after_s` until all."""

    is_allowed: bool
    remaining: int
    retry_after_s: float
    full_after_s: float


@dataclass(slots=True)
class _Bucket:
    tokens: float
    filled_at_s: float
    limit: Limit

    def is_full(self, now_s: float) -> bool:
        return self.tokens + (now_s - self.filled_at_s) * self.limit.rate_per_s >= self.limit.burst


class RateLimiter:
    """The buckets by client.

    The keys of a client draw on one bucket, or a second key would double its rate. Where they have different limits,
    the bucket fills at the rate of the key that asks and holds no more than its burst; so a client never gets more
    than its largest limit, and a new key with a higher one is not held up by what the old key used.
    """

    def __init__(self) -> None:
        self._buckets: dict[str, _Bucket] = {}
        self._sweep_at = _SWEEP_AT

    def take(self, client: str, limit: Limit, now_s: float) -> Allowance:
        """Takes one token of `client`, where there is one; `now_s` is of a clock that never goes back."""
        bucket = self._buckets.get(client)
        if bucket is None:
            if len(self._buckets) >= self._sweep_at:
                self._forget_full(now_s)
            bucket = self._buckets[client] = _Bucket(float(limit.burst), now_s, limit)
        else:
            refilled = bucket.tokens + (now_s - bucket.filled_at_s) * limit.rate_per_s
            bucket.tokens = refilled if refilled < limit.burst else float(limit.burst)
            bucket.filled_at_s = now_s
            bucket.limit = limit
        is_allowed = bucket.tokens >= 1
        if is_allowed:
            bucket.tokens -= 1
        left = bucket.tokens
        return Allowance(
            is_allowed,
            int(left) if left > 0 else 0,
            0.0 if left >= 1 else (1 - left) / limit.rate_per_s,
            (limit.burst - left) / limit.rate_per_s,
        )

    def _forget_full(self, now_s: float) -> None:
        """A full bucket says no more than none: so clients who come and go do not pile up."""
        self._buckets = {client: bucket for client, bucket in self._buckets.items() if not bucket.is_full(now_s)}
        self._sweep_at = max(_SWEEP_AT, 2 * len(self._buckets))

    def __len__(self) -> int:
        return len(self._buckets)


class DividedRateLimiter(RateLimiter):
    """The buckets of one of several workers: each has its part of every limit, so that together they never give more.

    A client whose connections are all at one worker gets that worker's part alone; where that matters, Redis shares
    what is left. A burst that is smaller than the number of workers is 1 for each of them.
    """

    def __init__(self, workers: int) -> None:
        super().__init__()
        self._workers = workers
        self._parts: dict[Limit, Limit] = {}

    def take(self, client: str, limit: Limit, now_s: float) -> Allowance:
        """Takes one token of `client` from this worker's part of `limit`."""
        part = self._parts.get(limit)
        if part is None:
            if len(self._parts) >= _SWEEP_AT:
                self._parts.clear()
            part = Limit(limit.rate_per_s / self._workers, max(1, limit.burst // self._workers))
            self._parts[limit] = part
        return super().take(client, part, now_s)
