"""How a request is answered: encoded, scored together with others of its turn, logged, and counted.

Most requests are all the champion's, and take the short way here; where a challenger may answer some of the rows, or
one of them fails, `serving.divided` does it. The rows join those of other requests of the same turn of the event loop
(`serving.batching`); a large request gives the loop back between its pieces.
"""

import time
from collections.abc import Sequence
from functools import partial
from typing import Protocol

import msgspec
import numpy as np
from numpy.typing import NDArray

from contracts.input_schema import InputSchema
from serving.assigned import Assigned, assign, of_champion
from serving.batching import Batcher
from serving.cache import ScoreCache
from serving.challenger import CHAMPION, Challenger, Slot, count_answers
from serving.columns import Columns
from serving.divided import ChampionFailedError, DividedRequest
from serving.encoding import Record, encode, taken
from serving.engine import Model, ScoringError, are_sound
from serving.holdout import HoldoutAnswerer
from serving.metrics import Metrics
from serving.prediction_writer import LoggedGroup, PredictionIds, PredictionWriter
from serving.protocols.records import Prediction, PredictResponse
from serving.shadow import Shadow, work_of_request
from serving.slots import Slots
from serving.tracing import Marks

_NO_ERROR = (None,)


class NotReadyError(Exception):
    """There is no champion that could answer."""


def entity_of(schema: InputSchema, record: Record) -> str:
    """By what a record sticks to its slot: its entity, or the key of its event where it has none."""
    entity = record.get(schema.entity)
    if entity.__class__ is str or entity.__class__ is int:
        return str(entity)
    return msgspec.json.encode([record.get(name) for name in schema.key]).decode()


def entities_of(schema: InputSchema, records: Sequence[Record]) -> list[str]:
    """`entity_of` for each of `records`; of columns they are one."""
    if records.__class__ is Columns:
        found = records.texts(schema.entity)
        if found is not None:
            return found
    if len(records) == 1:
        return [entity_of(schema, records[0])]
    return [entity_of(schema, record) for record in records]


class Asked(Protocol):
    """A request as far as its answer depends on it; `deadline_s` is by `time.perf_counter`, `client` is who asks."""

    id: str
    deadline_s: float
    client: str | None
    marks: Marks | None
    body: bytes
    headers: dict[bytes, bytes]


class Answerer:
    """Answers records from the slots, counts, and logs."""

    def __init__(
        self,
        *,
        slots: Slots,
        metrics: Metrics,
        writer: PredictionWriter,
        shadow: Shadow,
        ids: PredictionIds,
        batcher: Batcher,
        cache: ScoreCache | None = None,
    ) -> None:
        self._slots = slots
        self._metrics = metrics
        self._writer = writer
        self._shadow = shadow
        self._ids = ids
        self._batcher = batcher
        self._cache = cache
        self._divided = HoldoutAnswerer(
            slots=slots, metrics=metrics, writer=writer, shadow=shadow, ids=ids, batcher=batcher
        )

    async def answer(self, records: Sequence[Record], asked: Asked, *, champion_only: bool = False) -> PredictResponse:
        """One prediction for each of `records`, for a request that `serving.suspension` drives.

        With `champion_only` the client asked for the champion's version: its rows are not assigned by chance, so they
        stay out of the counts that the judge compares.

        Raises:
            NotReadyError: there is no champion.
            InvalidRecordError: the schema refuses a record.
            ChampionFailedError: the champion itself failed.
            OverloadedError, DeadlineError: it could not be done in time.
            LogFullError, LogFailedError: an audited project's log does not take it.
        """
        champion = self._slots.champion
        if champion is None:
            raise NotReadyError("there is no champion yet: load a bundle and promote it")
        entities = entities_of(champion.model.schema, records)
        if champion_only:
            assigned = of_champion(entities, asked.headers)
        else:
            assigned = assign(self._slots, records, entities, asked.client, asked.headers)
        if assigned.parts:
            return await self._answer_parts(champion, assigned, records, entities, asked)
        return await self._answer_assigned(champion, assigned, records, entities, asked)

    async def _answer_parts(
        self,
        champion: Slot,
        assigned: Assigned,
        records: Sequence[Record],
        entities: Sequence[str],
        asked: Asked,
    ) -> PredictResponse:
        """Rows that lie in lanes of several challengers, lane by lane; the request as a whole is of no rollout."""
        await encode(champion.model, records, range(len(records)))  # a bad row refuses all, before any is answered
        answers: dict[int, Prediction] = {}
        for rows, part in assigned.parts:
            mine, theirs = taken(records, rows), taken(entities, rows)
            try:
                answer = await self._answer_assigned(champion, part, mine, theirs, asked)
            except ChampionFailedError as error:
                failed = [rows[row] for row in error.rows]
                raise ChampionFailedError(error.version, failed, error.reason) from error
            answers.update(zip(rows, answer.predictions, strict=True))
        return PredictResponse(
            predictions=[answers[row] for row in range(len(records))],
            rollout=None,
            share=0.0,
            model_version=champion.model.version,
            bundle=champion.model.bundle.id,
        )

    async def _answer_assigned(
        self,
        champion: Slot,
        assigned: Assigned,
        records: Sequence[Record],
        entities: Sequence[str],
        asked: Asked,
    ) -> PredictResponse:
        if assigned.is_all_champions():
            answer = await self._answer_plainly(champion, assigned, records, entities, asked)
            if answer is not None:
                return answer
        request = DividedRequest(
            request_id=asked.id,
            served_at_s=time.time(),
            records=records,
            entities=entities,
            assigned=assigned,
            rollout=assigned.rollout,
            share=assigned.share,
            deadline_s=asked.deadline_s,
            client=asked.client,
            size_bytes=len(asked.body),
            answers=[None] * len(records),
        )
        if assigned.held is not None:
            return await self._divided.answer_held(request, champion, assigned.held)
        return await self._divided.answer(request, champion)

    async def _answer_plainly(
        self,
        champion: Slot,
        assigned: Assigned,
        records: Sequence[Record],
        entities: Sequence[str],
        asked: Asked,
    ) -> PredictResponse | None:
        """What most requests are, all the champion's; None where a score cannot be given, for the long way to tell."""
        model = champion.model
        version, threshold = model.version, model.threshold
        challenger, is_counted = assigned.challenger, assigned.uncounted is None
        request_id, deadline_s, marks = asked.id, asked.deadline_s, asked.marks
        served_at_s, started = time.time(), time.perf_counter()
        is_one = len(records) == 1
        features = model.encoder.encode_rows(records) if is_one else await encode(model, records, range(len(records)))
        if marks is not None:
            marks.encoded(version, len(records))
        shadowing = assigned.shadow if is_counted else None
        is_cached = False
        try:
            # a rollout compares what both versions do with their requests: then each has a run of its own
            if is_one and self._cache is not None and challenger is None and shadowing is None:
                run = partial(self._batcher.score, model, features, deadline_s)
                score, is_cached = await self._cache.score(version, features, run)
                scores = [score]
            else:
                fits = len(records) <= model.maximum_rows
                scores = await (self._batcher.score if fits else self._score_pieces)(model, features, deadline_s)
        except ScoringError:
            return None
        if not are_sound(scores):
            return None
        seconds = time.perf_counter() - started
        if marks is not None:
            marks.scored()
        ids = [self._ids.next()] if is_one else self._ids.take(len(scores))
        decisions = [score >= threshold for score in scores]
        rollout, share = assigned.rollout, assigned.share
        self._writer.append(
            LoggedGroup(
                served_at_s=served_at_s,
                request_id=request_id,
                schema=model.schema,
                version=version,
                bundle=model.bundle.id,
                slot="champion",
                rollout=rollout,
                share=share,
                latency_us=int(seconds * 1e6),
                records=records,
                entities=entities,
                prediction_ids=ids,
                scores=scores,
                decisions=decisions,
                errors=_NO_ERROR * len(scores),
                features=features,
                baseline=model.baseline,
                client=asked.client,
                cached=is_cached,
                uncounted=assigned.uncounted,
                size_bytes=len(asked.body),
            )
        )
        committed = self._writer.committed()
        if committed is not None:
            await committed
        if not is_cached:
            if is_counted:
                self._count(champion, challenger or shadowing, assigned.keys, seconds, scores)
            self._metrics.of(version, "champion").answered_together(seconds, scores)
        if shadowing is not None:
            self._shadow.offer(work_of_request(shadowing, request_id, records, entities, scores, seconds, threshold))
        predictions = [
            Prediction(prediction_id, score, decision, version, "champion", is_cached)
            for prediction_id, score, decision in zip(ids, scores, decisions, strict=True)
        ]
        return PredictResponse(
            predictions=predictions, rollout=rollout, share=share, model_version=version, bundle=model.bundle.id
        )

    def _count(
        self, champion: Slot, tried: Challenger | None, keys: Sequence[str], seconds: float, scores: list[float]
    ) -> None:
        """Requests for the counts of the champion; by entity as well, for the judge, while a challenger is `tried`."""
        count_answers(champion.counts, seconds, scores)
        if tried is not None:
            self._slots.gather_answers(tried, CHAMPION, keys, seconds, scores)

    async def _score_pieces(self, model: Model, features: NDArray[np.float32], deadline_s: float) -> list[float]:
        scores: list[float] = []
        for start in range(0, len(features), model.maximum_rows):
            scores += await self._batcher.score(model, features[start : start + model.maximum_rows], deadline_s)
        return scores
