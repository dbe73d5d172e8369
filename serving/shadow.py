"""Shadow traffic: after the champion has answered, the challenger scores the same rows, in a thread of its own.

Nobody waits for it, and its cost is bounded: the plan's sample of the requests, a quarter of the time, a queue that
ends. It gives way: while rows of clients wait for a graph, or clients keep the event loop busy, it does little, and
what the queue does not take is dropped and counted. The thread gives the interpreter back after each piece of rows.
"""

import asyncio
import contextlib
import logging
import random
import time
from bisect import bisect_left
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from contracts.encoder import InvalidRecordError
from contracts.slots import LATENCY_EDGES_S
from serving.challenger import Challenger, count_answer
from serving.engine import Model, ScoringError, problem_of
from serving.metrics import Metrics
from serving.prediction_writer import LogFullError, LoggedGroup, PredictionIds, PredictionWriter
from serving.slots import Slots

MAXIMUM_QUEUED_ROWS = 4_000
BUSY_ROWS = 64  # of clients: when so many wait for a graph, the server has better things to do
BUSY_TURN_S = 0.001  # of the event loop: an idle one takes 20 µs, one request some 80
GIVE_WAY_S = 0.05  # at most, for each request: a server that is always busy can have a rollout as well
_LOOK_AGAIN_S = 0.005
REST = 3.0  # times as long as it took, where processors are short as well: then it takes longer
REST_FROM_S = 0.003  # a shorter rest is saved up: timers know milliseconds
PIECE_ROWS = 64
_PAUSE_S = 2e-5  # sleep(0) would take the interpreter back before anybody else has woken up
logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, eq=False)
class ShadowWork:
    """Rows that the champion answered in `seconds` with `scores` (None: it failed), for `challenger` to score too."""

    challenger: Challenger
    request_id: str
    records: Sequence[Mapping[str, Any]]
    entities: Sequence[str]
    scores: Sequence[float | None]
    threshold: float
    seconds: float


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
        self._queue: asyncio.Queue[ShadowWork] = asyncio.Queue()
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
        """Queues `work` if it is drawn; or drops and counts it when the queue is full."""
        sample = work.challenger.sample
        if sample < 1 and self._chance() >= sample:
            return
        rows = len(work.records)
        if self._queued_rows + rows > self._maximum_rows:
            work.challenger.shadowed.dropped += rows
            self._metrics.shadow_dropped += rows
            return
        self._queued_rows += rows
        self._queue.put_nowait(work)

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
            if self._queue.empty():
                rest_s = 0.0
            elif rest_s >= REST_FROM_S:
                await asyncio.sleep(rest_s)
                rest_s = 0.0
            work = await self._queue.get()
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
                logger.exception("shadow rows of request %s are lost", work.request_id)
            finally:
                self._queued_rows -= len(work.records)

    def _record(self, work: ShadowWork, shadowed: Shadowed) -> None:
        challenger, model = work.challenger, work.challenger.model
        counts, totals = challenger.shadowed, self._metrics.of(model.version, "shadow")
        rows = zip(work.records, work.entities, work.scores, shadowed.scores, shadowed.errors, strict=True)
        for record, entity, theirs, score, error in rows:
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
            counts.champion_latency[bisect_left(LATENCY_EDGES_S, work.seconds)] += 1
            totals.answered(shadowed.seconds, score)
        group = LoggedGroup(  # without features: the champion's row has the flags of the same inputs
            served_at_s=time.time(),
            request_id=work.request_id,
            schema=model.schema,
            version=model.version,
            bundle=model.bundle.id,
            slot="shadow",
            rollout=challenger.rollout,
            share=0.0,
            latency_us=int(shadowed.seconds * 1e6),
            records=work.records,
            entities=work.entities,
            prediction_ids=[self._ids.next() for _ in work.records],
            scores=shadowed.scores,
            decisions=[None if score is None else score >= model.threshold for score in shadowed.scores],
            errors=shadowed.errors,
            baseline=model.baseline,
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


def _joined(parts: Sequence[Shadowed]) -> Shadowed:
    return Shadowed(
        [score for part in parts for score in part.scores],
        [error for part in parts for error in part.errors],
        sum(part.seconds for part in parts),
    )
