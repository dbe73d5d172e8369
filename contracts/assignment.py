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
