"""Reads the outcomes of a rollout's own predictions beside its looks, where the plan asks for `quality`."""

import logging
from collections.abc import Callable

import msgspec

from pipelines.rollout.beside import ReadBeside
from pipelines.rollout.features import OUTCOMES
from pipelines.rollout.machine import Event, Looked, State
from pipelines.rollout.quality import Graded

ReadOutcomes = Callable[[State], Graded]
_log = logging.getLogger(__name__)


class OutcomesBeside:
    """The look after the end of a reading carries the result, also that it failed: then nothing advances by it."""

    def __init__(self, read: ReadOutcomes | None, clock: Callable[[], float]) -> None:
        self._beside = None if read is None else ReadBeside(read, clock)

    @property
    def features(self) -> frozenset[str]:
        """What it adds to those of the platform."""
        return frozenset() if self._beside is None else frozenset({OUTCOMES})

    def onto(self, event: Event, state: State) -> Event:
        """`event`, with the result of a reading where it is a look and one has ended; begins the next when due."""
        if not isinstance(event, Looked) or self._beside is None:
            return event
        found = self._beside.taken()
        if isinstance(found, BaseException):
            _log.warning("the outcomes of a rollout cannot be read: %s", found, exc_info=found)
            found = Graded(share=state.share, unknown=f"they cannot be read: {found}")
        if state.plan.quality is not None and _compares(state):
            self._beside.begin(state, state.plan.quality.every_s)
        return event if found is None else msgspec.structs.replace(event, outcomes=found)


def _compares(state: State) -> bool:
    has_champion = state.offer is not None and state.offer.expected_champion is not None
    return has_champion and state.phase in ("shadow", "step", "approval")
