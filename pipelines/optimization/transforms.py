"""Other graphs for the same model: ONNX Runtime's offline optimisation, and static int8 quantisation."""

import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipelines.inference import INPUT

CALIBRATION_ROWS = 2048
_CALIBRATION_BATCH = 256
_QUANTISED = ("Gemm", "MatMul")


class NotApplicableError(ValueError):
    """This transform has nothing to do on this graph; the message says why."""


def optimise_graph(graph: bytes) -> bytes:
    """The graph after ONNX Runtime's basic optimisations (constants folded, redundant nodes gone).

    The basic level only: the further ones write operators of one runtime, and layouts of one processor, into the file.

    Raises:
        NotApplicableError: the optimised graph has the same nodes.
    """
    import onnxruntime

    with tempfile.TemporaryDirectory() as folder:
        written = Path(folder) / "optimised.onnx"
        options = onnxruntime.SessionOptions()
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
        options.optimized_model_filepath = str(written)
        options.log_severity_level = 3
        options.intra_op_num_threads = 1
        onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
        optimised = _stable(written, graph)
    if _operators(optimised) == _operators(graph):
        raise NotApplicableError("not applicable: there is nothing to fold or to remove, the nodes stay the same")
    return optimised


def quantise(graph: bytes, sample: NDArray[np.float32]) -> bytes:
    """The graph with its matrix products in int8 (QDQ, weights per channel), ranges from `sample` (rows × columns).

    Raises:
        NotApplicableError: there is no matrix product in the graph, as in a tree ensemble.
    """
    operators = _operators(graph)
    if not set(operators) & set(_QUANTISED):
        kind = "a tree ensemble has" if any("TreeEnsemble" in name for name in operators) else "the graph has"
        raise NotApplicableError(f"not applicable: {kind} no matrix product whose weights could be int8")
    if not len(sample):
        raise ValueError("quantisation needs training rows to find the ranges of activations, found none")
    from onnxruntime.quantization import CalibrationMethod, QuantFormat, QuantType, quantize_static
    from onnxruntime.quantization.shape_inference import quant_pre_process

    with tempfile.TemporaryDirectory() as folder:
        plain, prepared, written = (Path(folder) / name for name in ("plain.onnx", "prepared.onnx", "int8.onnx"))
        plain.write_bytes(graph)
        quant_pre_process(str(plain), str(prepared), skip_symbolic_shape=True)
        quantize_static(
            str(prepared),
            str(written),
            _reader(sample),
            quant_format=QuantFormat.QDQ,
            op_types_to_quantize=list(_QUANTISED),
            per_channel=True,
            activation_type=QuantType.QInt8,
            weight_type=QuantType.QInt8,
            calibrate_method=CalibrationMethod.MinMax,
        )
        return _stable(written, graph)


def _reader(sample: NDArray[np.float32]) -> Any:
    from onnxruntime.quantization import CalibrationDataReader

    chosen = np.linspace(0, len(sample) - 1, min(CALIBRATION_ROWS, len(sample))).astype(int)
    rows = np.ascontiguousarray(sample[chosen], dtype=np.float32)
    batches = [rows[start : start + _CALIBRATION_BATCH] for start in range(0, len(rows), _CALIBRATION_BATCH)]

    class Reader(CalibrationDataReader):  # type: ignore[misc]
        def __init__(self) -> None:
            self._left = iter(batches)

        def get_next(self) -> dict[str, NDArray[np.float32]] | None:
            batch = next(self._left, None)
            return None if batch is None else {INPUT: batch}

    return Reader()


def _operators(graph: bytes) -> list[str]:
    import onnx

    return sorted(node.op_type for node in onnx.load_from_string(graph).graph.node)


def _stable(path: Path, original: bytes) -> bytes:
    """The model at `path`, checked, in bytes that do not depend on the writer, with the operator sets of `original`."""
    import onnx

    model = onnx.load(path)
    before = onnx.load_from_string(original)
    model.producer_name, model.producer_version, model.doc_string = before.producer_name, "", ""
    model.ir_version = before.ir_version
    del model.metadata_props[:]
    del model.opset_import[:]
    model.opset_import.extend(before.opset_import)  # the writers name every domain that they know
    onnx.checker.check_model(model)
    return bytes(model.SerializeToString(deterministic=True))
