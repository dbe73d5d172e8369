"""Writing ONNX graphs node by node: the same input gives the same bytes.

The converters of frameworks do not: they stamp times, paths and names of temporaries into the file. The graphs here
are small enough to write out, and share what comes before and after the model: the columns and the calibration.
"""

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from contracts.input_schema import InputSchema
from pipelines.inference import INPUT, OUTPUT
from pipelines.training.calibration import Calibration

OPSET, TREES_OPSET = 17, 3
IR_VERSION = 9
TREES_DOMAIN = "ai.onnx.ml"
_INSERTED = "inserted_"  # before all names of a model that is inserted


class GraphWriter:
    """A graph in the making, from `features` (float32, rows × width) to `score` (float32, rows)."""

    def __init__(self, width: int) -> None:
        self.width = width
        self._nodes: list[Any] = []
        self._constants: list[Any] = []
        self._sparse_constants: list[Any] = []
        self._opsets = {"": OPSET, TREES_DOMAIN: TREES_OPSET}
        self._ir_version = IR_VERSION

    def constant(self, values: Any, dtype: type[np.generic] = np.float32) -> str:
        """Adds a constant tensor, and returns its name."""
        from onnx import numpy_helper

        name = f"constant_{len(self._constants)}"
        self._constants.append(numpy_helper.from_array(np.ascontiguousarray(values, dtype=dtype), name))
        return name

    def node(self, operator: str, *inputs: str, domain: str = "", output: str | None = None, **attributes: Any) -> str:
        """Adds a node, and returns the name of its one output."""
        from onnx import helper

        name = output or f"{operator.lower()}_{len(self._nodes)}"
        self._nodes.append(
            helper.make_node(
                operator, list(inputs), [name], name=f"node_{len(self._nodes)}", domain=domain, **attributes
            )
        )
        return name

    def columns(self, positions: list[int]) -> str:
        """The named columns of the features, rows × len(positions)."""
        if positions == list(range(self.width)):
            return INPUT
        return self.node("Gather", INPUT, self.constant(positions, np.int64), axis=1)

    def insert(self, model: Any, inputs: Mapping[str, str]) -> dict[str, str]:
        """Adds a whole other model, once: its nodes, constants, operator sets and IR version.

        `model` is an onnx.ModelProto without functions of its own; `inputs` names the tensor of this graph that each of
        its inputs takes. Returns the names that its outputs have here. What it says of its making (documentation,
        metadata) stays outside. The calibration's nodes mean the same in every operator set from 8 on, so the model's
        own is taken.
        """
        from onnx import compose

        model = compose.add_prefix(model, _INSERTED)
        for node in _all_nodes(model.graph):
            node.ClearField("doc_string")
            node.ClearField("metadata_props")
        for tensor in model.graph.initializer:
            tensor.ClearField("doc_string")
        for name, source in inputs.items():
            self.node("Identity", source, output=_INSERTED + name)
        self._nodes += model.graph.node
        self._constants += model.graph.initializer
        self._sparse_constants += model.graph.sparse_initializer
        self._opsets |= {
            "" if opset.domain == "ai.onnx" else opset.domain: opset.version for opset in model.opset_import
        }
        self._ir_version = max(self._ir_version, model.ir_version)
        return {value.name.removeprefix(_INSERTED): value.name for value in model.graph.output}

    def finish(self, log_odds: str, calibration: Calibration) -> bytes:
        """Grafts the calibration on `log_odds` (rows × 1) and returns the checked model.

        Raises:
            onnx.checker.ValidationError: the graph is no valid ONNX.
        """
        from onnx import TensorProto, checker, helper

        scaled = self.node("Mul", log_odds, self.constant(calibration.slope))
        calibrated = self.node("Sigmoid", self.node("Add", scaled, self.constant(calibration.intercept)))
        self.node("Reshape", calibrated, self.constant([-1], np.int64), output=OUTPUT)
        graph = helper.make_graph(
            self._nodes,
            "paceline",
            [helper.make_tensor_value_info(INPUT, TensorProto.FLOAT, ["rows", self.width])],
            [helper.make_tensor_value_info(OUTPUT, TensorProto.FLOAT, ["rows"])],
            self._constants,
            sparse_initializer=self._sparse_constants,
        )
        opsets = [helper.make_opsetid(domain, version) for domain, version in sorted(self._opsets.items())]
        model = helper.make_model(graph, producer_name="paceline", opset_imports=opsets, ir_version=self._ir_version)
        checker.check_model(model)
        return bytes(model.SerializeToString(deterministic=True))


def _all_nodes(graph: Any) -> Iterator[Any]:
    for node in graph.node:
        yield node
        for attribute in node.attribute:
            for inner in ([attribute.g] if attribute.HasField("g") else []) + list(attribute.graphs):
                yield from _all_nodes(inner)


def categorical_columns(schema: InputSchema) -> tuple[list[int], list[int]]:
    """The positions of the encoded columns that are numbers, and of those that are codes of a vocabulary."""
    codes = sorted(schema.categorical)
    return [position for position in range(len(schema.columns)) if position not in schema.categorical], codes


def float32_at_most(values: NDArray[np.float64]) -> NDArray[np.float32]:
    """The largest float32 that is at most each value, so that `x <= value` stays the same for every float32 x."""
    nearest = values.astype(np.float32)
    above = nearest.astype(np.float64) > values
    nearest[above] = np.nextafter(nearest[above], np.float32(-np.inf))
    return nearest
