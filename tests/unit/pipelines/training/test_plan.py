import msgspec
import pytest

from pipelines.training.plan import (
    PARAMETERS,
    BoostedTrees,
    NeuralNet,
    TrainingPlan,
    TrialSpec,
    file_of,
    is_own,
    parse_parameters,
)
from pipelines.training.trainers import TRAINERS


def imported(change: dict[str, object]) -> dict[str, object]:
    parameters = {"path": "m.onnx", "sha256": "0" * 64, "columns": ["wind"]} | change
    return {"trainer": "imported", "parameters": parameters}


def test_every_trainer_that_can_be_configured_can_be_run() -> None:
    assert {*TRAINERS, "imported"} == PARAMETERS.keys()


def test_parameters_that_are_not_given_keep_their_defaults() -> None:
    spec = TrialSpec(trainer="boosted_trees", parameters={"leaves": 15})
    assert parse_parameters(spec) == BoostedTrees(leaves=15)


def test_lists_from_yaml_become_layers() -> None:
    plan = msgspec.yaml.decode(
        "{seed: 7, trials: [{trainer: neural_net, parameters: {hidden: [32, 16]}}]}", type=TrainingPlan
    )
    assert parse_parameters(plan.trials[0]) == NeuralNet(hidden=(32, 16))


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ({"trainer": "boosted_tree"}, "found 'boosted_tree', expected one of boosted_trees, neural_net, .*, or own"),
        ({"trainer": "boosted_trees", "parameters": {"leafs": 3}}, "no 'leafs'.*did you mean 'leaves'"),
        ({"trainer": "boosted_trees", "parameters": {"trees": "many"}}, "boosted_trees: Expected `int`.*trees"),
        ({"trainer": "boosted_trees", "parameters": {"leaves": 1}}, "leaves: found 1, expected from 2 to 1024"),
        ({"trainer": "neural_net", "parameters": {"hidden": []}}, r"hidden: found \(\), expected 1 to 8 layers"),
        ({"trainer": "neural_net", "parameters": {"dropout": 1.5}}, "dropout: found 1.5, expected from 0 to 0.9"),
        ({"trainer": "neural_net", "parameter": {}}, "unknown field `parameter`"),
        ({"trainer": "imported"}, "parameters of imported: Object missing required field"),
        (
            imported({"path": "../m.onnx"}),
            "path: found '../m.onnx', expected a file below",
        ),
        (imported({"path": "/m.onnx"}), "path: found '/m.onnx'"),
        (
            imported({"sha256": "abc"}),
            "sha256: found 'abc', expected 64 hex.*sha256sum m.onnx",
        ),
        (imported({"columns": []}), "columns: found none"),
        (imported({"column": -1}), "column: found -1"),
        (imported({"gives": "odds"}), "Invalid enum value 'odds'"),
        ({"trainer": "models/own.py"}, "found 'models/own.py'"),
    ],
)
def test_a_wrong_trial_is_refused_when_the_configuration_is_read(spec: dict[str, object], message: str) -> None:
    with pytest.raises(msgspec.ValidationError, match=message):
        msgspec.convert(spec, TrialSpec)


@pytest.mark.parametrize(("trainer", "file"), [("own", "trainer.py"), ("forest.py", "forest.py")])
def test_a_projects_own_trainer_has_any_parameters_until_its_file_is_loaded(trainer: str, file: str) -> None:
    spec = TrialSpec(trainer=trainer, parameters={"anything": 1})
    assert is_own(spec.trainer)
    assert file_of(spec.trainer) == file
    assert not is_own("boosted_trees")


@pytest.mark.parametrize(
    ("plan", "message"),
    [
        ({"trials": []}, "found none, expected at least one"),
        ({"trials": [{"trainer": "neural_net"}, {"trainer": "neural_net"}]}, "two are the same"),
        ({"seed": -1}, "seed: found -1"),
        ({"emergency": {"trainers": ["forest"]}}, "emergency.trainers: forest is not among boosted_trees, neural_net"),
        ({"emergency": {"trials": 3}}, "emergency.trials: found 3, expected at most the plan's 2"),
        ({"emergency": {"minutes": 5}}, "emergency.minutes: found 5, expected no minutes without a search"),
        ({"emergency": {"gates": []}}, "unknown field `gates`"),
        (
            {"emergency": {"minutes": 61}, "search": {"space": {"boosted_trees": {"leaves": {"choices": [8, 16]}}}}},
            "emergency.minutes: found 61, expected at most the search's 60",
        ),
    ],
)
def test_a_plan_without_distinct_trials_or_with_a_wrong_seed_is_refused(plan: dict[str, object], message: str) -> None:
    with pytest.raises(msgspec.ValidationError, match=message):
        msgspec.convert(plan, TrainingPlan)
