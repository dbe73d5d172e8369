"""Which rows share a graph run, who waits for whom, and what is dropped."""

import asyncio
import threading
import time
from collections.abc import Iterable
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from serving.batching import MAXIMUM_WAITING_ROWS, Batcher, DeadlineError, OverloadedError
from serving.engine import ScoringError
from tests.fixtures.driven import as_future

MAXIMUM_ROWS = 64


class Graph:
    """Stands in for a loaded model: the score of a row is its first value, and a negative one cannot be scored."""

    version = "1"
    maximum_rows = MAXIMUM_ROWS

    def __init__(self) -> None:
        self.runs: list[int] = []
        self.threads: set[int] = set()

    def score(self, features: NDArray[np.float32]) -> NDArray[np.float32]:
        self.runs.append(len(features))
        self.threads.add(threading.get_ident())
        if (features[:, 0] < 0).any():
            raise ScoringError("a negative row")
        return features[:, 0]


class SlowGraph(Graph):
    """Takes its time, in which another thread may run."""

    def __init__(self, seconds: float) -> None:
        super().__init__()
        self.seconds = seconds

    def score(self, features: NDArray[np.float32]) -> NDArray[np.float32]:
        time.sleep(self.seconds)
        return super().score(features)


class HeldGraph(SlowGraph):
    """Once it is held, a run ends when it is released."""

    def __init__(self) -> None:
        super().__init__(0.05)
        self.is_held = False
        self.released = threading.Event()

    def score(self, features: NDArray[np.float32]) -> NDArray[np.float32]:
        if self.is_held:
            self.released.wait(30)
            return Graph.score(self, features)
        return super().score(features)


def rows(*values: float) -> NDArray[np.float32]:
    return np.array([[value] for value in values], dtype=np.float32)


def asked(batcher: Batcher, graph: Any, features: NDArray[np.float32], **more: Any) -> "asyncio.Future[list[float]]":
    async def ask() -> list[float]:
        return await batcher.score(graph, features, **more)

    return as_future(ask())


async def together(batcher: Batcher, graph: Any, requests: Iterable[NDArray[np.float32]], **more: Any) -> list[Any]:
    waiting = [asked(batcher, graph, features, **more) for features in requests]
    return await asyncio.gather(*waiting, return_exceptions=True)


def test_requests_of_one_turn_share_one_run_and_get_their_own_scores() -> None:
    graph, batcher = Graph(), Batcher()
    found = asyncio.run(together(batcher, graph, [rows(1), rows(2, 3), rows(4)]))
    assert found == [[1.0], [2.0, 3.0], [4.0]]
    assert graph.runs == [4]
    assert (batcher.rows, batcher.runs, batcher.waiting_rows) == (4, 1, 0)
    assert sum(batcher.sizes) == 1
    assert sum(batcher.waits) == 3


def test_a_request_alone_is_a_run_of_its_own() -> None:
    graph = Graph()
    assert asyncio.run(together(Batcher(), graph, [rows(1)])) == [[1.0]]
    assert graph.runs == [1]


def test_rows_beyond_the_maximum_wait_for_the_next_turn() -> None:
    graph = Graph()
    found = asyncio.run(together(Batcher(), graph, [rows(number) for number in range(MAXIMUM_ROWS + 10)]))
    assert found == [[float(number)] for number in range(MAXIMUM_ROWS + 10)]
    assert graph.runs == [MAXIMUM_ROWS, 10]


def test_a_full_run_does_not_wait_for_the_rest_of_the_turn() -> None:
    async def run() -> list[int]:
        graph, batcher = Graph(), Batcher()
        asked_for = [asked(batcher, graph, rows(number)) for number in range(2 * MAXIMUM_ROWS + 5)]
        answered = sum(each.done() for each in asked_for)
        assert await asyncio.gather(*asked_for) == [[float(number)] for number in range(2 * MAXIMUM_ROWS + 5)]
        return [answered, *graph.runs]

    assert asyncio.run(run()) == [2 * MAXIMUM_ROWS, MAXIMUM_ROWS, MAXIMUM_ROWS, 5]


def test_a_request_that_does_not_fit_the_rest_of_a_batch_is_not_split() -> None:
    graph = Graph()
    large = rows(*range(MAXIMUM_ROWS))
    found = asyncio.run(together(Batcher(), graph, [rows(7), large]))
    assert found == [[7.0], list(map(float, range(MAXIMUM_ROWS)))]
    assert graph.runs == [1, MAXIMUM_ROWS]


def test_small_requests_pass_the_pieces_of_large_ones_and_these_have_their_turn_as_well() -> None:
    graph = Graph()
    large = [rows(*[1000 + number] * MAXIMUM_ROWS) for number in range(2)]
    small = [rows(number) for number in range(3 * MAXIMUM_ROWS)]
    asyncio.run(together(Batcher(), graph, [*large, *small]))
    assert graph.runs == [MAXIMUM_ROWS] * 5


def test_a_large_piece_waits_for_one_run_of_small_requests_at_most() -> None:
    graph, order = Graph(), []

    async def run() -> None:
        batcher = Batcher()
        for name, features in [
            ("large", rows(*[7] * MAXIMUM_ROWS)),
            *[("small", rows(number)) for number in range(3 * MAXIMUM_ROWS)],
        ]:
            asked(batcher, graph, features).add_done_callback(lambda _, name=name: order.append(name))
        while len(order) < 3 * MAXIMUM_ROWS + 1:
            await asyncio.sleep(0)

    asyncio.run(run())
    assert order.index("large") == MAXIMUM_ROWS


def test_a_request_that_the_graph_fails_on_does_not_take_the_others_down() -> None:
    first, failed, last = asyncio.run(together(Batcher(), Graph(), [rows(1), rows(-1), rows(3)]))
    assert (first, last) == ([1.0], [3.0])
    assert isinstance(failed, ScoringError)


def test_models_do_not_share_a_run() -> None:
    champion, challenger, batcher = Graph(), Graph(), Batcher()

    async def both() -> list[Any]:
        return await asyncio.gather(asked(batcher, champion, rows(1)), asked(batcher, challenger, rows(2)))

    assert asyncio.run(both()) == [[1.0], [2.0]]
    assert (champion.runs, challenger.runs) == ([1], [1])


def test_rows_that_nobody_waits_for_any_more_are_not_scored() -> None:
    graph, batcher = Graph(), Batcher()

    async def gone() -> list[float]:
        abandoned = batcher.score(graph, rows(1))  # type: ignore[arg-type]
        stays = asked(batcher, graph, rows(2))
        abandoned.fail(ConnectionError("gone"))
        return await stays

    assert asyncio.run(gone()) == [2.0]
    assert (graph.runs, batcher.waiting_rows) == ([1], 0)


def test_rows_whose_time_is_over_are_not_scored_and_say_so() -> None:
    graph, batcher = Graph(), Batcher()

    async def late() -> list[Any]:
        now_s = time.perf_counter()
        return await asyncio.gather(
            asked(batcher, graph, rows(1), deadline_s=now_s - 1),
            asked(batcher, graph, rows(2), deadline_s=now_s + 60),
            return_exceptions=True,
        )

    dropped, scored = asyncio.run(late())
    assert isinstance(dropped, DeadlineError)
    assert scored == [2.0]
    assert (graph.runs, batcher.expired, batcher.waiting_rows) == ([1], 1, 0)


def test_more_rows_than_can_wait_are_shed_at_once_and_the_others_scored() -> None:
    batcher = Batcher()
    found = asyncio.run(together(batcher, Graph(), [rows(*range(MAXIMUM_ROWS))] * (MAXIMUM_WAITING_ROWS // 64 + 3)))
    assert [type(each) for each in found].count(OverloadedError) == 3
    assert batcher.shed == 3 * MAXIMUM_ROWS
    assert batcher.rows == MAXIMUM_WAITING_ROWS


def test_a_queue_that_is_longer_than_the_time_of_a_request_sheds_it() -> None:
    async def run() -> tuple[Any, Any]:
        graph, batcher = SlowGraph(0.01), Batcher()
        await together(batcher, graph, [rows(1)] * (40 * MAXIMUM_ROWS))  # learns what a row costs
        queue = [asked(batcher, graph, rows(1)) for _ in range(40 * MAXIMUM_ROWS)]
        hurried = await asyncio.gather(
            asked(batcher, graph, rows(2), deadline_s=time.perf_counter() + 0.02), return_exceptions=True
        )
        patient = await asked(batcher, graph, rows(3), deadline_s=time.perf_counter() + 60)
        await asyncio.gather(*queue)
        return hurried[0], patient

    hurried, patient = asyncio.run(run())
    assert isinstance(hurried, OverloadedError)
    assert patient == [3.0]


def test_idle_time_after_clients_have_gone_is_not_taken_for_work() -> None:
    async def run() -> list[Any]:
        graph, batcher = Graph(), Batcher()
        first = asked(batcher, graph, rows(*range(MAXIMUM_ROWS)))
        abandoned = batcher.score(graph, rows(*range(MAXIMUM_ROWS)))  # type: ignore[arg-type]
        first.add_done_callback(lambda _: abandoned.fail(ConnectionError("gone")))
        await first
        await asyncio.sleep(1.0)
        await together(batcher, graph, [rows(*range(MAXIMUM_ROWS))])
        queue = [asked(batcher, graph, rows(*range(MAXIMUM_ROWS))) for _ in range(10)]
        hurried = asked(batcher, graph, rows(2), deadline_s=time.perf_counter() + 0.5)
        return await asyncio.gather(hurried, *queue, return_exceptions=True)

    assert asyncio.run(run())[0] == [2.0]


def test_waiting_rows_are_counted_while_they_wait() -> None:
    batcher = Batcher()

    async def count() -> int:
        waiting = asked(batcher, Graph(), rows(1, 2))
        seen = batcher.waiting_rows
        await waiting
        return seen

    assert asyncio.run(count()) == 2
    assert batcher.waiting_rows == 0


def test_a_slow_graph_runs_in_a_thread_of_its_own_and_others_answer_meanwhile() -> None:
    async def run() -> tuple[Graph, list[float], bool]:
        slow, fast, batcher = HeldGraph(), Graph(), Batcher()
        await together(batcher, slow, [rows(1)])  # the first run shows that it is slow
        slow.is_held = True
        held = asked(batcher, slow, rows(2))
        await asyncio.sleep(0)
        answered = await asked(batcher, fast, rows(3))
        is_held = not held.done()
        slow.released.set()
        assert await held == [2.0]
        return slow, answered, is_held

    slow, answered, is_held = asyncio.run(run())
    assert answered == [3.0]
    assert is_held
    assert len(slow.threads) == 2


def test_what_comes_while_a_slow_graph_runs_goes_together_into_the_next_run() -> None:
    async def run() -> Graph:
        slow, batcher = HeldGraph(), Batcher()
        await together(batcher, slow, [rows(1)])
        slow.is_held = True
        first = asked(batcher, slow, rows(1))
        await asyncio.sleep(0.01)
        more = [asked(batcher, slow, rows(number)) for number in range(5)]
        slow.released.set()
        await asyncio.gather(first, *more)
        return slow

    assert asyncio.run(run()).runs == [1, 1, 5]


def test_a_run_that_hangs_does_not_outlive_the_deadline_of_who_waits_for_it() -> None:
    async def run() -> Any:
        slow, batcher = HeldGraph(), Batcher()
        await together(batcher, slow, [rows(1)])
        slow.is_held = True
        with pytest.raises(DeadlineError):
            await asked(batcher, slow, rows(2), deadline_s=time.perf_counter() + 0.05)
        slow.released.set()

    asyncio.run(run())


def test_a_graph_that_fails_in_its_thread_fails_only_its_own_request() -> None:
    async def run() -> list[Any]:
        slow, batcher = SlowGraph(0.05), Batcher()
        await together(batcher, slow, [rows(1)])
        return await together(batcher, slow, [rows(1), rows(-1), rows(3)])

    first, failed, last = asyncio.run(run())
    assert (first, last) == ([1.0], [3.0])
    assert isinstance(failed, ScoringError)


def test_with_a_wait_requests_of_later_turns_join_the_run() -> None:
    async def run() -> Graph:
        graph, batcher = Graph(), Batcher(wait_s=0.05)
        first = asked(batcher, graph, rows(1))
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        second = asked(batcher, graph, rows(2))
        assert [await first, await second] == [[1.0], [2.0]]
        return graph

    assert asyncio.run(run()).runs == [2]
