"""Reads the coverage beside the looks of a rollout, only for a step that asks."""

import logging
from collections.abc import Callable

import msgspec

from pipelines.rollout.beside import ReadBeside
from pipelines.rollout.coverage import Covered
from pipelines.rollout.features import COVERAGE
from pipelines.rollout.machine import Event, Looked, State

ReadCoverage = Callable[[State], Covered]
_log = logging.getLogger(__name__)


class CoverageBeside:
    """The look after the end of a reading carries the result."""

    def __init__(self, read: ReadCoverage | None, clock: Callable[[], float]) -> None:
        self._beside = None if read is None else ReadBeside(read, clock)

    @property
    def features(self) -> frozenset[str]:
        """What it adds to those of the platform."""
        return frozenset() if self._beside is None else frozenset({COVERAGE})

    def onto(self, event: Event, state: State) -> Event:
        """`event`, with the result of a reading where it is a look and one has ended; begins the next when due."""
        if not isinstance(event, Looked) or self._beside is None:
            return event
        found = self._taken(self._beside, None if state.memory is None else state.memory.coverage)
        if state.phase == "step" and state.plan.steps[state.step].coverage is not None:
            self._beside.begin(state, state.plan.coverage.read_every_s)
        return event if found is None else msgspec.structs.replace(event, coverage=found)

    def _taken(self, beside: ReadBeside[Covered], known: Covered | None) -> Covered | None:
        """The result of the reading that has ended. What cannot be read is not known: the step waits, looks go on."""
        found = beside.taken()
        if isinstance(found, BaseException):
            _log.warning("the coverage of a rollout cannot be read: %s", found, exc_info=found)
            found = Covered(share=None, words=f"it cannot be read: {found}")
        # what was seen stays seen
        lost = found is not None and found.share is None and known is not None and known.share is not None
        return known if lost else found
