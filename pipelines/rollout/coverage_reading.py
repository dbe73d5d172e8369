"""Reads the coverage beside the looks of a rollout: in a thread, every so often, and only for a step that asks."""

import asyncio
import logging
from collections.abc import Callable

import msgspec

from pipelines.rollout.coverage import Covered
from pipelines.rollout.features import COVERAGE
from pipelines.rollout.machine import Event, Looked, State

ReadCoverage = Callable[[State], Covered]
_log = logging.getLogger(__name__)


class CoverageBeside:
    """One reading at a time; the look after its end carries the result. A reading never keeps a look waiting."""

    def __init__(self, read: ReadCoverage | None, clock: Callable[[], float]) -> None:
        self._read = read
        self._clock = clock
        self._reading: asyncio.Future[Covered] | None = None
        self._began_s = float("-inf")

    @property
    def features(self) -> frozenset[str]:
        """What it adds to those of the platform."""
        return frozenset() if self._read is None else frozenset({COVERAGE})

    def onto(self, event: Event, state: State) -> Event:
        """`event`, with the result of a reading where it is a look and one has ended; begins the next when due."""
        if not isinstance(event, Looked) or self._read is None:
            return event
        found = self._taken(None if state.memory is None else state.memory.coverage)
        is_asked = state.phase == "step" and state.plan.steps[state.step].coverage is not None
        is_due = self._clock() - self._began_s >= state.plan.coverage.read_every_s
        if is_asked and is_due and self._reading is None:
            self._began_s = self._clock()
            self._reading = asyncio.ensure_future(asyncio.to_thread(self._read, state))
        return event if found is None else msgspec.structs.replace(event, coverage=found)

    def _taken(self, known: Covered | None) -> Covered | None:
        """The result of the reading that has ended. What cannot be read is not known: the step waits, looks go on."""
        if self._reading is None or not self._reading.done():
            return None
        reading, self._reading = self._reading, None
        if (error := reading.exception()) is None:
            found = reading.result()
        else:
            _log.warning("the coverage of a rollout cannot be read: %s", error, exc_info=error)
            found = Covered(share=None, words=f"it cannot be read: {error}")
        # what was seen stays seen
        return known if found.share is None and known is not None and known.share is not None else found
