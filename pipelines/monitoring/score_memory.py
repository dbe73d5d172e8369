"""What the fast watch over scores remembers between two looks, also when it is killed: one file, written whole."""

from pathlib import Path
from typing import Any, Literal

import msgspec

from pipelines.monitoring.score_counts import Series
from pipelines.monitoring.score_watch import ScoreWatch
from pipelines.pages import write_whole

FILE = "watch.json"


class Untold(msgspec.Struct, frozen=True, kw_only=True):
    """What the ledger is to be told."""

    kind: Literal["scores.alarm", "scores.quiet"]
    subject: str
    body: dict[str, Any]


class Kept(msgspec.Struct, frozen=True, kw_only=True):
    """The watch, the last counters of each server, how many did not answer, and what the ledger waits for."""

    watch: ScoreWatch = ScoreWatch()
    servers: dict[str, Series] = {}
    unreachable: int = 0
    untold: tuple[Untold, ...] = ()
    accepted_entry: int = 0


def write_memory(folder: Path, kept: Kept) -> None:
    """Puts `kept` in the place of what was remembered, whole or not at all."""
    write_whole(folder / FILE, msgspec.json.encode(kept).decode())


def read_memory(folder: Path) -> Kept | None:
    """What is remembered; None before the first look.

    Raises:
        ValueError: the file is damaged.
    """
    try:
        content = (folder / FILE).read_bytes()
    except FileNotFoundError:
        return None
    try:
        return msgspec.json.decode(content, type=Kept)
    except msgspec.MsgspecError as error:
        raise ValueError(f"{folder / FILE} is damaged ({error}); delete it, and the watch learns anew") from error
