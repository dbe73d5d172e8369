"""Entities whose rows are to go, until the last of them has gone: from the first moment no reader sees them.

The list lies beside the log and has no entity: salted hashes, and the instant up to which rows are meant. Whoever comes
back later is logged like anybody.
"""

import json
import os
import secrets
from collections.abc import Sequence
from datetime import UTC, datetime
from hashlib import sha256
from pathlib import Path

import msgspec

_FILE = ".forgotten.json"


class Forgotten(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The rows of one entity that were served before `before` (ISO 8601, UTC, as the log writes it)."""

    salt: str
    digest: str
    before: str

    @property
    def condition(self) -> str:
        """SQL that is true for its rows. Salt, digest and time are ours, and have no quotes."""
        return f"(served_at < '{self.before}' AND sha256('{self.salt}' || entity) = '{self.digest}')"

    def age_s(self, now: datetime) -> float:
        """How long ago it was asked for."""
        return (now - datetime.fromisoformat(self.before)).total_seconds()


def forget(entity: str, now: datetime) -> Forgotten:
    """What hides all rows of `entity` (as logged) up to `now`."""
    salt = secrets.token_hex(16)
    digest = sha256(f"{salt}{entity}".encode()).hexdigest()
    return Forgotten(salt=salt, digest=digest, before=now.astimezone(UTC).isoformat(timespec="microseconds"))


def read_forgotten(root: Path) -> tuple[Forgotten, ...]:
    """What readers of the log below `root` leave out."""
    try:
        return msgspec.json.decode((root / _FILE).read_bytes(), type=tuple[Forgotten, ...])
    except FileNotFoundError:
        return ()


def write_forgotten(root: Path, forgotten: Sequence[Forgotten]) -> None:
    """Replaces the list, durably and whole; within the lock of the compaction."""
    path, draft = root / _FILE, root / f"{_FILE}.draft"
    with draft.open("wb") as file:
        file.write(json.dumps(msgspec.to_builtins(forgotten)).encode())
        file.flush()
        os.fsync(file.fileno())
    draft.replace(path)
    handle = os.open(root, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def visible(forgotten: Sequence[Forgotten]) -> str:
    """SQL that is true for the rows that readers may see."""
    return " AND ".join(f"NOT {each.condition}" for each in forgotten) or "true"
