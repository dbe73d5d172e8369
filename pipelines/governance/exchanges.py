"""What the task of a workflow read and made, by names that stay and versions that change: lineage as it happens.

A snapshot, say, is `flight_delay.snapshot` in the version of its content id. So whoever collects such events sees one
chain of data sets a project, not a new one for each retrain.
"""

from collections.abc import Callable, Mapping
from typing import Any

import msgspec


class Data(msgspec.Struct, frozen=True, kw_only=True):
    """A data set in one version. `uri` is where it is, `columns` maps each to its type, where there are any."""

    name: str
    version: str | None
    uri: str | None = None
    columns: dict[str, str] = {}
    rows: int | None = None


class Exchange(msgspec.Struct, frozen=True, kw_only=True):
    """What one run of a task read, and what it made."""

    inputs: tuple[Data, ...] = ()
    outputs: tuple[Data, ...] = ()


class Known(msgspec.Struct, frozen=True, kw_only=True):
    """What the result of a task does not say itself.

    `ingested` is the body of the project's last entry `ingested`, `taken` that of the snapshot's last entry `snapshot`,
    `snapshot` its manifest, each empty where there is none.
    """

    ingested: Mapping[str, Any] = {}
    taken: Mapping[str, Any] = {}
    snapshot: Mapping[str, Any] = {}


def exchange(project: str, workflow: str, task: str, result: Any, known: Known) -> Exchange:
    """The exchange of the task that returned `result`; empty for tasks that only decide."""
    made = _MAKERS.get((workflow, task))
    if made is None or result is None:
        return Exchange()
    inputs, outputs = made(result, known)
    return Exchange(inputs=_named(project, inputs), outputs=_named(project, outputs))


_Made = tuple[list[Data], list[Data]]


def _ingested(result: Any, known: Known) -> _Made:
    origins = [_file(f"source.{origin['name']}", origin) for origin in known.ingested.get("origins", ())]
    return origins, _warehouse(known.ingested)


def _snapshot_taken(result: Any, known: Known) -> _Made:
    return _warehouse(known.taken), [_snapshot(result, known)]


def _snapshot_read(result: Any, known: Known) -> _Made:
    return [_snapshot(result, known)], []


def _trained(result: Any, known: Known) -> _Made:
    """A trial that failed or was given up has made nothing."""
    return [_snapshot(result["snapshot"], known)], _of(result, "graph", "trial")


def _chosen(result: Any, known: Known) -> _Made:
    trials = [data for trial in result["trials"] for data in _of(trial, "graph", "trial")]
    return trials, _of(result, "graph", "choice")


def _optimised(result: Any, known: Known) -> _Made:
    return _of(result, "trained_graph", "choice"), _of(result, "graph", "candidate")


def _evaluated(result: Any, known: Known) -> _Made:
    read = [_snapshot(result["snapshot"], known), *_of(result["candidate"], "graph", "candidate")]
    return [*read, *_of(result, "champion", "champion")], _of(result, "bundle", "bundle")


def _registered(result: Any, known: Known) -> _Made:
    return _of(result, "bundle", "bundle"), _of(result, "version", "version")


def _released(result: Any, known: Known) -> _Made:
    return _of(result, "version", "version"), _of(result, "version", "champion") if _is_promoted(result) else []


def _is_promoted(result: Mapping[str, Any]) -> bool:
    return bool(result.get("state", "promoted") == "promoted")


def _watched(result: Any, known: Known) -> _Made:
    rows = Data(name="predictions", version=None, rows=result["predictions"])
    return [rows, *_of(result, "champion", "champion")], []


def _reproduced(result: Any, known: Known) -> _Made:
    return _of(result, "version", "version"), []


_MAKERS: dict[tuple[str, str], Callable[[Any, Known], _Made]] = {
    ("ingest", "load"): _ingested,
    ("retrain", "take_snapshot"): _snapshot_taken,
    ("retrain", "validate"): _snapshot_read,
    ("retrain", "train"): _trained,
    ("retrain", "best_of"): _chosen,
    ("retrain", "optimise"): _optimised,
    ("retrain", "evaluate"): _evaluated,
    ("retrain", "register"): _registered,
    ("release", "roll_out"): _released,
    ("rollback", "put_back"): _released,
    ("watch", "observe"): _watched,
    ("reproduce", "make_again"): _reproduced,
}


def snapshot_of(result: Any) -> str | None:
    """The snapshot that a result is about, or None."""
    found = result if isinstance(result, str) else result.get("snapshot") if isinstance(result, dict) else None
    return found if isinstance(found, str) else None


def _of(result: Mapping[str, Any], key: str, name: str) -> list[Data]:
    return [] if result.get(key) is None else [Data(name=name, version=str(result[key]))]


def _snapshot(snapshot: str, known: Known) -> Data:
    manifest = known.snapshot
    return Data(
        name="snapshot",
        version=snapshot,
        uri=manifest.get("uri"),
        columns=manifest.get("columns", {}),
        rows=manifest.get("rows"),
    )


def _warehouse(body: Mapping[str, Any]) -> list[Data]:
    return [_file(f"warehouse.{file['path'].removesuffix('.parquet')}", file) for file in body.get("files", ())]


def _file(name: str, file: Mapping[str, Any]) -> Data:
    return Data(name=name, version=file["sha256"])


def _named(project: str, found: list[Data]) -> tuple[Data, ...]:
    unique = dict.fromkeys((data.name, data.version) for data in found)
    first = {(data.name, data.version): data for data in reversed(found)}
    return tuple(msgspec.structs.replace(first[key], name=f"{project}.{first[key].name}") for key in unique)
