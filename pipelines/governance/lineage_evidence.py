"""What a lineage is built from: manifests, the registry, the log's counts, and the ledger's entries, folded."""

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any, Protocol

import msgspec

from contracts.bundle import Manifest
from pipelines.monitoring.tallies import Tally
from pipelines.registry.port import Version

# what a lineage reads: not the machine's own events, which are hundreds of looks for each rollout
KINDS_READ = (
    "ingested",
    "snapshot",
    "validation",
    "gates",
    "registered",
    "release.opened",
    "release.ended",
    "rollout.step",
    "rollout.verdict",
    "rollback",
    "reproduction",
    "champion.swapped",
    "champion.restored",
)


class LedgerEntry(Protocol):
    """What is read of an entry of the ledger."""

    @property
    def at(self) -> datetime: ...
    @property
    def kind(self) -> str: ...
    @property
    def subject(self) -> str: ...
    @property
    def body(self) -> Mapping[str, Any]: ...


class Evidence(msgspec.Struct, frozen=True, kw_only=True):
    """What was found of a project.

    Attributes:
        prediction: its row, where the root is one.
        versions: of the registry, by number.
        bundles, snapshots: the manifests on disk by id; those of the scope are verified with all their files.
        problems: why a bundle or a snapshot that is there is not what its id promises.
        archived: bundles and snapshots of the scope that only the archive has.
        entries: of the ledger, oldest first.
        tallies: of the prediction log.
    """

    project: str
    prediction: dict[str, Any] | None = None
    versions: dict[str, Version] = {}
    bundles: dict[str, Manifest] = {}
    snapshots: dict[str, dict[str, Any]] = {}
    problems: dict[str, str] = {}
    archived: frozenset[str] = frozenset()
    entries: tuple[LedgerEntry, ...] = ()
    tallies: tuple[Tally, ...] = ()


class Rollout(msgspec.Struct, frozen=True, kw_only=True):
    """A rollout of a version; `state` is "running" until it has ended."""

    name: str
    state: str
    facts: dict[str, str]


class Reign(msgspec.Struct, frozen=True, kw_only=True):
    """A time in which a version led; `subject` is the rollout, or the rollback, that gave it the lead."""

    version: str
    subject: str
    since: datetime
    until: datetime | None
    reason: str


def gates_of(entries: Iterable[LedgerEntry], bundle: str) -> LedgerEntry | None:
    """The last evaluation of the bundle, or None."""
    found = [entry for entry in entries if entry.kind == "gates" and entry.subject == bundle]
    return found[-1] if found else None


def rollouts_of(entries: Sequence[LedgerEntry], version: str) -> tuple[Rollout, ...]:
    """The rollouts that offered `version`, in their order."""
    opened = [e for e in entries if e.kind == "release.opened" and e.body["version"] == version]
    ended = {e.subject: e for e in entries if e.kind == "release.ended"}
    rollouts = []
    for entry in opened:
        end = ended.get(entry.subject)
        facts = {"opened": text_of_time(entry.at)}
        if entry.body.get("note"):
            facts["note"] = entry.body["note"]
        if entry.body.get("by"):
            facts["by"] = entry.body["by"]
        for told in entries:
            if told.kind == "rollout.verdict" and told.subject == entry.subject:
                facts[str(told.body.get("name", "phase"))] = (
                    f"{told.body.get('verdict', '')}: {told.body.get('reason', '')}".strip(": ")
                )
        if end is not None:
            facts |= {"ended": text_of_time(end.at), "reason": end.body["reason"]}
        state = "running" if end is None else end.body["state"].replace("_", " ")
        rollouts.append(Rollout(name=entry.subject, state=state, facts=facts))
    return tuple(rollouts)


def reigns(entries: Iterable[LedgerEntry]) -> tuple[Reign, ...]:
    """All reigns, oldest first; a swap that was undone before it was in force everywhere is none."""
    found: list[Reign] = []
    for entry in entries:
        if entry.kind == "champion.swapped":
            if found:
                found[-1] = msgspec.structs.replace(found[-1], until=entry.at)
            begun = Reign(
                version=entry.body["version"],
                subject=entry.subject,
                since=entry.at,
                until=None,
                reason=entry.body.get("reason", ""),
            )
            found.append(begun)
        elif entry.kind == "champion.restored" and found:
            found.pop()
            if found:
                found[-1] = msgspec.structs.replace(found[-1], until=None)
    return tuple(found)


def text_of_time(at: datetime) -> str:
    """UTC, to the second."""
    return at.strftime("%Y-%m-%d %H:%M:%S")
