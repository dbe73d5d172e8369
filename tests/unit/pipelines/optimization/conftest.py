from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from contracts.input_schema import Field, InputSchema
from pipelines.optimization.candidates import Validation
from pipelines.training.plan import TrialSpec
from pipelines.training.trainer import train

SCHEMA = InputSchema(
    version=1,
    entity="plane",
    time="at",
    key=("plane", "at"),
    fields=(
        Field(name="plane", kind="identifier"),
        Field(name="at", kind="timestamp", parts=("minute_of_day",)),
        Field(name="carrier", kind="category", vocabulary=("UA", "AA", "DL")),
        Field(name="wind", kind="number", required=False),
        Field(name="origin", kind="category", vocabulary=("EWR", "JFK")),
    ),
)


class Rows(NamedTuple):
    features: NDArray[np.float32]
    labels: NDArray[np.float64]


def rows_of(count: int, seed: int) -> Rows:
    """Late flights: more in the evening, in wind, and with one carrier; wind and carrier are missing at times."""
    random = np.random.default_rng(seed)
    minute = random.integers(300, 1400, count)
    carrier = random.integers(0, 3, count).astype(float)
    wind = random.gamma(2.0, 6.0, count)
    log_odds = (minute - 900) / 300 + 0.08 * (wind - 12) + np.array([0.0, 1.2, -0.8])[carrier.astype(int)] - 1
    labels = (random.random(count) < 1 / (1 + np.exp(-log_odds))).astype(np.float64)
    wind[random.random(count) < 0.1] = np.nan
    carrier[random.random(count) < 0.02] = np.nan
    return Rows(np.stack([minute, carrier, wind, random.integers(0, 2, count)], axis=1).astype(np.float32), labels)


@pytest.fixture(scope="session")
def training() -> Rows:
    return rows_of(4000, 1)


@pytest.fixture(scope="session")
def validation() -> Validation:
    rows = rows_of(3000, 2)
    return Validation(rows.features, rows.labels, np.repeat(np.arange(10), 300))


def _trained(training: Rows, trainer: str, parameters: dict[str, Any]) -> bytes:
    spec = TrialSpec(trainer=trainer, parameters=parameters)
    return train(spec, 3, SCHEMA, training, rows_of(1200, 4), lambda text: None).graph


@pytest.fixture(scope="session")
def net(training: Rows) -> bytes:
    return _trained(training, "neural_net", {"hidden": (96, 48), "epochs": 4, "batch_rows": 128})


@pytest.fixture(scope="session")
def trees(training: Rows) -> bytes:
    return _trained(training, "boosted_trees", {"trees": 60, "minimum_leaf_rows": 30, "patience": 60})


@pytest.fixture(scope="session")
def write() -> Callable[..., bytes]:
    """Writes a graph by hand, from `features` (rows × width) to `score`."""

    def written(nodes: list[onnx.NodeProto], constants: dict[str, NDArray[Any]], width: int = 2) -> bytes:
        graph = helper.make_graph(
            [*nodes, helper.make_node("Reshape", ["column", "flat"], ["score"])],
            "test",
            [helper.make_tensor_value_info("features", TensorProto.FLOAT, ["rows", width])],
            [helper.make_tensor_value_info("score", TensorProto.FLOAT, ["rows"])],
            [numpy_helper.from_array(values, name) for name, values in constants.items()]
            + [numpy_helper.from_array(np.array([-1]), "flat")],
        )
        opsets = [helper.make_opsetid("", 17), helper.make_opsetid("ai.onnx.ml", 3)]
        made = helper.make_model(graph, producer_name="paceline", opset_imports=opsets, ir_version=9)
        onnx.checker.check_model(made)
        return bytes(made.SerializeToString(deterministic=True))

    return written
