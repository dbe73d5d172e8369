"""What happened, as numbers for machines and as a page for people; and whether each step ended as it should."""

from pathlib import Path
from typing import Any

import msgspec
from rich.console import Group, RenderableType
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from pipelines import views
from pipelines.demo import airflow_stack, evidence
from pipelines.demo.evidence import Breakdown, ClientView, StepSplit
from pipelines.demo.stack import Stack
from pipelines.wiring import open_ledger, open_registry

MINIMUM_REQUESTS = 10_000
MAXIMUM_ROLLBACK_S = 10.0
MAXIMUM_BROKEN_REQUESTS = 200
MAXIMUM_ALERT_S = 30.0
LINEAGE_PARTS = ("version", "bundle", "snapshot", "commit", "lock", "parameters")

SHARES = [0.05, 0.1, 0.25, 0.5, 0.95]  # the last step leaves one entity in twenty to the holdout


class Check(msgspec.Struct, frozen=True, kw_only=True):
    name: str
    passed: bool
    detail: str


class Rollback(msgspec.Struct, frozen=True, kw_only=True):
    """From the first broken answer: what the server counted by its own clock, and what the prediction log shows."""

    version: str
    reason: str
    broken_at_share: float | None
    seconds: float | None
    challenger_requests: int | None
    log: Breakdown | None


class Summary(msgspec.Struct, frozen=True, kw_only=True):
    project: str
    seconds: float
    ingested: dict[str, int]
    bootstrap: dict[str, Any]
    versions: list[dict[str, Any]]
    promotion: dict[str, Any]
    rollback: Rollback
    replay: ClientView
    splits: list[StepSplit]
    side_changes: int
    lineage: dict[str, Any]
    urls: dict[str, str]
    alert: dict[str, Any] | None = None
    checks: list[Check]

    @property
    def passed(self) -> bool:
        return all(check.passed for check in self.checks)


def summarise(project: str, stack: Stack, facts: dict[str, Any], answers: Path) -> Summary:
    """Reads the ledger, the registry, the prediction log and the clients' answers."""
    predictions = stack.home.predictions(project)
    promotion, rollback = facts["promotion"], _rollback(facts, predictions)
    splits = [*evidence.step_splits(predictions, promotion["rollout"])]
    changes = sum(evidence.side_changes(predictions, facts[act]["rollout"]) for act in ("promotion", "rollback"))
    client = evidence.read_answers(answers)
    prediction = evidence.random_prediction(predictions, promotion["version"])
    lineage = {} if prediction is None else views.lineage(prediction, project)
    return Summary(
        project=project,
        seconds=facts["seconds"],
        ingested=facts["ingested"],
        bootstrap=facts["bootstrap"],
        versions=_versions(project, [facts["bootstrap"]["version"], promotion["version"], rollback.version]),
        promotion=promotion,
        rollback=rollback,
        replay=client,
        splits=splits,
        side_changes=changes,
        lineage=lineage,
        urls={
            "airflow": f"{stack.airflow_url} (log in as {airflow_stack.USER} / {airflow_stack.PASSWORD})",
            "mlflow": f"{stack.mlflow_url}/#/models/{project}",
            "model server": f"{stack.server_url}/docs",
        },
        alert=facts.get("alert"),
        checks=_alert_checks(facts.get("alert")) + _checks(project, facts, rollback, client, splits, changes, lineage),
    )


def _rollback(facts: dict[str, Any], predictions: Path) -> Rollback:
    outcome = facts["rollback"]
    tripped = outcome.get("tripped") or {}
    log = evidence.breakdown(predictions, outcome["rollout"])
    seconds, requests = tripped.get("seconds_since_first_error"), tripped.get("challenger_requests_since_first_error")
    if log is not None and seconds is None:  # the judge was faster than the server's hard limit
        seconds, requests = log.seconds_to_last_challenger_request, log.challenger_requests
    return Rollback(
        version=outcome["version"],
        reason=outcome["reason"],
        broken_at_share=facts.get("broken_at_share"),
        seconds=seconds,
        challenger_requests=requests,
        log=log,
    )


def _versions(project: str, wanted: list[str]) -> list[dict[str, Any]]:
    registry = open_registry()
    gates = {entry.subject: entry.body for entry in open_ledger().entries(project=project, kinds=("gates",))}
    found = []
    for version in dict.fromkeys(wanted):
        registered = registry.version(project, version)
        if registered is None:
            raise LookupError(f"the registry has no version {version} of {project}")
        judged = gates[registered.bundle]
        found.append(
            {
                "version": version,
                "bundle": registered.bundle,
                "aliases": list(registered.aliases),
                "as_of": registered.tags["as_of"],
                "trainer": registered.tags.get("trainer"),
                "optimization": registered.tags.get("optimization"),
                "champion": judged["champion"],
                "gates": judged["gates"],
                "comparison": judged["comparison"],
            }
        )
    return found


def _checks(
    project: str,
    facts: dict[str, Any],
    rollback: Rollback,
    client: ClientView,
    splits: list[StepSplit],
    side_changes: int,
    lineage: dict[str, Any],
) -> list[Check]:
    promotion, outcome = facts["promotion"], facts["rollback"]
    champion = open_ledger().champion(project)
    leads = None if champion is None else champion.version
    shares = [split.share for split in splits]
    misfits = [
        f"{split.share:.0%}: {split.challenger_entities} of {split.entities}" for split in splits if not split.fits
    ]
    lost = [part for part in LINEAGE_PARTS if not lineage.get(part)]
    quick = rollback.seconds is not None and rollback.seconds <= MAXIMUM_ROLLBACK_S
    few = rollback.challenger_requests is not None and rollback.challenger_requests < MAXIMUM_BROKEN_REQUESTS
    failed, rescued = (rollback.log.challenger_errors, rollback.log.answered_by_champion) if rollback.log else (0, 0)
    return [
        _check("the first champion led", facts["bootstrap"]["version"] is not None, f"by {facts['bootstrap']['by']}"),
        _check("the retrained challenger was promoted", promotion["state"] == "promoted", promotion["reason"]),
        _check("every step had traffic", shares == SHARES, f"shares seen: {shares}"),
        _check("each split fits its share", not misfits, "; ".join(misfits) or "exact binomial test by entity"),
        _check("no entity changed sides", side_changes == 0, f"{side_changes} came back to the champion"),
        _check("the broken challenger was rolled back", outcome["state"] == "rolled_back", outcome["reason"]),
        _check(
            "within 10 s of its first error",
            quick,
            "never" if rollback.seconds is None else f"{rollback.seconds:.1f} s",
        ),
        _check("after fewer than 200 requests", few, f"{rollback.challenger_requests} requests"),
        _check("the champion answered what it failed on", 0 < failed == rescued, f"{rescued} of {failed}"),
        _check("the champion still leads", leads == _leader(facts), f"version {leads}"),
        _check("at least 10,000 requests", client.requests >= MINIMUM_REQUESTS, f"{client.requests:,}"),
        _check(
            "no client saw an error",
            client.failed == 0,
            f"{client.failed} failed" + (f": {client.first_error}" if client.failed else ""),
        ),
        _check("a prediction has its lineage", not lost, f"missing: {lost}" if lost else "complete"),
    ]


def _leader(facts: dict[str, Any]) -> str:
    """The version that should lead at the end: that of the summer, unless the alert's challenger was promoted."""
    release = (facts.get("alert") or {}).get("release") or {}
    return str(release["version"] if release.get("state") == "promoted" else facts["promotion"]["version"])


def _alert_checks(alert: dict[str, Any] | None) -> list[Check]:
    if alert is None:
        return []
    ended, seconds = alert["ended"], alert["seconds"]
    came_out = ended["state"] in ("challenger", "champion_stays")
    return [
        _check("within 30 s of its alert Airflow had the retrain", seconds <= MAXIMUM_ALERT_S, f"{seconds:.1f} s"),
        _check("the emergency retrain came to an end", came_out, ended["reason"]),
    ]


def _check(name: str, passed: bool, detail: str) -> Check:
    return Check(name=name, passed=passed, detail=detail)


def render(summary: Summary) -> RenderableType:
    """The summary as a page in a terminal."""
    return Group(
        Text(),
        _version_table(summary),
        _gate_table(summary),
        _step_table(summary),
        _rollback_panel(summary),
        _replay_panel(summary),
        _lineage_panel(summary),
        _check_table(summary),
        Panel("\n".join(f"{name:13} {url}" for name, url in summary.urls.items()), title="look around"),
    )


def _version_table(summary: Summary) -> Table:
    table = Table(title=f"{summary.project}: versions", expand=True)
    for column in ("version", "as of", "trainer", "optimisation", "AUC", "log loss", "aliases", "bundle"):
        table.add_column(column)
    for version in summary.versions:
        metrics = version["comparison"]["challenger"]
        table.add_row(
            version["version"],
            version["as_of"],
            version["trainer"] or "",
            version["optimization"] or "",
            f"{metrics['auc']:.4f}",
            f"{metrics['log_loss']:.4f}",
            ", ".join(version["aliases"]),
            version["bundle"][:12],
        )
    return table


def _gate_table(summary: Summary) -> Table:
    version = next(v for v in summary.versions if v["version"] == summary.promotion["version"])
    table = Table(title=f"gates of version {version['version']} against version {version['champion']}", expand=True)
    table.add_column("gate")
    table.add_column("")
    table.add_column("why")
    for gate in version["gates"]:
        table.add_row(gate["name"], "[green]pass[/]" if gate["passed"] else "[red]fail[/]", gate["reason"])
    return table


def _step_table(summary: Summary) -> Table:
    table = Table(title=f"the rollout of version {summary.promotion['version']}", expand=True)
    for column in ("step", "seconds", "verdict", "requests", "entities, its / all", "why"):
        table.add_column(column)
    splits = {split.share: split for split in summary.splits}
    for step in summary.promotion["steps"]:
        split = None if step["shadow"] else splits.get(step["share"])
        seen = "" if split is None else f"{split.challenger_entities:,} / {split.entities:,}"
        if split is not None:
            seen += f" ({split.challenger_entities / split.entities:.1%})"
        requests = f"{step['pairs']} pairs" if step["shadow"] else str(step["challenger_requests"])
        table.add_row(step["name"], f"{step['seconds']:.1f}", step["verdict"], requests, seen, step["reason"])
    return table


def _rollback_panel(summary: Summary) -> Panel:
    back = summary.rollback
    when = "?" if back.seconds is None else f"{back.seconds:.1f} s"
    text = (
        f"Version {back.version} broke at {back.broken_at_share or 0:.0%} of the entities and was back at zero "
        f"[bold]{when}[/] and [bold]{back.challenger_requests} challenger requests[/] after its first error.\n"
        f"{back.reason}"
    )
    if back.log is not None:
        text += f"\nThe champion answered all {back.log.answered_by_champion} requests that it failed on."
    return Panel(text, title="the rollback")


def _replay_panel(summary: Summary) -> Panel:
    client = summary.replay
    by_version = ", ".join(f"version {version}: {count:,}" for version, count in sorted(client.by_version.items()))
    text = (
        f"{client.requests:,} requests, {client.failed} failed; p50 {client.latency_ms_p50:.1f} ms, "
        f"p99 {client.latency_ms_p99:.1f} ms as the clients saw them; {by_version}"
    )
    return Panel(text, title="the replay of the real flights of July")


def _lineage_panel(summary: Summary) -> Panel:
    """From the prediction to its data; the gates and the rollout stand above already."""
    grid = Table.grid(padding=(0, 2))
    for name, text in views.lineage_links(summary.lineage) if summary.lineage else []:
        if not name.startswith(("gate ", "rollout.", "release.")):
            grid.add_row(name, Text(text))
    return Panel(grid, title="the lineage of one prediction, picked at random")


def _check_table(summary: Summary) -> Table:
    table = Table(title=f"{'all well' if summary.passed else 'NOT WELL'} after {summary.seconds:.0f} s", expand=True)
    table.add_column("check")
    table.add_column("")
    table.add_column("detail")
    for check in summary.checks:
        table.add_row(check.name, "[green]✓[/]" if check.passed else "[bold red]✗[/]", check.detail)
    return table
