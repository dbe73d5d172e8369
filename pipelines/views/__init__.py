"""Read-only queries, for DAG files, the command line, the demo and pages."""

from typing import TYPE_CHECKING, Any

from pipelines.registry.port import RegistryAwayError
from pipelines.views.exchanging import exchange
from pipelines.views.investigations import investigation, investigation_text, investigations, investigations_text
from pipelines.views.rollouts import RolloutWatch, rollouts, rollouts_text
from pipelines.views.tracing import (
    lineage,
    lineage_links,
    lineage_text,
    trace,
    trace_graph,
    trace_text,
    write_trace_page,
)
from pipelines.wiring import all_projects, find_project, plan_of, read_ledger, read_registry

if TYPE_CHECKING:
    from pipelines.ledger import Ledger
    from pipelines.projects import Project

__all__ = [
    "RolloutWatch",
    "exchange",
    "investigation",
    "investigation_text",
    "investigations",
    "investigations_text",
    "lineage",
    "lineage_links",
    "lineage_text",
    "plan_of",
    "projects",
    "rollouts",
    "rollouts_text",
    "status",
    "status_text",
    "trace",
    "trace_graph",
    "trace_text",
    "write_trace_page",
]

_LAST = 5


def projects() -> "dict[str, Project]":
    """All project definitions by name; light enough for a DAG file."""
    return all_projects()


def status(project: str) -> dict[str, Any]:
    """Who leads and since when, what the registry keeps, open investigations, and the last of all that happened.

    While the registry does not answer, `registry_away` says so, and the versions are those that led by the ledger.
    """
    find_project(project)
    ledger = read_ledger()
    champion = ledger.champion(project)
    versions, away = _versions(project, ledger)

    def last(*kinds: str) -> list[dict[str, Any]]:
        entries = ledger.entries(project=project, kinds=kinds)[-_LAST:]
        return [
            {"at": entry.at.isoformat(timespec="seconds"), "subject": entry.subject, **entry.body} for entry in entries
        ]

    return {
        "project": project,
        "champion": None if champion is None else {"version": champion.version, "bundle": champion.bundle},
        "versions": versions,
        "registry_away": away,
        "holdout": last("holdout.begun", "holdout.verdict", "holdout.ended")[-1:],
        "releases": last("release.ended", "release.refused", "release.queued", "rollback"),
        "retrains": last("trigger"),
        "suppressed": last("trigger.suppressed"),
        "gates": last("gates"),
        "watches": last("watch"),
        "investigations": investigations(project, only_open=True)[-_LAST:],
        "failures": last("failure"),
    }


def _versions(project: str, ledger: "Ledger") -> tuple[list[dict[str, Any]], str | None]:
    try:
        kept = read_registry().versions(project)
    except RegistryAwayError as away:
        led = {swap.body["version"]: swap.body["bundle"] for swap in ledger.entries(project, ("champion.swapped",))}
        known = [{"version": name, "bundle": bundle, "aliases": [], "as_of": None} for name, bundle in led.items()]
        return known, str(away)
    return [
        {"version": v.version, "bundle": v.bundle, "aliases": list(v.aliases), "as_of": v.tags.get("as_of")}
        for v in kept
    ], None


def _holdout_line(last: dict[str, Any]) -> str:
    """The last word on a holdout: its end, a verdict, or that it has begun."""
    if "how" in last:
        return f"  {last['at']} the holdout of {last['subject']} ended: {last['how']}, {last['reason']}"
    if "verdict" in last:
        return f"  {last['at']} the holdout of {last['subject']}: {last['verdict']}, {last['reason']}"
    return f"  {last['at']} the holdout of {last['subject']} keeps version {last['old']} beside {last['new']}"


def status_text(found: dict[str, Any]) -> str:
    """`status` as lines for a terminal."""
    champion = found["champion"]
    lines = [
        f"[bold]{found['project']}[/]: " + (f"version {champion['version']} leads" if champion else "no champion yet")
    ]
    if found["registry_away"]:
        lines.append(f"  [red]{found['registry_away']}[/]; these have led:")
    for version in found["versions"]:
        aliases = f" [green]{', '.join(version['aliases'])}[/]" if version["aliases"] else ""
        as_of = f" as of {version['as_of']}" if version["as_of"] else ""
        lines.append(f"  version {version['version']}{as_of}, bundle {version['bundle'][:12]}{aliases}")
    lines += [_holdout_line(each) for each in found["holdout"]]
    for release in found["releases"]:
        what = release.get("state") or ("put back" if "from" in release else "refused")
        lines.append(f"  {release['at']} version {release['version']} {what}: {release['reason']}")
    lines += [
        f"  [yellow]open investigation of {i['rollout']} (version {i['version']}): {i['page']}[/]"
        for i in found["investigations"]
    ]
    lines += [f"  {r['at']} retrain as of {r['subject']} ({r['trigger']}) {r['reason']}" for r in found["retrains"]]
    lines += [f"  {s['at']} no retrain for {s['trigger']}: {s['why']} ({s['reason']})" for s in found["suppressed"]]
    lines += [f"  [red]{f['at']} {f['workflow']}.{f['task']} failed: {f['error']}[/]" for f in found["failures"]]
    return "\n".join(lines)
