"""The graph-optimised form: what does not depend on the features is computed once, offline."""

import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipelines.optimization.stable_bytes import NotApplicableError, operators, read_graph, stable_bytes


def optimise_graph(graph: bytes) -> bytes:
    """The graph with constant factors and terms after a `Gemm` folded into its weights, and after ONNX Runtime's basic
    optimisations (constants folded, redundant nodes gone).

    The basic level only: the further ones write operators of one runtime, and layouts of one processor, into the file.

    Raises:
        NotApplicableError: the optimised graph has the same nodes.
    """
    import onnx
    import onnxruntime

    folded = read_graph(graph)
    fold_constants(folded.graph)
    with tempfile.TemporaryDirectory() as folder:
        written = Path(folder) / "optimised.onnx"
        options = onnxruntime.SessionOptions()
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
        options.optimized_model_filepath = str(written)
        options.log_severity_level = 3
        options.intra_op_num_threads = 1
        onnxruntime.InferenceSession(folded.SerializeToString(), options, providers=["CPUExecutionProvider"])
        optimised = stable_bytes(onnx.load(written), graph)
    if operators(optimised) == operators(graph):
        raise NotApplicableError("not applicable: there is nothing to fold or to remove, the nodes stay the same")
    return optimised


def fold_constants(graph: Any) -> None:
    """Folds each `Mul` and `Add` of a single constant into the `Gemm` before it, such as calibration after a net."""
    for _ in range(len(graph.node)):  # each fold removes a node
        if not _fold_once(graph):
            return


def _fold_once(graph: Any) -> bool:
    from onnx import numpy_helper

    constants = {constant.name: numpy_helper.to_array(constant) for constant in graph.initializer}
    gemms = {node.output[0]: node for node in graph.node if node.op_type == "Gemm" and _is_plain(node, constants)}
    readers = [name for node in graph.node for name in node.input] + [output.name for output in graph.output]
    for position, node in enumerate(graph.node):
        if node.op_type not in ("Mul", "Add"):
            continue
        for flow, factor in (node.input, reversed(node.input)):
            if flow not in gemms or readers.count(flow) != 1 or factor not in constants or constants[factor].size != 1:
                continue
            gemm, value = gemms[flow], constants[factor].reshape(())
            weight, bias = constants[gemm.input[1]], constants[gemm.input[2]]
            if node.op_type == "Mul":
                _replace(graph, gemm, 1, weight * value)
                _replace(graph, gemm, 2, bias * value)
            else:
                _replace(graph, gemm, 2, bias + value)
            gemm.output[0] = node.output[0]
            del graph.node[position]
            return True
    return False


def _is_plain(node: Any, constants: dict[str, NDArray[Any]]) -> bool:
    scaled = any(attribute.name in ("alpha", "beta") and attribute.f != 1 for attribute in node.attribute)
    return len(node.input) == 3 and node.input[1] in constants and node.input[2] in constants and not scaled


def _replace(graph: Any, gemm: Any, position: int, values: NDArray[Any]) -> None:
    from onnx import numpy_helper

    name = f"{gemm.output[0]}_folded_{position}_{len(graph.initializer)}"
    graph.initializer.append(numpy_helper.from_array(np.asarray(values, dtype=np.float32), name))
    gemm.input[position] = name
