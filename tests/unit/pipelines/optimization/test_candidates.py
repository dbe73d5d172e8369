from collections.abc import Callable
from typing import Any

import msgspec
import numpy as np
import pytest
from onnx import helper

from contracts.bundle import ServingProfile
from pipelines.inference import score
from pipelines.optimization import candidates, peak_memory, recipes
from pipelines.optimization.candidates import Candidate, Optimised, Slice, Target, Validation, optimise
from pipelines.optimization.limits import NAMES, OptimizationLimits
from pipelines.optimization.operator_profile import slowest_operators

LIMITS = OptimizationLimits(minimum_slice_rows=200, log_loss_margin=0.01, slice_log_loss_margin=0.05)
SIZES = [1, 8, 32, 128]


def run(graph: bytes, training: Any, validation: Validation, **changed: Any) -> Optimised:
    settings: dict[str, Any] = {
        "slices": [],
        "limits": LIMITS,
        "target": Target(),
        "seed": 7,
        "progress": lambda text: None,
    }
    return optimise(graph, training.features, validation, **(settings | changed))


@pytest.fixture(scope="module")
def of_net(net: bytes, training: Any, validation: Validation) -> tuple[Optimised, list[str]]:
    told: list[str] = []
    slices = [Slice(f"carrier {word}", validation.features[:, 1] == code) for code, word in enumerate(("UA", "AA"))]
    return run(net, training, validation, slices=slices, progress=told.append), told


def named(optimised: Optimised) -> dict[str, Candidate]:
    return {candidate.name: candidate for candidate in optimised.candidates}


def test_every_candidate_of_a_net_has_all_its_numbers(of_net: tuple[Optimised, list[str]]) -> None:
    found = named(of_net[0])
    assert tuple(found) == NAMES
    assert [name for name in NAMES if found[name].size_bytes is None] == ["fp16", "trees_75", "trees_50"]
    for candidate in (each for each in found.values() if each.size_bytes is not None):
        assert [measured.rows for measured in candidate.latency] == SIZES
        assert [part.title for part in candidate.parts] == ["all rows", "carrier UA", "carrier AA"]
        assert all(part.bound is not None for part in candidate.parts)
        assert candidate.compressed_bytes is not None
        assert candidate.compressed_bytes < candidate.size_bytes  # type: ignore[operator]
        assert candidate.auc is not None
        assert candidate.auc > 0.7
        assert candidate.peak_memory_bytes is not None
        assert 1 << 20 < candidate.peak_memory_bytes < 200 << 20
        assert sum(operator.share for operator in candidate.operators) <= 1 + 1e-9
    assert found["fp32"].reason == "as trained"
    assert found["graph_optimised"].log_loss == pytest.approx(found["fp32"].log_loss, abs=1e-6)
    assert found["int8_dynamic"].reason.startswith("the score of a row changes by up to")
    assert found["pruned_weights_50"].compressed_bytes < 0.8 * found["fp32"].compressed_bytes  # type: ignore[operator]


def test_operators_are_those_that_the_runtime_makes(of_net: tuple[Optimised, list[str]]) -> None:
    found = named(of_net[0])
    assert "QGemm" in {operator.name for operator in found["int8_per_tensor"].operators}
    assert not {"QGemm"} & {operator.name for operator in found["fp32"].operators}
    assert {operator.nodes for operator in found["int8_per_tensor"].operators if operator.name == "QGemm"} == {3}


def test_the_choice_and_each_refusal_are_told(of_net: tuple[Optimised, list[str]]) -> None:
    optimised, told = of_net
    assert told[-1] == f"chosen: {optimised.chosen}, {optimised.reason}"
    assert any(line.startswith("fp16: refused: not applicable: the serving profile has no GPU") for line in told)
    assert optimised.timed_on == "CPUExecutionProvider"


def test_an_optimised_result_survives_json(of_net: tuple[Optimised, list[str]]) -> None:
    assert msgspec.json.decode(msgspec.json.encode(of_net[0]), type=Optimised) == of_net[0]


def test_trees_have_fewer_trees_to_offer_and_nothing_else(trees: bytes, training: Any, validation: Validation) -> None:
    found = named(run(trees, training, validation))
    assert {name for name, each in found.items() if each.size_bytes is not None} == {"fp32", "trees_75", "trees_50"}
    assert "a tree ensemble has no matrix product" in found["int8_static_minmax"].reason
    (first, *_) = found["fp32"].operators
    assert first.name == "TreeEnsembleRegressor"
    assert first.share > 0.3


def test_a_named_candidate_is_made_alone_and_taken(net: bytes, training: Any, validation: Validation) -> None:
    limits = msgspec.structs.replace(LIMITS, choose="int8_static_minmax")
    optimised = run(net, training, validation, limits=limits)
    assert optimised.chosen == "int8_static_minmax"
    assert list(named(optimised)) == ["fp32", "int8_static_minmax"]
    again = candidates.recreate("int8_static_minmax", net, training.features, Target(), 7)
    assert optimised.graph == again


def collapsing(write: Callable[..., bytes]) -> bytes:
    """What decides on the slice passes through units 127 times smaller than the rest: int8 leaves them two values."""
    nodes = [
        helper.make_node("Gemm", ["features", "hidden", "zeros"], ["flow"]),
        helper.make_node("Relu", ["flow"], ["active"]),
        helper.make_node("Gemm", ["active", "out", "zero"], ["log_odds"]),
        helper.make_node("Sigmoid", ["log_odds"], ["column"]),
    ]
    constants = {
        "hidden": np.array([[1, -1, 0, 0], [0, 0, 1 / 127, -1 / 127]], np.float32),
        "zeros": np.zeros(4, np.float32),
        "out": np.array([[3], [-3], [3 * 127], [-3 * 127]], np.float32),
        "zero": np.zeros(1, np.float32),
    }
    return write(nodes, constants)


def test_an_int8_model_that_collapsed_on_one_slice_is_refused(write: Callable[..., bytes]) -> None:
    random = np.random.default_rng(5)
    of_slice = np.arange(6000) % 20 == 0  # one in twenty
    values = random.normal(size=6000)
    features = np.stack([np.where(of_slice, 0, values), np.where(of_slice, values, 0)], axis=1).astype(np.float32)
    graph = collapsing(write)
    labels = (random.random(6000) < score(graph, features)).astype(float)
    limits = OptimizationLimits(
        choose="int8_static_minmax", minimum_slice_rows=200, log_loss_margin=0.05, slice_log_loss_margin=0.05
    )
    judged_on = Validation(features, labels, np.repeat(np.arange(20), 300))
    training = type("Rows", (), {"features": features})
    blind = run(graph, training, judged_on, limits=limits)
    assert blind.chosen == "int8_static_minmax"  # the mean over all rows hides it
    seeing = run(graph, training, judged_on, limits=limits, slices=[Slice("carrier HA", of_slice)])
    assert seeing.chosen == "fp32"
    assert "> margin 0.05 on carrier HA (n = 300)" in named(seeing)["int8_static_minmax"].reason


def test_a_transform_that_fails_costs_its_own_candidate_and_no_other(
    net: bytes, training: Any, validation: Validation, monkeypatch: pytest.MonkeyPatch
) -> None:
    def failing(_material: Any) -> bytes:
        raise RuntimeError("no such operator")

    only: dict[str, Any] = {name: recipes.RECIPES[name] for name in ("fp32", "graph_optimised")}
    monkeypatch.setattr(recipes, "RECIPES", only | {"int8_per_tensor": failing})
    monkeypatch.setattr(candidates, "NAMES", ("fp32", "graph_optimised", "int8_per_tensor"))
    found = named(run(net, training, validation))
    assert found["int8_per_tensor"].reason == "it could not be made: RuntimeError: no such operator"
    assert found["graph_optimised"].accepted


def test_latencies_of_another_device_than_the_profile_asks_for_choose_nothing(
    trees: bytes, training: Any, validation: Validation
) -> None:
    absent = ServingProfile(providers=("VitisAIExecutionProvider", "cpu"))
    optimised = run(trees, training, validation, target=Target(absent))
    assert optimised.chosen == "fp32"
    assert "says nothing of the profile's VitisAIExecutionProvider" in optimised.reason


def test_a_budget_that_none_meets_leaves_the_graph_as_trained(
    trees: bytes, training: Any, validation: Validation
) -> None:
    optimised = run(trees, training, validation, target=Target(latency_us_p99_max=0.001))
    assert optimised.chosen == "fp32"
    assert optimised.reason == "no candidate was accepted: fp32 serves"
    assert "p99 of 1 rows" in named(optimised)["fp32"].reason


def test_a_graph_that_ends_its_process_has_no_memory_to_tell(net: bytes, validation: Validation) -> None:
    rows = validation.features[:32]
    with_memory = peak_memory.measure_peak_memory([net, b"no graph"], rows, ServingProfile())
    assert with_memory[0] is not None
    assert with_memory[1] is None


def test_slices_need_a_mark_for_each_row(net: bytes, training: Any, validation: Validation) -> None:
    with pytest.raises(ValueError, match="carrier UA: found 5 rows for 3000 labels"):
        run(net, training, validation, slices=[Slice("carrier UA", np.zeros(5, dtype=bool))])


def test_the_slowest_operators_come_first(net: bytes, validation: Validation) -> None:
    found = slowest_operators(net, validation.features[:128], ServingProfile(), most=3)
    assert len(found) == 3
    assert [operator.us for operator in found] == sorted((operator.us for operator in found), reverse=True)
