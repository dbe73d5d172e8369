import hashlib
import subprocess
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import onnx
import pytest
from sklearn.metrics import roc_auc_score

from contracts.input_schema import Field, InputSchema
from pipelines.inference import score
from pipelines.training import parity, trainer
from pipelines.training.plan import TrialSpec
from pipelines.training.trainer import ParityError, Pruned, Trained, TrainerError, train

SMALL: dict[str, dict[str, Any]] = {
    "boosted_trees": {"trees": 60, "minimum_leaf_rows": 30, "learning_rate": 0.1},
    "neural_net": {"hidden": (32, 16), "epochs": 6, "batch_rows": 128, "learning_rate": 0.01},
    "logistic_regression": {"c": 2.0},
}
ALL = pytest.mark.parametrize("name", sorted(SMALL))
STOPPED = pytest.mark.parametrize("name", ["boosted_trees", "neural_net"])  # by the loss of other rows


def quiet(_message: str) -> None:
    return None


@pytest.fixture(scope="module")
def trained(schema: InputSchema, events: Callable[..., Any]) -> Callable[..., Trained]:
    known: dict[tuple[str, int], Trained] = {}

    def make(name: str, seed: int = 3) -> Trained:
        if (name, seed) not in known:
            known[name, seed] = run(schema, events, name, seed)
        return known[name, seed]

    return make


def run(schema: InputSchema, events: Callable[..., Any], name: str, seed: int, **parameters: Any) -> Trained:
    spec = TrialSpec(trainer=name, parameters=SMALL[name] | parameters)
    return train(spec, seed, schema, events(4000, 1), events(1200, 2), quiet)


@ALL
def test_a_trained_graph_ranks_rows_that_it_has_not_seen(
    name: str, trained: Callable[..., Trained], events: Callable[..., Any]
) -> None:
    test = events(3000, 9)
    scores = score(trained(name).graph, test.features)
    assert scores.dtype == np.float32
    assert scores.shape == (3000,)
    assert roc_auc_score(test.labels, scores) > 0.74  # the best possible is about 0.78
    assert abs(scores.mean() - test.labels.mean()) < 0.05
    assert trained(name).metrics["auc"] == pytest.approx(roc_auc_score(test.labels, scores), abs=0.05)


@ALL
def test_training_twice_gives_the_same_bytes(
    name: str, trained: Callable[..., Trained], schema: InputSchema, events: Callable[..., Any]
) -> None:
    again = run(schema, events, name, 3)
    assert again.graph == trained(name).graph
    assert again.metrics == trained(name).metrics
    assert again.curve == trained(name).curve


@ALL
def test_a_fresh_process_trains_the_same_bytes(
    name: str, trained: Callable[..., Trained], schema: InputSchema, events: Callable[..., Any], tmp_path: Path
) -> None:
    np.savez(tmp_path / "rows.npz", *events(4000, 1), *events(1200, 2))
    (tmp_path / "schema.json").write_bytes(msgspec.json.encode(schema))
    script = (
        "import hashlib, sys, msgspec, numpy as np\n"
        "from contracts.input_schema import InputSchema\n"
        "from pipelines.training.trainer import TrialSpec, train\n"
        "folder, trial = sys.argv[1:]\n"
        "rows = list(np.load(folder + '/rows.npz').values())\n"
        "schema = msgspec.json.decode(open(folder + '/schema.json', 'rb').read(), type=InputSchema)\n"
        "spec = msgspec.json.decode(trial, type=TrialSpec)\n"
        "print(hashlib.sha256(train(spec, 3, schema, tuple(rows[:2]), tuple(rows[2:]), len).graph).hexdigest())\n"
    )
    trial = msgspec.json.encode(TrialSpec(trainer=name, parameters=SMALL[name])).decode()
    told = subprocess.run(
        [sys.executable, "-c", script, str(tmp_path), trial], capture_output=True, text=True, timeout=120, check=True
    )
    assert told.stdout.strip() == hashlib.sha256(trained(name).graph).hexdigest()


@STOPPED
def test_another_seed_gives_another_model(name: str, trained: Callable[..., Trained]) -> None:
    assert trained(name, 4).graph != trained(name).graph


def test_training_does_not_depend_on_nor_change_the_global_random_state(
    trained: Callable[..., Trained], schema: InputSchema, events: Callable[..., Any]
) -> None:
    import torch

    torch.manual_seed(12345)
    before, threads = torch.random.get_rng_state(), torch.get_num_threads()
    assert run(schema, events, "neural_net", 3).graph == trained("neural_net").graph
    assert torch.equal(torch.random.get_rng_state(), before)
    assert torch.get_num_threads() == threads


@ALL
def test_a_row_has_the_same_score_alone_and_in_a_table(
    name: str, trained: Callable[..., Trained], events: Callable[..., Any]
) -> None:
    features = events(200, 11).features
    together, alone = score(trained(name).graph, features), score(trained(name).graph, features, batch_rows=1)
    assert np.abs(together - alone).max() < 1e-6


@ALL
def test_rows_with_everything_missing_are_scored(name: str, trained: Callable[..., Trained]) -> None:
    scores = score(trained(name).graph, np.full((2, 4), np.nan, dtype=np.float32))
    assert 0 < scores[0] == scores[1] < 1


@STOPPED
def test_parity_curve_and_parameters_are_reported(name: str, trained: Callable[..., Trained]) -> None:
    found = trained(name)
    assert found.parity.rows == 4000 + 1200
    assert 0 <= found.parity.worst_real_difference <= found.parity.worst_difference < parity.TOLERANCE
    assert found.curve[0].keys() == {"step", "train_log_loss", "validation_log_loss"}
    assert 1 <= found.steps <= max(point["step"] for point in found.curve)
    assert found.parameters["patience"] > 0  # a default
    assert found.parameters["learning_rate"] == SMALL[name]["learning_rate"]
    assert found.metrics.keys() >= {"log_loss", "auc", "brier", "calibration_error"}
    assert found.seconds > 0


@ALL
def test_the_graph_is_standard_onnx_without_traces_of_the_machine(name: str, trained: Callable[..., Trained]) -> None:
    model = onnx.load_from_string(trained(name).graph)
    onnx.checker.check_model(model, full_check=True)
    assert {node.domain for node in model.graph.node} <= {"", "ai.onnx.ml"}
    assert (model.producer_name, model.doc_string, list(model.metadata_props)) == ("paceline", "", [])
    assert [i.name for i in model.graph.input] == ["features"]
    assert [o.name for o in model.graph.output] == ["score"]


@ALL
def test_a_graph_that_is_not_the_model_is_refused(
    name: str, schema: InputSchema, events: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    finish = trainer.GraphWriter.finish

    def slightly_off(graph: Any, log_odds: str, calibration: Any) -> bytes:
        return finish(graph, log_odds, calibration._replace(intercept=calibration.intercept + 0.002))

    monkeypatch.setattr(trainer.GraphWriter, "finish", slightly_off)
    with pytest.raises(ParityError, match=r"differs from the model by .* it must not be served"):
        run(schema, events, name, 3)


@ALL
def test_a_schema_of_numbers_alone_or_of_words_alone_can_be_trained(name: str, events: Callable[..., Any]) -> None:
    identifier, at = Field(name="id", kind="identifier"), Field(name="at", kind="timestamp")
    number = Field(name="wind", kind="number", required=False)
    word = Field(name="carrier", kind="category", vocabulary=("UA", "AA", "DL"))
    for field, column in ((number, 2), (word, 1)):
        schema = InputSchema(version=1, entity="id", time="at", key=("id",), fields=(identifier, at, field))
        parts = [(made.features[:, [column]], made.labels) for made in (events(1000, 1), events(400, 2))]
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            found = train(TrialSpec(trainer=name, parameters=SMALL[name]), 0, schema, parts[0], parts[1], quiet)
        assert found.metrics["auc"] > 0.55


@ALL
def test_columns_that_are_constant_or_empty_train_and_weigh_nothing(
    name: str, schema: InputSchema, events: Callable[..., Any]
) -> None:
    def flattened(rows: int, seed: int) -> Any:
        features, labels = events(rows, seed)
        features[:, 0], features[:, 3] = 720, 1  # constant: a number, and a code
        features[:, 2] = np.nan  # empty
        return features, labels

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        parts = flattened(1500, 1), flattened(600, 2)
        found = train(TrialSpec(trainer=name, parameters=SMALL[name]), 0, schema, *parts, quiet)
    rows = flattened(200, 5)[0]
    scores = score(found.graph, rows)
    assert len(np.unique(scores.round(6))) > 1  # the carrier is left
    by_carrier = {code: np.ptp(scores[rows[:, 1] == code]) for code in (0, 1, 2)}
    assert max(by_carrier.values()) < 1e-6


def test_labels_that_the_inputs_say_nothing_about_give_scores_near_the_base_rate(
    schema: InputSchema, events: Callable[..., Any]
) -> None:
    random = np.random.default_rng(5)
    parts = [(events(rows, rows).features, (random.random(rows) < 0.3).astype(float)) for rows in (3000, 1000)]
    spec = TrialSpec(trainer="boosted_trees", parameters=SMALL["boosted_trees"])
    scores = score(train(spec, 0, schema, parts[0], parts[1], quiet).graph, events(500, 8).features)
    assert np.abs(scores - 0.3).max() < 0.15


def test_progress_is_told_in_words(schema: InputSchema, events: Callable[..., Any]) -> None:
    told: list[str] = []
    spec = TrialSpec(trainer="neural_net", parameters=SMALL["neural_net"] | {"epochs": 1})
    train(spec, 0, schema, events(500, 1), events(300, 2), told.append)
    assert told[0].startswith("neural net: epoch 1 of 1, log loss 0.")
    assert told[1] == "neural net: epoch 1 of 1 on 800 rows"
    assert told[-1].startswith("neural_net: log loss ")


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda f, y: (f[:, :3], y), r"train: features have the shape \(500, 3\).*expected \(rows, 4\)"),
        (lambda f, y: (f, y[1:]), r"train: .*labels \(499,\)"),
        (lambda f, y: (f[:20], y[:20]), "train: found 20 rows, expected at least 50"),
        (lambda f, y: (f, y * 0), r"train: found the labels \[0.0\], expected both 0 and 1"),
        (lambda f, y: (f, y + 1), r"train: found the labels \[1.0, 2.0\]"),
        (lambda f, y: (np.where(f == np.nanmax(f), np.inf, f), y), "train: .* features are infinite"),
    ],
)
def test_unfit_rows_are_refused_before_training(
    spoil: Callable[..., Any], message: str, schema: InputSchema, events: Callable[..., Any]
) -> None:
    with pytest.raises(ValueError, match=message):
        train(TrialSpec(trainer="boosted_trees"), 0, schema, spoil(*events(500, 1)), events(300, 2), quiet)


def test_a_validation_half_with_one_class_only_is_named(schema: InputSchema, events: Callable[..., Any]) -> None:
    features, labels = events(300, 2)
    labels[150:] = 1
    with pytest.raises(ValueError, match="validation, newer half: found the labels"):
        train(TrialSpec(trainer="boosted_trees"), 0, schema, events(500, 1), (features, labels), quiet)


def test_a_diverging_net_says_what_to_change(schema: InputSchema, events: Callable[..., Any]) -> None:
    steep = SMALL["neural_net"] | {"learning_rate": 1.0, "weight_decay": 10.0}  # each step multiplies weights by -9
    with pytest.raises(
        TrainerError,
        match=r"trainer neural_net failed: ValueError: .*the loss is (nan|inf) after epoch \d: lower the learning_rate",
    ):
        train(TrialSpec(trainer="neural_net", parameters=steep), 0, schema, events(500, 1), events(300, 2), quiet)


@STOPPED
def test_a_trial_that_tells_its_steps_is_the_same_to_the_byte(
    name: str, trained: Callable[..., Trained], schema: InputSchema, events: Callable[..., Any]
) -> None:
    steps: list[tuple[int, float]] = []
    spec = TrialSpec(trainer=name, parameters=SMALL[name])
    told = train(
        spec, 3, schema, events(4000, 1), events(1200, 2), quiet, on_step=lambda step, loss: steps.append((step, loss))
    )
    assert told.graph == trained(name).graph
    assert told.curve == trained(name).curve
    assert len(steps) > 1
    curve = {point["step"]: point["validation_log_loss"] for point in told.curve}
    assert all(loss == pytest.approx(curve[step]) for step, loss in steps)


@STOPPED
def test_a_trial_can_be_given_up_at_a_step(name: str, schema: InputSchema, events: Callable[..., Any]) -> None:
    def give_up(step: int, _loss: float) -> None:
        raise Pruned(f"after step {step}")

    with pytest.raises(Pruned, match=r"after step (1|25)$"):
        train(
            TrialSpec(trainer=name, parameters=SMALL[name]),
            3,
            schema,
            events(500, 1),
            events(300, 2),
            quiet,
            on_step=give_up,
        )


def test_the_standard_error_of_the_log_loss_draws_days(schema: InputSchema, events: Callable[..., Any]) -> None:
    spec = TrialSpec(trainer="boosted_trees", parameters=SMALL["boosted_trees"] | {"trees": 5})
    days = 15_000 + np.arange(400) // 20
    parts = schema, events(1000, 1), events(400, 2), quiet
    found = train(spec, 0, *parts, days=days)
    assert [day.day for day in found.daily] == list(range(15_010, 15_020))
    assert sum(day.rows for day in found.daily) == 200
    assert sum(day.log_loss for day in found.daily) / 200 == pytest.approx(found.metrics["log_loss"])
    assert 0 < found.metrics["log_loss_se"] < 0.2
    assert "log_loss_se" not in train(spec, 0, *parts, days=np.zeros(400, dtype=np.int64)).metrics
    assert "log_loss_se" not in train(spec, 0, *parts).metrics
    with pytest.raises(ValueError, match="validation: found 3 days for 400 labels"):
        train(spec, 0, *parts, days=days[:3])
