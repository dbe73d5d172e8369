"""Requests while a holdout runs: the old champion answers its entities, and each version what the other fails on."""

import time
from dataclasses import replace

from serving.challenger import Slot, count_answer
from serving.divided import MAXIMUM_CHALLENGER_S, ChampionFailedError, DividedAnswerer, DividedRequest, Group
from serving.encoding import encode, encode_what_fits
from serving.held import Held
from serving.protocols.records import PredictResponse

NAME = "holdout"


class HoldoutAnswerer(DividedAnswerer):
    """Answers requests whose rows may be the old champion's, or that the new one has failed on."""

    async def answer_held(self, request: DividedRequest, champion: Slot, held: Held) -> PredictResponse:
        """The rows in a group for each version. Raises as `serving.answering.Answerer.answer` does."""
        theirs = [row for row, key in enumerate(request.assigned.keys) if held.answers(key)]
        own = sorted(set(range(len(request.entities))).difference(theirs))
        # what one answers in the other's place was not assigned by chance, and so is no evidence of either
        unassigned = replace(request, rollout=None, share=0.0)
        errors: dict[int, str] = {}
        if theirs:
            await self._ask_held(request, champion, held, theirs)
        if own:
            errors.update(await self._ask(request, champion, own))
            if errors:
                await self._ask_held(unassigned, champion, held, list(errors))
        if missing := [row for row in theirs if request.answers[row] is None]:
            errors.update(await self._ask(unassigned, champion, missing))
            self._metrics.of(champion.model.version, "champion").retried += len(missing)
        committed = self._writer.committed()
        if committed is not None:
            await committed
        if failed := [row for row in errors if request.answers[row] is None]:
            raise ChampionFailedError(champion.model.version, failed, errors[failed[0]])
        return PredictResponse(
            predictions=[answer for answer in request.answers if answer is not None],
            rollout=request.rollout,
            share=request.share,
            model_version=champion.model.version,
            bundle=champion.model.bundle.id,
        )

    async def _ask_held(self, request: DividedRequest, champion: Slot, held: Held, rows: list[int]) -> None:
        """Answers `rows` by the old champion as far as it can; the new one has half of the time for the rest."""
        encoded, refused = await encode_what_fits(held.model, request.records, rows, champion.model)
        group = Group(held, NAME, [*encoded.rows, *refused], encoded.seconds)
        now_s = time.perf_counter()
        deadline_s = now_s + min(MAXIMUM_CHALLENGER_S, (request.deadline_s - now_s) / 2)
        await self._score_or_fail(group, encoded.features, deadline_s)
        group.errors.extend("the schema of the holdout refuses what the champion's accepts" for _ in refused)
        group.scores.extend(float("nan") for _ in refused)
        if not refused:  # of a row that the schema refuses there are no features
            group.features = encoded.features
        self._finish(request, group)

    async def _ask(self, request: DividedRequest, champion: Slot, rows: list[int]) -> dict[int, str]:
        """Answers `rows` by the champion; the errors of those that it fails on, by row."""
        started = time.perf_counter()
        features = await encode(champion.model, request.records, rows)
        group = Group(champion, "champion", rows, time.perf_counter() - started, features)
        await self._score(group, features, request.deadline_s)
        self._finish(request, group)
        return {row: error for row, error in zip(rows, group.errors, strict=True) if error is not None}

    def _finish(self, request: DividedRequest, group: Group) -> None:
        """Counts what was assigned to this version, answers and logs."""
        if request.rollout is not None and request.is_counted:
            counts = group.slot.counts
            for score, error in zip(group.scores, group.errors, strict=True):
                counts.requests += 1
                if error is None:
                    count_answer(counts, group.seconds, score)
                else:
                    counts.errors += 1
        self._record(request, group)
