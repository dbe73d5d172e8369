from typing import NamedTuple

import msgspec
import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from pipelines.inference import Latency, score
from pipelines.optimization.candidates import Candidate, Optimised, choose, judge_losses, optimise
from pipelines.optimization.limits import Name, OptimizationLimits

WIDTH = 4
RANDOM = np.random.default_rng(0)
LIMITS = OptimizationLimits()


class Sample(NamedTuple):
    features: NDArray[np.float32]
    labels: NDArray[np.float64]


def model(nodes: list[onnx.NodeProto], constants: dict[str, NDArray[np.float32]]) -> bytes:
    graph = helper.make_graph(
        nodes,
        "test",
        [helper.make_tensor_value_info("features", TensorProto.FLOAT, ["rows", WIDTH])],
        [helper.make_tensor_value_info("score", TensorProto.FLOAT, ["rows"])],
        [numpy_helper.from_array(values, name) for name, values in constants.items()]
        + [numpy_helper.from_array(np.array([-1]), "flat")],
    )
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("ai.onnx.ml", 3)]
    made = helper.make_model(graph, producer_name="paceline", opset_imports=opsets, ir_version=9)
    onnx.checker.check_model(made)
    return bytes(made.SerializeToString(deterministic=True))


@pytest.fixture(scope="module")
def net() -> bytes:
    weights = {
        "w1": RANDOM.normal(size=(WIDTH, 16)).astype(np.float32),
        "b1": np.zeros(16, np.float32),
        "w2": RANDOM.normal(size=(16, 1)).astype(np.float32) / 4,
        "b2": np.full(1, -1, np.float32),
    }
    nodes = [
        helper.make_node("Identity", ["features"], ["same"]),  # something to remove
        helper.make_node("Gemm", ["same", "w1", "b1"], ["hidden"]),
        helper.make_node("Relu", ["hidden"], ["active"]),
        helper.make_node("Gemm", ["active", "w2", "b2"], ["log_odds"]),
        helper.make_node("Sigmoid", ["log_odds"], ["column"]),
        helper.make_node("Reshape", ["column", "flat"], ["score"]),
    ]
    return model(nodes, weights)


@pytest.fixture(scope="module")
def trees() -> bytes:
    stump = helper.make_node(
        "TreeEnsembleRegressor",
        ["features"],
        ["log_odds"],
        domain="ai.onnx.ml",
        n_targets=1,
        nodes_treeids=[0, 0, 0],
        nodes_nodeids=[0, 1, 2],
        nodes_featureids=[1, 0, 0],
        nodes_modes=["BRANCH_LEQ", "LEAF", "LEAF"],
        nodes_values=[0.0, 0.0, 0.0],
        nodes_truenodeids=[1, 0, 0],
        nodes_falsenodeids=[2, 0, 0],
        nodes_missing_value_tracks_true=[0, 0, 0],
        target_ids=[0, 0],
        target_treeids=[0, 0],
        target_nodeids=[1, 2],
        target_weights=[-1.0, 1.0],
    )
    sigmoid = helper.make_node("Sigmoid", ["log_odds"], ["column"])
    return model([stump, sigmoid, helper.make_node("Reshape", ["column", "flat"], ["score"])], {})


@pytest.fixture(scope="module")
def sample(net: bytes) -> Sample:
    features = RANDOM.normal(size=(3000, WIDTH)).astype(np.float32)
    return Sample(features, (RANDOM.random(3000) < score(net, features)).astype(float))


def run(
    graph: bytes, sample: Sample, limits: OptimizationLimits = LIMITS, progress: list[str] | None = None
) -> Optimised:
    told = [] if progress is None else progress
    return optimise(graph, sample.features[:1000], sample, None, limits, told.append)


def named(optimised: Optimised) -> dict[Name, Candidate]:
    return {candidate.name: candidate for candidate in optimised.candidates}


def test_a_neural_net_has_all_three_candidates_each_with_its_numbers(net: bytes, sample: Sample) -> None:
    found = named(run(net, sample))
    assert found.keys() == {"fp32", "graph_optimised", "int8"}
    for candidate in found.values():
        assert candidate.size_bytes is not None
        assert candidate.log_loss is not None
        assert [measured.rows for measured in candidate.latency] == [1, 32]
    assert found["fp32"].reason == "as trained"
    assert found["graph_optimised"].log_loss == found["fp32"].log_loss
    assert found["int8"].log_loss == pytest.approx(found["fp32"].log_loss, abs=0.002)
    assert "<= margin 0.002 on all rows (n = 3,000)" in found["int8"].reason


def test_int8_weights_are_in_the_file_when_int8_is_asked_for(net: bytes, sample: Sample) -> None:
    optimised = run(net, sample, OptimizationLimits(choose="int8"))
    graph = onnx.load_from_string(optimised.graph).graph
    assert optimised.chosen == "int8"
    assert TensorProto.INT8 in {constant.data_type for constant in graph.initializer}
    assert {node.domain for node in graph.node} == {""}  # no operators of one runtime


@pytest.mark.parametrize("choose", ["fp32", "graph_optimised", "int8"])
def test_naming_a_candidate_reproduces_its_bytes(choose: Name, net: bytes, sample: Sample) -> None:
    first, again = (run(net, sample, OptimizationLimits(choose=choose)) for _ in range(2))
    assert first.chosen == choose
    assert first.graph == again.graph


def test_an_optimised_graph_has_fewer_nodes_and_the_same_scores(net: bytes, sample: Sample) -> None:
    optimised = run(net, sample, OptimizationLimits(choose="graph_optimised")).graph
    operators = [node.op_type for node in onnx.load_from_string(optimised).graph.node]
    assert "Identity" not in operators
    assert onnx.load_from_string(optimised).producer_name == "paceline"
    np.testing.assert_allclose(score(optimised, sample.features), score(net, sample.features), atol=1e-6)


def test_trees_stay_as_trained_and_the_reasons_say_why(trees: bytes, sample: Sample) -> None:
    told: list[str] = []
    optimised = run(trees, sample, OptimizationLimits(choose="int8"), told)
    found = named(optimised)
    assert optimised.graph == trees
    assert optimised.chosen == "fp32"
    assert found["int8"].reason == "not applicable: a tree ensemble has no matrix product whose weights could be int8"
    assert found["graph_optimised"].reason.startswith("not applicable: there is nothing to fold")
    assert found["int8"].size_bytes is None
    assert any(line.startswith("fp32: accepted, chosen: as trained (") for line in told)


def test_an_optimised_result_survives_json(net: bytes, sample: Sample) -> None:
    found = run(net, sample)
    assert msgspec.json.decode(msgspec.json.encode(found), type=Optimised) == found


def test_a_loss_on_all_rows_beyond_the_margin_is_refused_with_its_bound() -> None:
    accepted, reason = judge_losses(np.full(1000, 0.003), None, LIMITS)
    assert not accepted
    assert reason == "log loss at most +0.00300 > margin 0.002 on all rows (n = 1,000), the worst of 1 parts"


def test_a_loss_that_is_small_on_average_but_uncertain_is_refused() -> None:
    differences = np.tile([0.5, -0.5], 500)  # mean 0, standard error 0.016
    assert not judge_losses(differences, None, LIMITS)[0]
    assert judge_losses(differences / 100, None, LIMITS)[0]


def test_a_slice_that_pays_for_the_others_is_found() -> None:
    limits = OptimizationLimits(slice_field="carrier", minimum_slice_rows=100, log_loss_margin=0.01)
    differences, slices = np.full(2000, -0.001), np.repeat([0.0, 1.0, np.nan], [1700, 200, 100])
    differences[1700:1900] = 0.05
    accepted, reason = judge_losses(differences, slices, limits)
    assert judge_losses(differences, None, limits)[0]
    assert not accepted
    assert "> margin 0.01 on carrier 1 (n = 200)" in reason


def test_a_slice_with_too_few_rows_is_not_judged() -> None:
    limits = OptimizationLimits(slice_field="carrier", minimum_slice_rows=201, log_loss_margin=0.01)
    differences, slices = np.full(2000, -0.001), np.repeat([0.0, 1.0], [1800, 200])
    differences[1800:] = 0.05
    assert judge_losses(differences, slices, limits)[0]


def candidate(name: Name, us: float, accepted: bool = True) -> Candidate:
    latency = tuple(
        Latency(rows=rows, runs=9, us_p50=us * rows, us_p95=us * rows, us_p99=us * rows) for rows in (1, 32)
    )
    return Candidate(name=name, accepted=accepted, reason="", latency=latency)


@pytest.mark.parametrize(
    ("optimised_us", "int8_us", "int8_accepted", "expected"),
    [
        (80.0, 50.0, True, "int8"),
        (80.0, 50.0, False, "graph_optimised"),
        (95.0, 120.0, True, "fp32"),  # 5 % is noise
        (89.0, 120.0, True, "graph_optimised"),
    ],
)
def test_the_fastest_accepted_candidate_is_chosen_when_it_saves_enough(
    optimised_us: float, int8_us: float, int8_accepted: bool, expected: str
) -> None:
    candidates = [
        candidate("fp32", 100.0),
        candidate("graph_optimised", optimised_us),
        candidate("int8", int8_us, int8_accepted),
    ]
    assert choose(candidates, LIMITS) == expected


def test_a_named_candidate_that_was_refused_is_not_taken() -> None:
    candidates = [candidate("fp32", 100.0), candidate("int8", 10.0, accepted=False)]
    assert choose(candidates, OptimizationLimits(choose="int8")) == "fp32"


def test_slices_need_a_code_for_each_row(net: bytes, sample: Sample) -> None:
    with pytest.raises(ValueError, match="found 5 slices for 3000 validation rows"):
        optimise(net, sample.features, sample, np.zeros(5), LIMITS, print)


@pytest.mark.parametrize(
    "limits",
    [
        {"log_loss_margin": 0},
        {"slice_log_loss_margin": 2},
        {"minimum_slice_rows": 1},
        {"minimum_saving": 1},
        {"choose": "int4"},
    ],
)
def test_limits_out_of_bounds_are_refused_by_name(limits: dict[str, object]) -> None:
    with pytest.raises(msgspec.ValidationError, match=next(iter(limits))):
        msgspec.convert(limits, OptimizationLimits)
