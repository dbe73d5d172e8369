"""How each candidate is made from the graph as trained: by its name alone, and the same bytes each time.

The name says the parameters, and all else that goes in (the training rows and the seed) is part of a retrain, so that
a reproduction needs only the name that the bundle's manifest records.
"""

from collections.abc import Callable, Mapping
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from pipelines.optimization.folding import optimise_graph
from pipelines.optimization.limits import Name
from pipelines.optimization.pruning import prune_units, prune_weights
from pipelines.optimization.quantisation import Method, halve, quantise_dynamically, quantise_statically
from pipelines.optimization.stable_bytes import NotApplicableError
from pipelines.optimization.tree_counts import keep_trees


class Material(NamedTuple):
    """What candidates are made of: the graph as trained, encoded training rows in time order, the seed of the training,
    and whether the serving profile has a GPU."""

    graph: bytes
    sample: NDArray[np.float32]
    seed: int
    has_gpu: bool


def make(name: Name, material: Material) -> bytes:
    """The bytes of the candidate `name`.

    Raises:
        NotApplicableError: there is nothing to be done in this way on this graph; the message says why.
    """
    return RECIPES[name](material)


def _folded(graph: bytes) -> bytes:
    try:
        return optimise_graph(graph)
    except NotApplicableError:
        return graph


def _static(method: Method) -> Callable[[Material], bytes]:
    return lambda material: quantise_statically(_folded(material.graph), material.sample, method)


def _units(share: float) -> Callable[[Material], bytes]:
    return lambda material: prune_units(material.graph, material.sample, material.seed, share)


def _trees(share: float) -> Callable[[Material], bytes]:
    return lambda material: keep_trees(material.graph, material.sample, share)


RECIPES: Mapping[Name, Callable[[Material], bytes]] = {
    "fp32": lambda material: material.graph,
    "graph_optimised": lambda material: optimise_graph(material.graph),
    "int8_static_minmax": _static("MinMax"),
    "int8_static_entropy": _static("Entropy"),
    "int8_static_percentile": _static("Percentile"),
    "int8_per_tensor": lambda material: quantise_statically(
        _folded(material.graph), material.sample, per_channel=False
    ),
    "int8_dynamic": lambda material: quantise_dynamically(_folded(material.graph)),
    "fp16": lambda material: halve(_folded(material.graph), has_gpu=material.has_gpu),
    "pruned_units_25": _units(0.25),
    "pruned_units_50": _units(0.5),
    "pruned_units_50_int8": lambda material: quantise_statically(_units(0.5)(material), material.sample),
    "pruned_weights_50": lambda material: prune_weights(material.graph, material.sample, material.seed, 0.5),
    "trees_75": _trees(0.75),
    "trees_50": _trees(0.5),
}
