"""Where a prediction came from: prediction → version → bundle → snapshot, commit, parameters, dependency lock.

Every link is compared with the next one. What is missing or contradicts is listed as a gap: a lineage with a hole says
so instead of looking whole.
"""

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any, Protocol

import msgspec

from contracts.bundle import Manifest

_STEPS = ("registered", "rollback", "champion.swapped", "champion.restored")
_PREFIXES = ("rollout.", "release.")
_TOO_FINE = ("rollout.event",)  # the machine's own events: hundreds of looks, folded into the verdicts


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


class PassedGate(msgspec.Struct, frozen=True, kw_only=True):
    """One gate that the bundle went through, with its numbers."""

    name: str
    passed: bool
    reason: str


class Step(msgspec.Struct, frozen=True, kw_only=True):
    """Something that the ledger holds about the version: when, what, and why."""

    at: str
    kind: str
    reason: str


class Lineage(msgspec.Struct, frozen=True, kw_only=True):
    """Everything that made one prediction. `gaps` is empty when every link was found."""

    prediction: dict[str, Any]
    project: str
    version: str
    slot: str
    rollout: str | None
    bundle: str
    trainer: str | None
    optimization: str | None
    parameters: dict[str, Any]
    threshold: float | None
    frameworks: dict[str, str]
    lock: str | None
    commit: str | None
    schema_version: str | None
    snapshot: str | None
    windows: dict[str, Any]
    rows: dict[str, int]
    gates: tuple[PassedGate, ...]
    history: tuple[Step, ...]
    gaps: tuple[str, ...]


def lineage(
    prediction: Mapping[str, Any],
    *,
    bundle: Manifest | None,
    snapshot: Mapping[str, Any] | None,
    tags: Mapping[str, str] | None,
    entries: Sequence[LedgerEntry],
) -> Lineage:
    """The lineage of a logged `prediction` (the fields of `contracts.prediction_row.PredictionRow`).

    Args:
        bundle: the manifest of the bundle with the id `prediction["bundle"]`, None if it is gone.
        snapshot: the manifest of the snapshot with the id `bundle.snapshot`, as plain values; None if it is gone.
        tags: of the registry's version (`bundle`, `snapshot`, `commit`, `lock`, `schema_version` are read); None if
            the registry does not know the version.
        entries: of the ledger for the project, oldest first.
    """
    version, bundle_id, rollout = prediction["version"], prediction["bundle"], prediction["rollout"]
    tagged = tags or {}
    gates = _gates(entries, bundle_id)
    snapshot_id = bundle.snapshot if bundle else tagged.get("snapshot")
    gaps = [
        *_missing(version, bundle_id, snapshot_id, bundle=bundle, snapshot=snapshot, tags=tags, gates=gates),
        *_contradictions(prediction, bundle, snapshot, tagged),
    ]
    manifest = snapshot or {}
    return Lineage(
        prediction=dict(prediction),
        project=prediction["project"],
        version=version,
        slot=prediction["slot"],
        rollout=rollout,
        bundle=bundle_id,
        trainer=bundle.trainer if bundle else None,
        optimization=bundle.optimization if bundle else None,
        parameters=dict(bundle.parameters) if bundle else {},
        threshold=bundle.threshold if bundle else None,
        frameworks=dict(bundle.frameworks) if bundle else {},
        lock=bundle.lock if bundle else tagged.get("lock"),
        commit=tagged.get("commit"),
        schema_version=tagged.get("schema_version"),
        snapshot=snapshot_id,
        windows=dict(manifest.get("windows", {})),
        rows=dict(manifest.get("rows_by_part", {})),
        gates=gates,
        history=tuple(_history(entries, version, bundle_id)),
        gaps=tuple(gaps),
    )


def _missing(
    version: str,
    bundle_id: str,
    snapshot_id: str | None,
    *,
    bundle: Manifest | None,
    snapshot: Mapping[str, Any] | None,
    tags: Mapping[str, str] | None,
    gates: Sequence[PassedGate],
) -> Iterable[str]:
    if bundle is None:
        yield f"the bundle {bundle_id} is not kept any more"
    if snapshot is None:
        yield f"the snapshot {snapshot_id or 'of the bundle'} is not kept any more"
    if tags is None:
        yield f"the registry does not know version {version}"
    elif not tags.get("commit"):
        yield f"version {version} has no commit among its tags"
    if not gates:
        yield f"the ledger has no gates for the bundle {bundle_id}"


def _contradictions(
    prediction: Mapping[str, Any],
    bundle: Manifest | None,
    snapshot: Mapping[str, Any] | None,
    tags: Mapping[str, str],
) -> Iterable[str]:
    claims: list[tuple[str, str | None, str, str]] = [
        ("bundle", tags.get("bundle"), prediction["bundle"], "the prediction"),
    ]
    if bundle is not None:
        claims += [
            ("snapshot", tags.get("snapshot"), bundle.snapshot, "the bundle"),
            ("lock", tags.get("lock"), bundle.lock, "the bundle"),
        ]
        if bundle.project != prediction["project"]:
            yield f"the bundle is of the project {bundle.project!r}, the prediction of {prediction['project']!r}"
    if snapshot is not None and snapshot.get("project", prediction["project"]) != prediction["project"]:
        yield f"the snapshot is of the project {snapshot['project']!r}, the prediction of {prediction['project']!r}"
    for name, tagged, found, holder in claims:
        if tagged is not None and tagged != found:
            yield f"the registry's tag {name} is {tagged}, {holder} says {found}"


def _gates(entries: Sequence[LedgerEntry], bundle_id: str) -> tuple[PassedGate, ...]:
    """Those of the last evaluation of the bundle: an earlier one may have been against another champion."""
    bodies = [entry.body for entry in entries if entry.kind == "gates" and entry.subject == bundle_id]
    if not bodies:
        return ()
    return tuple(
        PassedGate(name=gate["name"], passed=gate["passed"], reason=gate["reason"]) for gate in bodies[-1]["gates"]
    )


def _history(entries: Sequence[LedgerEntry], version: str, bundle_id: str) -> Iterable[Step]:
    """What the ledger has about the version itself, and about the rollouts that offered it."""
    rollouts = {
        entry.subject for entry in entries if entry.kind.startswith(_PREFIXES) and entry.body.get("version") == version
    }
    for entry in entries:
        if entry.kind in _TOO_FINE or entry.body.get("bundle", bundle_id) != bundle_id:
            continue
        of_version = entry.kind in _STEPS and version in (entry.subject, entry.body.get("version"))
        if of_version or (entry.kind.startswith(_PREFIXES) and entry.subject in rollouts):
            yield Step(at=entry.at.isoformat(timespec="seconds"), kind=entry.kind, reason=_reason(entry.body))


def _reason(body: Mapping[str, Any]) -> str:
    said = [str(body[name]) for name in ("state", "verdict", "reason") if body.get(name)]
    return ": ".join(said) or ", ".join(f"{k} {v}" for k, v in body.items() if isinstance(v, str | int | float))


_WHERE_KNOWN = (("given to", "client"), ("unusual", "unusual"))


def links(found: Lineage) -> list[tuple[str, str]]:
    """The links by name with what they say, from the prediction back to the data, then the gates and the history."""
    row = found.prediction
    score = "no score" if row["score"] is None else f"score {row['score']:.4f}"
    decision = {None: "no decision", True: "decision yes", False: "decision no"}[row["decision"]]
    return [
        ("prediction", f"{row['prediction_id']} ({score}, {decision}, served {row['served_at']})"),
        *((name, str(row[column])) for name, column in _WHERE_KNOWN if row.get(column)),
        ("event", f"{row['event_time']}, entity {row['entity']}"),
        ("version", f"{found.project} {found.version}, as {found.slot}{_in_rollout(found)}"),
        ("bundle", f"{found.bundle} ({found.trainer or 'unknown trainer'}, {found.optimization or 'unknown form'})"),
        ("parameters", ", ".join(f"{name} {value}" for name, value in sorted(found.parameters.items())) or "unknown"),
        ("snapshot", found.snapshot or "unknown"),
        *((f"  {part}", _window(found, part)) for part in ("train", "validation", "test") if part in found.windows),
        ("commit", found.commit or "unknown"),
        ("lock", found.lock or "unknown"),
        ("libraries", ", ".join(f"{name} {number}" for name, number in sorted(found.frameworks.items())) or "unknown"),
        *((f"gate {gate.name}", f"{'passed' if gate.passed else 'FAILED'}: {gate.reason}") for gate in found.gates),
        *((step.kind, f"{step.at} {step.reason}") for step in found.history),
        *(("GAP", gap) for gap in found.gaps),
    ]


def render(found: Lineage) -> str:
    """The lineage as text for a terminal: one line a link."""
    lines = links(found)
    width = max(len(name) for name, _ in lines)
    return "\n".join(f"{name:<{width}}  {text}" for name, text in lines)


def _in_rollout(found: Lineage) -> str:
    return "" if found.rollout is None else f" in rollout {found.rollout} at share {found.prediction['share']:g}"


def _window(found: Lineage, part: str) -> str:
    window = found.windows[part]
    rows = f", {found.rows[part]:,} rows" if part in found.rows else ""
    return f"{window['start']} up to {window['end']}{rows}"
