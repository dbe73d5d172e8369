"""The ways to int8 that were tried beside those that became candidates, written as the candidates are."""

import contextlib
import io
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnxruntime.quantization import (
    CalibrationDataReader,
    QuantFormat,
    QuantType,
    quantize_dynamic,
    quantize_static,
)
from onnxruntime.quantization.shape_inference import quant_pre_process

from pipelines.inference import INPUT
from pipelines.optimization.stable_bytes import stable_bytes

Features = NDArray[np.float32]
PRODUCTS = ("Gemm", "MatMul")
EVERYTHING = (*PRODUCTS, "Gather", "Concat", "Relu", "Reshape")
CALIBRATION_ROWS, BATCH_ROWS = 2048, 256


class Reader(CalibrationDataReader):  # type: ignore[misc]
    """Batches of `sample`, spread over it."""

    def __init__(self, sample: Features) -> None:
        rows = sample[np.linspace(0, len(sample) - 1, min(CALIBRATION_ROWS, len(sample))).astype(int)]
        self._left = iter([rows[start : start + BATCH_ROWS] for start in range(0, len(rows), BATCH_ROWS)])

    def get_next(self) -> dict[str, Features] | None:
        batch = next(self._left, None)
        return None if batch is None else {INPUT: np.ascontiguousarray(batch, np.float32)}


def _quantise(graph: bytes, write: Callable[[str, str], None]) -> bytes:
    with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(io.StringIO()):
        plain, prepared, written = (Path(folder) / f"{name}.onnx" for name in ("plain", "prepared", "written"))
        plain.write_bytes(graph)
        quant_pre_process(str(plain), str(prepared), skip_symbolic_shape=True)
        write(str(prepared), str(written))
        return stable_bytes(onnx.load(written), graph)


def static(**settings: Any) -> Callable[[bytes, Features], bytes]:
    """Static int8 as the candidates have it, MinMax, but for `settings`."""
    usual: dict[str, Any] = {
        "quant_format": QuantFormat.QDQ,
        "op_types_to_quantize": list(EVERYTHING),
        "per_channel": True,
        "activation_type": QuantType.QUInt8,
        "weight_type": QuantType.QInt8,
    }

    def made(graph: bytes, sample: Features) -> bytes:
        return _quantise(
            graph, lambda source, target: quantize_static(source, target, Reader(sample), **(usual | settings))
        )

    return made


def dynamic(**settings: Any) -> Callable[[bytes, Features], bytes]:
    """Dynamic int8 with `settings`."""
    return lambda graph, _: _quantise(graph, lambda source, target: quantize_dynamic(source, target, **settings))


WAYS: Mapping[str, Callable[[bytes, Features], bytes]] = {
    "only the products, per channel": static(op_types_to_quantize=list(PRODUCTS)),
    "only the products, per tensor": static(op_types_to_quantize=list(PRODUCTS), per_channel=False),
    "activations in int8 instead of uint8": static(activation_type=QuantType.QInt8),
    "weights in uint8, per tensor": static(weight_type=QuantType.QUInt8, per_channel=False),
    "weights in 7 bits, for processors without VNNI": static(reduce_range=True),
    "QOperator, per channel": static(quant_format=QuantFormat.QOperator),
    "QOperator, per tensor": static(quant_format=QuantFormat.QOperator, per_channel=False),
    "dynamic, per channel": dynamic(per_channel=True, weight_type=QuantType.QInt8),
    "dynamic, weights in uint8": dynamic(weight_type=QuantType.QUInt8),
}
