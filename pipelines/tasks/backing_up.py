"""A copy of everything below `PACELINE_HOME` that cannot be computed again, while all of it is in use.

Databases come first, each as of one instant: what they refer to by its hash is on disk by then, and a copy of files
that were made later does no harm. A file that vanishes while it is copied (a segment of the log that was compacted, a
version that went into the archive) has a successor somewhere else: the whole is walked again until none has. What the
home does not have any more leaves the copy too: rows that were forgotten are forgotten there.
"""

import os
import shutil
import sqlite3
import time
from collections.abc import Iterator
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from contracts.bundle import BundleError, read_bundle
from contracts.durable_files import write_whole
from contracts.hashing import canonical_json
from pipelines.wiring import commit, home, outside_of_home

NOTE = "backup.json"  # in the copy: what it is, and when it was whole
LEFT_OUT = ("cache", "logs", "demo")  # made again, or of no use elsewhere
WALKS_MAX = 10
_MAGIC = b"SQLite format 3\x00"
_BESIDE_A_DATABASE = ("-wal", "-shm", "-journal", ".lock")  # of its process; the copy needs none of them


class BackupError(RuntimeError):
    """What was copied is no backup: what was found, and what to do."""


def back_up(folder: Path) -> dict[str, Any]:
    """Makes `folder` a copy of the home, or brings the copy that is there up to date; says what is in it.

    Raises:
        BackupError: the folder has something else, a database or bundle is damaged, or files went away all the time.
    """
    root, target = home().root, folder.resolve()
    started = time.monotonic()
    if not root.is_dir():
        raise BackupError(f"there is nothing at {root}: set PACELINE_HOME")
    if target.is_relative_to(root):
        raise BackupError(f"{folder} is inside of what is copied: name a folder elsewhere, best on another disk")
    if target.is_dir() and any(target.iterdir()) and not (target / NOTE).is_file():
        raise BackupError(f"{folder} has something that is no backup: name a new folder")
    target.mkdir(parents=True, exist_ok=True)
    write_whole(target / NOTE, canonical_json({"of": str(root), "whole_at": None}))
    kept = _copy(root, target)
    removed = _remove_others(target, kept)
    bundles = _verified_bundles(target / "bundles")
    at = datetime.now(UTC).isoformat(timespec="seconds")
    write_whole(target / NOTE, canonical_json({"of": str(root), "whole_at": at, "commit": commit()}))
    return {
        "folder": str(target),
        "whole_at": at,
        "databases": sorted(str(path) for path in kept if _is_database(target / path)),
        "files": len(kept),
        "bytes": sum((target / path).stat().st_size for path in kept),
        "bundles": bundles,
        "removed": removed,
        "not_included": outside_of_home(),
        "seconds": time.monotonic() - started,
    }


def backed_up_text(found: dict[str, Any]) -> str:
    """What `back_up` says, for a terminal."""
    lines = [
        f"{found['folder']} is whole as of {found['whole_at']}: {found['files']} files, {found['bytes'] / 1e6:.1f} MB",
        f"databases, each as of one instant and sound: {', '.join(found['databases']) or 'none'}",
        f"bundles, verified by their hashes: {found['bundles']}",
        *(f"not included, back it up by its own tools: {each}" for each in found["not_included"]),
    ]
    return "\n".join(lines)


def _copy(root: Path, target: Path) -> set[Path]:
    """The files of the copy, relative to it."""
    for _ in range(WALKS_MAX):
        files = list(_files(root))
        databases = [path for path in files if _is_database(root / path)]
        for path in databases:
            _copy_database(root / path, target / path)
        vanished = [path for path in files if path not in databases and not _copy_file(root / path, target / path)]
        if not vanished:
            return set(files)
    raise BackupError(f"files went away in each of {WALKS_MAX} walks, the last time {vanished[0]}: try again later")


def _files(root: Path) -> Iterator[Path]:
    for folder, folders, names in os.walk(root):
        here = Path(folder)
        if here == root:
            folders[:] = [name for name in folders if name not in LEFT_OUT]
        for name in names:
            if not name.startswith(".draft-") and not name.endswith(_BESIDE_A_DATABASE):
                yield (here / name).relative_to(root)


def _is_database(path: Path) -> bool:
    try:
        with path.open("rb") as file:
            return file.read(len(_MAGIC)) == _MAGIC
    except OSError:
        return False


def _copy_database(source: Path, target: Path) -> None:
    """By SQLite's online backup: writers go on, and the copy is what was committed at one instant."""
    target.parent.mkdir(parents=True, exist_ok=True)
    draft = target.with_name(f".draft-{target.name}")
    draft.unlink(missing_ok=True)
    try:
        with (
            closing(sqlite3.connect(f"file:{source}?mode=ro", uri=True)) as here,
            closing(sqlite3.connect(draft)) as there,
        ):
            here.backup(there)
            there.execute("PRAGMA journal_mode = DELETE")  # one file, nothing beside it
            (said,) = there.execute("PRAGMA integrity_check").fetchone()
    except sqlite3.DatabaseError as error:
        said = str(error)
    if said != "ok":
        draft.unlink(missing_ok=True)
        raise BackupError(f"{source} is damaged ({said}): keep the last backup, and restore this database from it")
    draft.replace(target)


def _copy_file(source: Path, target: Path) -> bool:
    """Whether it was there. One with the same size and time is not copied again."""
    try:
        found = source.stat()
        if target.is_file():
            kept = target.stat()
            if (kept.st_size, kept.st_mtime_ns) == (found.st_size, found.st_mtime_ns):
                return True
        target.parent.mkdir(parents=True, exist_ok=True)
        draft = target.with_name(f".draft-{target.name}")
        shutil.copy2(source, draft)
        draft.replace(target)
    except FileNotFoundError:
        return False
    return True


def _remove_others(target: Path, kept: set[Path]) -> int:
    others = [path for path in _all_files(target) if path not in kept and path != Path(NOTE)]
    for path in others:
        (target / path).unlink()
    return len(others)


def _all_files(target: Path) -> list[Path]:
    return [path.relative_to(target) for path in target.rglob("*") if path.is_file()]


def _verified_bundles(folder: Path) -> int:
    found = [path for path in sorted(folder.glob("*")) if path.is_dir() and not path.name.startswith(".")]
    for path in found:
        try:
            read_bundle(path, path.name)
        except BundleError as error:
            raise BackupError(f"a bundle is damaged: {error}; `paceline restore` takes it from the archive") from error
    return len(found)
