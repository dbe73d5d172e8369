"""From Alertmanager's notification to at most one emergency retrain of a project.

| kind | subject | body |
| --- | --- | --- |
| `alert.firing` | fingerprint | the alert, once |
| `alert.resolved` | fingerprint | its end, once |
| `alert.retrain` | run, or empty | the alerts that were decided on, whether a retrain is due, why, and its parameters |
| `alert.started` | run | when Airflow had the run, and how long after the first alert began |

Whoever is killed between two of them is made up for by the next notification of the same alert: the id of a run follows
from its alert, so a run that Airflow has already is not started twice.
"""

import logging
import os
import secrets
from collections.abc import Collection
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from typing import Any

from pipelines.ledger import Entry, Ledger, LedgerUnavailableError
from pipelines.monitoring.alerts import (
    FIRING,
    RESOLVED,
    RETRAIN,
    STARTED,
    Alert,
    MalformedAlertsError,
    ReplayedAlertsError,
    Sorted,
    as_body,
    parse_notification,
    run_id,
    sort_alerts,
    why,
)
from pipelines.tasks import retraining, triggering
from pipelines.wiring import find_project, open_ledger

__all__ = [
    "LedgerUnavailableError",
    "MalformedAlertsError",
    "ReplayedAlertsError",
    "Start",
    "UnknownProjectError",
    "record_started",
    "take",
]
logger = logging.getLogger("paceline")
BY = "alertmanager"
# A storm is one run: until the run that its first alert started has chosen its window, later alerts join it. One that
# never comes that far is given up after this time.
JOINED_FOR = timedelta(minutes=15)


class UnknownProjectError(LookupError):
    """An alert names a project that is not here."""


@dataclass(frozen=True)
class Start:
    """A run of `<project>.retrain` that Airflow is to have, and has perhaps already."""

    project: str
    run: str
    conf: dict[str, Any]
    since: datetime


@dataclass(frozen=True)
class Taken:
    """What came of a notification: for its sender, and the runs that are to be started."""

    answer: dict[str, Any]
    starts: tuple[Start, ...]


def take(body: bytes, now: datetime | None = None) -> Taken:
    """Writes down what is new in a notification, and decides on a retrain for each project that it is about.

    Told again, it writes nothing and decides nothing; a run that was decided on and not started yet is named again.

    Raises:
        MalformedAlertsError: it is no notification.
        UnknownProjectError: an alert's project is not here.
        ReplayedAlertsError: it tells of alerts as firing that have ended, and of nothing else.
    """
    notification = parse_notification(body)
    for name in {alert.project for alert in notification.alerts}:
        try:
            find_project(name)
        except LookupError as error:
            raise UnknownProjectError(f"the label 'project' of an alert: {error}") from error
    answer: dict[str, Any] = {"begun": 0, "again": 0, "ended": 0, "retrains": []}
    starts: list[Start] = []
    by_project: dict[str, list[Alert]] = {}
    for alert in notification.alerts:
        by_project.setdefault(alert.project, []).append(alert)
    ledger = open_ledger()
    found = {name: _sorted(ledger, name, alerts) for name, alerts in by_project.items()}
    for name, each in found.items():
        _write(ledger, name, each)
        answer["begun"] += len(each.begun)
        answer["again"] += len(each.again)
        answer["ended"] += len(each.ended)
        for decided in _decide(ledger, name, (*each.begun, *each.again), now or datetime.now(UTC)):
            answer["retrains"].append({"project": name, "run": decided.body["run"], "why": decided.body["why"]})
        starts += _unstarted(ledger, name, {alert.key for alert in (*each.begun, *each.again)})
    return Taken(answer, tuple(starts))


def record_started(start: Start) -> None:
    """Writes down that Airflow has the run, once, and how many seconds after the first alert began to fire."""
    now = datetime.now(UTC)
    body = {"seconds": round((now - start.since).total_seconds(), 3), "conf": start.conf}
    open_ledger().append(start.project, STARTED, start.run, body, key=f"{STARTED}/{start.run}")
    logger.info("%s.retrain %s was started %s s after its alert", start.project, start.run, body["seconds"])


def _sorted(ledger: Ledger, project: str, alerts: list[Alert]) -> Sorted:
    known = ledger.entries(project, (FIRING, RESOLVED))
    begun = {entry.body["key"] for entry in known if entry.kind == FIRING}
    return sort_alerts(alerts, begun, {entry.body["key"] for entry in known if entry.kind == RESOLVED})


def _write(ledger: Ledger, project: str, found: Sorted) -> None:
    for kind, alerts in ((FIRING, found.begun), (RESOLVED, found.ended)):
        for alert in alerts:
            body = dict(as_body(alert)) | ({"ends_at": alert.ends_at} if kind == RESOLVED else {})
            ledger.append(project, kind, alert.fingerprint, body, key=f"{kind}/{alert.key}")


def _decide(ledger: Ledger, project: str, alerts: Collection[Alert], now: datetime) -> list[Entry]:
    """The decision on those alerts that ask for a retrain and were not decided on: one for all of them."""
    decided = {key for entry in ledger.entries(project, (RETRAIN,)) for key in entry.body["alerts"]}
    asking = [alert for alert in alerts if alert.wants_retrain and alert.key not in decided]
    if not asking:
        return []
    reason, first = why(asking), asking[0]
    body: dict[str, Any] = {"alerts": [alert.key for alert in asking], "since": min(a.starts_at for a in asking)}
    claim = _claim(ledger, project, now)
    if isinstance(claim, Entry):
        return [_join(ledger, project, body, claim)]
    as_of = _as_of(project)
    evidence = {"alerts": [dict(as_body(alert)) for alert in asking]}
    answer = triggering.request_retrain(project, "alert", reason, as_of, evidence, BY)
    body |= {"due": answer["due"], "why": answer["why"], "run": None, "conf": None}
    if not answer["due"]:
        logger.warning("no emergency retrain of %s: %s", project, answer["why"])
        return [ledger.append(project, RETRAIN, "", body)]
    mine = secrets.token_hex(8)
    body |= {"run": run_id(first), "conf": answer["conf"], "by": mine}
    entry = ledger.append(project, RETRAIN, run_id(first), body, key=claim)
    return [entry if entry.body.get("by") == mine else _join(ledger, project, body, entry)]


def _claim(ledger: Ledger, project: str, now: datetime) -> Entry | str:
    """The decision for a run that has not chosen its window yet; or else the key that only one next decision can have.

    The key names the last retrain that began and how many decisions after it were given up, so that of several
    notifications at once one decides.
    """
    begun = ledger.entries(project, ("trigger",))
    last = begun[-1].id if begun else 0
    open_ = [each for each in ledger.entries(project, (RETRAIN,), after=last) if each.body["due"]]
    young = [each for each in open_ if now - each.at < JOINED_FOR]
    return young[0] if young else f"{RETRAIN}/{last}/{len(open_)}"


def _join(ledger: Ledger, project: str, body: dict[str, Any], other: Entry) -> Entry:
    told = {
        "alerts": body["alerts"],
        "since": body["since"],
        "due": False,
        "why": f"{other.subject} was started by an alert before it, and has not begun its work: one run for all",
        "run": other.subject,
        "conf": None,
    }
    return ledger.append(project, RETRAIN, other.subject, told)


def _unstarted(ledger: Ledger, project: str, keys: set[str]) -> list[Start]:
    """The runs that were decided on for these alerts, and that Airflow is not known to have."""
    entries = ledger.entries(project, (RETRAIN, STARTED))
    started = {entry.subject for entry in entries if entry.kind == STARTED}
    wanted = {e.subject for e in entries if e.kind == RETRAIN and e.subject and keys & set(e.body["alerts"])}
    return [
        Start(project, entry.subject, entry.body["conf"], datetime.fromisoformat(entry.body["since"]))
        for entry in entries
        if entry.kind == RETRAIN and entry.body["due"] and entry.subject in wanted - started
    ]


def _as_of(project: str) -> str:
    """The day on which the last labelled week of the warehouse is known, or what `PACELINE_AS_OF` pretends."""
    if pretended := os.environ.get("PACELINE_AS_OF"):
        return date.fromisoformat(pretended).isoformat()
    delay = find_project(project).label.delay_days
    return (retraining.latest_day(project) + timedelta(days=1 + delay)).isoformat()
