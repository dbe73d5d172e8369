"""`state.json`: the champion that this server comes up with again, and nothing else.

A challenger is not remembered on purpose: after a restart its lease is gone, and the champion has all traffic.
"""

import os
from pathlib import Path

import msgspec

_NAME = "state.json"
_FORMAT = 1


class StateError(ValueError):
    """The state file cannot be used; says which file, what was found, and what to do."""


class Remembered(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The champion: its registry version, its bundle's id and where that lies."""

    version: str
    bundle: str
    path: str


class _State(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    format: int
    champion: Remembered


def read_champion(folder: Path) -> Remembered | None:
    """The champion remembered in `folder`, or None where no champion ever was.

    Raises:
        StateError: the file is there and cannot be read.
    """
    path = folder / _NAME
    try:
        state = msgspec.json.decode(path.read_bytes(), type=_State)
    except FileNotFoundError:
        return None
    except (OSError, msgspec.DecodeError) as error:
        raise StateError(f"{path} cannot be read: {error}; promote a version to write it again") from error
    if state.format != _FORMAT:
        raise StateError(f"{path} has format {state.format}, this version reads {_FORMAT}")
    return state.champion


def write_champion(folder: Path, champion: Remembered) -> None:
    """Replaces what `folder` remembers, durably and by one rename. Raises OSError; the old state stays then."""
    folder.mkdir(parents=True, exist_ok=True)
    draft = folder / f".{_NAME}.{os.getpid()}"
    with draft.open("wb") as file:
        file.write(msgspec.json.encode(_State(format=_FORMAT, champion=champion)))
        file.flush()
        os.fsync(file.fileno())
    draft.replace(folder / _NAME)
    handle = os.open(folder, os.O_RDONLY)  # the rename itself is durable once the folder is
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
