"""What there is, and who refers to it: the facts that `pipelines.governance.retention` decides by."""

import re
from collections.abc import Iterable, Iterator, Mapping
from datetime import datetime
from pathlib import Path

import msgspec

from contracts.hashing import canonical_json
from pipelines.governance.archive import Archive, Kind
from pipelines.governance.retention import (
    Action,
    Decision,
    Holding,
    References,
    Stored,
    decide,
    decide_snapshots,
    decide_unregistered,
)
from pipelines.ledger.ledger import SWAPPED, Entry
from pipelines.monitoring.segments import DamagedSegment
from pipelines.monitoring.tallies import kept_by_version
from pipelines.projects import Project
from pipelines.registry.port import Version
from pipelines.wiring import home, open_registry, read_ledger

_ID = re.compile(rb"\b[0-9a-f]{64}\b")
_TOO_FINE = "rollout.event"
_SEARCHED_BYTES_MAX = 32 << 20
_DAY_S = 86_400


class Row(msgspec.Struct, frozen=True, kw_only=True):
    """One thing that is stored: what becomes of it and why, and how much it takes.

    `users` are the versions that it belongs to, `path` is below the home, `newest` when it was last used (seconds).
    """

    kind: str
    name: str
    action: Action
    reason: str
    bytes: int
    path: str
    users: tuple[str, ...] = ()
    newest: float = 0.0


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    """Everything that was looked at, and the versions as the registry has them."""

    rows: tuple[Row, ...]
    versions: tuple[Version, ...]
    damaged: tuple[DamagedSegment, ...]

    @property
    def going(self) -> tuple[Row, ...]:
        """What does not stay, the bundles of versions before their snapshots."""
        return tuple(row for row in self.rows if row.action != "keep")


def gather(project: Project, store: Archive, now: datetime) -> Plan:
    """Looks at everything of `project`, and at the artifacts and caches of all; ages count up to `now`.

    What is in the archive alone is not listed as something that goes: it has gone.
    """
    ledger, versions = read_ledger(), open_registry().versions(project.name)
    predictions, damaged = kept_by_version(home().predictions(project.name))
    entries = [entry for entry in ledger.entries() if entry.kind != _TOO_FINE]
    ours = [entry for entry in entries if entry.project == project.name]
    holdings = {version.version: _holding(version, ours, now) for version in versions}
    decisions = decide(project.retention, list(holdings.values()), references(project.name, predictions))
    rows = [
        _row("versions", "bundles", holdings[decision.name].bundle, decision, (decision.name,), store)
        for decision in decisions
    ]
    for decision in decide_snapshots(project.retention, list(holdings.values()), decisions):
        users = tuple(holding.version for holding in holdings.values() if holding.snapshot == decision.name)
        rows.append(_row("snapshots", "snapshots", decision.name, decision, users, store))
    stored = [*_unregistered(project, versions, ours, now), *_passing(entries, versions, store, now)]
    decided = decide_unregistered(project.retention, [each for each, _ in stored])
    for (each, path), decision in zip(stored, decided, strict=True):
        rows.append(
            Row(
                kind=each.kind,
                name=each.name,
                action=decision.action,
                reason=decision.reason,
                bytes=each.bytes,
                path=path.relative_to(home().root).as_posix(),
                newest=now.timestamp() - each.age_days * _DAY_S,
            )
        )
    return Plan(rows=tuple(rows), versions=tuple(versions), damaged=damaged)


def references(project: str, predictions: Mapping[str, int]) -> References:
    """Who needs which version, as the ledger says it now."""
    ledger = read_ledger()
    ended = {entry.subject for entry in ledger.entries(project=project, kinds=("release.ended",))}
    opened = ledger.entries(project=project, kinds=("release.opened",))
    rollouts = {entry.body["version"]: entry.subject for entry in opened if entry.subject not in ended}
    return References(reigns=tuple(ledger.reigns(project)), rollouts=rollouts, predictions=predictions)


def size_of(path: Path) -> int:
    """The bytes of a file, or of all files below a folder; 0 where there is none."""
    if path.is_file():
        return path.stat().st_size
    return sum(each.stat().st_size for each in path.rglob("*") if each.is_file() and not each.is_symlink())


def _row(
    what: str,
    kind: Kind,
    name: str,
    decision: Decision,
    users: tuple[str, ...],
    store: Archive,
) -> Row:
    """A version's folder: one that is gone does not go again, and one that is nowhere is said."""
    folder = home().root / kind / name
    action, reason = decision.action, decision.reason
    if not folder.exists():
        action = "keep"
        where = "in the archive" if store.has(kind, name) else "NOWHERE, bring it back from a backup"
        reason = f"{where}; {decision.reason}"
    return Row(
        kind=what,
        name=decision.name,
        action=action,
        reason=reason,
        bytes=size_of(folder),
        path=f"{kind}/{name}",
        users=users,
    )


def _holding(version: Version, entries: Iterable[Entry], now: datetime) -> Holding:
    mine = [entry for entry in entries if entry.subject == version.version]
    registered = [entry.at for entry in mine if entry.kind == "registered"]
    restored = [entry.at for entry in mine if entry.kind == "restored"]
    return Holding(
        version=version.version,
        bundle=version.bundle,
        snapshot=version.tags.get("snapshot", ""),
        aliases=version.aliases,
        age_days=_days(registered[-1], now) if registered else 0.0,
        restored_days=_days(restored[-1], now) if restored else None,
    )


def _unregistered(
    project: Project, versions: Iterable[Version], entries: Iterable[Entry], now: datetime
) -> Iterator[tuple[Stored, Path]]:
    """Bundles and snapshots of the project that belong to no version: gates failed, or nobody went on."""
    registered = {version.bundle for version in versions} | {version.tags.get("snapshot") for version in versions}
    led = {entry.body.get("bundle") for entry in entries if entry.kind == SWAPPED}
    named = {entry.subject: entry.at.timestamp() for entry in entries if entry.kind in ("gates", "validation")}
    limit_s = project.retention.unused_days * _DAY_S
    needed_snapshots: dict[str, str] = {}
    for kind in ("bundles", "snapshots"):
        for folder in sorted((home().root / kind).glob("[0-9a-f]*")):
            about = _manifest_of(folder)
            if folder.name in registered or about.get("project") != project.name:
                continue
            used = max(folder.stat().st_mtime, named.get(folder.name, 0.0))
            needed = "it has led, though the registry does not know it" if folder.name in led else None
            if kind == "bundles" and (needed or now.timestamp() - used < limit_s):
                needed_snapshots[about.get("snapshot", "")] = (
                    f"the bundle {folder.name[:12]}, which stays, is made of it"
                )
            yield (
                Stored(
                    kind="bundles" if kind == "bundles" else "snapshots",
                    name=folder.name,
                    bytes=size_of(folder),
                    age_days=max(0.0, (now.timestamp() - used) / _DAY_S),
                    needed_by=needed or (needed_snapshots.get(folder.name) if kind == "snapshots" else None),
                ),
                folder,
            )


def _passing(
    entries: Iterable[Entry], versions: Iterable[Version], store: Archive, now: datetime
) -> Iterator[tuple[Stored, Path]]:
    """Artifacts, caches and drafts, of all projects, and pieces in the archive that no index names."""
    files = {path.name: path for path in home().artifacts.glob("*/[0-9a-f]*")}
    named = _named_artifacts(entries, versions, files)
    for name, path in sorted(files.items()):
        needed = "an entry of the ledger or a version names it" if name in named else None
        yield _stored("artifacts", path, now, needed), path
    for path in sorted(home().cache.glob("*/*")):
        if not path.name.startswith("."):
            yield _stored("cache", path, now), path
    for folder in (home().bundles, home().snapshots, *sorted(home().artifacts.glob("*"))):
        for path in sorted(folder.glob(".draft-*")):
            yield _stored("drafts", path, now), path
    for path in store.unused_objects():
        yield _stored("archive", path, now), path


def _stored(kind: str, path: Path, now: datetime, needed_by: str | None = None) -> Stored:
    used = max(each.stat().st_mtime for each in (path, path / ".complete") if each.exists())
    age_days = max(0.0, (now.timestamp() - used) / _DAY_S)
    return msgspec.convert(
        {"kind": kind, "name": path.name, "bytes": size_of(path), "age_days": age_days, "needed_by": needed_by}, Stored
    )


def _named_artifacts(entries: Iterable[Entry], versions: Iterable[Version], files: Mapping[str, Path]) -> set[str]:
    """The artifacts that the ledger or a version names, and those that such artifacts name."""
    texts = [canonical_json(entry.body) for entry in entries] + [canonical_json(version.tags) for version in versions]
    found = {name for text in texts for name in _ids(text) if name in files}
    to_search = list(found)
    while to_search:
        path = files[to_search.pop()]
        if path.stat().st_size > _SEARCHED_BYTES_MAX:
            continue
        new = {name for name in _ids(path.read_bytes()) if name in files} - found
        found |= new
        to_search += new
    return found


def _ids(text: bytes) -> set[str]:
    return {match.decode() for match in _ID.findall(text)}


def _manifest_of(folder: Path) -> dict[str, str]:
    """The project and the snapshot that a manifest names; nothing where it cannot be read: then it is nobody's."""
    try:
        found = msgspec.json.decode((folder / "manifest.json").read_bytes())
    except (OSError, msgspec.DecodeError):
        return {}
    return {key: value for key, value in found.items() if isinstance(value, str)} if isinstance(found, dict) else {}


def _days(then: datetime, now: datetime) -> float:
    return max(0.0, (now - then).total_seconds() / _DAY_S)
