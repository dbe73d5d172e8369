"""One process at a time: a lock that the kernel lets go of, however its holder ends, and that says who has it."""

import contextlib
import fcntl
import json
import os
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

_LOOKS_EVERY_S = 0.05


class HeldError(RuntimeError):
    """Somebody else holds the lock: who, since when and for what."""


@contextlib.contextmanager
def exclusively(path: Path, what: str, *, wait_s: float = 0.0) -> Iterator[None]:
    """Holds `path` by an exclusive `flock` while `what` is done; the file says so for whoever comes second.

    The lock belongs to the open file and not to what the file says, so nothing is left behind by a holder that was
    killed: the next one gets it at once.

    Raises:
        HeldError: another process still holds it after `wait_s` seconds.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    handle = os.open(path, os.O_CREAT | os.O_RDWR, 0o644)
    try:
        _take(handle, what, time.monotonic() + wait_s)
        told = {"pid": os.getpid(), "since": datetime.now(UTC).isoformat(timespec="seconds"), "what": what}
        os.ftruncate(handle, 0)
        os.pwrite(handle, json.dumps(told).encode(), 0)
        yield
    finally:
        os.close(handle)


def _take(handle: int, what: str, until_s: float) -> None:
    while True:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        except BlockingIOError:
            if time.monotonic() >= until_s:
                raise HeldError(f"{what} cannot start: {_holder(handle)} is at work; let it finish") from None
            time.sleep(_LOOKS_EVERY_S)


def _holder(handle: int) -> str:
    """What the holder wrote; it may be between taking the lock and saying so."""
    try:
        told = json.loads(os.pread(handle, 4096, 0))
        return f"{told['what']} (process {told['pid']}, since {told['since']})"
    except (ValueError, KeyError, TypeError):
        return "another process"
