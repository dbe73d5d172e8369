"""The generator against a real server in this process."""

import asyncio

import numpy as np
import pytest

from pipelines.benchmarking.arrivals import due_times
from pipelines.benchmarking.bodies import request, slot_in_records
from pipelines.benchmarking.connections import Target, target_of
from pipelines.benchmarking.load import NOT_SENT, TIMED_OUT, Load, LoadResult
from pipelines.benchmarking.results import Measured, measure
from tests.fixtures.tiny_http_servers import TinyServer


def run(
    server: TinyServer, *, rate: float = 200, seconds: float = 0.5, connections: int = 4, timeout_s: float = 5.0
) -> tuple[LoadResult, Measured]:
    target = target_of(server.url)
    due = due_times(rate, seconds, arrivals="fixed")
    requests = [request(target, "/v1/predict", b"{}")]
    load = Load(target, requests, connections=connections, timeout_s=timeout_s, classify=slot_in_records)
    result = asyncio.run(load.open_loop(due))
    return result, measure(result, due_s=due, rows=1, warmup_s=0.0, seconds=seconds)


def test_every_request_is_sent_and_counted_by_its_slot(server: TinyServer) -> None:
    result, measured = run(server)
    assert (result.sent, server.requests) == (100, 100)
    assert (measured.counts.requests, measured.counts.answered, measured.counts.failed) == (100, 100, 0)
    assert {(slot.slot, slot.version): slot.requests for slot in measured.slots} == {
        ("champion", "1"): 75,
        ("challenger", "2"): 25,
    }
    assert measured.statuses == {"200": 100}
    assert measured.rates.intended == pytest.approx(200)


def test_a_stall_is_felt_by_all_requests_that_were_due_meanwhile(server: TinyServer) -> None:
    server.stall_on, server.stall_s = 20, 0.5
    result, measured = run(server, seconds=1.0)
    recording = result.recording
    assert measured.counts.answered == 200
    # the request on which it stalled was due at 0.095 s; each 5 ms another waits 5 ms less
    stalled = (recording.due_s > 0.096) & (recording.due_s < 0.55)
    assert stalled.sum() >= 90
    assert (recording.latency_s[stalled] >= 0.095 + 0.5 - recording.due_s[stalled] - 0.001).all()
    assert measured.latency_ms.p99 is not None
    assert measured.latency_ms.p99 >= 450
    assert measured.latency_ms.p90 is not None
    assert measured.latency_ms.p90 >= 350, "a closed loop would have seen four slow answers in two hundred"


def test_requests_that_no_connection_was_free_for_are_told_and_count_as_waiting(server: TinyServer) -> None:
    server.service_s = 60.0
    result, measured = run(server, rate=100, seconds=0.5, connections=2, timeout_s=0.3)
    causes = {failure.cause: failure.requests for failure in measured.failures}
    assert set(causes) == {NOT_SENT, TIMED_OUT}
    assert sum(causes.values()) == 50
    assert measured.counts.not_sent == causes[NOT_SENT]
    assert result.sent == causes[TIMED_OUT]
    assert result.sent < 50
    assert measured.latency_ms.p50 is not None
    assert measured.latency_ms.p50 >= 290


def test_without_a_queue_a_request_that_finds_no_connection_is_given_up_at_once(server: TinyServer) -> None:
    server.service_s = 60.0
    target = target_of(server.url)
    due = due_times(100, 0.5, arrivals="fixed")
    requests = [request(target, "/", b"{}")]
    load = Load(target, requests, connections=2, timeout_s=0.7, classify=slot_in_records, queues=False)
    result = asyncio.run(load.open_loop(due))
    measured = measure(result, due_s=due, rows=1, warmup_s=0.0, seconds=0.5)
    assert (result.sent, measured.counts.not_sent) == (2, 48)


def test_refusals_are_failures_with_their_first_answer_and_are_no_latency(server: TinyServer) -> None:
    server.status = 429
    _, measured = run(server, seconds=0.1)
    assert [(each.cause, each.status, each.requests) for each in measured.failures] == [("HTTP 429", 429, 20)]
    assert "no" in measured.failures[0].example
    assert measured.latency_ms.p99 is None
    assert measured.statuses == {"429": 20}


def test_a_server_that_closes_after_each_answer_is_connected_anew(server: TinyServer) -> None:
    server.closes_after_each = True
    _, measured = run(server)
    assert measured.counts.answered == 100


def test_an_answer_that_is_no_http_is_a_failure(server: TinyServer) -> None:
    server.speaks_http = False
    _, measured = run(server, seconds=0.05)
    assert measured.counts.answered == 0
    assert "no HTTP" in measured.failures[0].cause


def test_nobody_there_is_an_error_at_once() -> None:
    load = Load(Target("127.0.0.1", 9), [b""])
    with pytest.raises(OSError, match=r"refused|Connect"):
        asyncio.run(load.open_loop(np.array([0.0])))


def test_a_closed_loop_keeps_every_connection_busy(server: TinyServer) -> None:
    target = target_of(server.url)
    load = Load(target, [request(target, "/", b"{}")], connections=3, classify=slot_in_records)
    result = asyncio.run(load.closed_loop(0.3))
    measured = measure(result, due_s=None, rows=1, warmup_s=0.0, seconds=0.3)
    assert measured.counts.requests == result.sent == server.requests
    assert measured.counts.failed == 0
    assert measured.rates.intended is None


def test_a_wish_to_stop_ends_the_run_with_what_there_is(server: TinyServer) -> None:
    async def stopped() -> LoadResult:
        stop = asyncio.Event()
        target = target_of(server.url)
        load = Load(target, [request(target, "/", b"{}")], stop=stop, on_progress=lambda progress: stop.set())
        return await load.open_loop(due_times(50, 3600, arrivals="fixed"))

    result = asyncio.run(stopped())
    assert result.was_stopped
    assert 0 < len(result.recording) < 1000
    assert len(result.recording) == result.sent


@pytest.mark.parametrize(("connections", "timeout_s"), [(0, 1.0), (5000, 1.0), (1, 0.0)])
def test_bounds_that_are_none_are_refused(connections: int, timeout_s: float) -> None:
    with pytest.raises(ValueError, match="expected"):
        Load(Target("127.0.0.1", 9), [b""], connections=connections, timeout_s=timeout_s)


@pytest.mark.parametrize("url", ["127.0.0.1:8500", "ftp://a", "http://", "http://a:b", "http://a/?x=1"])
def test_what_is_no_url_of_a_server_is_refused(url: str) -> None:
    with pytest.raises(ValueError, match="found the URL"):
        target_of(url)


def test_a_url_is_read_with_its_path_and_port() -> None:
    assert target_of("https://models.example/eu/") == Target("models.example", 443, True, "/eu")
    assert target_of("http://[::1]:80").authority == "[::1]:80"
