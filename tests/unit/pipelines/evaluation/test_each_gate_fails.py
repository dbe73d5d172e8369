"""Each gate, shown to fail: a model with one fault is kept out by the gate that is for it, and a sound one is not."""

import numpy as np
import pytest
from onnx import TensorProto, helper
from onnx.numpy_helper import from_array

from pipelines.evaluation.comparison import compare
from pipelines.evaluation.fairness import FairnessLimits, GroupField, fairness_gates, measure_fairness
from pipelines.evaluation.gate import Gate
from pipelines.evaluation.gates import latency_gates, quality_gates
from pipelines.evaluation.groups import by_word
from pipelines.evaluation.latency import compare_latency
from pipelines.evaluation.limits import GateLimits
from pipelines.evaluation.outcome import decide, superiority_gates
from pipelines.evaluation.slices import SliceLimits, SliceRows, measure_slices, slice_gates
from tests.fixtures.scored_rows import Floats, logit, model, scored_rows, shuffled, sigmoid

ROWS = scored_rows()
SOUND = model(ROWS, seed=1)
CHAMPION = model(ROWS, seed=2)
THRESHOLD = 0.4
MARGINS: dict[str, float] = {"log_loss_margin": 0.04, "brier_margin": 0.015, "auc_margin": 0.05, "improvement": -0.03}
LIMITS = GateLimits(calibration_error_max=0.05, **MARGINS)  # as wide as averages are that hide a broken part
SLICES = SliceLimits(fields=("carrier",), minimum_rows=300)
FAIRNESS = FairnessLimits(groups=(GroupField(field="age"),), equalized_odds_difference_max=0.1)


def judged(
    challenger: Floats, champion: Floats | None = CHAMPION, limits: GateLimits = LIMITS
) -> tuple[dict[str, Gate], str]:
    """All gates on the scores by name, and the outcome."""
    compared = compare(challenger, champion, ROWS.labels, ROWS.days, THRESHOLD, seed=1, resamples=500).comparison
    gates = [*quality_gates(compared, limits)]
    grouped = ROWS.groupings()
    sliced = measure_slices(
        SliceRows(ROWS.labels, ROWS.days, challenger, champion), grouped[:1], grouped, grouped, SLICES
    )
    gates += slice_gates(sliced, SLICES)
    fair = measure_fairness(ROWS.labels, challenger, ROWS.days, grouped[2:], THRESHOLD, FAIRNESS, seed=1, resamples=500)
    gates += fairness_gates(fair, FAIRNESS)
    outcome = decide(compared, gates, limits)
    gates += superiority_gates(compared, limits)
    return {gate.name: gate for gate in gates}, outcome.name


def failed(gates: dict[str, Gate]) -> set[str]:
    return {name for name, gate in gates.items() if not gate.passed}


def test_a_sound_model_passes_every_gate_with_and_without_a_champion() -> None:
    gates, outcome = judged(SOUND)
    assert failed(gates) == set()
    assert outcome == "not worse"
    gates, outcome = judged(SOUND, champion=None)
    assert failed(gates) == set()
    assert outcome == "first"


def test_a_model_that_is_worse_overall_fails() -> None:
    gates, outcome = judged(model(ROWS, noise=1.5))
    assert {"log loss against the champion", "Brier score against the champion", "AUC against the champion"} <= failed(
        gates
    )
    assert outcome == "worse"


def test_a_model_that_is_worse_on_one_carrier_only_fails_by_its_slice_alone() -> None:
    gates, outcome = judged(shuffled(SOUND, ROWS.carriers == "UA"))
    assert failed(gates) == {"declared slices against the champion", "found slices against the champion"}
    assert "carrier = UA" in gates["declared slices against the champion"].reason
    assert "carrier = UA" in gates["found slices against the champion"].reason
    assert outcome == "worse"


def test_a_model_that_is_worse_where_two_features_meet_fails_by_a_slice_that_nobody_declared() -> None:
    gates, _ = judged(shuffled(SOUND, (ROWS.temperatures >= 70) & (ROWS.ages == "young")))
    assert failed(gates) == {"found slices against the champion"}
    reason = gates["found slices against the champion"].reason
    assert "temperature >= 70 and age = young" in reason
    assert "slices looked at" in reason


def test_a_first_model_that_is_worse_than_the_base_rate_on_one_carrier_fails() -> None:
    backwards = np.where(ROWS.carriers == "UA", sigmoid(-1.5 - logit(SOUND)), SOUND)
    gates, outcome = judged(backwards, champion=None)
    assert "declared slices against the base rate" in failed(gates)
    assert "found slices against the base rate" in failed(gates)
    assert outcome == "first"


def test_a_miscalibrated_model_fails_although_it_ranks_as_well() -> None:
    overconfident = sigmoid(logit(SOUND) + 1.0)
    gates, _ = judged(overconfident, champion=None)
    assert "calibration" in failed(gates)
    assert "AUC" not in failed(gates)
    against, outcome = judged(overconfident)
    assert "calibration error against the champion" in failed(against)
    assert "AUC against the champion" not in failed(against)
    assert outcome == "worse"


def test_a_model_that_is_miscalibrated_on_one_carrier_fails_there() -> None:
    gates, _ = judged(np.where(ROWS.carriers == "EV", sigmoid(logit(SOUND) + 2.0), SOUND), champion=None)
    assert "calibration on declared slices" in failed(gates)
    assert "carrier = EV" in gates["calibration on declared slices"].reason


def test_a_model_that_is_unfair_to_one_group_fails_by_fairness_alone() -> None:
    unfair = np.where(ROWS.ages == "young", sigmoid(logit(SOUND) + 0.35), sigmoid(logit(SOUND) - 0.15))
    gates, _ = judged(unfair)
    assert failed(gates) == {"equalised odds difference: age"}
    reason = gates["equalised odds difference: age"].reason
    assert "lower bound > limit 0.1" in reason
    assert "age = young n =" in reason


def test_better_on_average_is_not_enough_where_superiority_is_asked() -> None:
    little_better = model(ROWS, noise=0.28, seed=3)
    asked = GateLimits(promote_when="better")
    gates, outcome = judged(little_better, limits=asked)
    compared = compare(little_better, CHAMPION, ROWS.labels, ROWS.days, THRESHOLD, seed=1, resamples=500).comparison
    assert compared.differences["log_loss"].estimate < 0 < compared.differences["log_loss"].high
    assert failed(gates) == {"log loss better than the champion's"}
    assert "not shown to be better" in gates["log loss better than the champion's"].reason
    assert outcome == "not worse"
    assert failed(judged(little_better, limits=GateLimits())[0]) == set()  # fresher data are reason enough

    clearly, outcome = judged(ROWS.truth, limits=asked)
    assert failed(clearly) == set()
    assert outcome == "better"


def test_a_model_that_costs_more_at_the_threshold_fails_where_a_margin_is_set() -> None:
    asked = GateLimits(cost_margin=0.01, false_positive_rate_max=0.3)
    eager = sigmoid(logit(SOUND) + 0.8)
    gates, _ = judged(eager, limits=asked)
    assert {"cost per row against the champion", "false-positive rate"} <= failed(gates)
    assert failed(judged(SOUND, limits=asked)[0]) == set()


@pytest.fixture(scope="module")
def sometimes_slow() -> bytes:
    """A graph that multiplies large matrices, over and over, for rows whose feature is above 0.5."""
    size, times = 256, 4

    def branch(name: str, slow: bool) -> object:
        nodes = [helper.make_node("Identity", ["features"], [f"{name}0"])]
        if slow:
            nodes = [helper.make_node("Expand", ["largest", "square"], [f"{name}0"])]
            nodes += [helper.make_node("MatMul", [f"{name}{i}", "halves"], [f"{name}{i + 1}"]) for i in range(times)]
        last = f"{name}{times}" if slow else f"{name}0"
        nodes.append(helper.make_node("ReduceMax", [last], [f"{name}out"], keepdims=0))
        return helper.make_graph(nodes, name, [], [helper.make_tensor_value_info(f"{name}out", TensorProto.FLOAT, [])])

    nodes = [
        helper.make_node("ReduceMax", ["features"], ["largest"], keepdims=0),
        helper.make_node("Greater", ["largest", "half"], ["slow"]),
        helper.make_node(
            "If", ["slow"], ["found"], then_branch=branch("then", True), else_branch=branch("else", False)
        ),
        helper.make_node("Mul", ["features", "nothing"], ["zeros"]),
        helper.make_node("Clip", ["found", "nothing", "half"], ["clipped"]),
        helper.make_node("Add", ["zeros", "clipped"], ["scores"]),
        helper.make_node("Reshape", ["scores", "flat"], ["score"]),
    ]
    constants = {
        "half": np.float32(0.5),
        "nothing": np.float32(0),
        "square": np.array([size, size], np.int64),
        "halves": np.full((size, size), 1 / size, np.float32),
        "flat": np.array([-1], np.int64),
    }
    graph = helper.make_graph(
        nodes,
        "sometimes_slow",
        [helper.make_tensor_value_info("features", TensorProto.FLOAT, ["rows", 1])],
        [helper.make_tensor_value_info("score", TensorProto.FLOAT, ["rows"])],
        [from_array(np.asarray(value), name) for name, value in constants.items()],
    )
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    return bytes(made.SerializeToString())


def test_a_model_that_is_slow_at_p99_with_a_good_mean_fails(sometimes_slow: bytes) -> None:
    rows = np.zeros((64, 1), np.float32)
    rows[[20, 40]] = 1.0  # one row in 32
    measured = compare_latency((sometimes_slow, rows), None, seed=1, runs=200)
    single = measured.challenger[0]
    limit = single.us_p99 / 2
    assert single.us_p50 < limit / 4  # the usual row is far below
    (gate,) = latency_gates(measured, GateLimits(latency_us_p99_max=limit))
    assert not gate.passed
    assert "p99 of one row" in gate.reason
    assert latency_gates(measured, GateLimits(latency_us_p99_max=single.us_p99 * 2))[0].passed


def test_a_group_of_one_row_is_listed_and_judges_nothing() -> None:
    names = ["one"] + ["many"] * 500 + ["others"] * (len(ROWS.labels) - 501)
    (found,) = measure_fairness(
        ROWS.labels, SOUND, ROWS.days, [by_word("group", names)], THRESHOLD, FAIRNESS, seed=1, resamples=200
    )
    one = next(group for group in found.groups if group.name == "group = one")
    assert (one.rows, one.status, one.selection_rate) == (1, "too few rows", None)
    assert found.equalized_odds_difference is not None
