import asyncio
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from serving.batching import MAXIMUM_ROWS, Batcher
from serving.engine import ScoringError


class Graph:
    """Stands in for a loaded model: the score of a row is its first value, and a negative one cannot be scored."""

    def __init__(self) -> None:
        self.runs: list[int] = []

    def score(self, features: NDArray[np.float32]) -> NDArray[np.float32]:
        self.runs.append(len(features))
        if (features[:, 0] < 0).any():
            raise ScoringError("a negative row")
        return features[:, 0]


def rows(*values: float) -> NDArray[np.float32]:
    return np.array([[value] for value in values], dtype=np.float32)


async def together(batcher: Batcher, graph: Any, *requests: NDArray[np.float32]) -> list[Any]:
    scores = (batcher.score(graph, features) for features in requests)
    return await asyncio.gather(*scores, return_exceptions=True)


def test_requests_of_one_turn_share_one_run_and_get_their_own_scores() -> None:
    graph, batcher = Graph(), Batcher()
    found = asyncio.run(together(batcher, graph, rows(1), rows(2, 3), rows(4)))
    assert found == [[1.0], [2.0, 3.0], [4.0]]
    assert graph.runs == [4]
    assert (batcher.rows, batcher.runs, batcher.waiting_rows) == (4, 1, 0)


def test_a_request_alone_is_a_run_of_its_own() -> None:
    graph = Graph()
    assert asyncio.run(together(Batcher(), graph, rows(1))) == [[1.0]]
    assert graph.runs == [1]


def test_rows_beyond_the_maximum_wait_for_the_next_turn() -> None:
    graph = Graph()
    found = asyncio.run(together(Batcher(), graph, *(rows(number) for number in range(MAXIMUM_ROWS + 10))))
    assert found == [[float(number)] for number in range(MAXIMUM_ROWS + 10)]
    assert graph.runs == [MAXIMUM_ROWS, 10]


def test_a_request_that_does_not_fit_the_rest_of_a_batch_is_not_split() -> None:
    graph = Graph()
    large = rows(*range(MAXIMUM_ROWS))
    found = asyncio.run(together(Batcher(), graph, rows(7), large))
    assert found == [[7.0], list(map(float, range(MAXIMUM_ROWS)))]
    assert graph.runs == [1, MAXIMUM_ROWS]


def test_a_request_that_the_graph_fails_on_does_not_take_the_others_down() -> None:
    graph = Graph()
    first, failed, last = asyncio.run(together(Batcher(), graph, rows(1), rows(-1), rows(3)))
    assert (first, last) == ([1.0], [3.0])
    assert isinstance(failed, ScoringError)


def test_models_do_not_share_a_run() -> None:
    champion, challenger, batcher = Graph(), Graph(), Batcher()

    async def both() -> list[Any]:
        return await asyncio.gather(batcher.score(champion, rows(1)), batcher.score(challenger, rows(2)))  # type: ignore[arg-type]

    assert asyncio.run(both()) == [[1.0], [2.0]]
    assert (champion.runs, challenger.runs) == ([1], [1])


def test_a_request_that_was_cancelled_does_not_disturb_the_batch() -> None:
    graph, batcher = Graph(), Batcher()

    async def cancelled() -> list[float]:
        gone = asyncio.ensure_future(batcher.score(graph, rows(1)))  # type: ignore[arg-type]
        stays = asyncio.ensure_future(batcher.score(graph, rows(2)))  # type: ignore[arg-type]
        await asyncio.sleep(0)
        gone.cancel()
        scores = await stays
        with pytest.raises(asyncio.CancelledError):
            await gone
        return scores

    assert asyncio.run(cancelled()) == [2.0]


def test_waiting_rows_are_counted_while_they_wait() -> None:
    graph, batcher = Graph(), Batcher()

    async def count() -> int:
        waiting = asyncio.ensure_future(batcher.score(graph, rows(1, 2)))  # type: ignore[arg-type]
        await asyncio.sleep(0)
        seen = batcher.waiting_rows
        await waiting
        return seen

    assert asyncio.run(count()) == 2
    assert batcher.waiting_rows == 0
