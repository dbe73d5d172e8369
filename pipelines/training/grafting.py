"""Models that come as ONNX, from another framework or a converter: checked, and grafted before the calibration.

Such a model is a black box from a float32 matrix to a probability or to log odds. Nothing in it is changed.
"""

from typing import Any, Literal

import msgspec
import numpy as np
from numpy.typing import NDArray

from pipelines.training.export import FLOAT, ExportError, check_versions, limits_of, read_model, shape_of
from pipelines.training.graph import GraphWriter

Gives = Literal["probability", "log_odds"]
# A probability is taken off 0 and 1 by this, in float32 on both sides: its log odds lie within ±16.
LOWEST, HIGHEST = np.float32(1e-7), np.float32(1 - 1e-7)
_ROWS_AT_ONCE = 4096


class OnnxModel(msgspec.Struct, frozen=True, kw_only=True):
    """An ONNX model as bytes, and how to read it.

    `input` and `output` are names, and may be left out where there is only one; `column` is the output's column that
    belongs to label 1, where it has several. `gives` says what stands there.
    """

    content: bytes
    input: str | None = None
    output: str | None = None
    column: int | None = None
    gives: Gives = "probability"


class ForeignModel:
    """A checked model that can be run alone and be grafted.

    Raises:
        ExportError: it is no valid ONNX, not for the serving runtime, does not take one float32 matrix of `width`
            columns and any number of rows, or its output is not what `model` says.
    """

    def __init__(self, model: OnnxModel, width: int) -> None:
        import onnxruntime

        self._proto = _without_functions(read_model(model.content))
        self._gives = model.gives
        check_versions(self._proto, len(model.content), limits_of(onnxruntime.__version__))
        self._input = _input_of(self._proto, model.input, width)
        self._session = _session(model.content)
        self._output = _output_of(self._session, model.output)
        self._column = self._column_of(model.column, width)

    def log_odds(self, features: NDArray[np.float32]) -> NDArray[np.float64]:
        """The log odds by the model run alone, shape (rows,), from its own columns (rows × width)."""
        parts = [self._run(features[start : start + _ROWS_AT_ONCE]) for start in range(0, len(features), _ROWS_AT_ONCE)]
        values = np.concatenate(parts)
        if self._gives == "log_odds":
            return values.astype(np.float64)
        _refuse_other_than_probabilities(values)
        bounded = np.clip(values, LOWEST, HIGHEST).astype(np.float64)
        return np.asarray(np.log(bounded) - np.log1p(-bounded), dtype=np.float64)

    def graft(self, graph: GraphWriter, columns: str) -> str:
        """Adds the model to `graph`, fed with the tensor `columns`, and returns the name of its log odds (rows × 1)."""
        flow = graph.insert(self._proto, {self._input: columns})[self._output]
        flow = graph.node("Cast", flow, to=FLOAT)
        if self._column is not None:
            flow = graph.node("Gather", flow, graph.constant([self._column], np.int64), axis=1)
        flow = graph.node("Reshape", flow, graph.constant([-1, 1], np.int64))
        if self._gives == "log_odds":
            return flow
        bounded = graph.node("Min", graph.node("Max", flow, graph.constant(LOWEST)), graph.constant(HIGHEST))
        against = graph.node("Log", graph.node("Sub", graph.constant(1.0), bounded))
        return graph.node("Sub", graph.node("Log", bounded), against)

    def _run(self, features: NDArray[np.float32]) -> NDArray[np.float32]:
        found = self._session.run([self._output], {self._input: np.ascontiguousarray(features, np.float32)})[0]
        values = found if self._column is None else found[:, self._column]
        return np.asarray(values, dtype=np.float32).reshape(-1)

    def _column_of(self, column: int | None, width: int) -> int | None:
        """The column, once two runs have shown what the output looks like, and that it has a row for each row."""
        shapes = [
            np.shape(self._session.run([self._output], {self._input: np.zeros((rows, width), np.float32)})[0])
            for rows in (2, 3)
        ]
        columns = 1 if shapes[0][1:] in ((), (1,)) else shapes[0][-1]
        expected = [(rows, *shapes[0][1:]) for rows in (2, 3)]
        if shapes != expected or len(shapes[0]) not in (1, 2):
            raise ExportError(
                f"the output {self._output!r} has the shape {shapes[0]} for 2 rows, expected (2,) or (2, n)"
            )
        if column is None and columns > 1:
            raise ExportError(
                f"the output {self._output!r} has {columns} columns: say by `column` which belongs to label 1"
            )
        if column is not None and not 0 <= column < columns:
            raise ExportError(f"column: found {column}, but the output {self._output!r} has {columns}, counted from 0")
        return column if len(shapes[0]) == 2 else None


def _refuse_other_than_probabilities(values: NDArray[np.float32]) -> None:
    wrong = ~((values >= 0) & (values <= 1))  # also true for NaN
    if wrong.any():
        row = int(np.argmax(wrong))
        raise ExportError(
            f"the model gives {values[row]:g} on row {row}, which is no probability: where it gives log odds, say "
            "`gives: log_odds`"
        )


def _without_functions(proto: Any) -> Any:
    """The model with its own functions written out where they are called."""
    from onnx import inliner

    if not proto.functions:
        return proto
    own = {function.domain for function in proto.functions}
    inlined = inliner.inline_local_functions(proto)
    opsets = [opset for opset in inlined.opset_import if opset.domain not in own or not opset.domain]
    del inlined.opset_import[:]
    inlined.opset_import.extend(opsets)
    return inlined


def _input_of(proto: Any, name: str | None, width: int) -> str:
    constants = {tensor.name for tensor in proto.graph.initializer}  # old IR versions list them as inputs too
    inputs = {value.name: value.type.tensor_type for value in proto.graph.input if value.name not in constants}
    if name is not None and name not in inputs:
        raise ExportError(f"input: found {name!r}, but the model has {', '.join(inputs)}")
    if len(inputs) != 1:
        raise ExportError(f"the model takes {', '.join(inputs) or 'nothing'}, expected one matrix of all its columns")
    found, tensor = next(iter(inputs.items()))
    shape = shape_of(tensor)
    if tensor.elem_type != FLOAT or len(shape) != 2:
        raise ExportError(
            f"the input {found!r} has the element type {tensor.elem_type} and the shape {shape}, "
            f"expected {FLOAT} (float32) and [None, {width}]"
        )
    if shape[0] is not None:
        raise ExportError(f"the input {found!r} takes exactly {shape[0]} rows: export it with a dynamic first axis")
    if shape[1] not in (None, width):
        raise ExportError(f"the input {found!r} has {shape[1]} columns, but {width} are given to it")
    return str(found)


def _output_of(session: Any, name: str | None) -> str:
    outputs = {output.name: output.type for output in session.get_outputs()}
    if name is None and len(outputs) != 1:
        raise ExportError(f"the model gives {', '.join(outputs)}: say by `output` which to take")
    found = next(iter(outputs)) if name is None else name
    if found not in outputs:
        raise ExportError(f"output: found {found!r}, but the model has {', '.join(outputs)}")
    if outputs[found] not in ("tensor(float)", "tensor(double)", "tensor(float16)"):
        hint = ": convert it with zipmap off" if "map(" in outputs[found] else ""
        raise ExportError(f"the output {found!r} is a {outputs[found]}, expected a tensor of numbers{hint}")
    return found


def _session(content: bytes) -> Any:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 3
    try:
        return onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    except Exception as error:
        raise ExportError(f"ONNX Runtime does not load the model: {error}") from error
