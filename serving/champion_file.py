"""`state.json`: the champion that this server comes up with again, the holdout beside it, and nothing else.

A challenger is not remembered on purpose: after a restart its lease is gone, and the champion has all traffic. The old
champion of a holdout needs no lease: it is trusted.
"""

import os
from pathlib import Path

import msgspec

from contracts.bundle import BundleError, read_manifest
from serving.settings import Settings

_NAME = "state.json"
_FORMAT = 1
_SHORT_DIGITS, _ID_DIGITS = 12, 64


class StateError(ValueError):
    """The state file cannot be used; says which file, what was found, and what to do."""


class Remembered(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A model: its registry version, its bundle's id and where that lies."""

    version: str
    bundle: str
    path: str


class RememberedHoldout(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The old champion, the rollout that replaced it, and the share of the entities that stays on it."""

    model: Remembered
    rollout: str
    share: float


class State(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True, omit_defaults=True):
    """What a server comes up with again; `fence` is the ledger's entry of the latest reign that it was told of."""

    champion: Remembered
    holdout: RememberedHoldout | None = None
    fence: int | None = None


class _File(State, frozen=True, forbid_unknown_fields=True, kw_only=True):
    format: int


def read_state(folder: Path) -> State | None:
    """What is remembered in `folder`, or None where no champion ever was.

    Raises:
        StateError: the file is there and cannot be read.
    """
    path = folder / _NAME
    try:
        found = msgspec.json.decode(path.read_bytes(), type=_File)
    except FileNotFoundError:
        return None
    except (OSError, msgspec.DecodeError) as error:
        raise StateError(f"{path} cannot be read: {error}; promote a version to write it again") from error
    if found.format != _FORMAT:
        raise StateError(f"{path} has format {found.format}, this version reads {_FORMAT}")
    return State(champion=found.champion, holdout=found.holdout, fence=found.fence)


def first_state(settings: Settings) -> State | None:
    """What a server comes up with: what it remembers, else the bundle that its settings name, else nothing.

    Raises:
        StateError: the state file, or the manifest of that bundle, cannot be read.
    """
    remembered = read_state(settings.state)
    if remembered is not None or settings.bundle is None:
        return remembered
    name = settings.bundle.name
    try:
        found, _ = read_manifest(settings.bundle, name if len(name) == _ID_DIGITS else None)
    except BundleError as error:
        raise StateError(f"PACELINE_SERVING_BUNDLE is {settings.bundle}, which cannot lead: {error}") from error
    version = settings.version or found[:_SHORT_DIGITS]
    return State(champion=Remembered(version=version, bundle=found, path=str(settings.bundle)))


def write_state(folder: Path, state: State) -> None:
    """Replaces what `folder` remembers, durably and by one rename. Raises OSError; the old state stays then."""
    folder.mkdir(parents=True, exist_ok=True)
    draft = folder / f".{_NAME}.{os.getpid()}"
    content = _File(format=_FORMAT, champion=state.champion, holdout=state.holdout, fence=state.fence)
    with draft.open("wb") as file:
        file.write(msgspec.json.encode(content))
        file.flush()
        os.fsync(file.fileno())
    draft.replace(folder / _NAME)
    handle = os.open(folder, os.O_RDONLY)  # the rename itself is durable once the folder is
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
