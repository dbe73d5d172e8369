"""Requests that are waiting when the engine is free go together: one graph run for all that a tick of the loop brings.

There is no timer and no wait. Rows are taken in until the event loop has nothing else to do in this turn, and then run;
under load more requests arrive in a turn, so batches grow by themselves, and without load a batch is one request.
"""

import asyncio
from collections import deque
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from serving.engine import Model, ScoringError

MAXIMUM_ROWS = 64  # tree ensembles are slower a row beyond this, and the event loop gets its turn


@dataclass(slots=True, eq=False)
class _Waiting:
    features: NDArray[np.float32]
    scores: asyncio.Future[list[float]]


@dataclass(eq=False)
class Batcher:
    """Scores rows for all requests of one process; `rows` and `runs` count what went through, for the metrics."""

    rows: int = 0
    runs: int = 0
    _queues: dict[Model, deque[_Waiting]] = field(default_factory=dict)
    _is_due: bool = False

    @property
    def waiting_rows(self) -> int:
        """Rows that wait for their run."""
        return sum(len(waiting.features) for queue in self._queues.values() for waiting in queue)

    async def score(self, model: Model, features: NDArray[np.float32]) -> list[float]:
        """The scores of at most 64 rows, as soon as the loop's turn is over.

        Raises:
            ScoringError: the graph failed on these rows; rows of others in the same run do not matter.
        """
        loop = asyncio.get_running_loop()
        waiting = _Waiting(features, loop.create_future())
        self._queues.setdefault(model, deque()).append(waiting)
        if not self._is_due:
            self._is_due = True
            loop.call_soon(self._run)
        return await waiting.scores

    def _run(self) -> None:
        """One run for each model that has rows; what does not fit waits for the next turn."""
        self._is_due = False
        for model, queue in list(self._queues.items()):
            batch = [queue.popleft()]
            size = len(batch[0].features)
            while queue and size + len(queue[0].features) <= MAXIMUM_ROWS:
                size += len(queue[0].features)
                batch.append(queue.popleft())
            if not queue:
                del self._queues[model]
            self._answer(model, batch)
        if self._queues and not self._is_due:
            self._is_due = True
            asyncio.get_running_loop().call_soon(self._run)

    def _answer(self, model: Model, batch: list[_Waiting]) -> None:
        features = batch[0].features if len(batch) == 1 else np.concatenate([waiting.features for waiting in batch])
        try:
            scores = model.score(features).tolist()
        except ScoringError as error:
            if len(batch) > 1:  # one request that the graph fails on must not take the others down
                for waiting in batch:
                    self._answer(model, [waiting])
            elif not batch[0].scores.done():
                batch[0].scores.set_exception(error)
            return
        self.rows += len(features)
        self.runs += 1
        start = 0
        for waiting in batch:
            end = start + len(waiting.features)
            if not waiting.scores.done():  # its request may have been cancelled
                waiting.scores.set_result(scores[start:end])
            start = end
