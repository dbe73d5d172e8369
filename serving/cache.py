"""Answers to identical inputs within seconds: bounded in size and time, never across versions, one graph run for all.

A deterministic graph gives the same score for the same row, so the cache changes no answer; it saves graph runs where
many clients ask the same within a short time. Whoever asks while the first one waits for its run waits with it.
"""

import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable

import numpy as np
from numpy.typing import NDArray

from serving.engine import problem_of
from serving.suspension import Suspension

Key = tuple[str, bytes]  # the version, and the bytes of the row (float32): 0.0 and -0.0 are two


class ScoreCache:
    """Scores by version and encoded row. `seconds` is how long one may be given again, `rows` how many are kept."""

    def __init__(self, *, seconds: float, rows: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._seconds = seconds
        self._rows = rows
        self._clock = clock
        self._kept: OrderedDict[Key, tuple[float, float]] = OrderedDict()
        self._asked: dict[Key, list[Suspension[float | None]]] = {}
        self.hits = 0
        self.misses = 0
        self.joined = 0

    def __len__(self) -> int:
        return len(self._kept)

    async def score(
        self, version: str, row: NDArray[np.float32], run: Callable[[], Awaitable[list[float]]]
    ) -> tuple[float, bool]:
        """The score of one row (float32, 1 × columns), and whether another request's run gave it.

        `run` is called where none has; what it raises is raised.
        """
        key = version, row.tobytes()
        found = self.find(key)
        if found is None and (first := self.join(key)) is not None:
            found = await first
            if found is None:  # the first one failed, or its client is gone
                (score,) = await run()
                return score, False
        if found is not None:
            return found, True
        usable: float | None = None
        try:
            (score,) = await run()
            usable = score if problem_of(score) is None else None
        finally:
            self.settle(key, usable)
        return score, False

    def find(self, key: Key) -> float | None:
        """The score that is kept, if it is not too old."""
        found = self._kept.get(key)
        if found is not None:
            score, until_s = found
            if self._clock() < until_s:
                self.hits += 1
                return score
            del self._kept[key]
        return None

    def join(self, key: Key) -> Suspension[float | None] | None:
        """To be awaited for the score that another request is already waiting for; None where this one is the first.

        Resolved with None where the first one got no score: then whoever waits asks for itself. The first one must
        `settle` in every case.
        """
        asked = self._asked.get(key)
        if asked is None:
            self._asked[key] = []
            self.misses += 1
            return None
        waiting: Suspension[float | None] = Suspension()
        asked.append(waiting)
        return waiting

    def settle(self, key: Key, score: float | None) -> None:
        """What came of the first request's run: a score to keep, or None."""
        if score is not None:
            self._kept[key] = (score, self._clock() + self._seconds)
            if len(self._kept) > self._rows:
                self._kept.popitem(last=False)
        for waiting in self._asked.pop(key, ()):
            if score is not None and not waiting.is_done:
                self.joined += 1
            waiting.resolve(score)
