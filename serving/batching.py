"""Rows that are waiting when the engine is free go together: one graph run for all that a turn of the loop brings.

By default there is no timer and no wait. Rows are taken in until the event loop has nothing else to do in this turn,
and then run; under load more requests arrive in a turn, so batches grow by themselves, and without load a batch is one
request. Each model has a lane of its own, and a graph that is slow runs in a thread of its lane: neither a slow
challenger nor a client that sends many rows at once holds up the others.
"""

import asyncio
import math
import time
from bisect import bisect_left
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial

import numpy as np
from numpy.typing import NDArray

from serving.engine import Model, ScoringError
from serving.suspension import Suspension

MAXIMUM_WAITING_ROWS = 4096
SMALL_ROWS = 8  # requests up to this size take turns with larger ones, piece by piece
THREAD_FROM_S = 0.002  # a run that takes longer than a hop to a thread by far must not hold up the loop
SIZE_EDGES = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024)
WAIT_EDGES_S = tuple(0.0001 * 2**step for step in range(16))
_SMOOTHING = 0.1
_RECENT_RUNS = 8
_KEPT_LANES = 4
_TOO_LATE = "the time that the request gave was over before its rows were scored"


class OverloadedError(Exception):
    """More rows wait than can be scored in time: nothing was done for this request, which may come again later."""


class DeadlineError(Exception):
    """The time that the client gave was over before its rows had their turn."""


class Waiting(Suspension[list[float]]):
    """Rows that wait for their run; resolved with their scores."""

    __slots__ = ("deadline_s", "features", "since_s")

    def __init__(self, features: NDArray[np.float32], since_s: float, deadline_s: float) -> None:
        self.is_done = False
        self._resume = self._value = self._error = None
        self.features = features
        self.since_s = since_s
        self.deadline_s = deadline_s


class Batcher:
    """Scores rows for all requests of one process.

    `wait_s` is how long a first row waits for others: 0 for the rest of the loop's turn. `when_resolved` is called when
    all that a run has scored are resolved: who has gathered its own of them answers them together. The counters are for
    the metrics: `rows` in `runs`, by size; `expired` rows whose time was over; `waits` by their length.
    """

    def __init__(self, *, wait_s: float = 0.0) -> None:
        self.wait_s = wait_s
        self.when_resolved: Callable[[], None] | None = None
        self.rows = 0
        self.runs = 0
        self.expired = 0
        self.shed = 0
        self.waiting_rows = 0
        self.sizes = [0] * (len(SIZE_EDGES) + 1)
        self.waits = [0] * (len(WAIT_EDGES_S) + 1)
        self.wait_sum_s = 0.0
        self._lanes: dict[Model, _Lane] = {}

    def score(self, model: Model, features: NDArray[np.float32], deadline_s: float = math.inf) -> Waiting:
        """At most `model.maximum_rows` rows, to be awaited for their scores; `deadline_s` by `time.perf_counter`.

        Raises:
            OverloadedError: at once, when the rows that wait for this model already need more time than there is.
        Fails with:
            ScoringError: the graph failed on these rows; rows of others in the same run do not matter.
            DeadlineError: the time was over before the rows had their turn.
        """
        waiting = Waiting(features, time.perf_counter(), deadline_s)
        self.add(model, waiting)
        return waiting

    def add(self, model: Model, waiting: Waiting) -> None:
        """The same for rows that wait already. Raises OverloadedError as above."""
        lane = self._lanes.get(model)
        if lane is None:
            lane = self._lane_of(model)
        lane.add(waiting)

    def _lane_of(self, model: Model) -> "_Lane":
        if len(self._lanes) >= _KEPT_LANES:  # models of the past
            self._lanes = {model: lane for model, lane in self._lanes.items() if lane.is_busy}
        lane = self._lanes[model] = _Lane(self, model)
        return lane


class _Lane:
    """The rows that wait for one model: small requests and pieces of large ones in turns."""

    def __init__(self, batcher: Batcher, model: Model) -> None:
        self._batcher = batcher
        self._model = model
        self._loop = asyncio.get_running_loop()  # asked once: in Python 3.11 each call is a system call
        self._small: deque[Waiting] = deque()
        self._large: deque[Waiting] = deque()
        self._alone: deque[Waiting] = deque()  # of a batch that failed
        self._rows = 0
        self._row_s = 0.0  # smoothed; between runs that had a queue, so that it tells how fast one becomes shorter
        # of these runs the quickest tells: others may have been interrupted
        self._recent_s: deque[float] = deque(maxlen=_RECENT_RUNS)
        self._is_slow = False
        self._busy_since_s: float | None = None
        self._is_due = False
        self._in_thread: Future[list[float]] | None = None
        self._thread: ThreadPoolExecutor | None = None
        self._large_first = False

    @property
    def is_busy(self) -> bool:
        return self._rows > 0 or self._in_thread is not None

    def add(self, waiting: Waiting) -> None:
        rows = len(waiting.features)
        batcher = self._batcher
        if self._rows and (
            self._rows + rows > MAXIMUM_WAITING_ROWS or waiting.since_s + self._rows * self._row_s > waiting.deadline_s
        ):
            batcher.shed += rows
            raise OverloadedError(
                f"{self._rows} rows wait already, some {self._rows * self._row_s * 1000:.0f} ms of work: try again soon"
            )
        is_small = rows <= SMALL_ROWS
        (self._small if is_small else self._large).append(waiting)
        self._remember(rows)
        if self._is_slow and waiting.deadline_s < math.inf:
            # of a run in the thread nobody knows how long it takes
            self._loop.call_later(waiting.deadline_s - waiting.since_s, waiting.fail, DeadlineError(_TOO_LATE))
        if not self._is_due and self._in_thread is None:
            self._is_due = True
            if batcher.wait_s:
                self._loop.call_later(batcher.wait_s, self._run)
            else:
                self._loop.call_soon(self._run)
        elif is_small and len(self._small) >= self._model.maximum_rows and not self._is_slow and not self._in_thread:
            # what is full need not wait for the rest of the turn, where a thousand connections wait for each other
            self._run_once()

    def _run(self) -> None:
        """The run at the end of a turn; what does not fit waits for the next one."""
        self._is_due = False
        self._run_once()

    def _run_once(self) -> None:
        batch = self._take()
        if batch:
            if self._is_slow:
                self._run_in_thread(batch)
                return
            self._answer(batch)
        elif not self._rows:
            self._busy_since_s = None  # all that waited have gone: the time until others come is nobody's work
        self._go_on()

    def _go_on(self) -> None:
        if self._rows and not self._is_due:
            self._is_due = True
            self._loop.call_soon(self._run)

    def _take(self) -> list[Waiting]:
        """What goes into the next run; rows that nobody waits for any more are dropped here."""
        now_s = time.perf_counter()
        batcher, maximum = self._batcher, self._model.maximum_rows
        batch: list[Waiting] = []
        size = 0
        queues = (self._large, self._small) if self._large_first else (self._small, self._large)
        if self._alone:
            waiting = self._alone.popleft()
            self._remember(-len(waiting.features))
            return [waiting]
        for queue in queues:
            while queue:
                waiting = queue[0]
                rows = len(waiting.features)
                if waiting.is_done or waiting.deadline_s < now_s:
                    queue.popleft()
                    self._remember(-rows)
                    if not waiting.is_done:
                        batcher.expired += rows
                        waiting.fail(DeadlineError(_TOO_LATE))
                    continue
                if batch and size + rows > maximum:
                    break
                queue.popleft()
                self._remember(-rows)
                size += rows
                batch.append(waiting)
                waited_s = now_s - waiting.since_s
                batcher.waits[bisect_left(WAIT_EDGES_S, waited_s)] += 1
                batcher.wait_sum_s += waited_s
        self._large_first = bool(self._large) and not self._large_first
        return batch

    def _remember(self, rows: int) -> None:
        self._rows += rows
        self._batcher.waiting_rows += rows

    def _answer(self, batch: list[Waiting]) -> None:
        started = time.perf_counter()
        try:
            scores = _score(self._model, batch)
        except ScoringError as error:
            self._failed(batch, error)
            return
        self._done(batch, scores, time.perf_counter() - started)

    def _run_in_thread(self, batch: list[Waiting]) -> None:
        if self._thread is None:
            self._thread = ThreadPoolExecutor(1, thread_name_prefix=f"graph-{self._model.version}")
        started = time.perf_counter()
        self._in_thread = self._thread.submit(_score, self._model, batch)
        ended = partial(self._ended, batch, started)
        self._in_thread.add_done_callback(lambda future: self._loop.call_soon_threadsafe(ended, future))

    def _ended(self, batch: list[Waiting], started: float, future: "Future[list[float]]") -> None:
        self._in_thread = None
        error = future.exception()
        if isinstance(error, ScoringError):
            self._failed(batch, error)
        elif error is not None:
            for waiting in batch:
                waiting.fail(ScoringError(f"{type(error).__name__}: {error}"[:500]))
        else:
            self._done(batch, future.result(), time.perf_counter() - started)
        self._go_on()

    def _failed(self, batch: list[Waiting], error: ScoringError) -> None:
        if len(batch) == 1:
            batch[0].fail(error)
            return
        self._alone.extend(batch)  # one request that the graph fails on must not take the others down
        self._remember(sum(len(waiting.features) for waiting in batch))

    def _done(self, batch: list[Waiting], scores: list[float], seconds: float) -> None:
        batcher, size = self._batcher, len(scores)
        batcher.rows += size
        batcher.runs += 1
        batcher.sizes[bisect_left(SIZE_EDGES, size)] += 1
        self._recent_s.append(seconds)
        self._is_slow = min(self._recent_s) > THREAD_FROM_S
        start = 0
        for waiting in batch:
            end = start + len(waiting.features)
            waiting.resolve(scores[start:end])
            start = end
        if batcher.when_resolved is not None:
            batcher.when_resolved()
        now_s = time.perf_counter()  # with what answering cost: it is a part of how long the next ones wait
        if self._busy_since_s is not None:
            self._row_s += _SMOOTHING * ((now_s - self._busy_since_s) / size - self._row_s)
        self._busy_since_s = now_s if self._rows else None


def _score(model: Model, batch: list[Waiting]) -> list[float]:
    features = batch[0].features if len(batch) == 1 else np.concatenate([waiting.features for waiting in batch])
    scores: list[float] = model.score(features).tolist()
    return scores
