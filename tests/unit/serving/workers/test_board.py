import multiprocessing
import os

from hypothesis import given, settings
from hypothesis import strategies as st

from contracts.slots import Tripped
from serving.workers.board import ABSENT, Board


def test_errors_count_by_their_place_among_all_workers_requests() -> None:
    board = Board(2)
    for worker in (0, 1):
        board.begin(worker, 1)
    board.count_request(0)
    assert board.count_error(0, 1, window=5, now_s=1.0, entity=1) == 1
    for _ in range(3):
        board.count_request(1)
    board.count_request(1)
    assert board.count_error(1, 1, window=5, now_s=2.0, entity=2) == 2, "the first error is the fifth last request"
    board.count_request(0)
    assert board.count_error(0, 1, window=5, now_s=3.0, entity=3) == 2, "now it has left the window"
    assert board.requests(1) == 6
    assert board.first_error(1) == (1.0, 1)


@settings(max_examples=50, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 2), st.booleans()), max_size=120), st.integers(1, 30))
def test_the_window_over_workers_is_that_of_one_process(requests: list[tuple[int, bool]], window: int) -> None:
    board = Board(3)
    for worker in range(3):
        board.begin(worker, 7)
    outcomes: list[bool] = []
    for position, (worker, is_error) in enumerate(requests):
        outcomes.append(is_error)
        board.count_request(worker)
        if is_error:
            assert board.count_error(worker, 7, window, 0.0, position) == sum(outcomes[-window:])


def test_another_epoch_begins_at_zero_and_a_worker_that_takes_a_dead_ones_place_goes_on() -> None:
    board = Board(2)
    board.begin(0, 1)
    board.count_request(0)
    board.count_error(0, 1, 10, 1.0, 1)
    board.begin(0, 1)
    assert board.requests(1) == 1
    board.begin(0, 2)
    assert (board.requests(2), board.requests(1), board.first_error(2)) == (0, 0, None)


def test_the_first_trip_is_the_trip_for_everybody() -> None:
    board = Board(2)
    first, second = (Tripped(cause="hard_limit", reason=reason) for reason in ("first", "second"))
    assert board.tripped(3) is None
    assert board.trip(3, first) == first
    assert board.trip(3, second) == first
    assert (board.tripped(3), board.has_tripped(4)) == (first, False)
    assert not board.renew(3, 100.0)
    assert board.renew(4, 100.0)


def test_a_lease_that_was_renewed_meanwhile_does_not_trip() -> None:
    board = Board(1)
    late = Tripped(cause="lease", reason="late")
    assert board.renew(1, 10.0)
    assert board.trip_when_over(1, 9.9, late) is None
    assert board.renew(1, 20.0)
    assert board.trip_when_over(1, 10.0, late) is None
    assert board.trip_when_over(1, 20.0, late) == late


def test_what_a_forked_process_writes_is_seen_here_also_after_its_end() -> None:
    board = Board(2)

    def other() -> None:
        board.begin(1, 1)
        board.count_request(1)
        board.set_connections(1, 3)
        board.trip(1, Tripped(cause="hard_limit", reason="there"))
        os.kill(os.getpid(), 9)

    process = multiprocessing.get_context("fork").Process(target=other)
    process.start()
    process.join(20)
    assert board.requests(1) == 1
    found = board.tripped(1)
    assert found is not None
    assert found.reason == "there"
    assert board.least_connections() == 3
    board.set_connections(0, 1)
    assert board.least_connections() == 1


def test_a_trip_does_not_wait_for_a_process_that_was_stopped_in_the_lock() -> None:
    board = Board(1)
    ready, release = (multiprocessing.get_context("fork").Event() for _ in range(2))

    def holder() -> None:
        with board._locked():
            ready.set()
            release.wait(20)

    process = multiprocessing.get_context("fork").Process(target=holder)
    process.start()
    assert ready.wait(20)
    try:
        tripped = Tripped(cause="hard_limit", reason="now")
        assert board.trip(1, tripped) == tripped
        assert board.has_tripped(1)
    finally:
        release.set()
        process.join(20)


def test_workers_that_take_no_connections_have_the_most() -> None:
    assert Board(2).least_connections() == ABSENT


def test_an_entity_that_fails_again_in_another_worker_counts_once() -> None:
    board = Board(2)
    for worker in (0, 1):
        board.begin(worker, 1)
        board.count_request(worker)
    assert [board.count_error(worker, 1, 10, 1.0, entity=7) for worker in (0, 1, 1)] == [1, 1, 1]
    assert board.count_error(1, 1, 10, 1.0, entity=8) == 2
