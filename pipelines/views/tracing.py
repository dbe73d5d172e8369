"""Lineage: where a prediction, a version, a bundle or a snapshot came from, and what came of it."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipelines.views.finding import find
from pipelines.wiring import all_projects, home, read_ledger, read_registry

if TYPE_CHECKING:
    from pipelines.governance.lineage_evidence import Evidence
    from pipelines.governance.lineage_graph import Graph
    from pipelines.views.finding import Found


def trace(identifier: str, project: str | None = None) -> dict[str, Any]:
    """The graph around what `identifier` names (see `finding.find`): `root`, `nodes`, `edges` and `gaps`.

    Raises:
        LookupError: nothing is known by it, or more than one thing; the text says which, or where was looked.
    """
    import msgspec

    from pipelines.governance.lineage_trace import trace as build

    found = find(identifier, project)
    graph = build(found.kind, found.id, _evidence(found))
    plain: dict[str, Any] = msgspec.json.decode(msgspec.json.encode(graph))
    return plain


def trace_text(traced: dict[str, Any]) -> str:
    """`trace` as a tree for a terminal."""
    from pipelines.governance.lineage_text import render_tree

    return render_tree(_graph(traced))


def trace_graph(traced: dict[str, Any], form: str) -> str:
    """`trace` as text that other tools draw."""
    from pipelines.governance.lineage_text import render_dot, render_mermaid

    return {"mermaid": render_mermaid, "dot": render_dot}[form](_graph(traced))


def write_trace_page(traced: dict[str, Any], path: Path) -> None:
    """`trace` as a page with a drawing, in one file that loads nothing."""
    from pipelines.governance.lineage_page import lineage_page
    from pipelines.pages import write_whole

    write_whole(path, lineage_page(_graph(traced)))


def _graph(traced: dict[str, Any]) -> "Graph":
    import msgspec

    from pipelines.governance.lineage_graph import Graph

    return msgspec.convert(traced, Graph)


def _evidence(found: "Found") -> "Evidence":
    """First all that is cheap; then what is in the scope is verified with all its files."""
    import msgspec

    from contracts.bundle import MANIFEST, BundleError, read_bundle
    from pipelines.data.snapshots import SnapshotError, read_manifest, read_snapshot
    from pipelines.governance.archive import Archive, ArchiveError
    from pipelines.governance.lineage_evidence import KINDS_READ, Evidence
    from pipelines.governance.lineage_trace import scope
    from pipelines.monitoring.predictions import find_prediction
    from pipelines.monitoring.tallies import count_by_version

    log = home().predictions(found.project)
    is_prediction = found.kind == "prediction"
    known = Evidence(
        project=found.project,
        prediction=find_prediction(log, found.id) if is_prediction else None,
        versions={version.version: version for version in read_registry().versions(found.project)},
        bundles=_manifests(),
        entries=tuple(read_ledger().entries(project=found.project, kinds=KINDS_READ)),
        tallies=() if is_prediction else count_by_version(log),
    )
    within = scope(found.kind, found.id, known)
    store = Archive(home().archive)
    snapshots, problems = {}, dict[str, str]()
    for bundle in within.bundles:
        try:
            read_bundle(home().bundles / bundle, bundle)
        except BundleError as error:
            if (home().bundles / bundle).exists():
                problems[bundle] = str(error)
            elif store.has("bundles", bundle) and (damage := store.damage("bundles", bundle)) is not None:
                problems[bundle] = f"in the archive {damage}"
    for snapshot in within.snapshots:
        try:
            snapshots[snapshot] = msgspec.to_builtins(read_manifest(home().snapshots, snapshot))
            read_snapshot(home().snapshots, snapshot)
        except SnapshotError as error:
            if (home().snapshots / snapshot).exists():
                problems[snapshot] = str(error)
            elif store.has("snapshots", snapshot):
                try:
                    snapshots[snapshot] = msgspec.json.decode(store.read("snapshots", snapshot, MANIFEST))
                except ArchiveError as damage:
                    problems[snapshot] = str(damage)
    archived = {
        *(b for b in within.bundles if not (home().bundles / b).exists() and store.has("bundles", b)),
        *(s for s in within.snapshots if not (home().snapshots / s).exists() and store.has("snapshots", s)),
    }
    return msgspec.structs.replace(known, snapshots=snapshots, problems=problems, archived=frozenset(archived))


def _manifests() -> dict[str, Any]:
    """The manifests of all bundles that can be read, at hand or in the archive."""
    import msgspec

    from contracts.bundle import MANIFEST, BundleError, Manifest, read_manifest
    from pipelines.governance.archive import Archive, ArchiveError

    found, store = {}, Archive(home().archive)
    for name in store.names("bundles"):
        try:
            found[name] = msgspec.json.decode(store.read("bundles", name, MANIFEST), type=Manifest)
        except (ArchiveError, msgspec.DecodeError):
            continue  # the same
    for path in home().bundles.glob("[!.]*"):
        try:
            found[path.name] = read_manifest(path, path.name)[1]
        except BundleError:
            continue  # one in the scope is named among the gaps, when it is verified
    return found


def lineage(prediction_id: str, project: str | None = None) -> dict[str, Any]:
    """Where a logged prediction came from, link by link; `gaps` names what was not found or contradicts.

    Raises:
        LookupError: no project's prediction log has that id.
    """
    from pipelines.monitoring.predictions import find_prediction, why_absent

    searched = [project] if project else list(all_projects())
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
    registered = read_registry().version(project, prediction["version"])
    found = trace(
        prediction,
        bundle=bundle,
        snapshot=snapshot,
        tags=None if registered is None else registered.tags,
        entries=read_ledger().entries(project=project),
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
