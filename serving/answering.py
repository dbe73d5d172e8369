"""How a request is answered: rows are assigned by entity, one encoding and one graph run for each slot's group.

The challenger goes first, so that whatever it fails on joins the champion's group: the client never sees its errors.
The rows of a group join those of other requests of the same turn of the event loop (`serving.batching`), up to 64 at a
time, so that a large request gives the loop back between its pieces.
"""

import math
import random
import time
from collections.abc import Sequence
from dataclasses import dataclass, field

import msgspec
import numpy as np
from numpy.typing import NDArray

from contracts.assignment import position
from contracts.input_schema import InputSchema
from serving.batching import MAXIMUM_ROWS, Batcher, DeadlineError, OverloadedError
from serving.cache import ScoreCache
from serving.columns import Columns
from serving.encoding import Record, encode, encode_what_fits, taken
from serving.engine import Model, ScoringError, problem_of
from serving.metrics import Metrics, Totals
from serving.prediction_writer import LoggedGroup, PredictionIds, PredictionWriter
from serving.protocols.records import Prediction, PredictResponse
from serving.shadow import Shadow, ShadowWork
from serving.slots import Challenger, Slot, Slots, count_answer, count_answers

MAXIMUM_CHALLENGER_S = 1.0
_NO_ERROR = (None,)


class NotReadyError(Exception):
    """There is no champion that could answer."""


class ChampionFailedError(Exception):
    """The champion could not score these rows; `rows` are their positions in the request."""

    def __init__(self, version: str, rows: Sequence[int], reason: str) -> None:
        self.rows = tuple(rows)
        super().__init__(
            f"version {version} could not score {len(rows)} of the rows, the first is row {rows[0]}: {reason}"
        )


@dataclass(eq=False, slots=True)
class _Request:
    """One request on its way: `answers` fills up row by row."""

    request_id: str
    served_at_s: float
    records: Sequence[Record]
    entities: Sequence[str]
    rollout: str | None
    share: float
    deadline_s: float
    client: str | None
    is_counted: bool
    answers: list[Prediction | None]


@dataclass(eq=False)
class _Group:
    """Rows of one slot with what came of them: a score or an error for each."""

    slot: Slot
    name: str
    rows: list[int]
    seconds: float = 0.0
    features: NDArray[np.float32] | None = None
    scores: list[float] = field(default_factory=list)
    errors: list[str | None] = field(default_factory=list)


def entity_of(schema: InputSchema, record: Record) -> str:
    """By what a record sticks to its slot: its entity, or the key of its event where it has none."""
    entity = record.get(schema.entity)
    if entity is not None:
        return str(entity)
    return msgspec.json.encode([record.get(name) for name in schema.key]).decode()


def entities_of(schema: InputSchema, records: Sequence[Record]) -> list[str]:
    """`entity_of` for each of `records`; of columns they are one."""
    entities = records.texts(schema.entity) if isinstance(records, Columns) else None
    return [entity_of(schema, record) for record in records] if entities is None else entities


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
        self._chance = random.Random().random

    async def answer(
        self,
        records: Sequence[Record],
        request_id: str,
        *,
        champion_only: bool = False,
        deadline_s: float = math.inf,
        client: str | None = None,
    ) -> PredictResponse:
        """One prediction for each of `records`, for a request that `serving.suspension` drives.

        With `champion_only` the client asked for the champion's version: its rows are not assigned by chance, so they
        stay out of the counts that the judge compares. `deadline_s` is by `time.perf_counter`; `client` is who asks.

        Raises:
            NotReadyError: there is no champion.
            InvalidRecordError: the schema refuses a record.
            ChampionFailedError: the champion itself failed.
            OverloadedError, DeadlineError: it could not be done in time.
        """
        champion = self._slots.champion
        if champion is None:
            raise NotReadyError("there is no champion yet: load a bundle and promote it")
        challenger = None if champion_only else self._slots.sharing()
        schema = champion.model.schema
        entities = entities_of(schema, records)
        if challenger is None or (len(records) == 1 and not _is_for(challenger, entities[0])):
            answer = await self._answer_plainly(
                champion, challenger, records, entities, request_id, deadline_s, is_counted=not champion_only
            )
            if answer is not None:
                return answer
        request = _Request(
            request_id=request_id,
            served_at_s=time.time(),
            records=records,
            entities=entities,
            rollout=challenger.rollout if challenger else None,
            share=challenger.share if challenger else 0.0,
            deadline_s=deadline_s,
            client=client,
            is_counted=not champion_only,
            answers=[None] * len(records),
        )
        return await self._answer_many(request, champion, challenger)

    async def _answer_plainly(
        self,
        champion: Slot,
        challenger: Challenger | None,
        records: Sequence[Record],
        entities: Sequence[str],
        request_id: str,
        deadline_s: float,
        *,
        is_counted: bool,
    ) -> PredictResponse | None:
        """What most requests are, records that are all the champion's, with nothing that only others need.

        None where a score cannot be given: what that means is found out the long way.
        """
        model = champion.model
        version, threshold = model.version, model.threshold
        served_at_s, started = time.time(), time.perf_counter()
        is_one = len(records) == 1
        features = model.encoder.encode_rows(records) if is_one else await encode(model, records, range(len(records)))
        shadowing = self._slots.shadowing() if is_counted else None
        is_cached = False
        try:
            # a rollout compares what both versions do with their requests: then each has a run of its own
            if is_one and self._cache is not None and challenger is None and shadowing is None:
                score, is_cached = await self._score_once(self._cache, model, features, deadline_s)
                scores = [score]
            elif len(records) <= MAXIMUM_ROWS:
                scores = await self._batcher.score(model, features, deadline_s)
            else:
                scores = []
                for start in range(0, len(records), MAXIMUM_ROWS):
                    scores += await self._batcher.score(model, features[start : start + MAXIMUM_ROWS], deadline_s)
        except ScoringError:
            return None
        if any(map(problem_of, scores)):
            return None
        seconds = time.perf_counter() - started
        next_id = self._ids.next
        ids = [next_id() for _ in scores]
        decisions = [score >= threshold for score in scores]
        rollout, share = (challenger.rollout, challenger.share) if challenger else (None, 0.0)
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
                client=client,
                cached=is_cached,
            )
        )
        committed = self._writer.committed()
        if committed is not None:
            await committed
        if not is_cached:
            if is_counted:
                count_answers(champion.counts, seconds, scores)
            self._metrics.of(version, "champion").answered_together(seconds, scores)
        if shadowing is not None:
            self._offer(shadowing, request_id, model, records, entities, scores)
        predictions = [
            Prediction(prediction_id, score, decision, version, "champion", is_cached)
            for prediction_id, score, decision in zip(ids, scores, decisions, strict=True)
        ]
        return PredictResponse(
            predictions=predictions, rollout=rollout, share=share, model_version=version, bundle=model.bundle.id
        )

    async def _score_once(
        self, cache: ScoreCache, model: Model, features: NDArray[np.float32], deadline_s: float
    ) -> tuple[float, bool]:
        """The score of one row, and whether another request's run gave it."""
        key = model.version, features.tobytes()
        found = cache.find(key)
        if found is None and (first := cache.join(key)) is not None:
            found = await first
            if found is None:  # the first one failed, or its client is gone
                (score,) = await self._batcher.score(model, features, deadline_s)
                return score, False
        if found is not None:
            return found, True
        usable: float | None = None
        try:
            (score,) = await self._batcher.score(model, features, deadline_s)
            usable = score if problem_of(score) is None else None
        finally:
            cache.settle(key, usable)
        return score, False

    async def _answer_many(self, request: _Request, champion: Slot, challenger: Challenger | None) -> PredictResponse:
        """Any request: the rows in a group for each slot."""
        records = request.records
        own, others = _split(request.entities, challenger)
        started = time.perf_counter()
        features = await encode(champion.model, records, own)
        encoding_s = time.perf_counter() - started
        retried: list[int] = []
        if challenger is not None and others:
            retried = await self._ask_challenger(request, challenger, others, champion)
        await self._ask_champion(request, champion, own, retried, features, encoding_s)
        committed = self._writer.committed()
        if committed is not None:
            await committed
        return PredictResponse(
            predictions=[answer for answer in request.answers if answer is not None],
            rollout=request.rollout,
            share=request.share,
            model_version=champion.model.version,
            bundle=champion.model.bundle.id,
        )

    async def _ask_challenger(
        self, request: _Request, challenger: Challenger, rows: list[int], champion: Slot
    ) -> list[int]:
        """Answers `rows` by the challenger as far as it can; gives those back that the champion has to answer."""
        encoded, refused = await encode_what_fits(challenger.model, request.records, rows, champion.model)
        group = _Group(challenger, "challenger", [*encoded.rows, *refused])
        group.seconds = encoded.seconds
        now_s = time.perf_counter()
        # the champion must still have time for what the challenger does not answer
        await self._score_or_fail(
            group, encoded.features, now_s + min(MAXIMUM_CHALLENGER_S, (request.deadline_s - now_s) / 2)
        )
        group.errors.extend("the challenger's schema refuses what the champion's accepts" for _ in refused)
        group.scores.extend(float("nan") for _ in refused)
        if challenger.fault_share > 0:
            for place, error in enumerate(group.errors):
                if error is None and self._chance() < challenger.fault_share:
                    group.errors[place] = "injected fault"
        kept: list[int] = []
        for place, error in enumerate(group.errors):
            # promoted, dropped or tripped meanwhile, perhaps by a row before this one: the rest is the champion's
            if self._slots.challenger is not challenger or challenger.tripped is not None:
                break
            kept.append(place)
            if error is None:
                self._slots.count_challenger_answer(challenger, group.seconds, group.scores[place])
            else:
                self._slots.count_challenger_error(challenger)
        done = _Group(challenger, "challenger", [group.rows[place] for place in kept], group.seconds)
        done.scores = [group.scores[place] for place in kept]
        done.errors = [group.errors[place] for place in kept]
        if not refused:  # of a row that the schema refuses there are no features
            done.features = encoded.features[kept]
        self._record(request, done)
        return [row for row in rows if request.answers[row] is None]

    async def _ask_champion(
        self,
        request: _Request,
        champion: Slot,
        own: list[int],
        retried: list[int],
        features: NDArray[np.float32],
        encoding_s: float,
    ) -> None:
        if not own and not retried:
            return
        started = time.perf_counter()
        if retried:
            features = np.concatenate([features, await encode(champion.model, request.records, retried)])
        group = _Group(champion, "champion", own + retried, encoding_s + time.perf_counter() - started, features)
        await self._score(group, features, request.deadline_s)
        if request.is_counted:
            for place in range(len(own)):  # a retried row is no answer to a request of the champion's own
                champion.counts.requests += 1
                if group.errors[place] is None:
                    count_answer(champion.counts, group.seconds, group.scores[place])
                else:
                    champion.counts.errors += 1
        totals = self._record(request, group)
        totals.retried += len(retried)
        failed = [row for row, error in zip(group.rows, group.errors, strict=True) if error is not None]
        if failed:
            reason = next(error for error in group.errors if error is not None)
            raise ChampionFailedError(champion.model.version, failed, reason)
        shadowing = self._slots.shadowing() if request.is_counted else None
        if shadowing is not None:
            records = [request.records[row] for row in group.rows]
            entities = [request.entities[row] for row in group.rows]
            self._offer(shadowing, request.request_id, champion.model, records, entities, group.scores)

    def _offer(
        self,
        shadowing: Challenger,
        request_id: str,
        champion: Model,
        records: Sequence[Record],
        entities: Sequence[str],
        scores: Sequence[float],
    ) -> None:
        self._shadow.offer(
            ShadowWork(
                challenger=shadowing,
                request_id=request_id,
                records=records,
                entities=entities,
                scores=scores,
                threshold=champion.threshold,
            )
        )

    async def _score_or_fail(self, group: _Group, features: NDArray[np.float32], deadline_s: float) -> None:
        """As `_score`; a challenger that is too slow has failed on these rows, and the champion answers them."""
        try:
            await self._score(group, features, deadline_s)
        except (OverloadedError, DeadlineError) as error:
            missing = len(features) - len(group.scores)
            group.scores.extend(float("nan") for _ in range(missing))
            group.errors.extend(f"the challenger is too slow: {error}" for _ in range(missing))

    async def _score(self, group: _Group, features: NDArray[np.float32], deadline_s: float) -> None:
        """Scores `features` for the group, adding to its seconds; a failed piece is an error for each of its rows."""
        for start in range(0, len(features), MAXIMUM_ROWS):
            piece = features[start : start + MAXIMUM_ROWS] if start or len(features) > MAXIMUM_ROWS else features
            started = time.perf_counter()
            try:
                scores = await self._batcher.score(group.slot.model, piece, deadline_s)
            except ScoringError as error:
                group.scores.extend(float("nan") for _ in piece)
                group.errors.extend(str(error) for _ in piece)
            else:
                group.scores.extend(scores)
                group.errors.extend(map(problem_of, scores))
            group.seconds += time.perf_counter() - started

    def _record(self, request: _Request, group: _Group) -> Totals:
        """Answers the rows of `group` that have a score; metrics and log for all of them."""
        model = group.slot.model
        totals = self._metrics.of(model.version, group.name)
        next_id, threshold, answers = self._ids.next, model.threshold, request.answers
        ids: list[str] = []
        scores: list[float | None] = []
        decisions: list[bool | None] = []
        for row, score, error in zip(group.rows, group.scores, group.errors, strict=True):
            prediction_id = next_id()
            ids.append(prediction_id)
            if error is not None:
                totals.failed()
                scores.append(None)
                decisions.append(None)
                continue
            decision = score >= threshold
            totals.answered(group.seconds, score)
            scores.append(score)
            decisions.append(decision)
            answers[row] = Prediction(prediction_id, score, decision, model.version, group.name)
        if ids:
            self._writer.append(
                LoggedGroup(
                    served_at_s=request.served_at_s,
                    request_id=request.request_id,
                    schema=model.schema,
                    version=model.version,
                    bundle=model.bundle.id,
                    slot=group.name,
                    rollout=request.rollout,
                    share=request.share,
                    latency_us=int(group.seconds * 1e6),
                    records=taken(request.records, group.rows),
                    entities=taken(request.entities, group.rows),
                    prediction_ids=ids,
                    scores=scores,
                    decisions=decisions,
                    errors=group.errors,
                    features=group.features,
                    baseline=model.baseline,
                    client=request.client,
                )
            )
        return totals


def _split(entities: Sequence[str], challenger: Challenger | None) -> tuple[list[int], list[int]]:
    """The champion's rows and the challenger's."""
    if challenger is None:
        return list(range(len(entities))), []
    own: list[int] = []
    others: list[int] = []
    for row, entity in enumerate(entities):
        (others if _is_for(challenger, entity) else own).append(row)
    return own, others


def _is_for(challenger: Challenger, entity: str) -> bool:
    return position(challenger.position_salt, entity) < challenger.share
