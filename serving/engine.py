"""A bundle made ready to answer: its encoder, and its graph in ONNX Runtime."""

import math
import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import msgspec
import numpy as np
from numpy.typing import NDArray

from contracts.bundle import Baseline, Bundle, BundleError, read_bundle
from contracts.bundle_signature import SignatureError
from contracts.encoder import Encoder, InvalidRecordError
from contracts.input_schema import InputSchema
from serving.bound_runs import INPUT, OUTPUT, BoundRuns
from serving.bundle_signatures import refuse_unsigned
from serving.execution import AS_BUNDLED, Execution
from serving.providers import Opened, ProviderError, open_session

CPU_ROWS, DEVICE_ROWS = 64, 512  # rows of one run: trees on a CPU are no quicker beyond, a device wants more
MAXIMUM_MEDIAN_ROW_S = 0.1  # a graph this slow on one row would hold up every other request
_LATENCY_ROWS = 32
_SCORE_TYPES = frozenset({"tensor(float)", "tensor(double)", "tensor(float16)"})
_SCORE_SLACK = 1e-5  # float32 sigmoids and sums of leaves may leave [0, 1] by rounding


class ModelRefusedError(ValueError):
    """A bundle that must not serve: what was found, and what was expected."""


class ScoringError(RuntimeError):
    """The graph failed on these rows."""


@dataclass(frozen=True, eq=False)
class Model:
    """A verified bundle under its registry version. `threshold` turns scores into decisions (`score >= threshold`).

    `providers` has for each execution provider in use how many of the graph's operators run on it, the first has most;
    `gpu` is the number of the NVIDIA GPU, where one takes part; `maximum_rows` is how many rows a run should have at
    most, `load_s` how long it took until the model could answer.
    """

    version: str
    bundle: Bundle
    schema: InputSchema
    encoder: Encoder
    threshold: float
    run: BoundRuns
    providers: dict[str, int]
    gpu: int | None
    maximum_rows: int
    load_s: float
    baseline: Baseline | None = None

    def score(self, features: NDArray[np.float32]) -> NDArray[np.float32]:
        """The scores of `features` (float32, rows × columns), shape (rows,).

        Raises:
            ScoringError: the graph failed, or gave another number of scores than rows.
        """
        try:
            found = self.run(features)
            scores: NDArray[np.float32] = found.reshape(-1)
        except Exception as error:  # ONNX Runtime's errors have no common class
            raise ScoringError(f"{type(error).__name__}: {error}"[:500]) from error
        rows = features.shape[0]
        if scores.shape[0] != rows or found.shape[:1] != (rows,):
            raise ScoringError(f"the graph gave scores of the shape {list(found.shape)} for {rows} rows")
        return scores


def problem_of(score: float) -> str | None:
    """Why `score` must not be given to a client, or None: scores are finite and from 0 to 1, but for rounding."""
    if -_SCORE_SLACK <= score <= 1 + _SCORE_SLACK:  # NaN compares false
        return None
    return f"the score is {score}, expected 0 to 1"


def are_sound(scores: Sequence[float]) -> bool:
    """Whether `problem_of` has nothing to say of any of `scores`, of which there is one at least."""
    # a NaN may hide from the least and the greatest, and never from the sum
    return min(scores) >= -_SCORE_SLACK and max(scores) <= 1 + _SCORE_SLACK and not math.isnan(sum(scores))


def load_model(
    path: Path,
    bundle_id: str,
    version: str,
    project: str,
    execution: Execution = AS_BUNDLED,
    trusted: Path | None = None,
) -> Model:
    """The bundle at `path`, verified, loaded, and replayed: its golden rows must give their scores again.

    `execution` is what this server's settings say over the bundle's serving profile; a key of the file `trusted`, where
    there is one, must have signed the bundle.

    Raises:
        ModelRefusedError: the bundle is damaged, another's or not signed, cannot run here, or its scores differ.
    """
    started = time.perf_counter()
    try:
        bundle = read_bundle(path, bundle_id)
        if trusted is not None:
            refuse_unsigned(path, bundle_id, trusted)
        schema = bundle.schema
        if bundle.manifest.project != project:
            raise ModelRefusedError(f"the bundle is of project {bundle.manifest.project!r}, this server of {project!r}")
        opened = _open(bundle, len(schema.columns), execution)
        usual = DEVICE_ROWS if opened.has_device else CPU_ROWS
        maximum_rows = bundle.manifest.serving.maximum_batch_rows or usual
        model = Model(
            version=version,
            bundle=bundle,
            schema=schema,
            encoder=Encoder(schema),
            threshold=bundle.manifest.threshold,
            run=BoundRuns(opened.session, maximum_rows=maximum_rows, has_device=opened.has_device),
            providers=opened.nodes,
            gpu=opened.gpu,
            maximum_rows=maximum_rows,
            load_s=0.0,
            baseline=bundle.baseline,
        )
        _replay_golden_rows(model, has_device=opened.has_device)
    except SignatureError as error:
        raise ModelRefusedError(str(error)) from error
    except (BundleError, msgspec.DecodeError, OSError) as error:
        raise ModelRefusedError(f"the bundle {bundle_id} cannot be read: {error}") from error
    return replace(model, load_s=time.perf_counter() - started)


def _open(bundle: Bundle, width: int, execution: Execution) -> Opened:
    try:
        opened = open_session(bundle.model_path, bundle.manifest.serving, execution)
    except ProviderError as error:
        raise ModelRefusedError(str(error)) from error
    except Exception as error:  # ONNX Runtime's errors have no common class
        raise ModelRefusedError(f"ONNX Runtime cannot load {bundle.model_path}: {error}") from error
    inputs = [(tensor.name, tensor.type, tensor.shape[1:]) for tensor in opened.session.get_inputs()]
    if inputs != [(INPUT, "tensor(float)", [width])]:
        raise ModelRefusedError(f"the graph takes {inputs}, expected one float tensor {INPUT!r} of width {width}")
    types = {tensor.name: tensor.type for tensor in opened.session.get_outputs()}
    if types.get(OUTPUT) not in _SCORE_TYPES:
        raise ModelRefusedError(f"the graph gives {types}, expected an output {OUTPUT!r} of floats")
    return opened


def _replay_golden_rows(model: Model, *, has_device: bool) -> None:
    golden = model.bundle.golden
    if not golden.records or len(golden.records) != len(golden.scores):
        raise ModelRefusedError(
            f"the bundle has {len(golden.records)} golden rows and {len(golden.scores)} golden scores; "
            "a bundle must bring rows that show that it works"
        )
    try:
        features = model.encoder.encode_rows(golden.records)
        if has_device:
            _warm_up(model, features)
        scores = model.score(features)
        alone, seconds = _one_by_one(model, features[:_LATENCY_ROWS])
    except (InvalidRecordError, ScoringError) as error:
        raise ModelRefusedError(f"the golden rows cannot be scored: {error}") from error
    for found in (scores, alone):
        differences = np.abs(found.astype(np.float64) - np.asarray(golden.scores[: len(found)]))
        worst = int(np.argmax(differences))  # NaN counts as the largest
        if not differences[worst] <= golden.tolerance:
            raise ModelRefusedError(
                f"golden row {worst} scores {found[worst]:.7g} here, expected {golden.scores[worst]:.7g} "
                f"within {golden.tolerance:g}"
            )
    if any(problem_of(score) for score in scores.tolist()):
        raise ModelRefusedError(f"golden scores leave [0, 1]: from {scores.min():.7g} to {scores.max():.7g}")
    if (median := statistics.median(seconds)) > MAXIMUM_MEDIAN_ROW_S:
        raise ModelRefusedError(f"one row takes {median:.3f} s, this server allows {MAXIMUM_MEDIAN_ROW_S:g} s")


def _warm_up(model: Model, features: NDArray[np.float32]) -> None:
    """One run of every size that there will be, so that no request waits for kernels or engines to be made.

    The largest goes first: TensorRT builds an engine for the sizes between the ones that it has seen.
    """
    sizes = {model.maximum_rows, *(1 << power for power in range((model.maximum_rows - 1).bit_length()))}
    for size in sorted(sizes, reverse=True):
        model.score(np.resize(features, (size, features.shape[1])))


def _one_by_one(model: Model, features: NDArray[np.float32]) -> tuple[NDArray[np.float32], list[float]]:
    """The score of each row alone and the seconds that it took. The first run of one row prepares, and is not timed."""
    scores: list[NDArray[np.float32]] = []
    seconds: list[float] = []
    for row in [features[:1], *np.split(features, len(features))]:
        started = time.perf_counter()
        scores.append(model.score(row))
        seconds.append(time.perf_counter() - started)
    return np.concatenate(scores[1:]), seconds[1:]
