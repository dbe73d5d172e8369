"""What a task of a workflow read and made, for whoever listens to Airflow."""

from typing import Any

from pipelines.wiring import home, read_ledger


def exchange(project: str, workflow: str, task: str, result: Any) -> dict[str, Any]:
    """`inputs` and `outputs` of the task that returned `result`: each with name, version, uri, columns and rows."""
    import msgspec

    from pipelines.governance.exchanges import exchange as build

    plain: dict[str, Any] = msgspec.to_builtins(build(project, workflow, task, result, _known(project, result)))
    return plain


def _known(project: str, result: Any) -> Any:
    from pipelines.data.snapshots import SnapshotError, read_manifest
    from pipelines.governance.exchanges import Known, snapshot_of

    ledger, snapshot = read_ledger(), snapshot_of(result)
    ingested = ledger.entries(project=project, kinds=("ingested",))
    taken = [] if snapshot is None else ledger.entries(project=project, kinds=("snapshot",), subject=snapshot)
    manifest: dict[str, Any] = {}
    if snapshot is not None:
        try:
            found = read_manifest(home().snapshots, snapshot)
            uri = (home().snapshots / snapshot).as_uri()
            manifest = {"uri": uri, "columns": found.columns, "rows": found.rows}
        except SnapshotError:
            manifest = {}  # the event still names the snapshot: what it was is told by `paceline lineage`
    return Known(
        ingested=ingested[-1].body if ingested else {},
        taken=taken[-1].body if taken else {},
        snapshot=manifest,
    )
