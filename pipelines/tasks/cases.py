"""The case that an evaluation judges: a candidate's graph on held-out rows, beside the champion's."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import numpy as np
from numpy.typing import NDArray

from contracts.bundle import read_bundle
from contracts.input_schema import InputSchema
from pipelines.data.snapshots import Snapshot, read_snapshot
from pipelines.evaluation.gate import Gate
from pipelines.projects import Project
from pipelines.tasks import artifacts
from pipelines.tasks.features import Part, encoded
from pipelines.wiring import home

Side = tuple[Path, NDArray[np.float32]]  # the champion's graph, and the test rows as its own schema encodes them


@dataclass(frozen=True)
class Case:
    """What is judged: a candidate's graph on the held-out rows, beside the champion's (None where there is none)."""

    project: Project
    snapshot: Snapshot
    schema: InputSchema
    graph: bytes
    test: Part
    scores: NDArray[np.float32]
    rival: Side | None
    rival_scores: NDArray[np.float32] | None


class Section(NamedTuple):
    """What one part of the evaluation found, as plain values for the report, and the gates that rest on it."""

    name: str
    content: Any
    gates: tuple[Gate, ...]


def read_case(project: Project, candidate: dict[str, Any], champion: str | None) -> Case:
    """The case of `candidate`; `champion` is the id of the bundle that leads, None where there is none."""
    from pipelines.inference import score

    snapshot = read_snapshot(home().snapshots, candidate["snapshot"])
    schema = msgspec.convert(artifacts.read_json(candidate["schema"]), InputSchema)
    graph = artifacts.read(candidate["graph"])
    test = encoded(project, snapshot, schema, "test")
    rival = None if champion is None else _rival(project, snapshot, champion)
    return Case(
        project=project,
        snapshot=snapshot,
        schema=schema,
        graph=graph,
        test=test,
        scores=score(graph, test.features),
        rival=rival,
        rival_scores=None if rival is None else score(*rival),
    )


def _rival(project: Project, snapshot: Snapshot, bundle_id: str) -> Side:
    """The champion's graph, and the same test rows as its own schema encodes them."""
    bundle = read_bundle(home().bundles / bundle_id, bundle_id)
    return bundle.model_path, encoded(project, snapshot, bundle.schema, "test").features
