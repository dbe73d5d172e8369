"""Opens an investigation for a rollout that did not end well or a champion that was taken back, and closes it."""

import logging
import time
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import msgspec

from contracts.bundle import SCHEMA, BundleError, read_manifest
from contracts.prediction_row import LOGGED_WITHIN_S
from pipelines.data import snapshots
from pipelines.governance.investigation import (
    CLOSED,
    EVIDENCE,
    OPENED,
    PAGE,
    Investigation,
    Moment,
    affected_text,
    evidence_bytes,
    investigation_page,
    where_text,
)
from pipelines.governance.investigation_slices import rank
from pipelines.governance.rollback_cause import CAUSES, LIGHT, cause_of
from pipelines.governance.version_differences import Described, differences
from pipelines.ledger import Entry, Ledger
from pipelines.monitoring.rollout_rows import RolloutRows, Wanted, read_rollout_rows
from pipelines.pages import write_whole
from pipelines.projects import Project
from pipelines.registry.port import Registry
from pipelines.rollout.comparisons import asked_limit
from pipelines.rollout.course import Course, retell
from pipelines.rollout.state import State
from pipelines.rollout.story import EVENT, lengthen
from pipelines.wiring import find_project, home, open_ledger, open_registry

logger = logging.getLogger("paceline")

_MARGIN = timedelta(seconds=5)  # clocks of the ledger, the controller and the server differ by less
_LATE_LOOKS = 10  # for the failures that ended a rollout, in a log that is late
_BY_HAND = timedelta(hours=1)  # of the log before a rollback by hand
_HOLDOUT = timedelta(days=7)  # of the log before a rollback by a holdout, whose outcomes come late
_BY_HOLDOUT = "holdout/"  # how the request of a rollback begins that nobody asked for
_FIELDS = 12
_MASKED = "masked"
_TOLD = {
    "release.opened": "offered",
    "rollout.command": "a person asked",
    "rollout.command.obeyed": "obeyed",
    "rollout.command.refused": "not obeyed",
    "rollout.question": "a person was asked",
}


def investigate(project: str, subject: str) -> dict[str, Any] | None:
    """Opens the investigation of `subject`, a rollout or a rollback by hand that has ended, and returns its entry.

    None where there is nothing to investigate: it has not ended, or was promoted. Safe to repeat: one that is open is
    returned as it is. The page and its evidence lie below the reports of the project.
    """
    ledger = open_ledger()
    opened = ledger.entries(project, (OPENED,), subject)
    if opened:
        return opened[0].body
    found = gather(project, subject)
    if found is None:
        return None
    folder = investigation_folder(project, subject)
    content, hashed = evidence_bytes(found)
    write_whole(folder / EVIDENCE, content.decode())
    write_whole(folder / PAGE, investigation_page(found, hashed))
    body = {
        "version": found.version,
        "champion": found.champion,
        "state": found.state,
        "cause": found.cause.name,
        "severity": found.cause.severity,
        "title": found.cause.title,
        "reason": found.reason,
        "affected": affected_text(found),
        "where": where_text(found),
        "phase": found.phase,
        "by": found.by,
        "next": list(found.cause.steps),
        "page": str((folder / PAGE).relative_to(home().root)),
        "evidence": hashed,
    }
    entry = ledger.append(project, OPENED, subject, body, key=f"{OPENED}/{subject}")
    logger.info("version %s: the investigation is at %s", found.version, folder / PAGE)
    return entry.body


def gather(project: str, subject: str) -> Investigation | None:
    """All that is on record about the end of `subject`; nothing is written. None as in `investigate`."""
    return _found(find_project(project), open_ledger(), open_registry(), subject)


def try_to_investigate(project: str, subject: str) -> dict[str, Any] | None:
    """As `investigate`; whatever goes wrong is logged and written down, and harms nobody who settles a rollout."""
    try:
        return investigate(project, subject)
    except Exception as error:
        logger.warning("no investigation of %s was opened", subject, exc_info=True)
        _record_failure(project, subject, f"{type(error).__name__}: {error}")
        return None


def _record_failure(project: str, subject: str, error: str) -> None:
    try:
        open_ledger().append(project, "investigation.failed", subject, {"error": error[:2000]})
    except Exception:  # the ledger may be what failed
        logger.warning("that there is no investigation of %s is not in the ledger", subject, exc_info=True)


def close_investigation(project: str, subject: str, *, note: str, by: str) -> dict[str, Any]:
    """Writes what was found. From then on the version is offered again without another note.

    Raises:
        LookupError: there is no such investigation.
        ValueError: the note or the name is empty, or it was closed with another note before.
    """
    ledger = open_ledger()
    opened = ledger.entries(project, (OPENED,), subject)
    if not opened:
        known = ", ".join(entry.subject for entry in ledger.entries(project, (OPENED,))) or "none"
        raise LookupError(f"{project} has no investigation of {subject}; there are: {known}")
    if not note.strip() or not by.strip():
        raise ValueError("a note says what was found, and a name who says so; found an empty one")
    body = {"version": opened[0].body["version"], "note": note.strip(), "by": by.strip()}
    entry = ledger.append(project, CLOSED, subject, body, key=f"{CLOSED}/{subject}")
    if entry.body != body:
        raise ValueError(f"closed by {entry.body['by']} on {entry.at:%Y-%m-%d}: {entry.body['note']}")
    return {"rollout": subject, **entry.body, "at": entry.at.isoformat(timespec="seconds")}


def closing_note(ledger: Ledger, project: str, subject: str) -> str | None:
    """What was found about the end of `subject`, if somebody has said so."""
    closed = ledger.entries(project, (CLOSED,), subject)
    return f"{closed[0].body['note']} ({closed[0].body['by']})" if closed else None


def investigation_folder(project: str, subject: str) -> Path:
    """Where the page and the evidence of an investigation lie."""
    return home().reports(project) / "investigations" / subject


def _found(project: Project, ledger: Ledger, registry: Registry, subject: str) -> Investigation | None:
    entries = ledger.entries(project.name, subject=subject)
    ended = [entry for entry in entries if entry.kind == "release.ended"]
    by_hand = [entry for entry in ledger.entries(project.name, ("rollback",)) if entry.key == subject]
    if ended and ended[-1].body["state"] != "promoted":
        found = _of_rollout(project, subject, entries, ended[-1])
    elif by_hand and by_hand[-1].body["from"] is not None:
        found = _put_back(project, ledger, by_hand[-1])
    else:
        return None
    gaps = list(found.gaps)
    mine, personal = _described(project, registry, found.version, gaps)
    theirs, _ = (None, ()) if found.champion is None else _described(project, registry, found.champion, gaps)
    fields = tuple(dict.fromkeys([*project.slices.fields, *_words(mine, personal)]))[:_FIELDS]
    rows = _rows(project.name, found, by_hand=bool(by_hand), fields=fields, personal=personal, gaps=gaps)
    timeline = sorted([*found.timeline, *_first_failure(rows)], key=lambda moment: moment.at_s)
    return msgspec.structs.replace(
        found,
        rows=rows,
        timeline=tuple(timeline),
        slices=() if found.cause.name in LIGHT else rank(rows.slices, found.cause.blames),
        differences=differences(mine, theirs),
        personal=personal,
        gaps=tuple(gaps),
    )


def _of_rollout(project: Project, subject: str, entries: Sequence[Entry], ended: Entry) -> Investigation:
    """From the rollout's own entries; the machine's events are folded once more."""
    outcome = ended.body
    bodies = [entry.body for entry in entries if entry.kind == EVENT]
    gaps: list[str] = []
    try:
        course = retell([lengthen(body) for body in bodies])
    except (msgspec.ValidationError, ValueError, KeyError) as error:
        course = retell([])
        gaps.append(f"The rollout's events in the ledger cannot be told again: {error}")
    last = bodies[-1] if bodies else {}
    steps = outcome.get("steps") or [{}]
    findings = tuple(_plain(finding) for finding in steps[-1].get("findings", ()))
    tripped = outcome.get("tripped")
    cause = cause_of(
        last,
        None if tripped is None else tripped["cause"],
        findings,
        is_asked=_waited_in_vain(course.state),
        is_paused=_paused_too_long(course.state),
    )
    looks = tuple(msgspec.structs.replace(look, findings=_finite(look.findings)) for look in course.looks)
    if not findings and looks:  # what ended it was no verdict: the judge's last numbers are worth as much
        findings = tuple(_plain(msgspec.to_builtins(each)) for each in looks[-1].findings)
    offer = next((entry.body for entry in entries if entry.kind == "release.opened"), {})
    started_s = course.state.started_s or entries[0].at.timestamp()
    ended_s = course.state.ended_s or ended.at.timestamp()
    end = Moment(at_s=ended_s, what=outcome["state"].replace("_", " "), detail=outcome["reason"])
    return Investigation(
        project=project.name,
        title=project.title,
        rollout=subject,
        version=outcome["version"],
        champion=offer.get("expected_champion"),
        state=outcome["state"],
        cause=cause,
        reason=outcome["reason"],
        by=_who(entries, last) if cause.name in ("aborted", "operator") else None,
        phase=steps[-1].get("name", ""),
        share=steps[-1].get("share", 0.0),
        started_s=started_s,
        ended_s=ended_s,
        findings=findings,
        tripped=tripped,
        timeline=(*_moments(entries, course), end),
        phases=course.phases,
        looks=looks,
        looked=course.looked,
        counted=outcome.get("challenger_requests", 0),
        plan=_plan(course),
        gaps=tuple(gaps),
    )


def _put_back(project: Project, ledger: Ledger, entry: Entry) -> Investigation:
    """A champion that was taken back, by a person or by its holdout: what the log has around that moment."""
    subject, left, kept = entry.key or entry.subject, entry.body["from"], entry.body["version"]
    reigned = ledger.entries(project.name, ("champion.swapped",))
    since = [each.at for each in reigned if each.body["version"] == left]
    begun = ledger.entries(project.name, ("rollback.begun",), subject)
    intent = begun[-1].body if begun else {}
    request = str(intent.get("request") or "")
    judged: list[Entry] = []
    if request.startswith(_BY_HOLDOUT):
        judged = ledger.entries(project.name, ("holdout.verdict",), request.removeprefix(_BY_HOLDOUT))
    started = max(since[-1] if since else entry.at, entry.at - (_HOLDOUT if judged else _BY_HAND))
    led = [Moment(at_s=since[-1].timestamp(), what=f"version {left} led")] if since else []
    verdicts = [
        Moment(at_s=each.at.timestamp(), what="outcomes were judged", detail=each.body["reason"]) for each in judged
    ]
    detail = f"{entry.body['reason']}; took {entry.body['seconds']:.1f} s"
    return Investigation(
        project=project.name,
        title=project.title,
        rollout=subject,
        version=left,
        champion=kept,
        state="rolled_back",
        cause=CAUSES["quality" if judged else "by_hand"],
        reason=entry.body["reason"],
        by=None if judged else intent.get("by"),
        started_s=started.timestamp(),
        ended_s=entry.at.timestamp(),
        findings=tuple(_plain(each) for each in judged[-1].body["findings"]) if judged else (),
        timeline=(
            *led,
            *verdicts,
            Moment(at_s=entry.at.timestamp(), what=f"version {kept} was put back", detail=detail),
        ),
    )


def _moments(entries: Sequence[Entry], course: Course) -> list[Moment]:
    told = [
        Moment(at_s=entry.at.timestamp(), what=_TOLD[entry.kind], detail=_sentence(entry))
        for entry in entries
        if entry.kind in _TOLD
    ]
    verdicts = {record.name: record.reason for record in course.state.records if record.verdict == "advance"}
    phases = [each for each in course.phases if each.phase not in ("rolled_back", "refused", "waiting")]
    for before, each in zip([None, *phases], phases, strict=False):
        why = "" if before is None else verdicts.get(before.phase, "")
        name = f"step of {each.phase}" if each.share else each.phase
        told.append(Moment(at_s=each.at_s, what=name, detail=why))
    return told


def _sentence(entry: Entry) -> str:
    body = entry.body
    if entry.kind == "release.opened":
        note = f"; note: {body['note']} ({body.get('by') or 'nobody said who'})" if body.get("note") else ""
        return f"version {body['version']} against {body.get('expected_champion') or 'no champion'}{note}"
    if entry.kind == "rollout.question":
        return f"{body.get('question')} at {body.get('phase')}"
    share = f" {body['share'] * 100:g} %" if body.get("share") else ""
    said = f"{body.get('command')}{share} by {body.get('by')}"
    return f"{said}: {body['reason']}" if body.get("reason") else said


def _first_failure(rows: RolloutRows) -> list[Moment]:
    if rows.first_failed_s is None:
        return []
    kinds = [kind.error for kind in rows.error_kinds if kind.arm == "challenger"]
    return [Moment(at_s=rows.first_failed_s, what="its first failure", detail=f"most often: {kinds[0][:200]}")]


def _waited_in_vain(state: State) -> bool:
    asked, ended_s = state.asked is not None, state.ended_s
    return asked and ended_s is not None and state.seconds(ended_s) >= state.plan.approvals.timeout_s


def _paused_too_long(state: State) -> bool:
    since_s, ended_s = state.paused_since_s, state.ended_s
    return since_s is not None and ended_s is not None and ended_s - since_s >= state.plan.maximum_pause_s


def _who(entries: Sequence[Entry], last: Mapping[str, Any]) -> str | None:
    commands = [entry.body.get("by") for entry in entries if entry.kind == "rollout.command.obeyed"]
    return (commands[-1] if commands else None) or last.get("by")


def _plan(course: Course) -> dict[str, Any]:
    plan: dict[str, Any] = msgspec.to_builtins(course.state.plan)
    return plan


def _finite(findings: Sequence[Any]) -> tuple[Any, ...]:
    """Without those that the plan does not ask for, whose limit nothing exceeds."""
    return tuple(each for each in findings if asked_limit(each.limit) is not None)


def _plain(finding: Mapping[str, Any]) -> dict[str, Any]:
    return {**finding, "limit": asked_limit(finding["limit"])}


def _rows(
    project: str,
    found: Investigation,
    *,
    by_hand: bool,
    fields: tuple[str, ...],
    personal: tuple[str, ...],
    gaps: list[str],
) -> RolloutRows:
    if found.cause.name in LIGHT:
        return RolloutRows()
    wanted = Wanted(
        rollout=None if by_hand else found.rollout,
        champion=found.champion,
        challenger=found.version,
        since=datetime.fromtimestamp(found.started_s, UTC) - _MARGIN,
        until=datetime.fromtimestamp(found.ended_s, UTC) + _MARGIN,
        fields=fields,
    )
    rows = _read_when_logged(home().predictions(project), wanted, found)
    if not rows.rows and found.counted:
        gaps.append(f"The prediction log has no row of this rollout; the judge counted {found.counted:,} requests.")
    gaps += [f"A file of the prediction log could not be read: {each}" for each in rows.damaged]
    failures = tuple(msgspec.structs.replace(each, inputs=masked(each.inputs, personal)) for each in rows.failures)
    return msgspec.structs.replace(rows, failures=failures)


def _read_when_logged(root: Path, wanted: Wanted, found: Investigation) -> RolloutRows:
    """The rows, once the servers have had time to commit the last of them, which are those that matter most."""
    is_logged = any(root.glob("day=*"))
    if is_logged:
        time.sleep(max(0.0, min(LOGGED_WITHIN_S, found.ended_s + LOGGED_WITHIN_S - time.time())))
    rows = read_rollout_rows(root, wanted)
    failed = found.cause.name in ("hard_limit", "errors")
    for _ in range(_LATE_LOOKS):
        if rows.failures or not failed or not is_logged:
            break
        time.sleep(LOGGED_WITHIN_S)
        rows = read_rollout_rows(root, wanted)
    return rows


def masked(inputs: str | None, personal: Sequence[str]) -> str | None:
    """The record without personal values: the server has masked them already, by the schema of its time."""
    if inputs is None:
        return None
    try:
        record = msgspec.json.decode(inputs, type=dict[str, Any])
    except msgspec.DecodeError:
        return None
    for name in personal:
        if record.get(name) is not None and not str(record[name]).startswith(_MASKED):
            record[name] = _MASKED
    return msgspec.json.encode(record).decode()


def _described(
    project: Project, registry: Registry, version: str, gaps: list[str]
) -> tuple[Described, tuple[str, ...]]:
    """The version's records, as far as they are at hand, and its personal fields."""
    personal = {field.name for field in project.schema.fields if field.personal}
    registered = registry.version(project.name, version)
    if registered is None:
        gaps.append(f"Version {version} is not in the registry.")
        return Described(version=version), tuple(sorted(personal))
    folder = home().bundles / registered.bundle
    described = Described(version=version, bundle=registered.bundle, tags=registered.tags, metrics=registered.metrics)
    try:
        _, manifest = read_manifest(folder, registered.bundle)
        schema = msgspec.json.decode((folder / SCHEMA).read_bytes(), type=dict[str, Any])
    except (BundleError, OSError) as error:
        logger.warning("the bundle of version %s cannot be read: %s", version, error)
        gaps.append(
            f"The bundle {registered.bundle[:12]} of version {version} is not at hand: its inputs are not compared."
        )
        return described, tuple(sorted(personal))
    personal |= {field["name"] for field in schema["fields"] if field.get("personal")}
    try:
        snapshot = msgspec.to_builtins(snapshots.read_manifest(home().snapshots, manifest.snapshot))
    except snapshots.SnapshotError as error:
        logger.warning("the snapshot of version %s cannot be read: %s", version, error)
        gaps.append(
            f"The snapshot {manifest.snapshot[:12]} of version {version} is not at hand: its windows are not compared."
        )
        snapshot = {}
    described = msgspec.structs.replace(
        described, manifest=msgspec.to_builtins(manifest), schema=schema, snapshot=snapshot
    )
    return described, tuple(sorted(personal))


def _words(described: Described, personal: Sequence[str]) -> list[str]:
    """The categories and booleans of the inputs, to break failures down by; never what is about persons."""
    return [
        field["name"]
        for field in described.schema.get("fields", ())
        if field["kind"] in ("category", "boolean") and field["name"] not in personal
    ]
