"""Requests of a rollout: rows are assigned by entity, one encoding and one graph run for each slot's group.

The challenger goes first, so that whatever it fails on joins the champion's group: the client never sees its errors.
"""

import random
import time
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from serving.assigned import Assigned, is_for
from serving.batching import Batcher, DeadlineError, OverloadedError
from serving.challenger import CHALLENGER, CHAMPION, Challenger, Slot, count_answer
from serving.encoding import Record, encode, encode_what_fits, taken
from serving.engine import ScoringError, problem_of
from serving.metrics import Metrics, Totals
from serving.prediction_writer import LoggedGroup, PredictionIds, PredictionWriter
from serving.protocols.records import Prediction, PredictResponse
from serving.shadow import Shadow, work_of_request
from serving.slots import Slots

MAXIMUM_CHALLENGER_S = 1.0


class ChampionFailedError(Exception):
    """The champion could not score these rows; `rows` are their positions in the request."""

    def __init__(self, version: str, rows: Sequence[int], reason: str) -> None:
        self.version, self.rows, self.reason = version, tuple(rows), reason
        super().__init__(
            f"version {version} could not score {len(rows)} of the rows, the first is row {rows[0]}: {reason}"
        )


@dataclass(eq=False, slots=True)
class DividedRequest:
    """One request on its way: `answers` fills up row by row."""

    request_id: str
    served_at_s: float
    records: Sequence[Record]
    entities: Sequence[str]
    assigned: Assigned
    rollout: str | None
    share: float
    deadline_s: float
    client: str | None
    size_bytes: int
    answers: list[Prediction | None]
    failed: list[int] = field(default_factory=list)  # rows that the challenger failed on

    @property
    def is_counted(self) -> bool:
        """Whether the judge counts it."""
        return self.assigned.uncounted is None


@dataclass(eq=False)
class Group:
    """Rows of one slot with what came of them: a score or an error for each."""

    slot: Slot
    name: str
    rows: list[int]
    seconds: float = 0.0
    features: NDArray[np.float32] | None = None
    scores: list[float] = field(default_factory=list)
    errors: list[str | None] = field(default_factory=list)


class DividedAnswerer:
    """Answers requests whose rows may be of both slots, or have failed where a request usually does not."""

    def __init__(
        self,
        *,
        slots: Slots,
        metrics: Metrics,
        writer: PredictionWriter,
        shadow: Shadow,
        ids: PredictionIds,
        batcher: Batcher,
    ) -> None:
        self._slots = slots
        self._metrics = metrics
        self._writer = writer
        self._shadow = shadow
        self._ids = ids
        self._batcher = batcher
        self._chance = random.Random().random

    async def answer(self, request: DividedRequest, champion: Slot) -> PredictResponse:
        """The rows in a group for each slot. Raises as `serving.answering.Answerer.answer` does."""
        records = request.records
        challenger = request.assigned.challenger
        own, others = _split(request.assigned)
        started = time.perf_counter()
        features = await encode(champion.model, records, own)
        encoding_s = time.perf_counter() - started
        retried: list[int] = []
        if challenger is not None and others:
            retried = await self._ask_challenger(request, challenger, others, champion)
        await self._ask_champion(request, champion, challenger, own, retried, features, encoding_s)
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
        self, request: DividedRequest, challenger: Challenger, rows: list[int], champion: Slot
    ) -> list[int]:
        """Answers `rows` by the challenger as far as it can; gives those back that the champion has to answer."""
        encoded, refused = await encode_what_fits(challenger.model, request.records, rows, champion.model)
        group = Group(challenger, "challenger", [*encoded.rows, *refused])
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
        is_counted, keys, holds_limits = request.is_counted, request.assigned.keys, request.assigned.holds_limits
        for place, error in enumerate(group.errors):
            # promoted, dropped or tripped meanwhile, perhaps by a row before this one: the rest is the champion's
            if not self._slots.is_asked(challenger):
                break
            kept.append(place)
            if error is None:
                key, score = keys[group.rows[place]], group.scores[place]
                if holds_limits:
                    self._slots.count_challenger_answer(challenger, group.seconds, score, is_counted=is_counted)
                if is_counted:
                    self._slots.gather_answers(challenger, CHALLENGER, [key], group.seconds, [score])
            else:
                if holds_limits:
                    self._slots.count_challenger_error(challenger, keys[group.rows[place]], is_counted=is_counted)
                request.failed.append(group.rows[place])
        done = Group(challenger, "challenger", [group.rows[place] for place in kept], group.seconds)
        done.scores = [group.scores[place] for place in kept]
        done.errors = [group.errors[place] for place in kept]
        if not refused:  # of a row that the schema refuses there are no features
            done.features = encoded.features[kept]
        self._record(request, done)
        return [row for row in rows if request.answers[row] is None]

    async def _ask_champion(
        self,
        request: DividedRequest,
        champion: Slot,
        challenger: Challenger | None,
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
        group = Group(champion, "champion", own + retried, encoding_s + time.perf_counter() - started, features)
        await self._score(group, features, request.deadline_s)
        if request.is_counted:
            for place in range(len(own)):  # a retried row is no answer to a request of the champion's own
                champion.counts.requests += 1
                if group.errors[place] is None:
                    count_answer(champion.counts, group.seconds, group.scores[place])
                else:
                    champion.counts.errors += 1
        if challenger is not None and request.assigned.holds_limits:
            self._gather(request, challenger, group, len(own))
        totals = self._record(request, group)
        totals.retried += len(retried)
        shadowing = request.assigned.shadow if request.is_counted else None
        if shadowing is not None:
            self._shadow.offer(
                work_of_request(
                    shadowing,
                    request.request_id,
                    [request.records[row] for row in group.rows],
                    [request.entities[row] for row in group.rows],
                    [score if error is None else None for score, error in zip(group.scores, group.errors, strict=True)],
                    group.seconds,
                    champion.model.threshold,
                )
            )
        failed = [row for row, error in zip(group.rows, group.errors, strict=True) if error is not None]
        if failed:
            reason = next(error for error in group.errors if error is not None)
            raise ChampionFailedError(champion.model.version, failed, reason)

    def _gather(self, request: DividedRequest, challenger: Challenger, group: Group, own: int) -> None:
        """Counts by entity what the champion answered of its `own` rows, and what the challenger failed on.

        Rows that both fail on are counted on either side: left out on one, equal versions would not look equal.
        """
        keys, slots = request.assigned.keys, self._slots
        unanswered = {row for row, error in zip(group.rows, group.errors, strict=True) if error is not None}
        for row in unanswered.intersection(request.failed):  # the request itself is wrong: no reason to trip
            slots.forgive(challenger, keys[row])
        if not request.is_counted:
            return
        for row, score, error in zip(group.rows[:own], group.scores, group.errors, strict=False):
            if error is None:
                slots.gather_answers(challenger, CHAMPION, [keys[row]], group.seconds, [score])
            else:
                slots.gather_failure(challenger, CHAMPION, keys[row])
        for row in request.failed:
            slots.gather_failure(challenger, CHALLENGER, keys[row])

    async def _score_or_fail(self, group: Group, features: NDArray[np.float32], deadline_s: float) -> None:
        """As `_score`; who is too slow has failed on these rows, and the champion answers them."""
        try:
            await self._score(group, features, deadline_s)
        except (OverloadedError, DeadlineError) as error:
            missing = len(features) - len(group.scores)
            group.scores.extend(float("nan") for _ in range(missing))
            group.errors.extend(f"the {group.name} is too slow: {error}" for _ in range(missing))

    async def _score(self, group: Group, features: NDArray[np.float32], deadline_s: float) -> None:
        """Scores `features` for the group, adding to its seconds; a failed piece is an error for each of its rows."""
        maximum = group.slot.model.maximum_rows
        for start in range(0, len(features), maximum):
            piece = features[start : start + maximum]
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

    def _record(self, request: DividedRequest, group: Group) -> Totals:
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
                    uncounted=request.assigned.uncounted,
                    size_bytes=request.size_bytes if group.name == "champion" else 0,
                )
            )
        return totals


def _split(assigned: Assigned) -> tuple[list[int], list[int]]:
    """The champion's rows and the challenger's."""
    challenger, rows = assigned.challenger, list(range(len(assigned.keys)))
    if challenger is None:
        return rows, []
    if assigned.is_pinned:
        return [], rows
    own: list[int] = []
    others: list[int] = []
    for row, key in enumerate(assigned.keys):
        (others if is_for(challenger, key) else own).append(row)
    return own, others
