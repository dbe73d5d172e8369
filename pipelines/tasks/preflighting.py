"""The check before the first step: whether a project's plan can reach its verdicts at the traffic that it has."""

import logging
from collections.abc import Callable, Set
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec

from pipelines.monitoring.segments import LogChangesError
from pipelines.monitoring.traffic import RECENT_S, MeasuredTraffic, measure_traffic
from pipelines.rollout import features, preflight
from pipelines.rollout.plan import Plan
from pipelines.rollout.preflight import DAY_S, HARM, Forecast, Traffic, duration
from pipelines.tasks.covering import usual_pattern
from pipelines.tasks.sites import Site
from pipelines.wiring import find_project, home, open_platform, plan_of

DAYS = 7
PREFLIGHT = "release.preflight"
PROFILE_DAYS_MIN = 2  # since the first request, for a mean by hour of the day; else the last minutes tell what comes
logger = logging.getLogger("paceline")


def check(project: str, days: int = DAYS, harm: float = HARM, at: datetime | None = None) -> dict[str, Any]:
    """What each phase of the project's plan needs at the traffic of the `days` days before `at` (now).

    `problems` are the phases that do not get it in their time, a line each; `refused` is why the plan's policy would
    not begin, None where it would.
    """
    found = find_project(project)
    plan = plan_of(found)
    checked = _check(project, plan, home().predictions(project), days, harm, at or datetime.now(UTC))
    if (reason := _unsupported(plan, open_platform(found).supports)) is not None:
        checked |= {"problems": [reason, *checked["problems"]], "refused": reason}
    return checked


def refusal(site: Site, rollout: str, version: str) -> str | None:
    """Why `rollout` of `version` must not begin; the ledger gets what was found.

    What the platform does not support is refused always, what takes too long by the plan's policy.
    What cannot be measured is told, and refuses nothing: a rollout whose log is away is as safe as any other.
    """
    if (reason := _unsupported(site.plan, site.supports)) is not None:
        return reason
    if site.plan.preflight == "off" or site.predictions is None:
        return None
    try:
        found = _check(site.project, site.plan, site.predictions, DAYS, HARM, datetime.now(UTC))
    except (OSError, LogChangesError) as error:
        logger.warning("the check before the rollout %s could not read the prediction log: %s", rollout, error)
        found = {"unknown": str(error), "problems": [], "refused": None}
    for problem in found["problems"]:
        logger.warning("%s: %s", rollout, problem)
    site.ledger.append(site.project, PREFLIGHT, rollout, {"version": version, **found})
    refused: str | None = found["refused"]
    return refused


def _unsupported(plan: Plan, supports: Callable[[], Set[str]] | None) -> str | None:
    if supports is None:
        return None
    return features.refusal(plan, supports() | {features.COVERAGE, features.OUTCOMES})  # we read the log and the store


def _check(project: str, plan: Plan, root: Path, days: int, harm: float, at: datetime) -> dict[str, Any]:
    measured = measure_traffic(root, at, days)
    for segment in measured.damaged:
        logger.error("a segment of the prediction log cannot be read, and was left out: %s", segment)
    asks = any(step.coverage is not None for step in plan.steps)
    pattern = usual_pattern(root, plan.coverage, at) if asks else None
    problems: list[str] = []
    if pattern is not None and pattern.days < plan.coverage.minimum_days:
        if plan.coverage.without_reference == "wait":
            problems.append(
                f"coverage has no reference: the log has traffic of {pattern.days} days, needed are "
                f"{plan.coverage.minimum_days}; the steps that ask will wait"
            )
        pattern = None
    found = preflight.forecast(plan, traffic_of(measured, days), at.timestamp(), pattern, harm)
    if measured.requests:
        problems.extend(found.problems)
    else:
        problems = [f"the prediction log has no traffic of the last {days} days: no phase can reach a verdict"]
    refused = None
    if problems and plan.preflight == "refuse":
        listed = "; ".join(problems)
        refused = f"the plan cannot reach its verdicts: {listed}. Give the phases more time, or ask for less"
    return {
        "project": project,
        "plan": plan.identity,
        "policy": plan.preflight,
        **msgspec.to_builtins(found),
        "problems": problems,
        "refused": refused,
        "table": table(found),
    }


def traffic_of(measured: MeasuredTraffic, days: int) -> Traffic:
    """The mean by hour of the day where the log has some days; else what came in the last minutes."""
    entities = measured.entity_seconds / measured.requests if measured.requests else 0.0
    failures = measured.failed_entity_seconds / measured.entity_seconds if measured.entity_seconds else 0.0
    if measured.requests and measured.seconds >= PROFILE_DAYS_MIN * DAY_S:
        per_s, source = measured.requests / measured.seconds, f"the last {days} days, by hour of the day"
        by_hour = tuple(count / measured.requests for count in measured.by_hour)
    else:
        per_s, by_hour = measured.recent / min(RECENT_S, max(measured.seconds, 1.0)), ()
        source = f"the last {RECENT_S / 60:.0f} minutes; the log begins {duration(measured.seconds)} ago"
    return Traffic(
        requests_per_s=per_s,
        entities_per_s=per_s * entities,
        failure_rate=min(failures, 1.0),
        source=source,
        by_hour=by_hour,
    )


def table(found: Forecast) -> list[list[str]]:
    """Header and rows, as text."""
    rows = [["phase", "needs", "takes about", "at most", ""]]
    for need in found.needs:
        mark = "" if need.is_reached else "not in its time"
        rows.append([need.phase, need.needs, duration(need.seconds), duration(need.maximum_s), mark])
    return rows
