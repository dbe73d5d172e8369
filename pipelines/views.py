"""Read-only queries, for DAG files, the command line, the demo and pages."""

from typing import TYPE_CHECKING, Any

from pipelines.wiring import all_projects, find_project, home, open_ledger, open_registry

if TYPE_CHECKING:
    from pipelines.projects import Project

_LAST = 5


def projects() -> "dict[str, Project]":
    """All project definitions by name; light enough for a DAG file."""
    return all_projects()


def status(project: str) -> dict[str, Any]:
    """Who leads and since when, what the registry keeps, and the last offers, gates, triggers, failures and watches."""
    find_project(project)
    ledger = open_ledger()
    champion = ledger.champion(project)

    def last(*kinds: str) -> list[dict[str, Any]]:
        entries = ledger.entries(project=project, kinds=kinds)[-_LAST:]
        return [
            {"at": entry.at.isoformat(timespec="seconds"), "subject": entry.subject, **entry.body} for entry in entries
        ]

    return {
        "project": project,
        "champion": None if champion is None else {"version": champion.version, "bundle": champion.bundle},
        "versions": [
            {"version": v.version, "bundle": v.bundle, "aliases": list(v.aliases), "as_of": v.tags.get("as_of")}
            for v in open_registry().versions(project)
        ],
        "releases": last("release.ended", "release.refused", "rollback"),
        "retrains": last("trigger"),
        "gates": last("gates"),
        "watches": last("watch"),
        "failures": last("failure"),
    }


def status_text(found: dict[str, Any]) -> str:
    """`status` as lines for a terminal."""
    champion = found["champion"]
    lines = [
        f"[bold]{found['project']}[/]: " + (f"version {champion['version']} leads" if champion else "no champion yet")
    ]
    for version in found["versions"]:
        aliases = f" [green]{', '.join(version['aliases'])}[/]" if version["aliases"] else ""
        lines.append(
            f"  version {version['version']} as of {version['as_of']}, bundle {version['bundle'][:12]}{aliases}"
        )
    for release in found["releases"]:
        what = release.get("state") or ("put back" if "from" in release else "refused")
        lines.append(f"  {release['at']} version {release['version']} {what}: {release['reason']}")
    lines += [f"  {r['at']} retrain as of {r['subject']} ({r['trigger']}) {r['reason']}" for r in found["retrains"]]
    lines += [f"  [red]{f['at']} {f['workflow']}.{f['task']} failed: {f['error']}[/]" for f in found["failures"]]
    return "\n".join(lines)


def lineage(prediction_id: str, project: str | None = None) -> dict[str, Any]:
    """Where a logged prediction came from, link by link; `gaps` names what was not found or contradicts.

    Raises:
        LookupError: no project's prediction log has that id.
    """
    from pipelines.monitoring.predictions import find_prediction, why_absent

    searched = [project] if project else list(projects())
    for name in searched:
        found = find_prediction(home().predictions(name), prediction_id)
        if found is not None:
            return _lineage(name, found)
    known = [reason for name in searched if (reason := why_absent(home().predictions(name), prediction_id))]
    raise LookupError(
        f"no prediction {prediction_id} in the log of {', '.join(searched)}; "
        + ("; ".join(known) or "a row appears about a second later")
    )


def _lineage(project: str, prediction: dict[str, Any]) -> dict[str, Any]:
    import msgspec

    from contracts.bundle import BundleError, read_bundle
    from pipelines.data.snapshots import SnapshotError, read_snapshot
    from pipelines.governance.lineage import lineage as trace

    try:
        bundle = read_bundle(home().bundles / prediction["bundle"], prediction["bundle"]).manifest
    except BundleError:
        bundle = None
    try:
        snapshot = (
            None if bundle is None else msgspec.to_builtins(read_snapshot(home().snapshots, bundle.snapshot).manifest)
        )
    except SnapshotError:
        snapshot = None
    registered = open_registry().version(project, prediction["version"])
    found = trace(
        prediction,
        bundle=bundle,
        snapshot=snapshot,
        tags=None if registered is None else registered.tags,
        entries=open_ledger().entries(project=project),
    )
    return dict(msgspec.to_builtins(found))


def lineage_links(found: dict[str, Any]) -> list[tuple[str, str]]:
    """`lineage` as pairs of a link's name and what it says."""
    import msgspec

    from pipelines.governance.lineage import Lineage, links

    return links(msgspec.convert(found, Lineage))


def lineage_text(found: dict[str, Any]) -> str:
    """`lineage` as lines for a terminal."""
    import msgspec

    from pipelines.governance.lineage import Lineage, render

    return render(msgspec.convert(found, Lineage))
