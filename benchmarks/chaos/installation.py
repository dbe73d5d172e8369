"""A small installation: a champion and challengers in a registry, a ledger in a folder of its own, a short plan.

It is made once; each run works on a copy, which takes milliseconds.
"""

import math
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import yaml
from onnx import TensorProto, helper

from contracts.bundle import (
    BASELINE,
    CARD,
    GOLDEN,
    MODEL,
    SCHEMA,
    Baseline,
    Bundle,
    Golden,
    Manifest,
    NumberBaseline,
    write_bundle,
)
from contracts.encoder import Encoder
from contracts.hashing import canonical_json
from contracts.input_schema import Field, InputSchema
from pipelines.ledger import Ledger
from pipelines.wiring import REPOSITORY

PROJECT, CHAMPION, SOUND, BROKEN = "flight_delay", "1", "2", "3"
LEASE_S, LOOK_EVERY_S, UNREACHABLE_S = 2.0, 0.2, 20.0
BREAKS_ABOVE_MILES = 600.0  # the broken version gives NaN there: for 44 % of the records
SHARES = (0.25, 0.5, 1.0)
FIELDS = InputSchema(
    version=1,
    entity="tailnum",
    time="scheduled",
    key=("tailnum", "scheduled"),
    fields=(
        Field(name="tailnum", kind="identifier"),
        Field(name="scheduled", kind="timestamp"),
        Field(name="distance", kind="number", minimum=0),
    ),
)
STEP = {"minimum_requests": 20, "minimum_s": 1.0, "maximum_s": 60}
ROLLOUT: dict[str, Any] = {
    "shadow": {"minimum_pairs": 20, "minimum_s": 0.5, "maximum_s": 60, "maximum_flip_share": 0.9},
    "steps": [{"share": share, **STEP} for share in SHARES],
    # wide, or not asked: a second of traffic on a busy machine says little about scores and latency
    "score_margin": 0.5,
    "score_odds_margin": 60.0,
    "error_rate_margin": None,
    "latency_floor_ms": 1000.0,
    "look_every_s": LOOK_EVERY_S,
    "lease_s": LEASE_S,
    "unreachable_s": UNREACHABLE_S,
}


@dataclass(frozen=True)
class Installation:
    """Where everything of one run lies."""

    root: Path

    @property
    def ledger_folder(self) -> Path:
        return self.root / "ledger"

    @property
    def ledger(self) -> Path:
        return self.ledger_folder / "ledger.db"

    @property
    def state(self) -> Path:
        """What the model server remembers of its champion."""
        return self.root / "home" / "serving" / PROJECT

    @property
    def registry(self) -> Path:
        return self.root / "home" / "mlflow" / "mlflow.db"

    def environment(self, server_port: int, mlflow_port: int | None = None) -> dict[str, str]:
        """For whatever works on it: the registry is the file, or a server where `mlflow_port` names one."""
        served = {} if mlflow_port is None else {"PACELINE_MLFLOW_URI": f"http://127.0.0.1:{mlflow_port}"}
        return {
            "PACELINE_HOME": str(self.root / "home"),
            "PACELINE_PROJECTS": str(self.root / "projects"),
            "PACELINE_LEDGER_URL": f"sqlite:///{self.ledger}",
            "PACELINE_SERVER_URL": f"http://127.0.0.1:{server_port}",
            # a registry that is away is asked again by the next run, not for minutes by this one
            "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2",
            "MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR": "1",
            "MLFLOW_HTTP_REQUEST_TIMEOUT": "10",
            "MLFLOW_DISABLE_TELEMETRY": "true",
            **served,
        }

    def bundle(self, version: str) -> Bundle:
        """The bundle of `version`; made anew where it is not there, byte for byte the same."""
        return _bundle(self.root / "home" / "bundles", int(version))

    def offer(self, rollout: str, version: str) -> dict[str, Any]:
        """`version` against the champion, as a rollout takes it."""
        bundle = self.bundle(version)
        return {
            "rollout": rollout,
            "project": PROJECT,
            "version": version,
            "bundle": bundle.id,
            "path": str(bundle.path),
            "expected_champion": CHAMPION,
        }

    def copy(self, root: Path) -> "Installation":
        shutil.copytree(self.root, root)
        return Installation(root)

    def use_plan(self, changes: dict[str, Any]) -> None:
        """Changes the plan of rollouts to come."""
        file = self.root / "projects" / PROJECT / "project.yaml"
        configuration = yaml.safe_load(file.read_text())
        configuration["rollout"] |= changes
        file.write_text(yaml.safe_dump(configuration, sort_keys=False))


def install(root: Path, versions: int = 3) -> Installation:
    """The first version is the champion; of the others every second one is broken. `versions` is at least 1."""
    from pipelines.registry.mlflow_registry import MlflowRegistry

    made = Installation(root)
    project = root / "projects" / PROJECT
    project.mkdir(parents=True)
    source = REPOSITORY / "projects" / PROJECT
    shutil.copy(source / "source.py", project)
    configuration = yaml.safe_load((source / "project.yaml").read_text()) | {"rollout": ROLLOUT}
    (project / "project.yaml").write_text(yaml.safe_dump(configuration, sort_keys=False))
    made.registry.parent.mkdir(parents=True)
    artifacts = made.registry.parent / "artifacts"
    registry = MlflowRegistry(f"sqlite:///{made.registry}", artifact_root=artifacts)
    tags = {"as_of": "2013-07-01"}
    for number in range(1, versions + 1):
        registry.register(PROJECT, made.bundle(str(number)), metrics={}, parameters={}, tags=tags)
    registry.set_aliases(PROJECT, {"champion": CHAMPION})
    with Ledger.open(f"sqlite:///{made.ledger}") as ledger:
        ledger.swap_champion(PROJECT, None, CHAMPION, made.bundle(CHAMPION).id, "bootstrap", "the first")
    return made


def is_broken(version: str) -> bool:
    """Whether the graph of `version` fails on records above BREAKS_ABOVE_MILES."""
    return int(version) % 2 == int(BROKEN) % 2 and version != CHAMPION


def records(count: int, seed: int) -> list[dict[str, Any]]:
    """Records of `count` different entities."""
    draw = np.random.default_rng(seed)
    return [
        {"tailnum": f"N{seed}x{number}", "scheduled": "2013-07-01T08:30:00", "distance": round(float(miles), 1)}
        for number, miles in enumerate(draw.uniform(100, 1000, count))
    ]


def _bundle(folder: Path, number: int) -> Bundle:
    encoder = Encoder(FIELDS)
    bias = number / 100
    golden = [
        {"tailnum": f"N{row}", "scheduled": "2013-07-01T08:30:00", "distance": 100.0 + 10 * row} for row in range(20)
    ]
    scores = [1 / (1 + math.exp(-(bias + record["distance"] / 1000))) for record in golden]
    column = FIELDS.columns.index("distance")
    baseline = Baseline(
        rows=len(golden),
        numbers={
            "distance": NumberBaseline(
                missing=0,
                mean=195.0,
                standard_deviation=58.0,
                quartiles=(147.5, 195.0, 242.5),
                edges=(100.0, 200.0, 300.0),
                counts=(10, 10),
            )
        },
        categories={},
        score_counts=(0, 0, 0, 0, 0, 20, 0, 0, 0, 0),
        metrics={"auc": 0.7, "log_loss": 0.5},
    )
    manifest = Manifest(
        project=PROJECT,
        trainer="boosted_trees",
        optimization="fp32",
        parameters={"bias": bias},
        snapshot="0" * 64,
        lock="1" * 64,
        threshold=0.6,
        frameworks={},
    )
    files = {
        MODEL: _graph(encoder.width, column, bias, broken=is_broken(str(number))),
        SCHEMA: canonical_json(FIELDS),
        BASELINE: canonical_json(baseline),
        GOLDEN: canonical_json(Golden(records=golden, scores=scores, tolerance=1e-5)),
        CARD: f"# Version {number} of a model made for faults\n".encode(),
    }
    return write_bundle(folder, manifest, files)


def _graph(width: int, column: int, bias: float, *, broken: bool) -> bytes:
    """score = sigmoid(bias + distance / 1000); a broken one is NaN for long distances."""
    weights = np.zeros((width, 1), dtype=np.float32)
    weights[column, 0] = 0.001
    limit = bias + BREAKS_ABOVE_MILES / 1000 if broken else math.inf
    nodes = [
        helper.make_node("IsNaN", ["features"], ["missing"]),
        helper.make_node("Where", ["missing", "zero", "features"], ["filled"]),
        helper.make_node("MatMul", ["filled", "weights"], ["product"]),
        helper.make_node("Add", ["product", "bias"], ["sum"]),
        helper.make_node("Squeeze", ["sum", "axis"], ["logit"]),
        helper.make_node("Greater", ["logit", "limit"], ["fails"]),
        helper.make_node("Where", ["fails", "nan", "logit"], ["checked"]),
        helper.make_node("Sigmoid", ["checked"], ["score"]),
    ]
    initializers = [
        helper.make_tensor("zero", TensorProto.FLOAT, [], [0.0]),
        helper.make_tensor("weights", TensorProto.FLOAT, [width, 1], weights.ravel().tolist()),
        helper.make_tensor("bias", TensorProto.FLOAT, [1], [bias]),
        helper.make_tensor("axis", TensorProto.INT64, [1], [1]),
        helper.make_tensor("limit", TensorProto.FLOAT, [], [limit]),
        helper.make_tensor("nan", TensorProto.FLOAT, [], [math.nan]),
    ]
    graph = helper.make_graph(
        nodes,
        "small",
        [helper.make_tensor_value_info("features", TensorProto.FLOAT, ["rows", width])],
        [helper.make_tensor_value_info("score", TensorProto.FLOAT, ["rows"])],
        initializers,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    onnx.checker.check_model(model)
    return bytes(model.SerializeToString())
