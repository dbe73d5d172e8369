"""Builds the graph around a prediction, a version, a bundle or a snapshot, out of what was found of it."""

from collections.abc import Iterable, Mapping
from typing import Any, Literal

import msgspec

from pipelines.governance.lineage_checks import gaps
from pipelines.governance.lineage_evidence import (
    Evidence,
    LedgerEntry,
    Reign,
    gates_of,
    reigns,
    rollouts_of,
    text_of_time,
)
from pipelines.governance.lineage_graph import Graph, GraphBuilder, Node, State

_ARCHIVED = "in the archive"
RootKind = Literal["prediction", "version", "bundle", "snapshot"]


class Scope(msgspec.Struct, frozen=True, kw_only=True):
    """The ids that a graph has in full; of what they lead to beyond, it has the names."""

    versions: tuple[str, ...]
    bundles: tuple[str, ...]
    snapshots: tuple[str, ...]


def scope(kind: RootKind, root: str, found: Evidence) -> Scope:
    """Back from the root to the data, and on from it to every version that came of it."""
    if kind == "prediction":
        assert found.prediction is not None
        versions, bundles = [found.prediction["version"]], [found.prediction["bundle"]]
    elif kind == "version":
        versions, bundles = [root], _bundles_of_version(root, found)
    elif kind == "bundle":
        versions, bundles = _versions_of_bundle(root, found), [root]
    else:
        bundles = _bundles_of_snapshot(root, found)
        versions = [version for bundle in bundles for version in _versions_of_bundle(bundle, found)]
    snapshots = [root] if kind == "snapshot" else [s for b in bundles for s in _snapshots_of_bundle(b, found)]
    return Scope(versions=_once(versions), bundles=_once(bundles), snapshots=_once(snapshots))


def trace(kind: RootKind, root: str, found: Evidence) -> Graph:
    """The graph around `root`: a prediction's id, a version's number, or a content id."""
    within = scope(kind, root, found)
    builder = GraphBuilder()
    for snapshot in within.snapshots:
        _add_snapshot(builder, snapshot, found)
    for bundle in within.bundles:
        _add_bundle(builder, bundle, found)
        _add_evaluation(builder, bundle, found)
    for version in within.versions:
        _add_version(builder, version, found)
        _add_rollouts(builder, version, found)
        if kind != "prediction":
            _add_tallies(builder, version, found)
    for number, reign in enumerate(reigns(found.entries), start=1):
        if reign.version in within.versions:
            _add_reign(builder, number, reign, found)
    if kind == "prediction":
        _add_prediction(builder, found)
    key = f"version:{found.project}:{root}" if kind == "version" else f"{kind}:{root}"
    return builder.build(found.project, key, gaps(within.versions, within.bundles, within.snapshots, found))


def _once(ids: Iterable[str]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(each for each in ids if each))


def _bundles_of_version(version: str, found: Evidence) -> list[str]:
    tagged = [found.versions[version].bundle] if version in found.versions else []
    told = [e.body["bundle"] for e in found.entries if e.kind == "registered" and e.subject == version]
    return tagged + told


def _versions_of_bundle(bundle: str, found: Evidence) -> list[str]:
    tagged = [version.version for version in found.versions.values() if version.bundle == bundle]
    told = [e.subject for e in found.entries if e.kind == "registered" and e.body["bundle"] == bundle]
    return tagged + told


def _snapshots_of_bundle(bundle: str, found: Evidence) -> list[str]:
    """What the manifest says; only where that is gone, the registry's tag and the ledger."""
    if bundle in found.bundles:
        return [found.bundles[bundle].snapshot]
    tagged = [v.tags["snapshot"] for v in found.versions.values() if v.bundle == bundle and "snapshot" in v.tags]
    told = [e.body["snapshot"] for e in found.entries if e.kind == "gates" and e.subject == bundle]
    return (tagged + told)[:1]


def _bundles_of_snapshot(snapshot: str, found: Evidence) -> list[str]:
    kept = [bundle for bundle, manifest in found.bundles.items() if manifest.snapshot == snapshot]
    gone = [version for version in found.versions.values() if version.bundle not in found.bundles]
    tagged = [version.bundle for version in gone if version.tags.get("snapshot") == snapshot]
    told = [e.subject for e in found.entries if e.kind == "gates" and e.body.get("snapshot") == snapshot]
    return sorted(kept) + tagged + told


def _state(name: str, known: Mapping[str, Any], found: Evidence) -> State:
    if name in found.problems:
        return "damaged"
    return "found" if name in known else "gone"


def _add_snapshot(builder: GraphBuilder, snapshot: str, found: Evidence) -> None:
    manifest = found.snapshots.get(snapshot, {})
    rows, windows = manifest.get("rows_by_part", {}), manifest.get("windows", {})
    facts = {"as of": str(windows["as_of"])} if "as_of" in windows else {}
    for part in ("train", "validation", "test"):
        if part in windows:
            window = windows[part]
            facts[part] = f"{window['start']} up to {window['end']}, {rows.get(part, 0):,} rows"
    if manifest:
        facts |= {"schema": f"version {manifest['schema_version']}", "data": manifest["data"]}
    checks = [e for e in found.entries if e.kind == "validation" and e.body.get("snapshot") == snapshot]
    if checks:
        body = checks[-1].body
        outcome = "passed" if body["passed"] else "failed"
        facts["checked"] = f"{outcome} on {text_of_time(checks[-1].at)}, {body['checked']} expectations"
    if snapshot in found.archived:
        facts["kept"] = _ARCHIVED
    title = f"as of {facts['as of']}" if "as of" in facts else found.project
    node = Node(kind="snapshot", id=snapshot, title=title, facts=facts, state=_state(snapshot, found.snapshots, found))
    key = builder.add(node)
    for entry in found.entries:
        if entry.kind == "snapshot" and entry.subject == snapshot:
            _add_provenance(builder, key, entry)


def _add_provenance(builder: GraphBuilder, snapshot: str, entry: LedgerEntry) -> None:
    """The query of one entry `snapshot` of the ledger, the files that it read, and what those were made from."""
    body = entry.body
    query = builder.add(
        Node(
            kind="query",
            id=body["query"]["sha256"],
            title=f"over {len(body['files'])} files",
            facts={"engine": body["query"]["engine"], "run": text_of_time(entry.at), "text": body["query"]["text"]},
        )
    )
    builder.link(snapshot, query, "extracted by")
    files = {}
    for file in body["files"]:
        facts = {"size": f"{file['bytes']:,} bytes"}
        files[file["path"]] = builder.add(Node(kind="warehouse", id=file["sha256"], title=file["path"], facts=facts))
        builder.link(query, files[file["path"]], "read")
    for origin in body["origins"]:
        facts = {"publisher": origin["publisher"]} if origin.get("publisher") else {}
        if origin.get("bytes") is not None:
            facts["size"] = f"{origin['bytes']:,} bytes"
        if origin.get("text"):
            facts["text"] = origin["text"]
        source = builder.add(Node(kind="source", id=origin["sha256"], title=origin["name"], facts=facts))
        for path in origin.get("feeds") or files:
            if path in files:
                builder.link(files[path], source, "ingested from")


def _add_bundle(builder: GraphBuilder, bundle: str, found: Evidence) -> None:
    manifest = found.bundles.get(bundle)
    facts: dict[str, str] = {}
    if manifest is not None:
        facts = {
            "trainer": manifest.trainer,
            "form": manifest.optimization,
            "parameters": ", ".join(f"{name} {value}" for name, value in sorted(manifest.parameters.items())),
            "threshold": f"{manifest.threshold:g}",
            "libraries": ", ".join(f"{name} {number}" for name, number in sorted(manifest.frameworks.items())),
            **dict(sorted(manifest.files.items())),
        }
    if bundle in found.archived:
        facts["kept"] = _ARCHIVED
    title = f"{manifest.trainer}, {manifest.optimization}" if manifest else found.project
    state = _state(bundle, found.bundles, found)
    key = builder.add(Node(kind="bundle", id=bundle, title=title, facts=facts, state=state))
    for snapshot in _snapshots_of_bundle(bundle, found):
        builder.link(key, f"snapshot:{snapshot}", "trained on")
    tags = [version.tags for version in found.versions.values() if version.bundle == bundle]
    lock = manifest.lock if manifest else next((tag["lock"] for tag in tags if tag.get("lock")), None)
    if lock:
        builder.link(key, builder.add(Node(kind="lock", id=lock, title="dependency lock")), "built with")
    for commit in _once(tag.get("commit", "") for tag in tags):
        facts = {"state": "with uncommitted changes"} if commit.endswith("-dirty") else {}
        builder.link(key, builder.add(Node(kind="commit", id=commit, title="code", facts=facts)), "built at")


def _add_evaluation(builder: GraphBuilder, bundle: str, found: Evidence) -> None:
    """The last one of the bundle: an earlier one may have been against another champion."""
    entry = gates_of(found.entries, bundle)
    if entry is None:
        return
    gates = entry.body["gates"]
    passed = sum(gate["passed"] for gate in gates)
    champion = entry.body.get("champion")
    facts = {gate["name"]: f"{'passed' if gate['passed'] else 'FAILED'}: {gate['reason']}" for gate in gates}
    if "outcome" in entry.body:
        facts["outcome"] = f"{entry.body['outcome']}: {entry.body.get('reason', '')}"
    facts["against"] = f"version {champion}" if champion else "no champion yet"
    node = Node(
        kind="evaluation",
        id=f"{bundle}:{text_of_time(entry.at)}",
        title=f"{passed} of {len(gates)} gates passed",
        facts=facts,
    )
    key = builder.add(node)
    builder.link(key, f"bundle:{bundle}", "judged")
    for version in _versions_of_bundle(bundle, found):
        builder.link(f"version:{found.project}:{version}", key, "let in by")
    if champion:
        _add_name_of_version(builder, champion, found)
        builder.link(key, f"version:{found.project}:{champion}", "compared with")


def _add_name_of_version(builder: GraphBuilder, version: str, found: Evidence) -> str:
    state: State = "found" if version in found.versions else "gone"
    return builder.add(
        Node(kind="version", id=f"{found.project}:{version}", title=f"{found.project} {version}", state=state)
    )


_SHOWN_OF_VERSION = ("as_of", "schema_version", "machine", "python", "configuration")


def _add_version(builder: GraphBuilder, version: str, found: Evidence) -> None:
    known = found.versions.get(version)
    facts: dict[str, str] = {}
    if known is not None:
        facts = {"aliases": ", ".join(known.aliases)} if known.aliases else {}
        facts |= {name: known.tags[name] for name in _SHOWN_OF_VERSION if name in known.tags}
        facts |= {name: f"{value:.4f}" for name, value in sorted(known.metrics.items())}
        if known.run:
            facts["run"] = known.run
    for entry in found.entries:
        if entry.kind == "registered" and entry.subject == version:
            facts["registered"] = text_of_time(entry.at)
        if entry.kind == "reproduction" and entry.subject == version:
            told = f"{entry.body['outcome']} on {text_of_time(entry.at)}: {entry.body['reason']}"
            facts["made again"] = told
    title = f"{found.project} {version}"
    state: State = "found" if known else "gone"
    key = builder.add(Node(kind="version", id=f"{found.project}:{version}", title=title, facts=facts, state=state))
    for bundle in _once(_bundles_of_version(version, found)):
        builder.link(key, f"bundle:{bundle}", "points at")


def _add_rollouts(builder: GraphBuilder, version: str, found: Evidence) -> None:
    for rollout in rollouts_of(found.entries, version):
        node = Node(
            kind="rollout",
            id=rollout.name,
            title=f"{rollout.name.removeprefix(found.project + '-')}: {rollout.state}",
            facts=rollout.facts,
        )
        builder.link(builder.add(node), f"version:{found.project}:{version}", "offered")


def _add_reign(builder: GraphBuilder, number: int, reign: Reign, found: Evidence) -> None:
    since = text_of_time(reign.since)
    until = None if reign.until is None else text_of_time(reign.until)
    node = Node(
        kind="reign",
        id=str(number),
        title=f"version {reign.version} leads" if until is None else f"version {reign.version} led",
        facts={"since": since, **({"until": until} if until else {}), "reason": reign.reason, "by": reign.subject},
    )
    key = builder.add(node)
    builder.link(key, f"rollout:{reign.subject}", "won by")
    if reign.subject not in {rollout.name for rollout in rollouts_of(found.entries, reign.version)}:
        builder.link(key, f"version:{found.project}:{reign.version}", "reign of")


def _add_tallies(builder: GraphBuilder, version: str, found: Evidence) -> None:
    for tally in found.tallies:
        if tally.version == version:
            node = Node(
                kind="predictions",
                id=f"{version} {tally.slot}",
                title=f"{tally.requests:,} as {tally.slot}",
                facts={"served": f"{tally.first} to {tally.last} (UTC)", "errors": f"{tally.errors:,}"},
            )
            builder.link(builder.add(node), f"version:{found.project}:{version}", "made by")


_SHOWN_OF_PREDICTION = (
    ("served_at", "served"),
    ("event_time", "event"),
    ("entity", "entity"),
    ("slot", "slot"),
    ("client", "given to"),
    ("unusual", "unusual"),
    ("error", "error"),
)


def _add_prediction(builder: GraphBuilder, found: Evidence) -> None:
    row = found.prediction
    assert row is not None
    facts = {"score": "none" if row["score"] is None else f"{row['score']:.4f}"}
    facts["decision"] = {None: "none", True: "yes", False: "no"}[row["decision"]]
    facts |= {name: str(row[column]) for column, name in _SHOWN_OF_PREDICTION if row.get(column)}
    facts["latency"] = f"{row['latency_us']:,} µs"
    node = Node(kind="prediction", id=row["prediction_id"], title=f"score {facts['score']}", facts=facts)
    key = builder.add(node)
    builder.link(key, f"version:{found.project}:{row['version']}", f"made by, as {row['slot']}")
    if row["rollout"]:
        builder.link(key, f"rollout:{row['rollout']}", f"at share {row['share']:g}")
    if row["bundle"] not in _bundles_of_version(row["version"], found):
        builder.link(key, f"bundle:{row['bundle']}", "scored by")
