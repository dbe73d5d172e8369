import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving.access.limits import DividedRateLimiter, Limit, RateLimiter


def test_a_burst_comes_in_and_then_one_request_for_each_token_that_time_brings() -> None:
    limiter, limit = RateLimiter(), Limit(2.0, 3)
    assert [limiter.take("a", limit, 10.0).is_allowed for _ in range(4)] == [True, True, True, False]
    assert not limiter.take("a", limit, 10.4).is_allowed
    assert limiter.take("a", limit, 10.5).is_allowed
    assert not limiter.take("a", limit, 10.5).is_allowed


def test_an_allowance_says_what_is_left_and_when_there_is_more() -> None:
    limiter, limit = RateLimiter(), Limit(2.0, 2)
    first = limiter.take("a", limit, 0.0)
    assert (first.remaining, first.retry_after_s, first.full_after_s) == (1, 0.0, 0.5)
    limiter.take("a", limit, 0.0)
    refused = limiter.take("a", limit, 0.25)
    assert (refused.is_allowed, refused.remaining, refused.retry_after_s, refused.full_after_s) == (
        False,
        0,
        0.25,
        0.75,
    )


def test_a_long_rest_fills_no_more_than_the_burst() -> None:
    limiter, limit = RateLimiter(), Limit(5.0, 2)
    limiter.take("a", limit, 0.0)
    assert [limiter.take("a", limit, 1e6).is_allowed for _ in range(3)] == [True, True, False]


def test_the_bucket_of_one_client_is_not_that_of_another() -> None:
    limiter, limit = RateLimiter(), Limit(1.0, 1)
    assert limiter.take("a", limit, 0.0).is_allowed
    assert not limiter.take("a", limit, 0.0).is_allowed
    assert limiter.take("b", limit, 0.0).is_allowed


def test_a_second_key_with_a_higher_limit_is_not_held_up_by_the_first() -> None:
    limiter, old, new = RateLimiter(), Limit(0.1, 10), Limit(100.0, 10)
    for _ in range(20):
        limiter.take("a", old, 0.0)
    assert not limiter.take("a", old, 1.0).is_allowed
    assert [limiter.take("a", new, 1.1).is_allowed for _ in range(3)] == [True, True, True]


def test_clients_whose_buckets_are_full_again_are_forgotten_and_the_others_are_not() -> None:
    limiter, limit = RateLimiter(), Limit(1.0, 1)
    for number in range(5000):
        limiter.take(f"passing-{number}", limit, number * 1.0)
    assert len(limiter) < 2000
    slow = Limit(0.001, 1)
    limiter.take("a", slow, 5000.0)
    for number in range(5000):
        limiter.take(f"again-{number}", limit, 5000.0 + number * 0.1)
    assert not limiter.take("a", slow, 5500.0).is_allowed


@given(
    rate=st.floats(0.01, 1000),
    burst=st.integers(1, 50),
    gaps=st.lists(st.floats(0, 2), max_size=200),
)
def test_no_more_than_the_burst_and_the_rate_ever_come_in(rate: float, burst: int, gaps: list[float]) -> None:
    limiter, limit = RateLimiter(), Limit(rate, burst)
    now_s, allowed = 0.0, 0
    for gap_s in [0.0, *gaps]:
        now_s += gap_s
        found = limiter.take("a", limit, now_s)
        allowed += found.is_allowed
        assert allowed <= burst + rate * now_s + 1e-6
        assert 0 <= found.remaining < burst
        assert found.is_allowed or found.retry_after_s > 0


def test_a_limit_is_told_as_so_many_requests_in_so_many_seconds() -> None:
    assert Limit(2.0, 10).headers == ((b"ratelimit-limit", b"10"), (b"ratelimit-policy", b"10;w=5"))
    assert (Limit.of(2.5, None).burst, Limit.of(0.1, None).burst, Limit.of(2.5, 9).burst) == (3, 1, 9)


@pytest.mark.parametrize(("rate", "burst"), [(0.0, 1), (-1.0, 1), (math.inf, 1), (math.nan, 1), (1.0, 0)])
def test_a_limit_that_limits_nothing_or_everything_is_refused(rate: float, burst: int) -> None:
    with pytest.raises(ValueError, match="expected both > 0"):
        Limit(rate, burst)


def test_workers_together_let_no_more_in_than_one_process() -> None:
    limit = Limit(10.0, 4)
    workers = [DividedRateLimiter(2), DividedRateLimiter(2)]
    allowed = [worker.take("a", limit, 0.0).is_allowed for worker in workers for _ in range(4)]
    assert sum(allowed) == 4
    assert [worker.take("a", limit, 0.2).is_allowed for worker in workers] == [True, True]
    assert [worker.take("a", limit, 0.2).is_allowed for worker in workers] == [False, False]


def test_a_burst_smaller_than_the_number_of_workers_is_one_for_each() -> None:
    worker = DividedRateLimiter(4)
    assert [worker.take("a", Limit(4.0, 2), 0.0).is_allowed for _ in range(2)] == [True, False]
    assert worker.take("a", Limit(4.0, 2), 1.0).is_allowed
