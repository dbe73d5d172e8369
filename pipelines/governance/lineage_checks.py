"""What is missing in a lineage, and where two records contradict each other."""

from collections.abc import Iterable, Sequence

from pipelines.governance.lineage_evidence import Evidence, gates_of, reigns
from pipelines.governance.lineage_graph import short


def gaps(versions: Sequence[str], bundles: Sequence[str], snapshots: Sequence[str], found: Evidence) -> Iterable[str]:
    """One sentence for each gap of these versions, bundles and snapshots, and of the prediction if there is one."""
    for version in versions:
        yield from _of_version(version, found)
    for bundle in bundles:
        yield from _of_bundle(bundle, found)
    for snapshot in snapshots:
        yield from _of_snapshot(snapshot, found)
    yield from _of_prediction(found)
    yield from _of_champion(versions, found)


def _of_version(version: str, found: Evidence) -> Iterable[str]:
    known = found.versions.get(version)
    told = [entry.body["bundle"] for entry in found.entries if entry.kind == "registered" and entry.subject == version]
    if known is None:
        yield f"the registry does not know version {version}"
        return
    if not told:
        yield f"the ledger does not say that version {version} was registered"
    elif told[-1] != known.bundle:
        yield _contradiction(version, "bundle", known.bundle, "the ledger", told[-1])
    if known.tags.get("commit", "unknown") == "unknown":
        yield f"version {version} has no commit among its tags"
    if known.tags.get("project", found.project) != found.project:
        yield _contradiction(version, "project", known.tags["project"], "its model", found.project)
    manifest = found.bundles.get(known.bundle)
    if manifest is not None:
        for tag in ("snapshot", "lock", "trainer", "optimization"):
            said = getattr(manifest, tag)
            if known.tags.get(tag, said) != said:
                yield _contradiction(version, tag, known.tags[tag], "the bundle", said)
        windows = found.snapshots.get(manifest.snapshot, {}).get("windows", {})
        if windows and known.tags.get("as_of", str(windows["as_of"])) != str(windows["as_of"]):
            yield _contradiction(version, "as_of", known.tags["as_of"], "the snapshot", str(windows["as_of"]))


def _contradiction(version: str, tag: str, tagged: str, holder: str, said: str) -> str:
    return f"the registry's tag {tag} of version {version} is {tagged}, {holder} says {said}"


def _of_bundle(bundle: str, found: Evidence) -> Iterable[str]:
    manifest = found.bundles.get(bundle)
    if bundle in found.problems:
        yield f"the bundle {bundle} is not what it was: {found.problems[bundle]}"
    elif manifest is None:
        yield f"the bundle {bundle} is not kept any more"
    if manifest is not None and manifest.project != found.project:
        yield f"the bundle {bundle} is of the project {manifest.project!r}, expected {found.project!r}"
    evaluation = gates_of(found.entries, bundle)
    if evaluation is None:
        yield f"the ledger has no gates for the bundle {bundle}"
        return
    failed = [gate["name"] for gate in evaluation.body["gates"] if not gate["passed"]]
    registered = [version.version for version in found.versions.values() if version.bundle == bundle]
    if failed and registered and not _ever_passed(bundle, found):
        yield f"version {registered[0]} is registered, though its bundle never passed {', '.join(failed)}"
    if manifest is not None and evaluation.body.get("snapshot", manifest.snapshot) != manifest.snapshot:
        yield (
            f"the bundle {bundle} was judged on the snapshot {evaluation.body['snapshot']}, "
            f"and trained on {manifest.snapshot}"
        )


def _ever_passed(bundle: str, found: Evidence) -> bool:
    bodies = [entry.body for entry in found.entries if entry.kind == "gates" and entry.subject == bundle]
    return any(all(gate["passed"] for gate in body["gates"]) for body in bodies)


def _of_snapshot(snapshot: str, found: Evidence) -> Iterable[str]:
    manifest = found.snapshots.get(snapshot)
    if snapshot in found.problems:
        yield f"the snapshot {snapshot} is not what it was: {found.problems[snapshot]}"
    elif manifest is None:
        yield f"the snapshot {snapshot} is not kept any more"
    if manifest is not None and manifest["project"] != found.project:
        yield f"the snapshot {snapshot} is of the project {manifest['project']!r}, expected {found.project!r}"
    checks = [e.body for e in found.entries if e.kind == "validation" and e.body.get("snapshot") == snapshot]
    if not checks:
        yield f"the ledger has no validation of the snapshot {snapshot}"
    elif not checks[-1]["passed"]:
        yield f"the snapshot {snapshot} failed its validation"
    taken = [entry.body for entry in found.entries if entry.kind == "snapshot" and entry.subject == snapshot]
    if not taken:
        yield f"the ledger does not say from which files the snapshot {snapshot} was taken"
    yield from _of_warehouse([(file["path"], file["sha256"]) for body in taken for file in body["files"]], found)


def _of_warehouse(files: Iterable[tuple[str, str]], found: Evidence) -> Iterable[str]:
    """Files that were read, and that no ingest has told of."""
    told = {
        (file["path"], file["sha256"])
        for entry in found.entries
        if entry.kind == "ingested"
        for file in entry.body.get("files", ())
    }
    for path, hashed in files:
        if (path, hashed) not in told:
            yield f"{path} with the hash {short(hashed)} was read from the warehouse, and no ingest told of it"


def _of_prediction(found: Evidence) -> Iterable[str]:
    row = found.prediction
    if row is None:
        return
    known = found.versions.get(row["version"])
    if known is not None and known.bundle != row["bundle"]:
        yield _contradiction(row["version"], "bundle", known.bundle, "the prediction", row["bundle"])
    if row["project"] != found.project:
        yield f"the prediction is of the project {row['project']!r}, expected {found.project!r}"


def _of_champion(versions: Sequence[str], found: Evidence) -> Iterable[str]:
    """Only where one of the versions is concerned: who leads by the ledger, and who by the registry's alias."""
    leading = [reign.version for reign in reigns(found.entries)][-1:]
    aliased = [version.version for version in found.versions.values() if "champion" in version.aliases]
    if aliased != leading and set(versions) & {*leading, *aliased}:
        by_registry, by_ledger = ", ".join(aliased) or "nobody", ", ".join(leading) or "nobody"
        yield f"the registry's alias champion is at version {by_registry}, the ledger says {by_ledger}"
