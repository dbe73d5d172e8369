"""The weekly report: gathers a week from the log, the outcomes and the ledger, and keeps the page by its content."""

import logging
from collections.abc import Callable, Sequence
from datetime import date, timedelta
from typing import Any

from contracts.hashing import bytes_id
from pipelines.governance.investigation import CLOSED, OPENED
from pipelines.governance.weekly_report import Told, Week, weekly_report
from pipelines.ledger import Entry, Ledger
from pipelines.monitoring.retrain_history import KINDS, past_retrains
from pipelines.monitoring.week_traffic import count_week, days_of
from pipelines.pages import write_whole
from pipelines.tasks.assessing import assess
from pipelines.tasks.skewing import COMPARED
from pipelines.wiring import find_project, home, open_ledger, read_ledger

REPORTED = "report.weekly"
_DAYS = 7
logger = logging.getLogger("paceline")


def write_weekly_report(project: str, week: str) -> dict[str, Any]:
    """Writes the page of an ISO week (`2013-W27`), and returns the ledger's entry of it: `week`, `page` below
    `PACELINE_HOME`, `sha256`. The same week with the same content is one page and one entry.

    Raises:
        ValueError: `week` is none.
        LookupError: there is no such project.
    """
    page = weekly_report(gather_week(project, week)).encode()
    identity = bytes_id(page)
    file = home().reports(project) / "weekly" / f"{week}-{identity[:12]}.html"
    write_whole(file, page.decode())
    body = {"week": week, "page": str(file.relative_to(home().root)), "sha256": identity}
    kept = open_ledger().append(project, REPORTED, week, body, key=f"{REPORTED}/{week}/{identity}").body
    logger.info("the report of week %s is at %s", week, file)
    return dict(kept)


def is_report_due(project: str, as_of: str) -> str | None:
    """The ISO week whose report a watch as of a date writes: the one that ended before the project's weekday."""
    today, weekday = date.fromisoformat(as_of), find_project(project).monitoring.report_weekday
    return week_of(today - timedelta(days=_DAYS)) if today.isoweekday() == weekday else None


def week_of(day: date) -> str:
    """The ISO week of a day.

    >>> week_of(date(2013, 7, 1)), week_of(date(2012, 12, 31))
    ('2013-W27', '2013-W01')
    """
    year, week, _ = day.isocalendar()
    return f"{year}-W{week:02}"


def first_day(week: str) -> date:
    """The Monday of an ISO week. Raises ValueError where `week` is none.

    >>> first_day("2013-W27")
    datetime.date(2013, 7, 1)
    """
    year, _, number = week.partition("-W")
    try:
        return date.fromisocalendar(int(year), int(number), 1)
    except ValueError as error:
        raise ValueError(f"week: found {week!r}, expected an ISO week such as 2013-W27") from error


def gather_week(project: str, week: str) -> Week:
    """All that the page of a week is made of; outcomes as known when the week was over."""
    found, ledger = find_project(project), open_ledger()
    start = first_day(week)
    end = start + timedelta(days=_DAYS)
    champion = ledger.champion(project)
    assessed = None if champion is None else assess(project, end.isoformat(), _DAYS)
    retrains = past_retrains(ledger.entries(project=project, kinds=KINDS))
    # a watch as of a day has seen the days before it
    seen, written = _as_of(start + timedelta(days=1), end + timedelta(days=1)), _at(start, end)
    return Week(
        project=project,
        title=found.title,
        week=week,
        days=tuple(days_of(start, end)),
        watch_days=tuple(days_of(start + timedelta(days=1), end + timedelta(days=1))),
        champion=None if champion is None else champion.version,
        label=found.label.description or found.label.column,
        delay_days=found.label.delay_days,
        traffic=count_week(home().predictions(project), start, end),
        coverage=None if assessed is None else assessed.coverage,
        quality=() if assessed is None else assessed.quality,
        parts=() if assessed is None else assessed.parts,
        watches=_newest(_entries(ledger, project, "watch", seen)),
        skews=_newest(_entries(ledger, project, COMPARED, seen)),
        retrains=tuple(each for each in retrains if start <= each.as_of < end),
        suppressed=_entries(ledger, project, "trigger.suppressed", _as_of(start, end)),
        rollouts=_entries(ledger, project, "release.ended", written),
        score_alarms=_entries(ledger, project, "scores.alarm", written),
        failures=_entries(ledger, project, "failure", written),
        investigations=_open(ledger, project),
    )


def find_weekly_report(project: str, week: str = "") -> dict[str, Any]:
    """The last page that was kept of a week, or of any: `week`, `page` (a file), `sha256`, `state`.

    `state` is `as it was`, `altered` or `gone`.

    Raises:
        LookupError: there is no such project, or no such page.
    """
    find_project(project)
    entries = read_ledger().entries(project=project, kinds=(REPORTED,), subject=week or None)
    if not entries:
        of = f"week {week}" if week else "any week"
        raise LookupError(f"{project} has no report of {of}: paceline report weekly {project} writes one")
    body = entries[-1].body
    file = home().root / body["page"]
    state = "gone" if not file.is_file() else "as it was"
    if file.is_file() and bytes_id(file.read_bytes()) != body["sha256"]:
        state = "altered"
    return {**body, "page": str(file), "state": state}


def _entries(ledger: Ledger, project: str, kind: str, is_wanted: Callable[[Entry], bool]) -> tuple[Told, ...]:
    entries = ledger.entries(project=project, kinds=(kind,))
    return tuple(
        Told(at=entry.at.isoformat(timespec="minutes"), subject=entry.subject, body=entry.body)
        for entry in entries
        if is_wanted(entry)
    )


def _as_of(start: date, end: date) -> Callable[[Entry], bool]:
    """Whether an entry is as of a day in that time: history is replayed long after its days."""
    return lambda entry: start <= date.fromisoformat(entry.subject) < end


def _at(start: date, end: date) -> Callable[[Entry], bool]:
    """Whether an entry was written down then (UTC)."""
    return lambda entry: start <= entry.at.date() < end


def _newest(watches: Sequence[Told]) -> tuple[Told, ...]:
    """The last watch as of each day."""
    by_day = {watch.subject: watch for watch in watches}
    return tuple(by_day[day] for day in sorted(by_day))


def _open(ledger: Ledger, project: str) -> tuple[dict[str, Any], ...]:
    entries = ledger.entries(project=project, kinds=(OPENED, CLOSED))
    closed = {entry.subject for entry in entries if entry.kind == CLOSED}
    return tuple(
        {
            "opened": entry.at.isoformat(timespec="minutes"),
            "rollout": entry.subject,
            "version": entry.body["version"],
            "title": entry.body["title"],
        }
        for entry in entries
        if entry.kind == OPENED and entry.subject not in closed
    )
