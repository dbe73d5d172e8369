"""What an id is of: a version, a bundle, a snapshot or a prediction, by all of it or by its beginning."""

import re
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, NamedTuple

from pipelines.wiring import all_projects, find_project, home, read_ledger, read_registry

if TYPE_CHECKING:
    from pipelines.governance.lineage_trace import RootKind

MINIMUM_CHARACTERS = 8
_CANDIDATES_SHOWN = 10
_ALIASES = ("champion", "challenger", "previous")
_VERSION = re.compile(r"(?:(?P<project>[a-z][a-z0-9_]*):)?(?P<version>[0-9]{1,7}|" + "|".join(_ALIASES) + ")")
_ID = re.compile(r"[0-9A-Za-z-]+")


class Found(NamedTuple):
    """Whose it is, what it is, and its whole id: of a version its number."""

    project: str
    kind: "RootKind"
    id: str

    def __str__(self) -> str:
        return f"{self.project}:{self.id}" if self.kind == "version" else f"{self.kind} {self.id} of {self.project}"


class AmbiguousIdError(LookupError):
    """More than one thing has an id that begins so."""


def find(identifier: str, project: str | None = None) -> Found:
    """What `identifier` names, in `project` or in any.

    `flight_delay:3`, `flight_delay:champion`, or with a project `3`, is a version; at least 8 characters are the id of
    a bundle, a snapshot or a prediction, or its beginning.

    Raises:
        LookupError: nothing is known by it; the text says where was looked.
        AmbiguousIdError: more than one thing is; the text has the candidates.
    """
    wanted = identifier.strip()
    if project is not None:
        find_project(project)
    if (matched := _VERSION.fullmatch(wanted)) is not None:
        named = matched["project"] or project
        if matched["project"] and project and matched["project"] != project:
            raise LookupError(f"found {wanted!r} and --project {project}: name one project")
        return _only(wanted, list(_versions(matched["version"], named)), lambda: _no_version(wanted, named))
    if len(wanted) < MINIMUM_CHARACTERS or _ID.fullmatch(wanted) is None:
        raise LookupError(
            f"found {identifier!r}, expected a version such as flight_delay:3 or flight_delay:champion, or at least "
            f"{MINIMUM_CHARACTERS} characters of the id of a prediction, a bundle or a snapshot"
        )
    projects = [project] if project else list(all_projects())
    candidates = sorted(dict.fromkeys([*_contents(wanted, projects), *_predictions(wanted, projects)]))
    whole = [each for each in candidates if each.id == wanted]
    return _only(wanted, whole or candidates, lambda: _nothing(wanted, projects))


def _only(wanted: str, candidates: list[Found], absent: Callable[[], LookupError]) -> Found:
    if not candidates:
        raise absent()
    if len(candidates) > 1:
        more = len(candidates) - _CANDIDATES_SHOWN
        listed = ", ".join(map(str, candidates[:_CANDIDATES_SHOWN])) + (f", and {more} more" if more > 0 else "")
        raise AmbiguousIdError(f"{wanted!r} may be {len(candidates)} things: {listed}. Give more of the one meant")
    return candidates[0]


def _versions(wanted: str, project: str | None) -> Iterator[Found]:
    """By the registry, and by number also what only the ledger remembers."""
    ledger, registry = read_ledger(), read_registry()
    for name in [project] if project else all_projects():
        find_project(name)
        version = registry.version(name, wanted)
        if version is not None:
            yield Found(name, "version", version.version)
        elif wanted.isdecimal() and ledger.entries(project=name, kinds=("registered",), subject=wanted):
            yield Found(name, "version", wanted)


def _no_version(wanted: str, project: str | None) -> LookupError:
    names = [project] if project else list(all_projects())
    known = {name: [version.version for version in read_registry().versions(name)] for name in names}
    listed = "; ".join(f"{name} has {', '.join(versions) or 'none'}" for name, versions in known.items())
    return LookupError(f"no version {wanted!r} in the registry or the ledger: {listed}")


def _contents(wanted: str, projects: Iterable[str]) -> Iterator[Found]:
    """Bundles and snapshots: on disk, in the ledger, and in the registry's tags."""
    from contracts.bundle import BundleError, read_manifest
    from pipelines.data import snapshots

    chosen = set(projects)
    told = [*_told(wanted)]
    tagged = [] if told else [*_tagged(wanted, chosen)]
    yield from (each for each in (*told, *tagged) if each.project in chosen)
    owners = {each.id: each.project for each in (*told, *tagged)}
    for path in home().bundles.glob(f"{wanted}*"):
        try:
            owner = read_manifest(path, path.name)[1].project
        except BundleError:
            owner = owners.get(path.name, "")
        if owner in chosen:
            yield Found(owner, "bundle", path.name)
    for path in home().snapshots.glob(f"{wanted}*"):
        try:
            owner = snapshots.read_manifest(home().snapshots, path.name).project
        except snapshots.SnapshotError:
            owner = owners.get(path.name, "")
        if owner in chosen:
            yield Found(owner, "snapshot", path.name)


def _told(wanted: str) -> Iterator[Found]:
    for entry in read_ledger().entries(kinds=("gates", "snapshot", "validation", "registered")):
        body = entry.body
        bundle = entry.subject if entry.kind == "gates" else body.get("bundle", "")
        snapshot = entry.subject if entry.kind in ("snapshot", "validation") else body.get("snapshot", "")
        if bundle.startswith(wanted):
            yield Found(entry.project, "bundle", bundle)
        if snapshot.startswith(wanted):
            yield Found(entry.project, "snapshot", snapshot)


def _tagged(wanted: str, projects: Iterable[str]) -> Iterator[Found]:
    registry = read_registry()
    for name in projects:
        for version in registry.versions(name):
            if version.bundle.startswith(wanted):
                yield Found(name, "bundle", version.bundle)
            if version.tags.get("snapshot", "").startswith(wanted):
                yield Found(name, "snapshot", version.tags["snapshot"])


def _predictions(wanted: str, projects: Iterable[str]) -> Iterator[Found]:
    from pipelines.monitoring.predictions import find_ids

    for name in projects:
        for found in find_ids(home().predictions(name), wanted, at_most=_CANDIDATES_SHOWN + 1):
            yield Found(name, "prediction", found)


def _nothing(wanted: str, projects: list[str]) -> LookupError:
    from pipelines.monitoring.predictions import why_absent

    known = [reason for name in projects if (reason := why_absent(home().predictions(name), wanted))]
    kept = [f"{len(list(folder.glob('[!.]*')))} {folder.name}" for folder in (home().bundles, home().snapshots)]
    return LookupError(
        f"nothing is known by the id {wanted!r}. Looked at {kept[0]} and {kept[1]} in {home().root}, the ledger, the "
        f"registry, and the prediction log of {', '.join(projects) or 'no project'}; "
        + ("; ".join(known) or "a prediction appears there about a second later")
    )
