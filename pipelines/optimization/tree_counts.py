"""Fewer trees: the early iterations of an ensemble, which say most, scaled to what the whole one says."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipelines.optimization.stable_bytes import NotApplicableError, operators, read_graph, stable_bytes, tensor_of

_TREES = "TreeEnsembleRegressor"
_SCALING_ROWS = 20_000


def keep_trees(graph: bytes, sample: NDArray[np.float32], share: float) -> bytes:
    """The graph with the first `share` of its trees.

    Their sum is too near to the middle, since each later tree would have moved it further out. So it is scaled and
    shifted by least squares to what all trees say on `sample` (training rows; no label is needed): leaves and base
    values take it up, and the calibration behind still fits.

    Raises:
        NotApplicableError: there is not exactly one ensemble with one sum, or it has a single tree.
        ValueError: there are no training rows.
    """
    found = read_graph(graph)
    node = _ensemble(found, graph)
    attributes = {attribute.name: attribute for attribute in node.attribute}
    trees = list(dict.fromkeys(attributes["nodes_treeids"].ints))
    kept = max(1, round(len(trees) * share))
    if kept == len(trees):
        raise NotApplicableError(f"not applicable: {share:.0%} of {len(trees)} trees are all of them")
    if not len(sample):
        raise ValueError("fewer trees need training rows to be scaled by, found none")
    whole = _sums(found, node, sample)
    _cut(attributes, set(trees[:kept]))
    early = _sums(found, node, sample)
    slope, intercept = _least_squares(early, whole)
    _scale(node, attributes, slope, intercept)
    return stable_bytes(found, graph)


def _ensemble(found: Any, graph: bytes) -> Any:
    nodes = [node for node in found.graph.node if node.op_type == _TREES]
    if len(nodes) != 1:
        others = sorted({name for name in operators(graph) if "Tree" in name} - {_TREES})
        kind = f"it has {', '.join(others)}" if others else f"it has {len(nodes)}"
        raise NotApplicableError(f"not applicable: fewer trees need a graph with one {_TREES}, {kind}")
    attributes = {attribute.name: attribute for attribute in nodes[0].attribute}
    targets = attributes["n_targets"].i if "n_targets" in attributes else 1
    if targets != 1 or any(
        name in attributes and attributes[name].s not in allowed
        for name, allowed in (("aggregate_function", (b"SUM",)), ("post_transform", (b"NONE",)))
    ):
        raise NotApplicableError("not applicable: the trees are not summed up to one number")
    return nodes[0]


def _cut(attributes: dict[str, Any], kept: set[int]) -> None:
    for kind in ("nodes", "target"):
        ids = list(attributes[f"{kind}_treeids"].ints)
        keep = [position for position, tree in enumerate(ids) if tree in kept]
        for name, attribute in attributes.items():
            if not name.startswith(f"{kind}_"):
                continue
            for field in ("ints", "floats", "strings"):
                values = getattr(attribute, field)
                if len(values) == len(ids):
                    chosen = [values[position] for position in keep]
                    del values[:]
                    values.extend(chosen)


def _sums(found: Any, node: Any, sample: NDArray[np.float32]) -> NDArray[np.float64]:
    """What the ensemble says on the rows, before anything that comes after it."""
    chosen = np.linspace(0, len(sample) - 1, min(_SCALING_ROWS, len(sample))).astype(int)
    return tensor_of(found, node.output[0], sample[chosen]).reshape(-1).astype(np.float64)


def _least_squares(early: NDArray[np.float64], whole: NDArray[np.float64]) -> tuple[float, float]:
    spread = float(((early - early.mean()) ** 2).sum())
    slope = float(((early - early.mean()) * (whole - whole.mean())).sum()) / spread if spread > 0 else 1.0
    return slope, float(whole.mean()) - slope * float(early.mean())


def _scale(node: Any, attributes: dict[str, Any], slope: float, intercept: float) -> None:
    from onnx import helper

    weights = attributes["target_weights"].floats
    scaled = (np.array(weights, dtype=np.float64) * slope).astype(np.float32).tolist()
    del weights[:]
    weights.extend(scaled)
    if "base_values" in attributes:
        intercept += slope * attributes["base_values"].floats[0]
        node.attribute.remove(attributes["base_values"])
    node.attribute.append(helper.make_attribute("base_values", [float(np.float32(intercept))]))
