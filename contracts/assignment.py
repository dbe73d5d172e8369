"""Sticky, nested assignment: an entity that sees the challenger at 5 % still does at 25 %."""

from hashlib import blake2b

_WHOLE = float(1 << 64)


def unit(salt: str, entity: str) -> int:
    """`entity` as 64 bits: what a rollout counts by. Its low bits say nothing about its position."""
    digest = blake2b(entity.encode(), digest_size=8, key=salt.encode()[:64]).digest()
    return int.from_bytes(digest, "big")


def position(salt: str, entity: str) -> float:
    """Where `entity` lies in [0, 1); the challenger answers it while its share is above that. `salt` is the rollout."""
    return unit(salt, entity) / _WHOLE


def lane_of(experiment: str, entity: str, lanes: int) -> int:
    """In which of `lanes` equal parts `entity` lies, from 0, as long as `experiment` runs.

    Another hash than that of `position`, whatever the salts: what lane an entity is in says nothing about where it lies
    in it. So each lane is a test of its own, and in a challenger's way from its lane to all entities it keeps its own.
    """
    salt = experiment.encode()[:64]
    digest = blake2b(entity.encode(), digest_size=8, key=salt, person=b"lane").digest()
    return int.from_bytes(digest, "big") * lanes >> 64


def is_held_back(salt: str, entity: str, share: float) -> bool:
    """Whether `entity` is among the `share` that a holdout leaves on the old champion: the challenger comes to it last.

    So a rollout of the same `salt` whose last step stops at `1 - share` never shows these entities its challenger.
    """
    return position(salt, entity) >= 1 - share
