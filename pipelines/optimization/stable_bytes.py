"""Bytes of a graph that do not depend on who wrote it: no temporary names, no stamps, no shapes that can be inferred.

Names are a tenth of a small net in int8, and where a runtime makes them up they may differ from run to run. So all
between the input and the output are counted through.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipelines.inference import INPUT, OUTPUT

_ZERO_POINT = 2  # the position among the inputs of DequantizeLinear
_BATCH_ROWS = 4096


class NotApplicableError(ValueError):
    """This transform has nothing to do on this graph; the message says why."""


def read_graph(graph: bytes) -> Any:
    """The model in `graph`."""
    import onnx

    return onnx.load_from_string(graph)


def operators(graph: bytes) -> list[str]:
    """The operators of the graph's nodes, sorted, one for each node."""
    return sorted(node.op_type for node in read_graph(graph).graph.node)


def tensor_of(model: Any, name: str, rows: NDArray[np.float32]) -> NDArray[np.float32]:
    """The tensor `name` inside of `model`, for each of `rows` (rows × columns)."""
    import onnx
    import onnxruntime
    from onnx import TensorProto, helper

    if name == INPUT:
        return rows
    shown = onnx.ModelProto()
    shown.CopyFrom(model)
    shown.graph.output.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, None))
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = 1, 3
    session = onnxruntime.InferenceSession(shown.SerializeToString(), options, providers=["CPUExecutionProvider"])
    starts = range(0, len(rows), _BATCH_ROWS)
    batches = [np.ascontiguousarray(rows[start : start + _BATCH_ROWS], np.float32) for start in starts]
    found: NDArray[np.float32] = np.concatenate([session.run([name], {INPUT: batch})[0] for batch in batches])
    return found


def stable_bytes(model: Any, original: bytes) -> bytes:
    """`model`, checked, in bytes that do not depend on its writer, with the operator sets of `original`.

    Constants with the same content become one, zero points of biases (zero by default) go, and tensors are renamed.

    Raises:
        onnx.checker.ValidationError: the model is no valid ONNX in those operator sets.
    """
    import onnx

    before = read_graph(original)
    model.producer_name, model.producer_version, model.doc_string = before.producer_name, "", ""
    model.ir_version = before.ir_version
    del model.metadata_props[:]
    versions = {entry.domain: entry.version for entry in before.opset_import}
    foreign = sorted({node.domain for node in model.graph.node} - versions.keys())
    added = [entry for entry in model.opset_import if entry.domain in foreign]
    del model.opset_import[:]  # the writers name every domain that they know
    model.opset_import.extend([*before.opset_import, *sorted(added, key=lambda entry: str(entry.domain))])
    graph = model.graph
    del graph.value_info[:]
    graph.name, graph.doc_string = before.graph.name, ""
    if not any(attribute.HasField("g") for node in graph.node for attribute in node.attribute):
        _drop_zero_points(graph)
        _drop_unused(graph)
        _rename(graph, _merge_equal(graph))  # the names in a loop's body would have to follow
    onnx.checker.check_model(model)
    return bytes(model.SerializeToString(deterministic=True))


def _drop_zero_points(graph: Any) -> None:
    """Of int32 only: without those of int8 the runtime finds no integer kernel (twice the time)."""
    from onnx import TensorProto, numpy_helper

    zeros = {
        constant.name
        for constant in graph.initializer
        if constant.data_type == TensorProto.INT32 and not np.any(numpy_helper.to_array(constant))
    }
    for node in graph.node:
        if node.op_type == "DequantizeLinear" and len(node.input) > _ZERO_POINT and node.input[_ZERO_POINT] in zeros:
            del node.input[_ZERO_POINT]


def _drop_unused(graph: Any) -> None:
    used = {name for node in graph.node for name in node.input}
    kept = [constant for constant in graph.initializer if constant.name in used]
    del graph.initializer[:]
    graph.initializer.extend(kept)


def _merge_equal(graph: Any) -> dict[str, str]:
    """Keeps the first of constants with the same content, and says which name now stands for which."""
    from onnx import numpy_helper

    first: dict[tuple[int, tuple[int, ...], bytes], str] = {}
    renamed: dict[str, str] = {}
    kept = []
    for constant in graph.initializer:
        values = numpy_helper.to_array(constant)
        content = (constant.data_type, tuple(constant.dims), values.tobytes())
        if content in first:
            renamed[constant.name] = first[content]
        else:
            first[content] = constant.name
            kept.append(numpy_helper.from_array(values, constant.name))
    del graph.initializer[:]
    graph.initializer.extend(kept)
    return renamed


def _rename(graph: Any, equal: dict[str, str]) -> None:
    names = {"": "", INPUT: INPUT, OUTPUT: OUTPUT}

    def renamed(name: str) -> str:
        kept = equal.get(name, name)
        return names.setdefault(kept, np.base_repr(len(names), 36).lower())

    ordered = [renamed(name) for node in graph.node for name in [*node.input, *node.output]]  # not by the constants
    for constant in sorted(graph.initializer, key=lambda constant: ordered.index(names[constant.name])):
        graph.initializer.append(constant)
        graph.initializer[-1].name = names[constant.name]
    del graph.initializer[: len(graph.initializer) // 2]
    for node in graph.node:
        node.name, node.doc_string = "", ""
        node.input[:] = [renamed(name) for name in node.input]
        node.output[:] = [renamed(name) for name in node.output]
