"""Old versions into the archive and back, and what nobody refers to cleaned up.

What is to go is decided by `pipelines.governance.retention`. A folder goes only after the archive has given it back
whole, and after a last look whether somebody claims it now; it goes by one rename. Killed at any point, nothing is
lost, and the next run finishes: an archived folder that is still there is only removed, one that is gone is only noted.
"""

import logging
import os
import shutil
from collections.abc import Callable
from contextlib import nullcontext
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import msgspec

from contracts.bundle import BundleError, read_bundle
from pipelines.data.snapshots import SnapshotError, read_snapshot
from pipelines.governance.archive import Archive, ArchiveError, ArchiveRunsError, Kind
from pipelines.governance.retention import claim
from pipelines.registry.port import Version
from pipelines.tasks.retaining import Plan, Row, gather, references
from pipelines.wiring import find_project, home, open_ledger, open_registry

__all__ = ["ArchiveError", "ArchiveRunsError", "archive", "archived_text", "ensure_at_hand", "restore", "restored_text"]
logger = logging.getLogger("paceline")
GONE = ".gone-"  # a folder on its way out: archived and verified, or of no use
_ID_CHARACTERS = 64
_CLOCK_S = 1.0  # what times of files are rounded by
Progress = Callable[[str], None]


def archive(
    project: str, *, today: str | None = None, is_dry_run: bool = False, progress: Progress = logger.info
) -> dict[str, Any]:
    """Archives the project's old versions with their snapshots, and cleans up; a dry run only says what would go.

    Ages count up to the end of `today`, at the latest now. A version that cannot be archived does not stop the others.

    Raises:
        ArchiveRunsError: another process archives.
        ArchiveError: some could not be archived, and stay; all others are done.
    """
    found = find_project(project)
    now = datetime.now(UTC)
    if today is not None:
        end = datetime.combine(date.fromisoformat(today) + timedelta(days=1), datetime.min.time(), UTC)
        now = min(now, end)
    store = Archive(home().archive)
    failed: dict[str, str] = {}
    added = 0
    with nullcontext() if is_dry_run else store.held():
        if not is_dry_run:
            _finish_removals()
        plan = gather(found, store, now)
        if not is_dry_run:
            for row in plan.going:
                progress(f"{row.kind} {row.name[:12]}")
                try:
                    added += _carry_out(project, row, store)
                except (ArchiveError, BundleError, SnapshotError, OSError) as error:
                    logger.error("%s %s stays: %s", row.kind, row.name, error)
                    failed[row.name] = str(error)
            _note_archived(project, plan, store)
    if failed:
        raise ArchiveError("; ".join(f"{name} stays: {reason}" for name, reason in failed.items()))
    return {
        "project": project,
        "is_dry_run": is_dry_run,
        "policy": msgspec.to_builtins(found.retention),
        "rows": [msgspec.to_builtins(row) for row in plan.rows],
        "going_bytes": sum(row.bytes for row in plan.going),
        "added_bytes": added,
        "damaged": [msgspec.to_builtins(segment) for segment in plan.damaged],
    }


def restore(project: str, version: str) -> dict[str, Any]:
    """Brings the bundle and the snapshot of an archived version back, verified. Changes nothing where they are there.

    `version` may also be the id of a snapshot that no version was made of.

    Raises:
        LookupError: there is no such version.
        ArchiveError: the bundle is neither at hand nor in the archive, or something is damaged there.
        SnapshotError: its snapshot is neither at hand nor in the archive.
    """
    find_project(project)
    if len(version) == _ID_CHARACTERS:
        return _restore_snapshot(project, version)
    found = open_registry().version(project, version)
    if found is None:
        known = ", ".join(each.version for each in open_registry().versions(project)) or "none"
        raise LookupError(f"{project} has no version {version}; registered are: {known}")
    restored = ensure_at_hand(project, found, "by hand")
    bundle = read_bundle(home().bundles / found.bundle, found.bundle)
    read_snapshot(home().snapshots, bundle.manifest.snapshot)
    return {"project": project, "version": found.version, "bundle": found.bundle, "restored": restored}


def _restore_snapshot(project: str, snapshot: str) -> dict[str, Any]:
    restored: list[dict[str, Any]] = []
    if not (home().snapshots / snapshot).exists():
        store = Archive(home().archive)
        (store.restore("snapshots", snapshot, home().snapshots)).touch()  # it is in use again
        restored.append({"kind": "snapshots", "name": snapshot, "bytes": store.index("snapshots", snapshot).bytes})
    read_snapshot(home().snapshots, snapshot)
    return {"project": project, "version": None, "bundle": None, "restored": restored}


def ensure_at_hand(project: str, version: Version, reason: str) -> list[dict[str, Any]]:
    """Restores what of `version` is not at hand, and says what that was; notes it in the ledger and the registry.

    Raises:
        ArchiveError: its bundle is nowhere, or one of both is damaged in the archive.
    """
    store = Archive(home().archive)
    restored: list[dict[str, Any]] = []
    folders: list[tuple[Kind, str]] = [("bundles", version.bundle)]
    if snapshot := version.tags.get("snapshot"):
        folders.append(("snapshots", snapshot))
    for kind, name in folders:
        if (home().root / kind / name).exists():
            continue
        if kind == "snapshots" and not store.has(kind, name):
            logger.error("the snapshot %s of version %s is nowhere", name, version.version)  # it serves without
            continue
        store.restore(kind, name, home().root / kind)
        restored.append({"kind": kind, "name": name, "bytes": store.index(kind, name).bytes})
    if restored or "archived" in version.tags:
        body = {"version": version.version, "reason": reason, "restored": restored}
        open_ledger(creates=False).append(project, "restored", version.version, body)
        open_registry().set_tags(project, version.version, {"archived": None})
        logger.info("version %s is at hand again (%s)", version.version, reason)
    return restored


def archived_text(result: dict[str, Any]) -> str:
    """What `archive` did or would do, as lines for a terminal."""
    would = "would " if result["is_dry_run"] else ""
    verbs = {"keep": "stays", "archive": f"{would}go to the archive", "delete": f"{would}be deleted"}
    if not result["is_dry_run"]:
        verbs |= {"archive": "went to the archive", "delete": "was deleted"}
    lines = [f"{result['project']}: {len(result['rows'])} things looked at"]
    many: dict[tuple[str, str], list[int]] = {}
    for row in result["rows"]:
        if row["kind"] in ("versions", "snapshots", "bundles"):
            name = row["name"] if row["kind"] == "versions" else row["name"][:12]
            what = {"versions": "version", "snapshots": "snapshot", "bundles": "bundle"}[row["kind"]]
            lines.append(f"  {what} {name} {verbs[row['action']]} ({_size(row['bytes'])}): {row['reason']}")
        else:
            many.setdefault((row["kind"], row["action"]), []).append(row["bytes"])
    for (kind, action), sizes in sorted(many.items()):
        lines.append(f"  {kind}: {len(sizes)} {verbs[action]} ({_size(sum(sizes))})")
    lines += [f"  the log's {each['path']} cannot be read: {each['reason']}" for each in result["damaged"]]
    done = f"{_size(result['going_bytes'])} {'would be' if would else 'were'} freed"
    return "\n".join([*lines, done + ("" if would else f", {_size(result['added_bytes'])} added to the archive")])


def restored_text(result: dict[str, Any]) -> str:
    """What `restore` did, as lines for a terminal."""
    if not result["restored"]:
        return "it was at hand already"
    return "\n".join(
        f"restored and verified: {each['kind'].removesuffix('s')} {each['name']} ({_size(each['bytes'])})"
        for each in result["restored"]
    )


def _carry_out(project: str, row: Row, store: Archive) -> int:
    """Archives or deletes what `row` says, and returns the bytes that the archive grew by."""
    path = home().root / row.path
    if row.action == "archive":
        return _archive_folder(project, path, row.users, store)
    if row.kind == "bundles":
        with store.removals_held():
            if all(version.bundle != row.name for version in open_registry().versions(project)):
                _remove(path)
    else:
        _delete_unused(path, row.newest)
    return 0


def _archive_folder(project: str, folder: Path, users: tuple[str, ...], store: Archive) -> int:
    kind: Kind = "snapshots" if folder.parent == home().snapshots else "bundles"
    if kind == "bundles":
        read_bundle(folder, folder.name)
    else:
        read_snapshot(home().snapshots, folder.name)
    added = store.put(kind, folder.name, folder)
    with store.removals_held():
        now = references(project, {})
        for version in users:
            if (reason := claim(version, now)) is not None:
                logger.info("%s stays after all: %s", folder.name[:12], reason)
                return added
        _remove(folder)
    return added


def _note_archived(project: str, plan: Plan, store: Archive) -> None:
    """The ledger's entries and the registry's tags for the versions whose bundle is in the archive alone."""
    ledger, registry = open_ledger(creates=False), open_registry()
    for version in plan.versions:
        is_gone = not (home().bundles / version.bundle).exists() and store.has("bundles", version.bundle)
        if not is_gone or "archived" in version.tags:
            continue
        times = len(ledger.entries(project=project, kinds=("restored",), subject=version.version))
        reason = next(row.reason for row in plan.rows if (row.kind, row.name) == ("versions", version.version))
        body = {"version": version.version, "bundle": version.bundle, "reason": reason}
        ledger.append(project, "archived", version.version, body, key=f"archived:{version.version}:{times}")
        registry.set_tags(project, version.version, {"archived": "true"})


def _remove(folder: Path) -> None:
    """By one rename: whoever looks finds the whole folder, or none."""
    gone = folder.with_name(f"{GONE}{folder.name}-{os.getpid()}")
    folder.rename(gone)
    shutil.rmtree(gone)


def _finish_removals() -> None:
    """What a killed run has taken away, and not yet deleted."""
    for pattern in (f"bundles/{GONE}*", f"snapshots/{GONE}*", f"cache/*/{GONE}*"):
        for folder in home().root.glob(pattern):
            shutil.rmtree(folder)


def _delete_unused(path: Path, newest: float) -> None:
    """Unless it was used since it was looked at."""
    try:
        if path.stat().st_mtime > newest + _CLOCK_S:
            return
        if path.is_dir():
            _remove(path)
        else:
            path.unlink()
    except FileNotFoundError:
        logger.info("%s was gone already", path)


def _size(count: int) -> str:
    for unit in ("bytes", "kB", "MB"):
        if count < 1000:
            return f"{count:.0f} {unit}" if unit == "bytes" else f"{count:.1f} {unit}"
        count = count / 1000  # type: ignore[assignment]
    return f"{count:.1f} GB"
