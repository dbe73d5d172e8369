"""Asking for a retrain: whoever asks (schedule, watch, alert, person), the project's one policy answers.

| kind | body |
| --- | --- |
| `trigger.due` | somebody asked, and nothing spoke against it, or was gone past: a retrain is to be started |
| `trigger.suppressed` | somebody asked, and the policy held it back: by what, with the numbers |
| `trigger` | a retrain has started: why, by whom, its windows, and what it went past |

A retrain asks again when it starts, so that of two that were due at once one runs. The entry `trigger` is then written
on top of the last one, or not at all: of two that start at once one wins, and the other asks anew.
"""

import logging
from collections.abc import Mapping
from datetime import date
from typing import Any

import msgspec

from contracts.hashing import content_id
from pipelines.monitoring.holds import TRIGGERS, Past, Ruling, Trigger, needs_labels, rule
from pipelines.monitoring.retrain_history import KINDS, past_retrains
from pipelines.projects import Project
from pipelines.tasks import retraining
from pipelines.tasks.offering import read_book
from pipelines.wiring import find_project, home, open_ledger

DUE, SUPPRESSED, STARTED = "trigger.due", "trigger.suppressed", "trigger"
REASON_LENGTH_MAX = 500
_ATTEMPTS_MAX = 20  # each is a start that another retrain was faster with
logger = logging.getLogger("paceline")


class RetrainHeldError(PermissionError):
    """The policy holds the retrain back; the champion stays, and the ledger has the reason."""


def request_retrain(
    project: str,
    trigger: str,
    reason: str,
    as_of: str,
    evidence: Mapping[str, Any] | None = None,
    by: str = "",
    *,
    insists: bool = False,
) -> dict[str, Any]:
    """Whether a retrain for `trigger` (one of TRIGGERS) as of a date (ISO) is due, as the ledger has it afterwards.

    `conf` is what the workflow `<project>.retrain` is to be started with when `due`, else empty; `why` says what held
    it back, or what it went past. `evidence` is kept in the ledger with the answer. `insists` is for a person, who goes
    past what the project allows a person. The same question with the same answer is one entry.

    Raises:
        LookupError: there is no such project.
        ValueError: `trigger` or `as_of` is none.
    """
    found, asked = find_project(project), parse_trigger(trigger)
    limits, today = found.monitoring.triggers, date.fromisoformat(as_of)
    past = read_past(found, today, with_labels=needs_labels(asked, limits))
    ruling = rule(asked, today, past, limits, insists=insists)
    return record_ruling(project, ruling, asked, reason, as_of, evidence, by)


def record_ruling(
    project: str,
    ruling: Ruling,
    trigger: Trigger,
    reason: str,
    as_of: str,
    evidence: Mapping[str, Any] | None = None,
    by: str = "",
) -> dict[str, Any]:
    """Writes what was ruled into the ledger, and returns it as `request_retrain` does."""
    body = {
        "trigger": trigger,
        "reason": reason[:REASON_LENGTH_MAX],
        "by": by,
        "why": ruling.why,
        "held_by": msgspec.to_builtins(ruling.held_by),
        "overridden": msgspec.to_builtins(ruling.overridden),
        "evidence": dict(evidence or {}),
    }
    kind = DUE if ruling.due else SUPPRESSED
    open_ledger().append(project, kind, as_of, body, key=f"{kind}/{content_id((as_of, body))}")
    said = "is due" if ruling.due else "is not started"
    logger.info("a retrain of %s for %s %s%s", project, trigger, said, f": {ruling.why}" if ruling.why else "")
    conf = {"as_of": as_of, "trigger": trigger, "reason": body["reason"]} if ruling.due else {}
    return {"due": ruling.due, "conf": conf, "why": ruling.why}


def begin_retrain(
    project: str, as_of: str, trigger: str, reason: str, *, by: str, request: str, insists: bool = False
) -> dict[str, Any]:
    """The windows of a retrain that starts now, and its entry in the ledger. The same `request` starts once.

    Raises:
        RetrainHeldError: the policy holds it back.
        ValueError: there is too little labelled data, or `trigger` is none.
    """
    found, asked, ledger = find_project(project), parse_trigger(trigger), open_ledger()
    limits, today = found.monitoring.triggers, date.fromisoformat(as_of)
    counts = needs_labels(asked, limits)
    for _ in range(_ATTEMPTS_MAX):
        before = ledger.entries(project=project, kinds=(STARTED,))
        mine = next((entry for entry in reversed(before) if entry.body.get("request") == request), None)
        if mine is not None:
            return dict(mine.body["windows"])
        ruling = rule(asked, today, read_past(found, today, with_labels=counts), limits, insists=insists)
        if not ruling.due:
            record_ruling(project, ruling, asked, reason, as_of, {"request": request}, by)
            raise RetrainHeldError(f"no retrain of {project} for {trigger}: {ruling.why}")
        windows = retraining.plan_windows(project, as_of, trigger)
        body = {
            "trigger": trigger,
            "reason": reason,
            "windows": windows,
            "by": by,
            "request": request,
            "overridden": msgspec.to_builtins(ruling.overridden),
        }
        last = before[-1].id if before else 0
        written = ledger.append(project, STARTED, as_of, body, key=f"{STARTED}/after/{last}")
        if written.body.get("request") == request:
            if ruling.why:
                logger.warning("the retrain of %s for %s %s", project, trigger, ruling.why)
            return windows
    raise RuntimeError(f"{_ATTEMPTS_MAX} other retrains of {project} started meanwhile: look at its status")


def read_past(project: Project, today: date, *, with_labels: bool) -> Past:
    """What a ruling on a retrain as of `today` rests on. Labels are counted only `with_labels`: that takes seconds."""
    ledger = open_ledger()
    retrains = past_retrains(ledger.entries(project=project.name, kinds=KINDS))
    running = read_book(ledger, project.name).running
    last = max((retrain.as_of for retrain in retrains if retrain.as_of <= today), default=None)
    return Past(
        retrains=retrains,
        new_labels=count_new_labels(project, last, today) if with_labels else None,
        rollout=None if running is None else running.subject,
    )


def count_new_labels(project: Project, since: date | None, today: date) -> int:
    """The events from `since` on (None: all) whose outcomes are known as of `today`."""
    import ibis

    from pipelines.data.snapshots import count_labelled_events, earliest_day

    connection = ibis.duckdb.connect()
    try:
        events = project.source().events(connection, home().warehouse(project.name))
        start = earliest_day(events, project.schema) if since is None else since
        return count_labelled_events(events, project.schema, project.label, start, today, today)
    finally:
        connection.disconnect()


def parse_trigger(name: str) -> Trigger:
    """Raises ValueError where `name` is no trigger."""
    for trigger in TRIGGERS:
        if trigger == name:
            return trigger
    raise ValueError(f"trigger: found {name!r}, expected one of {', '.join(TRIGGERS)}")
