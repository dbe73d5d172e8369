"""A project's own trainer: the examples of docs/trainers.md, and what is said of wrong ones."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from contracts.input_schema import InputSchema
from pipelines.inference import score
from pipelines.training.parity import ParityError
from pipelines.training.plan import TrialSpec
from pipelines.training.rows import Pruned
from pipelines.training.trainer import Trained, TrainerError, train
from pipelines.training.trainers import find_trainer

PAGE = Path(__file__).parents[4] / "docs" / "trainers.md"
EXAMPLES = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL)
STUMPS = TrialSpec(trainer="stumps.py", parameters={"column": "wind"})


def quiet(_message: str) -> None:
    return None


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name, code in zip(("trainer.py", "stumps.py"), EXAMPLES, strict=True):
        (tmp_path / name).write_text(code)
    return tmp_path


@pytest.fixture
def run(schema: InputSchema, events: Callable[..., Any], folder: Path) -> Callable[[TrialSpec], Trained]:
    def make(spec: TrialSpec) -> Trained:
        return train(spec, 7, schema, events(2000, 1), events(800, 2), quiet, folder=folder)

    return make


def change(folder: Path, name: str, before: str, after: str) -> None:
    code = (folder / name).read_text()
    assert before in code
    (folder / name).write_text(code.replace(before, after))


def test_the_example_of_the_page_trains_by_a_converter_twice_the_same(
    run: Callable[[TrialSpec], Trained], events: Callable[..., Any]
) -> None:
    spec = TrialSpec(trainer="own", parameters={"trees": 20})
    found = run(spec)
    assert found.graph == run(spec).graph
    assert found.parameters == {"trees": 20, "minimum_leaf_rows": 20}
    assert found.metrics["auc"] > 0.7
    assert found.steps == 1
    assert np.ptp(score(found.graph, events(300, 9).features)) > 0.3


def test_the_example_of_the_page_that_writes_its_own_nodes_trains(
    run: Callable[[TrialSpec], Trained], events: Callable[..., Any]
) -> None:
    found = run(STUMPS)
    assert found.trainer == "stumps.py"
    assert len(np.unique(score(found.graph, events(300, 9).features))) == 3  # calm, windy, missing
    assert found.parity.worst_difference < 1e-6


def test_bytes_of_a_model_of_log_odds_need_no_explanation(folder: Path, run: Callable[[TrialSpec], Trained]) -> None:
    expected = run(STUMPS).graph
    change(
        folder,
        "stumps.py",
        '        return graph, graph.node("Where", graph.node("IsNaN", values), missing, above)',
        '        graph.node("Where", graph.node("IsNaN", values), missing, above, output="odds")\n'
        "        from onnx import helper\n"
        "        model = helper.make_model(helper.make_graph(graph._nodes, 'g',\n"
        "            [helper.make_tensor_value_info('features', 1, ['n', self.width])],\n"
        "            [helper.make_tensor_value_info('odds', 1, ['n', 1])], graph._constants),\n"
        "            opset_imports=[helper.make_opsetid('', 17)], ir_version=9)\n"
        "        return model.SerializeToString()",
    )
    rows = np.array([[600, 1, wind, 0] for wind in (1, 40, np.nan)], dtype=np.float32)
    np.testing.assert_allclose(score(run(STUMPS).graph, rows), score(expected, rows), atol=1e-6)


def test_its_parameters_are_checked_by_its_own_struct(folder: Path) -> None:
    with pytest.raises(ValueError, match=r"parameters of own: no 'tree', expected some of trees, .*mean 'trees'"):
        find_trainer(TrialSpec(trainer="own", parameters={"tree": 3}), folder)
    with pytest.raises(ValueError, match=r"parameters of stumps\.py: Object missing required field `column`"):
        find_trainer(TrialSpec(trainer="stumps.py"), folder)


@pytest.mark.parametrize(
    ("code", "message"),
    [
        ("x = 1", "trainer.py must define a class Trainer: see docs/trainers.md"),
        ("class Trainer: pass", "Trainer must have a method fit"),
        ("class Trainer:\n    def fit(self): pass", "Trainer.Parameters must be a msgspec.Struct, found None"),
    ],
)
def test_a_file_that_is_no_trainer_is_refused(code: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "trainer.py").write_text(code)
    with pytest.raises(TypeError, match=message):
        find_trainer(TrialSpec(trainer="own"), tmp_path)


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"trainer: no file .*/forest\.py; write it, or name another"):
        find_trainer(TrialSpec(trainer="forest.py"), tmp_path)


@pytest.mark.parametrize(
    ("before", "after", "message"),
    [
        ("np.nanmedian(values)", "1 / 0", "trainer stumps.py failed: ZeroDivisionError: division by zero"),
        ("return np.select(", "return np.full((2, 1), 0.0) if True else (", r"log_odds: found the shape \(2, 1\)"),
        ("np.select(parts(", "np.nan * np.select(parts(", r"log_odds: \d+ of \d+ are no finite numbers"),
        ("return graph, graph.node(", "return graph.node(", r"write: found str, expected \(GraphWriter"),
        ("self.odds = position, width, median, odds", "self.odds = position, width, median, odds; self.steps = 0",
         "steps: found 0, expected a whole number from 1"),
    ],
)  # fmt: skip
def test_a_trainer_that_fails_is_named_with_its_reason(
    before: str, after: str, message: str, folder: Path, run: Callable[[TrialSpec], Trained]
) -> None:
    change(folder, "stumps.py", before, after)
    with pytest.raises(TrainerError, match=message):
        run(STUMPS)


def test_a_graph_that_is_not_its_model_is_refused(folder: Path, run: Callable[[TrialSpec], Trained]) -> None:
    change(folder, "stumps.py", '"Greater"', '"GreaterOrEqual"')
    change(folder, "stumps.py", "np.float32(np.nanmedian(values))", "np.float32(0)")  # the edge rows have a zero
    with pytest.raises(ParityError, match=r"on an edge row \((column wind|all columns): zero"):
        run(STUMPS)


def test_giving_up_is_no_failure(schema: InputSchema, events: Callable[..., Any], folder: Path) -> None:
    change(folder, "stumps.py", "        position = schema", "        on_step(1, 0.7)\n        position = schema")

    def give_up(step: int, _loss: float) -> None:
        raise Pruned(f"after step {step}")

    with pytest.raises(Pruned, match="after step 1"):
        train(STUMPS, 7, schema, events(500, 1), events(300, 2), quiet, on_step=give_up, folder=folder)
