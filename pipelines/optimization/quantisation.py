"""Smaller numbers: matrix products, and tables of embeddings, in int8; or everything in fp16, for a GPU.

Static int8 is written as QDQ (standard operators; the runtime fuses them into integer kernels when it loads the graph):
activations uint8, weights int8. What is between two products (the rectifiers, what joins embeddings with numbers) stays
in int8 too, so that each tensor is converted once. `benchmarks/optimization` has what the other ways gave.
"""

import contextlib
import io
import logging
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from pipelines.inference import INPUT
from pipelines.optimization.stable_bytes import NotApplicableError, operators, read_graph, stable_bytes

CALIBRATION_ROWS = 2048
_CALIBRATION_BATCH = 256
_PRODUCTS = ("Gemm", "MatMul")
_QUANTISED = (*_PRODUCTS, "Gather", "Concat", "Relu", "Reshape")
_MOVES = ("Gather", "Slice", "Split", "Identity", "Reshape", "Concat")
_PERCENTILE = 99.99
_ENTROPY_BINS = 256  # with 128, its default, there is nothing to choose from; 2,048 took 16 s and were no better

Method = Literal["MinMax", "Entropy", "Percentile"]


def quantise_statically(
    graph: bytes, sample: NDArray[np.float32], method: Method = "MinMax", *, per_channel: bool = True
) -> bytes:
    """The graph in int8, with ranges of activations from `sample` (training rows × columns).

    `method` is how a range follows from what was seen: all of it, the part that keeps most information (entropy), or
    all but the outermost 0.01 % (percentile).

    Raises:
        NotApplicableError: there is no matrix product in the graph, as in a tree ensemble.
        ValueError: there are no training rows.
    """
    _refuse_without_products(graph)
    if not len(sample):
        raise ValueError("quantisation needs training rows to find the ranges of activations, found none")
    import onnx
    from onnxruntime.quantization import CalibrationMethod, QuantFormat, QuantType, quantize_static

    calibration = CalibrationMethod[method]
    with _prepared(graph) as prepared, _silence():
        written, ranges = prepared.with_name("int8.onnx"), prepared.with_name("ranges.json")
        movers = _calibrate(prepared, sample, calibration, ranges)
        quantize_static(
            str(prepared),
            str(written),
            None,
            calibration_cache_path=str(ranges),
            calibrate_method=calibration,
            quant_format=QuantFormat.QDQ,
            op_types_to_quantize=list(_QUANTISED),
            nodes_to_exclude=movers,
            per_channel=per_channel,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
        )
        return stable_bytes(onnx.load(written), graph)


def quantise_dynamically(graph: bytes) -> bytes:
    """The graph with weights in int8 and ranges of activations taken in each run, from all rows in it.

    Raises:
        NotApplicableError: there is no matrix product in the graph.
    """
    _refuse_without_products(graph)
    import onnx
    from onnxruntime.quantization import QuantType, quantize_dynamic

    with _prepared(graph) as prepared, _silence():
        written = prepared.with_name("int8.onnx")
        quantize_dynamic(str(prepared), str(written), weight_type=QuantType.QInt8)
        return stable_bytes(onnx.load(written), graph)


def halve(graph: bytes, *, has_gpu: bool) -> bytes:
    """The graph in fp16, with input and output in float32.

    Raises:
        NotApplicableError: the serving profile has no GPU, or the graph has no matrix product.
    """
    if not has_gpu:
        raise NotApplicableError(
            "not applicable: the serving profile has no GPU, and a CPU converts fp16 back to fp32 at every operator"
        )
    _refuse_without_products(graph)
    from onnxruntime.transformers.float16 import convert_float_to_float16
    from onnxruntime.transformers.onnx_model import OnnxModel

    with _silence():
        halved = OnnxModel(convert_float_to_float16(read_graph(graph), keep_io_types=True))
        halved.topological_sort()  # casts are put at the end
        return stable_bytes(halved.model, graph)


def _refuse_without_products(graph: bytes) -> None:
    found = set(operators(graph))
    if not found & set(_PRODUCTS):
        kind = "a tree ensemble has" if any("TreeEnsemble" in name for name in found) else "the graph has"
        raise NotApplicableError(f"not applicable: {kind} no matrix product whose weights could be smaller numbers")


@contextlib.contextmanager
def _prepared(graph: bytes) -> Iterator[Path]:
    import onnx
    from onnxruntime.quantization.shape_inference import quant_pre_process

    with tempfile.TemporaryDirectory() as folder:
        plain, prepared = Path(folder) / "plain.onnx", Path(folder) / "prepared.onnx"
        plain.write_bytes(graph)
        quant_pre_process(str(plain), str(prepared), skip_symbolic_shape=True)
        model = onnx.load(prepared)
        for position, node in enumerate(model.graph.node):
            node.name = f"node_{position}"  # by which nodes are left out
        onnx.save(model, prepared)
        yield prepared


@contextlib.contextmanager
def _silence() -> Iterator[None]:
    """The library prints its progress, and warns through the root logger of what was done on purpose."""
    found = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            yield
    finally:
        logging.disable(found)


def _calibrate(prepared: Path, sample: NDArray[np.float32], method: Any, ranges: Path) -> list[str]:
    """Writes the ranges of all tensors that are to be quantised, and returns the names of nodes that are not to be:
    those that only move features around. A missing feature in them is NaN, of which there is no histogram."""
    from onnxruntime.quantization import calibrate

    kinds: dict[str, tuple[Any, dict[str, Any]]] = {
        "MinMax": (calibrate.MinMaxCalibrater, {}),
        "Entropy": (calibrate.EntropyCalibrater, {"num_bins": _ENTROPY_BINS}),
        "Percentile": (calibrate.PercentileCalibrater, {"percentile": _PERCENTILE}),
    }
    kind, settings = kinds[method.name]
    augmented = str(prepared.with_name("augmented.onnx"))
    calibrator = kind(str(prepared), list(_QUANTISED), augmented_model_path=augmented, **settings)
    selected, shapes = calibrator.select_tensors_to_calibrate(calibrator.model)
    raw, movers = _moved_features(calibrator.model)
    products = [node for node in calibrator.model.graph.node if node.op_type in _PRODUCTS]
    raw -= {name for node in products for name in node.input}
    wanted = sorted(selected - raw)  # a set has another order in each process
    calibrator.select_tensors_to_calibrate = lambda model: (wanted, shapes)
    calibrator.augment_graph()
    calibrator.create_inference_session()
    calibrator.collect_data(_reader(sample))
    calibrate.save_tensors_data(calibrator.compute_data(), ranges)
    return movers


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


def _moved_features(model: Any) -> tuple[set[str], list[str]]:
    """The tensors that hold features as they came, and the names of the nodes that made them."""
    raw, movers = {INPUT}, []
    constants = {constant.name for constant in model.graph.initializer}
    for node in model.graph.node:
        if node.op_type in _MOVES and raw & set(node.input) and set(node.input) <= raw | constants:
            raw.update(node.output)
            movers.append(node.name)
    return raw, movers
