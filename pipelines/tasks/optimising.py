"""From the best trial to a candidate: the form of its graph that serves best without losing quality."""

import logging
from typing import Any

import msgspec

from contracts.input_schema import InputSchema
from pipelines.data.snapshots import read_snapshot
from pipelines.tasks import artifacts
from pipelines.tasks.features import encoded
from pipelines.wiring import find_project, home

logger = logging.getLogger("paceline")


def optimise(project: str, trials: list[dict[str, Any]], form: str | None = None) -> dict[str, Any]:
    """The best trial by validation log loss, with the graph that optimisation chose for it: a candidate.

    `form` names the form of the graph to take, whatever is fastest: latencies are measurements, so a reproduction names
    the one that the bundle's manifest records.
    """
    from pipelines.optimization import candidates

    best = min(trials, key=lambda trial: float(trial["metrics"]["log_loss"]))
    found, taken = find_project(project), read_snapshot(home().snapshots, best["snapshot"])
    schema = msgspec.convert(artifacts.read_json(best["schema"]), InputSchema)
    limits = found.optimization if form is None else msgspec.structs.replace(found.optimization, choose=form)
    training, validation = (encoded(found, taken, schema, part) for part in ("train", "validation"))
    slices = None if limits.slice_field is None else validation.features[:, schema.columns.index(limits.slice_field)]
    optimised = candidates.optimise(
        artifacts.read(best["graph"]),
        training.features,
        (validation.features, validation.labels),
        slices,
        limits,
        logger.info,
    )
    return {
        **best,
        "trained_graph": best["graph"],
        "graph": artifacts.keep(optimised.graph),
        "optimization": optimised.chosen,
        "candidates": msgspec.to_builtins(optimised.candidates),
        "trials": trials,
    }
