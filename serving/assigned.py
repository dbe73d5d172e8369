"""Which versions may answer a request, by what its rows stick to theirs, and whether the judge counts it."""

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import msgspec

from contracts.assignment import position
from serving.challenger import Challenger
from serving.held import Held
from serving.lanes import Lanes
from serving.slots import Slots

Uncounted = Literal["denied", "pinned", "by_version", "synthetic"]
SYNTHETIC_HEADER = b"paceline-synthetic"


class Assigned(msgspec.Struct, frozen=True, gc=False):
    """What is settled of a request before its rows are encoded. Each has one: a Struct is made in a fifth of the time.

    `challenger` or `held` may answer its rows, and never both; without them all are the champion's. `keys` is what each
    row sticks to its version by. `uncounted` is why the judge does not count the request: its version is not by chance,
    or it is nobody's. `is_pinned`: the client sees the challenger whatever the share is. `shadow` is the challenger
    that may shadow what the champion answers. Where rows lie in lanes of several challengers, each lane's are a part of
    their own, with their positions in the request; what is above is of none of them then.
    """

    challenger: Challenger | None
    keys: Sequence[str]
    uncounted: Uncounted | None = None
    is_pinned: bool = False
    held: Held | None = None
    shadow: Challenger | None = None
    parts: "tuple[tuple[list[int], Assigned], ...]" = ()

    @property
    def rollout(self) -> str | None:
        """By whose salt the rows are assigned."""
        found = self.challenger or self.held
        return found.rollout if found is not None else None

    @property
    def share(self) -> float:
        """The share of the entities that are not the champion's."""
        found = self.challenger or self.held
        return found.share if found is not None else 0.0

    @property
    def holds_limits(self) -> bool:
        """Whether what the challenger does with it counts for the hard limits."""
        return self.uncounted != "synthetic"

    def is_all_champions(self) -> bool:
        """Whether no row is another's; of requests with more rows it is not asked."""
        challenger, held = self.challenger, self.held
        if challenger is None:
            return held is None or (len(self.keys) == 1 and not held.answers(self.keys[0]))
        return not self.is_pinned and len(self.keys) == 1 and not is_for(challenger, self.keys[0])


def assign(
    slots: Slots,
    records: Sequence[Mapping[str, Any]],
    entities: Sequence[str],
    client: str | None,
    headers: Mapping[bytes, bytes],
) -> Assigned:
    """By the share that is in force, and by the flags; a synthetic request as any other, but for being counted."""
    if slots.lanes is not None:
        return _by_lanes(slots, slots.lanes, records, entities, client, headers)
    challenger, held = slots.sharing(), slots.holdout
    rules = slots.flag_rules
    synthetic: Literal["synthetic"] | None = "synthetic" if SYNTHETIC_HEADER in headers else None
    if rules is None or (challenger is None and held is None):
        return Assigned(challenger, entities, synthetic, False, held, slots.shadowing())
    variant = rules.variant_of(client)
    if variant == "champion":
        return Assigned(None, entities, synthetic or ("pinned" if rules.is_pinned(client) else "denied"))
    keys = rules.keys_of(records, entities, client, headers)
    if held is not None:  # the version that a pin to the challenger was about is the champion now
        is_pinned = variant == "challenger"
        return Assigned(None, keys, synthetic or ("pinned" if is_pinned else None), held=None if is_pinned else held)
    if variant == "challenger":
        return Assigned(challenger, keys, synthetic or "pinned", is_pinned=True)
    return Assigned(challenger, keys, synthetic, shadow=slots.shadowing())


def _by_lanes(
    slots: Slots,
    lanes: Lanes,
    records: Sequence[Mapping[str, Any]],
    entities: Sequence[str],
    client: str | None,
    headers: Mapping[bytes, bytes],
) -> Assigned:
    """As `assign` while there are several challengers: each row by its own lane.

    Whose pin is to the challenger sees the one of its entity's lane. There is no holdout beside challengers.
    """
    rules = slots.flag_rules
    uncounted: Uncounted | None = "synthetic" if SYNTHETIC_HEADER in headers else None
    variant = None if rules is None else rules.variant_of(client)
    if rules is not None and variant == "champion":
        return Assigned(None, entities, uncounted or ("pinned" if rules.is_pinned(client) else "denied"))
    keys = entities if rules is None else rules.keys_of(records, entities, client, headers)
    is_pinned = variant == "challenger"
    if is_pinned:
        uncounted = uncounted or "pinned"
    rows: dict[int, list[int]] = {}
    for row, key in enumerate(keys):
        rows.setdefault(lanes.place_of(key), []).append(row)
    parts = []
    for place, mine in rows.items():
        found = slots.in_lane(place)
        sharing = found if found is not None and found.share > 0 else None
        shadow = found if found is not None and found.shadow else None
        assigned = Assigned(
            sharing, [keys[row] for row in mine], uncounted, is_pinned and sharing is not None, None, shadow
        )
        parts.append((mine, assigned))
    return parts[0][1] if len(parts) == 1 else Assigned(None, keys, uncounted, parts=tuple(parts))


def of_champion(entities: Sequence[str], headers: Mapping[bytes, bytes]) -> Assigned:
    """A request for the champion by its version."""
    return Assigned(None, entities, "synthetic" if SYNTHETIC_HEADER in headers else "by_version")


def is_for(challenger: Challenger, key: str) -> bool:
    """Whether the challenger answers what sticks by `key` at its present share."""
    return position(challenger.position_salt, key) < challenger.share
