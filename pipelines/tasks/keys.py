"""API keys of the model server: made, listed and revoked in the file that `PACELINE_SERVING_KEYS` names.

A running server takes a change over within a second. To rotate, create a second key for the client, let the client
change over, revoke the first.
"""

import contextlib
import fcntl
import os
import re
import secrets
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, cast

import msgspec

from contracts.access import (
    CLIENT_PATTERN,
    KEY_ID_BYTES,
    KEY_PREFIX,
    KEY_SECRET_BYTES,
    MAXIMUM_BURST,
    MAXIMUM_FILE_BYTES,
    MAXIMUM_KEYS,
    MAXIMUM_RATE_PER_S,
    MINIMUM_RATE_PER_S,
    SCOPES,
    ApiKey,
    KeyFile,
    KeyFileError,
    KeyScope,
    decode_keys,
    digest_of,
    encode_keys,
)

DEFAULT_DAYS = 365
MAXIMUM_DAYS = 3650
_FILE_MODE = 0o600


def create(
    file: Path,
    client: str,
    *,
    scopes: Sequence[str] = ("predict",),
    days: int = DEFAULT_DAYS,
    rate_per_s: float | None = None,
    burst: int | None = None,
    projects: Sequence[str] = (),
) -> dict[str, Any]:
    """One more key for `client`; the answer has it under `key`, and nobody can show it again.

    `days` is until it expires, 0 for never. `projects` are those whose server takes it, without any all.

    Raises:
        ValueError: a value is not allowed, or the file cannot be used.
    """
    _check(client, scopes, days, rate_per_s, burst)
    now = _now()
    key_id = secrets.token_hex(KEY_ID_BYTES)
    key = f"{KEY_PREFIX}{key_id}_{secrets.token_urlsafe(KEY_SECRET_BYTES)}"
    made = ApiKey(
        id=key_id,
        client=client,
        sha256=digest_of(key.encode()).hex(),
        scopes=cast("tuple[KeyScope, ...]", tuple(dict.fromkeys(scopes))),
        created=now,
        expires=now + timedelta(days=days) if days else None,
        projects=tuple(dict.fromkeys(projects)),
        rate_per_s=rate_per_s,
        burst=burst,
    )
    with _changing(file) as keys:
        keys.append(made)
    return {**_described(made, now), "key": key, "file": str(file)}


def list_keys(file: Path) -> list[dict[str, Any]]:
    """All keys of the file, without their hashes, in the order in which they were made; no file, no keys.

    Raises:
        ValueError: the file cannot be used.
    """
    now = _now()
    return [_described(key, now) for key in _read(file)]


def revoke(file: Path, key_id: str) -> dict[str, Any]:
    """Ends a key for ever. Once more is no error, and keeps the first date.

    Raises:
        LookupError: there is no such key.
        ValueError: the file cannot be used.
    """
    now = _now()
    with _changing(file) as keys:
        for position, key in enumerate(keys):
            if key.id == key_id:
                keys[position] = revoked = key if key.revoked else msgspec.structs.replace(key, revoked=now)
                return _described(revoked, now)
        # the argument is not shown: somebody may have given the whole key
        raise LookupError(f"{file} has no key of that id; `paceline keys list` shows the {len(keys)} ids it has")


def created_text(made: dict[str, Any]) -> str:
    """A new key for a person, who sees it this once."""
    until = f"until {made['expires']}" if made["expires"] else "for ever"
    return (
        f"{made['key']}\n"
        f"key {made['id']} of {made['client']}, {', '.join(made['scopes'])}, {until}; in {made['file']} is its hash: "
        "keep the key now, it is not shown again"
    )


def listed_text(found: list[dict[str, Any]]) -> str:
    """The keys, one a line."""
    lines = [
        f"{key['id']}  {key['state']:<7}  {key['client']}  {','.join(key['scopes'])}  "
        f"{_limit_text(key)}, expires {key['expires'] or 'never'}"
        + (f", for {', '.join(key['projects'])} only" if key["projects"] else "")
        for key in found
    ]
    return "\n".join(lines) or "no keys yet: `paceline keys create CLIENT` makes one"


def _limit_text(key: dict[str, Any]) -> str:
    if key["rate_per_s"] is None:
        return "the server's rate"
    return f"{key['rate_per_s']:g} a second" + (f", {key['burst']} at once" if key["burst"] else "")


def _check(client: str, scopes: Sequence[str], days: int, rate_per_s: float | None, burst: int | None) -> None:
    if not re.search(CLIENT_PATTERN, client):
        raise ValueError(
            f"found the client {client!r}, expected up to 64 letters, digits and . _ @ -, a letter or digit first"
        )
    if not scopes or not set(scopes) <= set(SCOPES):
        raise ValueError(f"found the scopes {', '.join(scopes) or 'none'}, expected some of {', '.join(SCOPES)}")
    if not 0 <= days <= MAXIMUM_DAYS:
        raise ValueError(f"found {days} days, expected 1 to {MAXIMUM_DAYS}, or 0 for a key that does not expire")
    if rate_per_s is not None and not MINIMUM_RATE_PER_S <= rate_per_s <= MAXIMUM_RATE_PER_S:
        raise ValueError(
            f"found {rate_per_s:g} requests a second, expected {MINIMUM_RATE_PER_S:g} to {MAXIMUM_RATE_PER_S:g}"
        )
    if burst is not None and (rate_per_s is None or not 1 <= burst <= MAXIMUM_BURST):
        raise ValueError(f"found a burst of {burst}, expected 1 to {MAXIMUM_BURST}, together with a rate")


def _described(key: ApiKey, now: datetime) -> dict[str, Any]:
    state = "revoked" if key.revoked else "active" if key.is_active(now) else "expired"
    return {
        "id": key.id,
        "client": key.client,
        "state": state,
        "scopes": list(key.scopes),
        "projects": list(key.projects),
        "created": key.created.isoformat(),
        "expires": key.expires.isoformat() if key.expires else None,
        "revoked": key.revoked.isoformat() if key.revoked else None,
        "rate_per_s": key.rate_per_s,
        "burst": key.burst,
    }


def _read(file: Path) -> list[ApiKey]:
    try:
        with file.open("rb") as opened:
            content = opened.read(MAXIMUM_FILE_BYTES + 1)
        return list(decode_keys(content).keys)
    except FileNotFoundError:
        return []
    except KeyFileError as error:
        raise KeyFileError(f"{file} cannot be used, and is left as it is: {error}") from error


@contextlib.contextmanager
def _changing(file: Path) -> Iterator[list[ApiKey]]:
    """The keys of the file, which is replaced by what the block has made of them; one process at a time."""
    file.parent.mkdir(parents=True, exist_ok=True)
    # a link stays a link. The lock is a file of its own, since a rename takes the one that it replaces away
    target = file.resolve()
    handle = os.open(target.with_name(f".{target.name}.lock"), os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, _FILE_MODE)
    with os.fdopen(handle, "rb") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        keys = _read(target)
        yield keys
        if len(keys) > MAXIMUM_KEYS:
            raise ValueError(f"{file} has {MAXIMUM_KEYS} keys already: remove revoked ones from it")
        _replace(target, encode_keys(KeyFile(keys=tuple(keys))))


def _replace(target: Path, content: bytes) -> None:
    """Durably and by one rename, so that a server reads the old keys or the new ones."""
    draft = target.with_name(f".{target.name}.{os.getpid()}")
    draft.unlink(missing_ok=True)  # of a process that was killed, and whose id has come round again
    try:
        # the mode is there before the first byte is; O_EXCL follows no link that somebody has put there
        handle = os.open(draft, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC, _FILE_MODE)
        with os.fdopen(handle, "wb") as opened:
            opened.write(content)
            opened.flush()
            os.fsync(opened.fileno())
        draft.replace(target)
    finally:
        draft.unlink(missing_ok=True)
    folder = os.open(target.parent, os.O_RDONLY)  # the rename itself is durable once the folder is
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def _now() -> datetime:
    return datetime.now(UTC).replace(microsecond=0)
