"""A bundle made ready to answer: its encoder, and its graph in ONNX Runtime."""

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import onnxruntime
from numpy.typing import NDArray

from contracts.bundle import Baseline, Bundle, BundleError, ServingProfile, read_bundle
from contracts.encoder import Encoder, InvalidRecordError
from contracts.input_schema import InputSchema

INPUT, OUTPUT = "features", "score"
MAXIMUM_MEDIAN_ROW_S = 0.1  # a graph this slow on one row would hold up every other request
_LATENCY_ROWS = 32
_ERRORS_ONLY = 3
_SCORE_SLACK = 1e-5  # float32 sigmoids and sums of leaves may leave [0, 1] by rounding


class ModelRefusedError(ValueError):
    """A bundle that must not serve: what was found, and what was expected."""


class ScoringError(RuntimeError):
    """The graph failed on these rows."""


@dataclass(frozen=True, eq=False)
class Model:
    """A verified bundle under its registry version. `threshold` turns scores into decisions (`score >= threshold`)."""

    version: str
    bundle: Bundle
    schema: InputSchema
    encoder: Encoder
    threshold: float
    run: Callable[[NDArray[np.float32]], Any]
    baseline: Baseline | None = None

    def score(self, features: NDArray[np.float32]) -> NDArray[np.float32]:
        """The scores of `features` (float32, rows × columns), shape (rows,).

        Raises:
            ScoringError: the graph failed, or gave another number of scores than rows.
        """
        try:
            scores: NDArray[np.float32] = self.run(features).reshape(-1)
        except Exception as error:  # ONNX Runtime's errors have no common class
            raise ScoringError(f"{type(error).__name__}: {error}"[:500]) from error
        if scores.shape[0] != features.shape[0]:
            raise ScoringError(f"the graph gave {scores.shape[0]} scores for {features.shape[0]} rows")
        return scores


def problem_of(score: float) -> str | None:
    """Why `score` must not be given to a client, or None: scores are finite and from 0 to 1, but for rounding."""
    if -_SCORE_SLACK <= score <= 1 + _SCORE_SLACK:  # NaN compares false
        return None
    return f"the score is {score}, expected 0 to 1"


def load_model(path: Path, bundle_id: str, version: str, project: str) -> Model:
    """The bundle at `path`, verified, loaded, and replayed: its golden rows must give their scores again.

    Raises:
        ModelRefusedError: the bundle is damaged or another's, its graph cannot run here, or its scores differ.
    """
    try:
        bundle = read_bundle(path, bundle_id)
        schema = bundle.schema
        if bundle.manifest.project != project:
            raise ModelRefusedError(f"the bundle is of project {bundle.manifest.project!r}, this server of {project!r}")
        model = Model(
            version=version,
            bundle=bundle,
            schema=schema,
            encoder=Encoder(schema),
            threshold=bundle.manifest.threshold,
            run=_session(bundle.model_path, bundle.manifest.serving, len(schema.columns)),
            baseline=bundle.baseline,
        )
        _replay_golden_rows(model)
    except (BundleError, msgspec.DecodeError, OSError) as error:
        raise ModelRefusedError(f"the bundle {bundle_id} cannot be read: {error}") from error
    return model


def _session(path: Path, profile: ServingProfile, width: int) -> Callable[[NDArray[np.float32]], Any]:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = profile.intra_op_threads
    options.inter_op_num_threads = 1
    options.log_severity_level = _ERRORS_ONLY
    # by default idle threads spin, which doubles the CPU time of a server
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    available = onnxruntime.get_available_providers()
    wanted = [provider for provider in profile.providers if provider in available]
    try:
        session = onnxruntime.InferenceSession(path, options, providers=wanted or ["CPUExecutionProvider"])
    except Exception as error:  # ONNX Runtime's errors have no common class
        raise ModelRefusedError(f"ONNX Runtime cannot load {path}: {error}") from error
    # what is listed as available may still be missing on this machine: only a session tells what is in use
    if profile.require is not None and profile.require not in session.get_providers():
        raise ModelRefusedError(
            f"the bundle requires {profile.require}, in use would be {', '.join(session.get_providers())}: "
            "serve it where that provider runs, or build a bundle that does not require it"
        )
    inputs = [(tensor.name, tensor.type, tensor.shape[1:]) for tensor in session.get_inputs()]
    if inputs != [(INPUT, "tensor(float)", [width])]:
        raise ModelRefusedError(f"the graph takes {inputs}, expected one float tensor {INPUT!r} of width {width}")
    if OUTPUT not in [tensor.name for tensor in session.get_outputs()]:
        names = [tensor.name for tensor in session.get_outputs()]
        raise ModelRefusedError(f"the graph gives {names}, expected an output {OUTPUT!r}")
    outputs, run = [OUTPUT], session.run
    return lambda features: run(outputs, {INPUT: features})[0]


def _replay_golden_rows(model: Model) -> None:
    golden = model.bundle.golden
    if not golden.records or len(golden.records) != len(golden.scores):
        raise ModelRefusedError(
            f"the bundle has {len(golden.records)} golden rows and {len(golden.scores)} golden scores; "
            "a bundle must bring rows that show that it works"
        )
    try:
        features = model.encoder.encode_rows(golden.records)
        scores = model.score(features)
        seconds = [_seconds(model, row) for row in features[:_LATENCY_ROWS]]
    except (InvalidRecordError, ScoringError) as error:
        raise ModelRefusedError(f"the golden rows cannot be scored: {error}") from error
    differences = np.abs(scores.astype(np.float64) - np.asarray(golden.scores))
    worst = int(np.argmax(differences))  # NaN counts as the largest
    if not differences[worst] <= golden.tolerance:
        raise ModelRefusedError(
            f"golden row {worst} scores {scores[worst]:.7g} here, expected {golden.scores[worst]:.7g} "
            f"within {golden.tolerance:g}"
        )
    if any(problem_of(score) for score in scores.tolist()):
        raise ModelRefusedError(f"golden scores leave [0, 1]: from {scores.min():.7g} to {scores.max():.7g}")
    if (median := statistics.median(seconds)) > MAXIMUM_MEDIAN_ROW_S:
        raise ModelRefusedError(f"one row takes {median:.3f} s, this server allows {MAXIMUM_MEDIAN_ROW_S:g} s")


def _seconds(model: Model, row: NDArray[np.float32]) -> float:
    started = time.perf_counter()
    model.score(row.reshape(1, -1))
    return time.perf_counter() - started
