"""Several challengers at a time: who may be loaded beside whom, and whose entity is whose. Pure.

An experiment cuts the entities into equal lanes, one a challenger, by a hash of its own; within its lane a challenger
and the champion divide them as they do all entities otherwise. So challengers cannot overlap whatever their shares are,
and what one of them does changes nothing in the lane of another.
"""

from collections.abc import Iterable, Sequence
from typing import NamedTuple

from contracts.assignment import lane_of
from contracts.slots import MAXIMUM_CHALLENGERS, LoadSlot
from serving.challenger import Challenger


class Lanes(NamedTuple):
    """The lanes that are in force."""

    experiment: str
    of: int

    def place_of(self, key: str) -> int:
        """The lane of what sticks by `key`, from 0."""
        return lane_of(self.experiment, key, self.of)


def lanes_of(challengers: Iterable[Challenger]) -> Lanes | None:
    """The lanes that `challengers` are in; None where there is none, or one that may have all entities."""
    for challenger in challengers:
        if challenger.lane is not None:
            return Lanes(challenger.lane.experiment, challenger.lane.of)
    return None


def is_live(challenger: Challenger) -> bool:
    """Whether somebody has promised it a share or a shadow."""
    return challenger.share > 0 or challenger.lease_ends_s is not None


def conflict(load: LoadSlot, challengers: Sequence[Challenger]) -> str | None:
    """Why `load` cannot come beside `challengers`, which are of other rollouts; None where it can."""
    kept = beside(load, challengers)
    for other in challengers:
        if is_live(other) and other not in kept:
            return (
                f"rollout {other.rollout!r} holds the challenger slot with version {other.model.version}, "
                f"share {other.share:g}: end it first"
            )
    for other in kept:
        if other.model.version == load.version:
            return f"rollout {other.rollout!r} of the same experiment has version {load.version} already"
    return None


def beside(load: LoadSlot, challengers: Iterable[Challenger]) -> list[Challenger]:
    """Those of `challengers` that stay when `load` comes: of the same experiment, in other lanes."""
    lane = load.lane
    if lane is None:
        return []
    kept = []
    for other in challengers:
        mine = other.lane
        if mine is not None and (mine.experiment, mine.of) == (lane.experiment, lane.of) and mine.place != lane.place:
            kept.append(other)
    return kept


def free_seat(challengers: Iterable[Challenger]) -> int:
    """The first seat that none of `challengers` has."""
    taken = {challenger.seat for challenger in challengers}
    return next(seat for seat in range(MAXIMUM_CHALLENGERS) if seat not in taken)
