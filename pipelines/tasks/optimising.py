"""From the best trial to a candidate: the form of its graph that serves best without losing quality."""

import logging
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from contracts.input_schema import InputSchema
from pipelines.data.snapshots import read_snapshot
from pipelines.projects import Project
from pipelines.tasks import artifacts
from pipelines.tasks.features import encoded
from pipelines.wiring import find_project, home

logger = logging.getLogger("paceline")


def optimise(project: str, best: dict[str, Any], form: str | None = None) -> dict[str, Any]:
    """The chosen trial with the graph that optimisation chose for it: a candidate.

    With `form` the graph is that one (the `optimization` of a bundle's manifest), made again without being judged. The
    whole evidence is an artefact whose id is under `optimization_evidence`; None where nothing was judged.
    """
    from pipelines.optimization import candidates

    found, taken = find_project(project), read_snapshot(home().snapshots, best["snapshot"])
    schema = msgspec.convert(artifacts.read_json(best["schema"]), InputSchema)
    target = candidates.Target(found.serving, found.gates.latency_us_p99_max)
    graph, seed = artifacts.read(best["graph"]), int(best["seed"])
    training = encoded(found, taken, schema, "train").features
    handed_on = {**best, "trained_graph": best["graph"]}
    if form is not None:
        made = candidates.recreate(form, graph, training, target, seed)
        return {**handed_on, "graph": artifacts.keep(made), "optimization": form, "optimization_evidence": None}
    validation = encoded(found, taken, schema, "validation")
    optimised = candidates.optimise(
        graph,
        training,
        candidates.Validation(validation.features, validation.labels, validation.days),
        _slices(found, schema, validation.features),
        found.optimization,
        target,
        seed,
        logger.info,
    )
    evidence = {
        "chosen": optimised.chosen,
        "reason": optimised.reason,
        "timed_on": optimised.timed_on,
        "candidates": msgspec.to_builtins(optimised.candidates),
    }
    return {
        **handed_on,
        "graph": artifacts.keep(optimised.graph),
        "optimization": optimised.chosen,
        "optimization_evidence": artifacts.keep_json(evidence),
    }


def _slices(project: Project, schema: InputSchema, features: NDArray[np.float32]) -> list[Any]:
    """The rows of each word of the project's slice fields."""
    from pipelines.optimization.candidates import Slice

    words = {field.name: field.vocabulary for field in schema.fields}
    return [
        Slice(f"{name} {word}", features[:, schema.columns.index(name)] == code)
        for name in project.optimization.slice_fields
        for code, word in enumerate(words[name])
    ]
