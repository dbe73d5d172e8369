"""What past retrains came to, told from the ledger's entries. Pure.

A retrain is an entry `trigger`. What it brought is what followed: its validation, the gates of its snapshot, the
version that was registered, and how that version's rollout ended; `better` is a champion that still counts as one:
neither rolled back by a person nor by its holdout.
"""

from collections.abc import Sequence
from datetime import date
from itertools import pairwise
from typing import Any, Protocol

from pipelines.monitoring.holds import Brought, PastRetrain

KINDS = ("trigger", "validation", "gates", "registered", "release.ended", "release.refused", "rollback", "failure")
_WORKFLOW = "retrain/"  # how the subject of a failed retrain's entry begins


class Entry(Protocol):
    """As much of a ledger's entry as is read here."""

    @property
    def id(self) -> int: ...
    @property
    def kind(self) -> str: ...
    @property
    def subject(self) -> str: ...
    @property
    def body(self) -> dict[str, Any]: ...


def past_retrains(entries: Sequence[Entry]) -> tuple[PastRetrain, ...]:
    """The retrains among `entries` of one project (of the `KINDS`, in the ledger's order), oldest first."""
    started = [entry for entry in entries if entry.kind == "trigger"]
    return tuple(_told(entry, following, entries) for entry, following in pairwise([*started, None]) if entry)


def _told(started: Entry, following: Entry | None, entries: Sequence[Entry]) -> PastRetrain:
    mine = [e for e in entries if e.id > started.id and (following is None or e.id < following.id)]
    validated = next((e for e in mine if e.kind == "validation"), None)
    gates = None
    if validated is not None:
        # the same bundle against the same champion has one entry, which may be older than this retrain
        judged = [e for e in entries if e.kind == "gates" and e.body["snapshot"] == validated.subject]
        gates = next((e for e in mine if e in judged), judged[-1] if judged else None)
    brought = _brought(mine, validated, gates, entries)
    spent = None if gates is None else gates.body.get("cpu_s")
    return PastRetrain(
        as_of=date.fromisoformat(started.subject),
        trigger=started.body["trigger"],
        brought=brought,
        cpu_hours=None if spent is None else spent / 3600,
    )


def _brought(mine: Sequence[Entry], validated: Entry | None, gates: Entry | None, entries: Sequence[Entry]) -> Brought:
    if validated is not None and not validated.body["passed"]:
        return "failed"
    if gates is None:
        failed = any(e.kind == "failure" and e.subject.startswith(_WORKFLOW) for e in mine)
        return "failed" if failed else "unknown"
    if not gates.body["passed"]:
        return "not_better"
    versions = {e.subject for e in entries if e.kind == "registered" and e.body["bundle"] == gates.subject}
    ended = [e for e in entries if e.kind in ("release.ended", "release.refused") and e.body["version"] in versions]
    if not ended:
        return "unknown"
    taken_back = any(e.kind == "rollback" and e.body.get("from") in versions for e in entries)
    return "better" if ended[-1].body.get("state") == "promoted" and not taken_back else "not_better"
