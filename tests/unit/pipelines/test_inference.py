from pathlib import Path

import numpy as np
import pytest
from onnx import TensorProto, checker, helper

from pipelines.inference import measure_latency, measure_side_by_side, score


def graph(operator: str = "Sigmoid", output: str = "score") -> bytes:
    nodes = [
        helper.make_node("ReduceSum", ["features", "axes"], ["sum"], keepdims=0),
        helper.make_node(operator, ["sum"], [output]),
    ]
    made = helper.make_graph(
        nodes,
        "sum",
        [helper.make_tensor_value_info("features", TensorProto.FLOAT, ["rows", 3])],
        [helper.make_tensor_value_info(output, TensorProto.FLOAT, ["rows"])],
        [helper.make_tensor("axes", TensorProto.INT64, [1], [1])],
    )
    model = helper.make_model(made, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    checker.check_model(model)
    return bytes(model.SerializeToString())


ROWS = np.random.default_rng(0).normal(size=(100, 3)).astype(np.float32)
EXPECTED = 1 / (1 + np.exp(-ROWS.sum(axis=1)))


@pytest.mark.parametrize("batch_rows", [1, 7, 100, 1000])
def test_scores_do_not_depend_on_the_batch(batch_rows: int) -> None:
    found = score(graph(), ROWS, batch_rows)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, EXPECTED, atol=1e-6)


def test_a_graph_is_read_from_a_file_as_well(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    path.write_bytes(graph())
    np.testing.assert_array_equal(score(path, ROWS), score(graph(), ROWS))


def test_no_rows_have_no_scores() -> None:
    assert score(graph(), ROWS[:0]).shape == (0,)


def test_scores_that_are_no_probabilities_are_refused() -> None:
    rows = np.full((3, 3), 0.1, dtype=np.float32)
    rows[1] = 2
    with pytest.raises(ValueError, match=r"1 of 3 scores are not in \[0, 1\]; row 1 has 6"):
        score(graph("Identity"), rows)
    with pytest.raises(ValueError, match=r"row 0 has nan"):
        score(graph(), np.full((1, 3), np.nan, dtype=np.float32))


def test_a_graph_with_another_signature_is_refused() -> None:
    with pytest.raises(ValueError, match=r"maps \['features'\] to \['probability'\], expected \['features'\]"):
        score(graph(output="probability"), ROWS)


def test_a_single_row_must_still_be_a_matrix() -> None:
    with pytest.raises(ValueError, match=r"shape \(3,\), expected rows × columns"):
        score(graph(), ROWS[0])


def test_latency_is_measured_for_one_row_and_for_many_in_order_of_quantiles() -> None:
    measured = measure_latency(graph(), ROWS, runs=50)
    assert [(found.rows, found.runs) for found in measured] == [(1, 50), (32, 50)]
    for found in measured:
        assert 0 < found.us_p50 <= found.us_p95 <= found.us_p99


def test_fewer_rows_than_a_batch_are_repeated() -> None:
    assert measure_latency(graph(), ROWS[:2], batch_rows=(32,), runs=5)[0].rows == 32


def test_graphs_side_by_side_have_a_result_each() -> None:
    assert len(measure_side_by_side([graph(), graph("Tanh")], ROWS, runs=5)) == 2


def test_latency_without_rows_is_refused() -> None:
    with pytest.raises(ValueError, match="needs real rows to run, found none"):
        measure_latency(graph(), ROWS[:0])
