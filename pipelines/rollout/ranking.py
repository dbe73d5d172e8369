"""Which of several challengers goes on alone, of those that every look has left. Pure.

The rule, in this order:

1. whom the traffic has shown to fail more often than another one is behind that one: its failure rate by entity is
   shown to be higher when even the lowest rate that fits its counts lies above the highest that fits the other's
   (confidence sequences of 97.5 % each, valid at all times);
2. among those that nobody is shown to be better than, the gates decide: by how much each was better than the champion
   on held-out rows with outcomes, in log loss. It counts only where it was measured against the champion of the
   experiment; who has no such number is behind who has one;
3. then the version of newer data, then the higher number.

Scores and latencies of live traffic rank nobody: whether they are worse the judge has said, and that they are other
ones says nothing about who is right. Outcomes come too late for an experiment: the holdout waits for them.
"""

from collections.abc import Sequence

import msgspec

from pipelines.rollout.state import State
from pipelines.statistics import rate_bounds

_BOUND_ALPHA = 0.025  # of each of the two bounds that show that one fails more often than another


class Merit(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What was known of a challenger before the experiment: log loss of the champion less its own, on held-out rows.

    `gain` is None where the gates have not compared it with this champion. `as_of` is of its data.
    """

    gain: float | None = None
    as_of: str = ""


class Contender(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One of the challengers of an experiment."""

    rollout: str
    version: str
    merit: Merit = Merit()


class Place(msgspec.Struct, frozen=True, kw_only=True):
    """Where one has come, with what that rests on: failures by entity, the bounds of their rate, and its merit."""

    rollout: str
    version: str
    behind: tuple[str, ...]
    failed: int
    entities: int
    lowest_rate: float
    highest_rate: float
    gain: float | None
    as_of: str


class Choice(msgspec.Struct, frozen=True, kw_only=True):
    """Who goes on, why, and the order of all that were left."""

    rollout: str
    version: str
    reason: str
    order: tuple[Place, ...]


def choose(contenders: Sequence[tuple[Contender, State]]) -> Choice | None:
    """The choice; None while one that is left has not come as far as the others, or is paused; and if none is left."""
    left = [(contender, state) for contender, state in contenders if not state.is_final]
    if not left or any(state.phase != "ranking" or state.paused_since_s is not None for _, state in left):
        return None
    places = [_place(contender, state) for contender, state in left]
    places = [msgspec.structs.replace(place, behind=_better_than(place, places)) for place in places]
    order = sorted(places, key=_key)
    first = order[0]
    return Choice(rollout=first.rollout, version=first.version, reason=_reason(order), order=tuple(order))


def _place(contender: Contender, state: State) -> Place:
    failed, entities = (0, 0) if state.memory is None else (state.memory.errors.happened, state.memory.errors.n)
    return Place(
        rollout=contender.rollout,
        version=contender.version,
        behind=(),
        failed=failed,
        entities=entities,
        lowest_rate=rate_bounds.lower_bound(failed, entities, _BOUND_ALPHA),
        highest_rate=rate_bounds.upper_bound(failed, entities, _BOUND_ALPHA),
        gain=contender.merit.gain,
        as_of=contender.merit.as_of,
    )


def _better_than(place: Place, places: Sequence[Place]) -> tuple[str, ...]:
    return tuple(other.version for other in places if other.highest_rate < place.lowest_rate)


def _key(place: Place) -> tuple[object, ...]:
    """The best first. Whom nobody is better than comes before all others."""
    number = int(place.version) if place.version.isdigit() else 0
    gain = -float("inf") if place.gain is None else place.gain
    newest = tuple(-ord(character) for character in place.as_of)  # dates as text sort as dates do
    return (len(place.behind), -gain, newest, -number, place.version)


def _reason(order: Sequence[Place]) -> str:
    first, others = order[0], order[1:]
    if not others:
        return f"version {first.version} is the only one left"
    told = [f"version {first.version} goes on before {', '.join(other.version for other in others)}"]
    worse = [other for other in order if other.behind]
    told += [
        f"{other.version} fails for {other.failed:,} of {other.entities:,} entities, shown to be more often than "
        f"{', '.join(other.behind)}"
        for other in worse
    ]
    if len(order) - len(worse) > 1:
        gains = ", ".join(
            f"{place.version} {'not compared' if place.gain is None else f'{place.gain:+.4f}'}"
            for place in order
            if not place.behind
        )
        alike = "the others" if worse else "they"
        told.append(f"by failures {alike} are alike; log loss gained on the champion, by the gates: {gains}")
    return "; ".join(told)
