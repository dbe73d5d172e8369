"""Shadow traffic: after the champion has answered, the challenger scores the same rows, in a thread of its own.

Nobody waits for it, and its cost is bounded: the plan's sample of the requests, a quarter of the time, a queue that
ends. What came within some milliseconds goes to the thread together, since each way there and back costs more than to
score a row. It gives way: while rows of clients wait for a graph, or clients keep the event loop busy, it does little,
and what the queue does not take is dropped and counted. The thread gives the interpreter back after each piece of rows.
"""

import asyncio
import contextlib
import logging
import random
import time
from bisect import bisect_left
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from contracts.encoder import InvalidRecordError
from contracts.slots import LATENCY_EDGES_S
from serving.challenger import Challenger, count_answer
from serving.engine import Model, ScoringError, problem_of
from serving.metrics import Metrics
from serving.prediction_writer import LogFullError, LoggedGroup, OfRequests, PredictionIds, PredictionWriter
from serving.slots import Slots

MAXIMUM_QUEUED_ROWS = 4_000
BUSY_ROWS = 64  # of clients: when so many wait for a graph, the server has better things to do
BUSY_TURN_S = 0.0003  # of the event loop: an idle one takes 20 µs, one request some 30, so these are ten at once
GIVE_WAY_S = 0.05  # at most, for each run: a server that is always busy can have a rollout as well
GATHER_S = 0.02  # that an idle shadow waits for more to go with the first
_LOOK_AGAIN_S = 0.005
REST = 3.0  # times as long as it took, where processors are short as well: then it takes longer
REST_FROM_S = 0.003  # a shorter rest is saved up: timers know milliseconds
PIECE_ROWS = 64
_PAUSE_S = 2e-5  # sleep(0) would take the interpreter back before anybody else has woken up
logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, eq=False)
class ShadowWork:
    """Rows that the champion answered with `scores` (None: it failed), for `challenger` to score as well.

    The sequences are parallel; rows of one request have the same of the `request_ids`, and of the `seconds` that the
    champion took.
    """

    challenger: Challenger
    request_ids: Sequence[str]
    records: Sequence[Mapping[str, Any]]
    entities: Sequence[str]
    scores: Sequence[float | None]
    seconds: Sequence[float]
    threshold: float


def work_of_request(
    challenger: Challenger,
    request_id: str,
    records: Sequence[Mapping[str, Any]],
    entities: Sequence[str],
    scores: Sequence[float | None],
    seconds: float,
    threshold: float,
) -> ShadowWork:
    """The rows of one request, which the champion answered in `seconds`."""
    rows = len(records)
    return ShadowWork(challenger, (request_id,) * rows, records, entities, scores, (seconds,) * rows, threshold)


@dataclass(frozen=True, slots=True, eq=False)
class Shadowed:
    """What the challenger made of the rows: a score or an error for each; `seconds` for all of them together."""

    scores: list[float | None]
    errors: list[str | None]
    seconds: float


class Shadow:
    """The queue and the thread; `start` and `stop` on the event loop."""

    def __init__(
        self,
        *,
        slots: Slots,
        metrics: Metrics,
        writer: PredictionWriter,
        ids: PredictionIds,
        maximum_rows: int = MAXIMUM_QUEUED_ROWS,
        chance: Callable[[], float] = random.random,
    ) -> None:
        self._slots = slots
        self._metrics = metrics
        self._writer = writer
        self._ids = ids
        self._maximum_rows = maximum_rows
        self._chance = chance
        self._queued_rows = 0
        self._queue: deque[ShadowWork] = deque()
        self._has_work = asyncio.Event()
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="shadow")
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begins to work off the queue."""
        self._task = asyncio.get_running_loop().create_task(self._work())

    async def stop(self) -> None:
        """Ends after the work in hand; what is queued is not done."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        self._thread.shutdown(wait=False, cancel_futures=True)

    def offer(self, work: ShadowWork) -> None:
        """Queues `work`, of one request, if it is drawn; or drops and counts it when the queue is full."""
        sample = work.challenger.sample
        if sample < 1 and self._chance() >= sample:
            return
        rows = len(work.records)
        if self._queued_rows + rows > self._maximum_rows:
            self._drop(work.challenger, rows)
        else:
            self._enqueue(work)

    def offer_each(self, work: ShadowWork) -> None:
        """The same for rows of a request each: those that are drawn, as far as the queue takes them."""
        challenger, sample = work.challenger, work.challenger.sample
        rows: Sequence[int] = range(len(work.scores))
        if sample < 1:
            rows = [row for row in rows if self._chance() < sample]
        room = self._maximum_rows - self._queued_rows
        if len(rows) > room:
            self._drop(challenger, len(rows) - room)
            rows = rows[:room]
        if rows:
            self._enqueue(
                ShadowWork(
                    challenger,
                    [work.request_ids[row] for row in rows],
                    [work.records[row] for row in rows],
                    [work.entities[row] for row in rows],
                    [work.scores[row] for row in rows],
                    [work.seconds[row] for row in rows],
                    work.threshold,
                )
            )

    def _drop(self, challenger: Challenger, rows: int) -> None:
        challenger.shadowed.dropped += rows
        self._metrics.shadow_dropped += rows

    def _enqueue(self, work: ShadowWork) -> None:
        self._queued_rows += len(work.records)
        self._queue.append(work)
        self._has_work.set()

    async def _next(self) -> ShadowWork:
        """What is first in the queue, with what can go with it."""
        if not self._queue:
            self._has_work.clear()
            await self._has_work.wait()
            await asyncio.sleep(GATHER_S)
        works = [self._queue.popleft()]
        first, rows = works[0], len(works[0].records)
        while self._queue:
            work = self._queue[0]
            rows += len(work.records)
            if rows > PIECE_ROWS or work.challenger is not first.challenger or work.threshold != first.threshold:
                break
            works.append(self._queue.popleft())
        return first if len(works) == 1 else _together(works)

    async def _give_way(self, loop: asyncio.AbstractEventLoop) -> None:
        """Waits while clients keep the server busy, and not for ever."""
        until_s = loop.time() + GIVE_WAY_S
        while True:
            started_s = loop.time()
            await asyncio.sleep(0)
            now_s = loop.time()
            is_busy = now_s - started_s >= BUSY_TURN_S or self._metrics.batcher.waiting_rows >= BUSY_ROWS
            if not is_busy or now_s >= until_s:
                return
            await asyncio.sleep(_LOOK_AGAIN_S)

    async def _work(self) -> None:
        loop = asyncio.get_running_loop()
        rest_s = 0.0
        while True:
            if not self._queue:
                rest_s = 0.0
            elif rest_s >= REST_FROM_S:
                await asyncio.sleep(rest_s)
                rest_s = 0.0
            work = await self._next()
            try:
                # a challenger that has lost its slot, its lease or its shadow is asked no more
                if not self._slots.is_shadowing(work.challenger):
                    continue
                await self._give_way(loop)
                model, records = work.challenger.model, work.records
                began_s = loop.time()
                self._record(work, await loop.run_in_executor(self._thread, score_shadow, model, records))
                rest_s += REST * (loop.time() - began_s)
            except Exception:
                logger.exception(
                    "%d shadow rows are lost, the first of request %s", len(work.records), work.request_ids[0]
                )
            finally:
                self._queued_rows -= len(work.records)

    def _record(self, work: ShadowWork, shadowed: Shadowed) -> None:
        challenger, model = work.challenger, work.challenger.model
        counts, totals = challenger.shadowed, self._metrics.of(model.version, "shadow")
        rows, latency_us = len(work.records), int(shadowed.seconds * 1e6)
        found = zip(
            work.records, work.entities, work.scores, work.seconds, shadowed.scores, shadowed.errors, strict=True
        )
        for record, entity, theirs, took_s, score, error in found:
            failed = score is None or error is not None
            value = None if challenger.slice_by is None else str(record.get(challenger.slice_by))
            challenger.count_pair(entity, failed=failed, champion_failed=theirs is None, value=value)
            if theirs is None:  # nothing to compare a score with
                continue
            counts.pairs += 1
            self._metrics.shadow_pairs += 1
            if score is None or error is not None:
                counts.errors += 1
                totals.failed()
                continue
            is_flip = (score >= model.threshold) != (theirs >= work.threshold)
            counts.flips += is_flip
            self._metrics.shadow_flips += is_flip
            counts.absolute_difference_sum += abs(score - theirs)
            challenger.count_difference(entity, score - theirs, is_flip=is_flip, value=value)
            count_answer(counts, shadowed.seconds, score)
            counts.champion_latency[bisect_left(LATENCY_EDGES_S, took_s)] += 1
            totals.answered(shadowed.seconds, score)
        group = LoggedGroup(  # without features: the champion's row has the flags of the same inputs
            served_at_s=time.time(),
            request_id=work.request_ids[0],
            schema=model.schema,
            version=model.version,
            bundle=model.bundle.id,
            slot="shadow",
            rollout=challenger.rollout,
            share=0.0,
            latency_us=latency_us,
            records=work.records,
            entities=work.entities,
            prediction_ids=self._ids.take(rows),
            scores=shadowed.scores,
            decisions=[None if score is None else score >= model.threshold for score in shadowed.scores],
            errors=shadowed.errors,
            baseline=model.baseline,
            each=OfRequests(work.request_ids, (None,) * rows, (latency_us,) * rows),
        )
        with contextlib.suppress(LogFullError):  # counted by the writer, and no client waits
            self._writer.append(group)


def score_shadow(model: Model, records: Sequence[Mapping[str, Any]]) -> Shadowed:
    """What the challenger makes of `records`, in pieces; runs in the thread."""
    if len(records) > PIECE_ROWS:
        parts = []
        for start in range(0, len(records), PIECE_ROWS):
            parts.append(score_shadow(model, records[start : start + PIECE_ROWS]))
            time.sleep(_PAUSE_S)
        return _joined(parts)
    started = time.perf_counter()
    try:
        scores = model.score(model.encoder.encode_rows(records))
    except (InvalidRecordError, ScoringError) as error:
        if len(records) > 1:  # one bad row must not count as many
            return _joined([score_shadow(model, [record]) for record in records])
        # the text of a refused record shows its values, which the log must not
        text = "the challenger's schema refuses it" if isinstance(error, InvalidRecordError) else str(error)
        return Shadowed([None], [text], time.perf_counter() - started)
    errors = [problem_of(score) for score in scores.tolist()]
    return Shadowed(
        [score if error is None else None for score, error in zip(scores.tolist(), errors, strict=True)],
        errors,
        time.perf_counter() - started,
    )


def _together(works: Sequence[ShadowWork]) -> ShadowWork:
    """Work for one challenger, as one."""
    return ShadowWork(
        works[0].challenger,
        [each for work in works for each in work.request_ids],
        [each for work in works for each in work.records],
        [each for work in works for each in work.entities],
        [each for work in works for each in work.scores],
        [each for work in works for each in work.seconds],
        works[0].threshold,
    )


def _joined(parts: Sequence[Shadowed]) -> Shadowed:
    return Shadowed(
        [score for part in parts for score in part.scores],
        [error for part in parts for error in part.errors],
        sum(part.seconds for part in parts),
    )
