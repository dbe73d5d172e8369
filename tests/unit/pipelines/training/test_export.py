from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper

from pipelines.training.calibration import Calibration
from pipelines.training.export import CONTRIB, LIMITS, ONNX, ONNX_ML, ExportError, check_file, limits_of
from pipelines.training.graph import IR_VERSION, OPSET, TREES_OPSET, GraphWriter

HERE = limits_of(onnxruntime.__version__)


def model() -> onnx.ModelProto:
    graph = GraphWriter(2)
    return onnx.load_from_string(graph.finish(graph.columns([1]), Calibration(1.0, 0.0)))


def spoilt(change: Callable[[onnx.ModelProto], Any]) -> bytes:
    made = model()
    change(made)
    return made.SerializeToString()


def loads(opsets: dict[str, int], ir_version: int) -> bool:
    made = helper.make_model(
        helper.make_graph(
            [helper.make_node("Identity", ["features"], ["score"])],
            "probe",
            [helper.make_tensor_value_info("features", TensorProto.FLOAT, ["rows"])],
            [helper.make_tensor_value_info("score", TensorProto.FLOAT, ["rows"])],
        ),
        opset_imports=[helper.make_opsetid(domain, version) for domain, version in opsets.items()],
        ir_version=ir_version,
    )
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    try:
        onnxruntime.InferenceSession(made.SerializeToString(), options, providers=["CPUExecutionProvider"])
    except onnxruntime.capi.onnxruntime_pybind11_state.Fail:
        return False
    return True


def test_the_bounds_are_those_of_the_runtime_that_is_installed() -> None:
    for domain in (ONNX, ONNX_ML):
        newest = HERE.opsets[domain]
        assert loads({ONNX: OPSET, domain: newest}, IR_VERSION)
        assert not loads({ONNX: OPSET, domain: newest + 1}, IR_VERSION)
    assert loads({ONNX: OPSET}, HERE.ir_version)
    assert not loads({ONNX: OPSET}, HERE.ir_version + 1)


def test_our_own_graphs_are_within_the_bounds_of_every_known_runtime() -> None:
    for limits in LIMITS.values():
        facts = check_file(model().SerializeToString(), 2, limits)
        assert facts.opsets == {ONNX: OPSET, ONNX_ML: TREES_OPSET}
        assert facts.ir_version == IR_VERSION


def test_a_runtime_that_nobody_measured_is_refused() -> None:
    with pytest.raises(ExportError, match=r"bounds of ONNX Runtime 1\.99\.0 are not known"):
        limits_of("1.99.0")


def newer_opset(made: onnx.ModelProto) -> None:
    made.opset_import[0].version = HERE.opsets[ONNX] + 1


def older_opset(made: onnx.ModelProto) -> None:
    made.opset_import[0].version = 7


def other_domain(made: onnx.ModelProto) -> None:
    made.opset_import.append(helper.make_opsetid("org.example", 1))


def newer_ir(made: onnx.ModelProto) -> None:
    made.ir_version = HERE.ir_version + 1


def external(made: onnx.ModelProto) -> None:
    onnx.external_data_helper.set_external_data(made.graph.initializer[0], "weights.bin")


def fixed_rows(made: onnx.ModelProto) -> None:
    made.graph.input[0].type.tensor_type.shape.dim[0].dim_value = 1


def another_width(made: onnx.ModelProto) -> None:
    made.graph.input[0].type.tensor_type.shape.dim[1].dim_value = 3


def doubles(made: onnx.ModelProto) -> None:
    made.graph.output[0].type.tensor_type.elem_type = TensorProto.DOUBLE


def two_outputs(made: onnx.ModelProto) -> None:
    made.graph.output.append(
        helper.make_tensor_value_info(made.graph.node[0].output[0], TensorProto.FLOAT, ["rows", 1])
    )


def no_such_operator(made: onnx.ModelProto) -> None:
    made.graph.node[0].op_type = "Gahter"


def torn_shapes(made: onnx.ModelProto) -> None:
    made.graph.node[-1].input[0] = made.graph.node[-1].input[1]  # the shape itself, which are whole numbers


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (newer_opset, "operator set 27 of ai.onnx is newer than 26, the newest that the serving runtime loads"),
        (older_opset, "operator set 7 of ai.onnx is older than 8"),
        (other_domain, "operators of org.example are not in the serving runtime"),
        (newer_ir, "IR version 14 is newer than 13"),
        (external, "lies in another file: save the model in one file"),
        (fixed_rows, r"features has the element type 1 and the shape \[1, 2\], expected 1 \(float32\) and \[None, 2\]"),
        (another_width, r"features has .* the shape \[None, 3\]"),
        (doubles, "score has the element type 11"),
        (two_outputs, r"maps \['features'\] to \['score', 'gather_0'\]"),
        (no_such_operator, "no valid ONNX: .*Gahter"),
        (torn_shapes, "ONNX Runtime does not load the graph"),
    ],
)
def test_a_file_that_would_not_serve_is_refused(change: Callable[[onnx.ModelProto], Any], message: str) -> None:
    with pytest.raises(ExportError, match=message):
        check_file(spoilt(change), 2, HERE)


def test_bytes_that_are_no_model_are_refused() -> None:
    for content in (b"", b"\x08", np.arange(100).tobytes()):
        with pytest.raises(ExportError, match="no ONNX model"):
            check_file(content, 2, HERE)


def test_the_operators_of_the_runtime_itself_are_within_the_bounds() -> None:
    made = spoilt(lambda made: made.opset_import.append(helper.make_opsetid(CONTRIB, 1)))
    assert check_file(made, 2, HERE).opsets[CONTRIB] == 1
