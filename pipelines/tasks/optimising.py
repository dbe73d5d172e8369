"""From the best trial to a candidate: the form of its graph that serves best without losing quality."""

import logging
from typing import Any, NamedTuple

import msgspec
import numpy as np
from numpy.typing import NDArray

from contracts.input_schema import InputSchema
from pipelines.data.snapshots import read_snapshot
from pipelines.optimization import candidates
from pipelines.optimization.candidates import Slice, Target, Validation
from pipelines.projects import Project
from pipelines.tasks import artifacts
from pipelines.tasks.features import encoded
from pipelines.wiring import find_project, home

logger = logging.getLogger("paceline")


class Inputs(NamedTuple):
    """What the forms of a trial's graph are made of and judged on."""

    graph: bytes
    training: NDArray[np.float32]
    validation: Validation
    slices: list[Slice]
    target: Target
    seed: int


def optimise(project: str, best: dict[str, Any], form: str | None = None) -> dict[str, Any]:
    """The chosen trial with the graph that optimisation chose for it: a candidate.

    With `form` the graph is that one (the `optimization` of a bundle's manifest), made again without being judged. The
    whole evidence is an artefact whose id is under `optimization_evidence`; None where nothing was judged.
    """
    given = inputs_of(project, best)
    handed_on = {**best, "trained_graph": best["graph"]}
    if form is not None:
        made = candidates.recreate(form, given.graph, given.training, given.target, given.seed)
        return {**handed_on, "graph": artifacts.keep(made), "optimization": form, "optimization_evidence": None}
    optimised = candidates.optimise(
        given.graph,
        given.training,
        given.validation,
        given.slices,
        find_project(project).optimization,
        given.target,
        given.seed,
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


def inputs_of(project: str, trial: dict[str, Any]) -> Inputs:
    """The inputs of optimisation for a finished trial, as `retraining.train` returns it."""
    found, taken = find_project(project), read_snapshot(home().snapshots, trial["snapshot"])
    schema = msgspec.convert(artifacts.read_json(trial["schema"]), InputSchema)
    training, validation = (encoded(found, taken, schema, part) for part in ("train", "validation"))
    return Inputs(
        graph=artifacts.read(trial["graph"]),
        training=training.features,
        validation=Validation(validation.features, validation.labels, validation.days),
        slices=_slices(found, schema, validation.features),
        target=Target(found.serving, found.gates.latency_us_p99_max),
        seed=int(trial["seed"]),
    )


def _slices(project: Project, schema: InputSchema, features: NDArray[np.float32]) -> list[Slice]:
    """The rows of each word of the project's slice fields."""
    words = {field.name: field.vocabulary for field in schema.fields}
    return [
        Slice(f"{name} {word}", features[:, schema.columns.index(name)] == code)
        for name in project.optimization.slice_fields
        for code, word in enumerate(words[name])
    ]
