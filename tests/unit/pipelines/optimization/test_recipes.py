import hashlib
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from pipelines.inference import score
from pipelines.optimization.candidates import Target, recreate
from pipelines.optimization.folding import optimise_graph
from pipelines.optimization.limits import NAMES
from pipelines.optimization.pruning import prune_units, prune_weights
from pipelines.optimization.quantisation import halve, quantise_dynamically, quantise_statically
from pipelines.optimization.recipes import RECIPES, Material, make
from pipelines.optimization.stable_bytes import NotApplicableError, operators
from pipelines.optimization.tree_counts import keep_trees

OF_NETS = [name for name in NAMES if name not in ("fp16", "trees_75", "trees_50")]
OF_TREES = ("fp32", "trees_75", "trees_50")


def material(graph: bytes, training: Any, has_gpu: bool = False) -> Material:
    return Material(graph, training.features, 7, has_gpu)


def initializers(graph: bytes) -> list[Any]:
    return [numpy_helper.to_array(constant) for constant in onnx.load_from_string(graph).graph.initializer]


def hidden_units(graph: bytes) -> list[int]:
    model = onnx.load_from_string(graph).graph
    shapes = {constant.name: tuple(constant.dims) for constant in model.initializer}
    return [shapes[node.input[1]][0] for node in model.node if node.op_type == "Gemm"]


def test_each_name_has_a_recipe() -> None:
    assert tuple(RECIPES) == NAMES


@pytest.mark.parametrize("name", OF_NETS)
def test_a_net_in_any_form_gives_the_same_bytes_each_time_and_scores_like_the_net(
    name: Any, net: bytes, training: Any, validation: Any
) -> None:
    first, again = (recreate(name, net, training.features, Target(), 7) for _ in range(2))
    assert first == again
    assert np.abs(score(first, validation.features) - score(net, validation.features)).mean() < 0.03
    onnx.checker.check_model(onnx.load_from_string(first), full_check=True)


@pytest.mark.parametrize("name", OF_TREES)
def test_trees_in_any_form_give_the_same_bytes_each_time(name: Any, trees: bytes, training: Any) -> None:
    first, again = (recreate(name, trees, training.features, Target(), 7) for _ in range(2))
    assert first == again


def test_bytes_do_not_depend_on_the_process(net: bytes, training: Any, tmp_path: Path) -> None:
    names = ["int8_static_entropy", "int8_dynamic", "pruned_units_50_int8"]
    (tmp_path / "net.onnx").write_bytes(net)
    np.save(tmp_path / "rows.npy", training.features)
    program = (
        "import hashlib, sys, pathlib, numpy\n"
        "from pipelines.optimization.recipes import Material, make\n"
        f"folder = pathlib.Path({str(tmp_path)!r})\n"
        "material = Material((folder / 'net.onnx').read_bytes(), numpy.load(folder / 'rows.npy'), 7, False)\n"
        f"for name in {names!r}: print(hashlib.sha256(make(name, material)).hexdigest())\n"
    )
    ran = subprocess.run(
        [sys.executable, "-c", program],
        env={**os.environ, "PYTHONHASHSEED": "99", "OMP_NUM_THREADS": "2"},
        capture_output=True,
        text=True,
        check=True,
    )
    ours = [hashlib.sha256(make(name, material(net, training))).hexdigest() for name in names]  # type: ignore[arg-type]
    assert ran.stdout.split() == ours


def test_a_name_that_is_no_candidate_is_refused_with_those_that_are(net: bytes, training: Any) -> None:
    with pytest.raises(ValueError, match="found 'int4', expected one of fp32, graph_optimised"):
        recreate("int4", net, training.features, Target(), 7)


def test_folding_takes_the_calibration_into_the_last_layer(net: bytes, validation: Any) -> None:
    folded = optimise_graph(net)
    assert {"Mul", "Sigmoid"} <= set(operators(net))
    assert "Mul" not in operators(folded)
    assert len(operators(folded)) == len(operators(net)) - 2
    np.testing.assert_allclose(score(folded, validation.features), score(net, validation.features), atol=1e-6)
    with pytest.raises(NotApplicableError, match="nothing to fold"):
        optimise_graph(folded)


def test_a_product_that_someone_else_reads_is_not_folded(write: Callable[..., bytes]) -> None:
    nodes = [
        helper.make_node("Gemm", ["features", "w", "b"], ["flow"]),
        helper.make_node("Mul", ["flow", "two"], ["doubled"]),
        helper.make_node("Add", ["flow", "doubled"], ["sum"]),
        helper.make_node("Sigmoid", ["sum"], ["column"]),
    ]
    constants = {"w": np.ones((2, 1), np.float32), "b": np.ones(1, np.float32), "two": np.float32([2])}
    with pytest.raises(NotApplicableError, match="nothing to fold"):
        optimise_graph(write(nodes, constants))


def test_int8_has_its_weights_and_its_table_of_embeddings_in_int8_and_standard_operators(
    net: bytes, training: Any
) -> None:
    small = make("int8_per_tensor", material(net, training))
    graph = onnx.load_from_string(small).graph
    assert max(constant.size for constant in initializers(small) if constant.dtype == np.float32) < 20
    assert {node.domain for node in graph.node} == {""}
    assert TensorProto.INT8 in {constant.data_type for constant in graph.initializer}
    assert len(small) < 0.35 * len(net)


def test_weights_per_channel_have_a_scale_each(net: bytes, training: Any) -> None:
    each = quantise_statically(net, training.features)
    one = quantise_statically(net, training.features, per_channel=False)
    assert 96 in {constant.size for constant in initializers(each) if constant.ndim == 1}
    assert 96 not in {constant.size for constant in initializers(one) if constant.dtype == np.float32}


def test_the_three_ways_to_a_range_differ_and_bear_missing_features(net: bytes, training: Any) -> None:
    assert np.isnan(training.features).any()
    forms = {quantise_statically(net, training.features, method) for method in ("MinMax", "Entropy", "Percentile")}
    assert len(forms) == 3


def test_a_net_that_takes_its_features_as_they_are_is_quantised_as_well(write: Callable[..., bytes]) -> None:
    nodes = [
        helper.make_node("Gather", ["features", "first"], ["copy"], axis=1),
        helper.make_node("Concat", ["features", "copy"], ["both"], axis=1),
        helper.make_node("Gemm", ["both", "w", "b"], ["flow"]),
        helper.make_node("Sigmoid", ["flow"], ["column"]),
    ]
    constants = {"first": np.array([0]), "w": np.float32([[1], [-1], [1]]), "b": np.zeros(1, np.float32)}
    graph, rows = write(nodes, constants), np.random.default_rng(0).normal(size=(500, 2)).astype(np.float32)
    np.testing.assert_allclose(score(quantise_statically(graph, rows), rows), score(graph, rows), atol=0.05)


def test_dynamic_int8_gives_a_row_another_score_beside_other_rows(net: bytes, validation: Any) -> None:
    dynamic, rows = quantise_dynamically(net), validation.features[:200]
    assert np.abs(score(dynamic, rows) - score(dynamic, rows, batch_rows=1)).max() > 1e-4


def test_fp16_is_for_gpus_and_halves_the_weights(net: bytes, trees: bytes, validation: Any) -> None:
    with pytest.raises(NotApplicableError, match="the serving profile has no GPU"):
        halve(net, has_gpu=False)
    half = halve(net, has_gpu=True)
    assert len(half) < 0.6 * len(net)
    np.testing.assert_allclose(score(half, validation.features), score(net, validation.features), atol=0.01)
    with pytest.raises(NotApplicableError, match="a tree ensemble has no matrix product"):
        halve(trees, has_gpu=True)


def test_pruned_units_are_gone_and_the_rest_is_tuned_to_the_net(net: bytes, training: Any, validation: Any) -> None:
    assert hidden_units(net) == [96, 48, 1]
    pruned = prune_units(net, training.features, 7, 0.5)
    assert hidden_units(pruned) == [48, 24, 1]
    assert len(pruned) < 0.5 * len(net)
    truth = score(net, validation.features)
    untuned = prune_units(net, training.features[:1], 7, 0.5)
    worse, better = (np.abs(score(each, validation.features) - truth).mean() for each in (untuned, pruned))
    assert better < worse / 2


def test_pruned_weights_are_zeros_that_only_compress(net: bytes, training: Any) -> None:
    pruned = prune_weights(net, training.features, 7, 0.5)
    assert hidden_units(pruned) == [96, 48, 1]
    shares = [float((values == 0).mean()) for values in initializers(pruned) if values.ndim == 2 and values.size > 500]
    assert shares == pytest.approx([0.5] * len(shares), abs=0.01)
    assert len(shares) == 2


def test_pruning_does_not_touch_the_randomness_of_others(net: bytes, training: Any) -> None:
    import torch

    torch.manual_seed(1)
    before = torch.get_rng_state()
    first = prune_units(net, training.features, 7, 0.5)
    assert torch.equal(torch.get_rng_state(), before)
    assert prune_units(net, training.features, 8, 0.5) != first


def test_nothing_can_be_pruned_or_quantised_without_rows(net: bytes, trees: bytes, training: Any) -> None:
    none = training.features[:0]
    for transform in (
        lambda: prune_units(net, none, 7, 0.5),
        lambda: quantise_statically(net, none),
        lambda: keep_trees(trees, none, 0.5),
    ):
        with pytest.raises(ValueError, match="training rows"):
            transform()


def test_a_net_without_hidden_layers_has_nothing_to_prune(write: Callable[..., bytes], training: Any) -> None:
    nodes = [
        helper.make_node("Gemm", ["features", "w", "b"], ["flow"]),
        helper.make_node("Sigmoid", ["flow"], ["column"]),
    ]
    graph = write(nodes, {"w": np.ones((4, 1), np.float32), "b": np.ones(1, np.float32)}, width=4)
    with pytest.raises(NotApplicableError, match="no hidden layers"):
        prune_units(graph, training.features, 7, 0.5)


def test_trees_have_no_int8_and_nets_no_trees(net: bytes, trees: bytes, training: Any) -> None:
    for name in ("int8_static_minmax", "int8_per_tensor", "int8_dynamic"):
        with pytest.raises(NotApplicableError, match="not applicable: a tree ensemble has no matrix product"):
            make(name, material(trees, training))  # type: ignore[arg-type]
    with pytest.raises(NotApplicableError, match="not applicable: the graph has no hidden layers"):
        make("pruned_units_50", material(trees, training))
    with pytest.raises(NotApplicableError, match="one TreeEnsembleRegressor, it has 0"):
        make("trees_50", material(net, training))


def tree_ids(graph: bytes) -> list[int]:
    (node,) = [node for node in onnx.load_from_string(graph).graph.node if node.op_type == "TreeEnsembleRegressor"]
    (ids,) = [attribute.ints for attribute in node.attribute if attribute.name == "nodes_treeids"]
    return sorted(set(ids))


def test_fewer_trees_are_the_early_ones_scaled_to_what_all_say(trees: bytes, training: Any, validation: Any) -> None:
    count = len(tree_ids(trees))
    half = keep_trees(trees, training.features, 0.5)
    assert count > 20
    assert tree_ids(half) == list(range(round(count / 2)))
    assert len(half) < 0.6 * len(trees)
    whole, early = score(trees, validation.features), score(half, validation.features)
    assert early.std() == pytest.approx(whole.std(), rel=0.05)  # unscaled, half of the trees say less
    assert np.corrcoef(early, whole)[0, 1] > 0.98
    with pytest.raises(NotApplicableError, match="are all of them"):
        keep_trees(trees, training.features, 0.999)
