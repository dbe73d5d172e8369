"""Faults of the forms that optimisation makes of a graph: a broken form must be refused, and another one serve."""

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
from onnx import numpy_helper

from benchmarks.gates.fault import Fault, around

MAKE = "pipelines.optimization.candidates.make"
STATIC = (
    "int8_static_minmax",
    "int8_static_entropy",
    "int8_static_percentile",
    "int8_per_tensor",
    "pruned_units_50_int8",
)


def _made_of(forms: tuple[str, ...], change: Callable[[Any], Any]) -> Callable[[], Any]:
    """The forms are made of other material."""

    def wrap(make: Any) -> Any:
        return lambda name, material: make(name, change(material) if name in forms else material)

    return around(MAKE, wrap)


def _distorted(forms: tuple[str, ...], change: Callable[[onnx.ModelProto], None]) -> Callable[[], Any]:
    """The forms are made, and then `change` edits them."""

    def wrap(make: Any) -> Any:
        def made(name: str, material: Any) -> bytes:
            graph = make(name, material)
            if name not in forms:
                return graph
            model = onnx.load_from_string(graph)
            change(model)
            return bytes(model.SerializeToString(deterministic=True))

        return made

    return around(MAKE, wrap)


def _one_row(material: Any) -> Any:
    return material._replace(sample=material.sample[:1])


def _constant(model: onnx.ModelProto, name: str, change: Callable[[np.ndarray], np.ndarray]) -> None:
    tensor = next(each for each in model.graph.initializer if each.name == name)
    changed = change(numpy_helper.to_array(tensor).copy())
    tensor.CopyFrom(numpy_helper.from_array(changed, name))


def _scale_lost(model: onnx.ModelProto) -> None:
    """The scales of the weights of the first layer are 4 times too large."""
    readers = {node.output[0]: node for node in model.graph.node if node.op_type == "DequantizeLinear"}
    layer = next(node for node in model.graph.node if node.op_type in ("Gemm", "MatMul") and node.input[1] in readers)
    _constant(model, readers[layer.input[1]].input[1], lambda scales: 4 * scales)


def _word_lost(model: onnx.ModelProto) -> None:
    """The vector of one word of the first vocabulary is overwritten."""
    tables = {each.name for each in model.graph.initializer if len(each.dims) == 2}
    node = next(n for n in model.graph.node if n.op_type == "Gather" and n.input[0] in tables)

    def emptied(table: np.ndarray) -> np.ndarray:
        table[3] = 12.0  # DL, one of the largest carriers
        return table

    _constant(model, node.input[0], emptied)


def _dense_weights(model: onnx.ModelProto) -> str:
    return next(node.input[1] for node in model.graph.node if node.op_type == "Gemm")


def _cut(share: float) -> Callable[[onnx.ModelProto], None]:
    def zeroed(weights: np.ndarray) -> np.ndarray:
        return np.where(np.random.default_rng(8).random(weights.shape) < share, np.float32(0), weights)

    return lambda model: _constant(model, _dense_weights(model), zeroed)


NET = "neural_net"
QUANTISATION = (
    Fault(
        "calibrated on one row", "quantisation", "int8 knows one row's ranges", _made_of(STATIC, _one_row), NET, STATIC
    ),
    Fault(
        "a scale is lost",
        "quantisation",
        "int8 weights are read 4 times too large",
        _distorted(STATIC, _scale_lost),
        NET,
        STATIC,
    ),
    Fault(
        "a word is lost",
        "quantisation",
        "one carrier's vector is overwritten in the optimised graph",
        _distorted(("graph_optimised",), _word_lost),
        NET,
        ("graph_optimised",),
    ),
    Fault(
        "weights cut at random",
        "quantisation",
        "pruning zeroes 60 % without looking, after fine-tuning",
        _distorted(("pruned_weights_50", "pruned_units_25"), _cut(0.6)),
        NET,
        ("pruned_weights_50", "pruned_units_25"),
    ),
)
