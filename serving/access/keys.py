"""API keys: which one a request carries, and what it opens."""

import math
from collections.abc import Container, Mapping
from hashlib import sha256
from hmac import compare_digest

from contracts.access import KEY_CHARACTERS, KEY_ID_CHARACTERS, KEY_PREFIX, KeyFile
from serving.access.limits import Limit
from serving.access.request import Grant

_ID = slice(len(KEY_PREFIX), len(KEY_PREFIX) + KEY_ID_CHARACTERS)
_Entry = tuple[bytes, Grant | None]  # the hash of a key, and what it opens
_NO_ENTRY: _Entry = (bytes(32), None)  # no key has this hash


class KeyRing:
    """The keys in force by their public ids."""

    def __init__(self, entries: Mapping[bytes, _Entry]) -> None:
        self._entries = entries

    @classmethod
    def of(cls, file: KeyFile, project: str, usual: Limit | None, must_sign: Container[str]) -> "KeyRing":
        """Without the revoked ones; a key for other projects only is known here, and has no scope."""
        entries: dict[bytes, _Entry] = {}
        for key in file.keys:
            if key.revoked is None:
                is_for_this = not key.projects or project in key.projects
                grant = Grant(
                    id=key.id,
                    client=key.client,
                    scopes=frozenset(key.scopes) if is_for_this else frozenset(),
                    expires_s=math.inf if key.expires is None else key.expires.timestamp(),
                    limit=usual if key.rate_per_s is None else Limit.of(key.rate_per_s, key.burst),
                    must_sign=key.client in must_sign,
                )
                entries[key.id.encode()] = (bytes.fromhex(key.sha256), grant)
        return cls(entries)

    def find(self, given: bytes) -> Grant | None:
        """The grant of this key, expired or not. An unknown id costs the same work as a wrong secret."""
        if len(given) != KEY_CHARACTERS:
            given = b""
        digest, grant = self._entries.get(given[_ID], _NO_ENTRY)
        return grant if compare_digest(sha256(given).digest(), digest) else None

    @property
    def grants(self) -> list[Grant]:
        """What all keys open."""
        return [grant for _, grant in self._entries.values() if grant is not None]
