"""What is compared: each server, how it is started in its best setting, and how it is asked.

Single rows go to the frameworks encoded already, in the form of their own documentation: they neither validate records
nor encode them. Paceline and the two FastAPI applications get records. Batches go in both forms to the frameworks, as
the same records to all.
"""

import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import numpy as np

from contracts.bundle import Bundle
from contracts.encoder import Encoder
from pipelines.benchmarking.bodies import tensors_of
from pipelines.inference import score
from pipelines.tasks import keys
from serving.champion_file import Remembered, State, write_state
from serving.protocols.open_inference import metadata

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
VENVS = ROOT / "var" / "bench-venvs"
PEERS = HERE / "peers"
BATCH_ROWS = 32
PROJECT = "benchmark"
Body = tuple[bytes, int | None]  # with the length of the JSON before binary tensors
_UVICORN = ("-m", "uvicorn", "--no-access-log", "--loop", "uvloop", "--http", "httptools")


class Workload:
    """The model, its records, their encoded rows, and the scores that ONNX Runtime gives here."""

    def __init__(self, bundle: Bundle, records: list[dict[str, Any]], folder: Path) -> None:
        self.bundle = bundle
        self.records = records
        self.folder = folder
        self.features = Encoder(bundle.schema).encode_rows(records)
        self.scores = np.ravel(score(bundle.model_path, self.features))
        self.datatypes = {each["name"]: each["datatype"] for each in metadata(PROJECT, [], bundle.schema)["inputs"]}

    def batches(self) -> list[slice]:
        """The rows of each request of `BATCH_ROWS`."""
        return [slice(start, start + BATCH_ROWS) for start in range(0, len(self.records) - BATCH_ROWS + 1, BATCH_ROWS)]


class Form(NamedTuple):
    """One way to ask: where, a body from rows, and the scores in its answer (None: it has none)."""

    route: str
    body: Callable[[Workload, slice], Body]
    scores: Callable[[bytes], list[float]] | None


@dataclass(frozen=True, kw_only=True)
class Contender:
    """One server. `group` is floor, ours, app, peer or variant (of ours, of which only a part is measured).

    `command` and `environment` get the port and the workload. `own` is the form that suits the server best; `records`
    is the same JSON records for all, `binary` are binary tensors. `setting` says in words how it runs.
    """

    key: str
    name: str
    group: str
    setting: str
    command: Callable[[int], Sequence[str]]
    environment: Callable[[int, Workload], dict[str, str]]
    own: Form
    records: Form
    binary: Form | None = None
    folder: Path = ROOT
    venv: str | None = None
    takes_key: bool = False
    shadows: bool = False
    package: str | None = None
    needs_option: str | None = None


def python_of(venv: str) -> Path:
    """The interpreter of a peer's environment."""
    return VENVS / venv / "bin" / "python"


def install(venv: str, tell: Callable[[str], None]) -> None:
    """Makes the peer's environment from its pinned requirements; nothing happens when it is up to date.

    Raises:
        RuntimeError: pip failed; its last lines are told.
    """
    requirements = PEERS / venv / "requirements.txt"
    wanted = hashlib.sha256(requirements.read_bytes()).hexdigest()
    marker = VENVS / venv / ".installed"
    if marker.exists() and marker.read_text() == wanted:
        return
    tell(f"installing {venv} into {VENVS / venv}, once")
    if not python_of(venv).exists():
        subprocess.run([sys.executable, "-m", "venv", str(VENVS / venv)], check=True)
    pip = [str(python_of(venv)), "-m", "pip", "install", "--disable-pip-version-check", "-q", "-r", str(requirements)]
    ended = subprocess.run(pip, capture_output=True, text=True, check=False)
    if ended.returncode:
        raise RuntimeError(f"{venv} cannot be installed from {requirements}: {ended.stderr[-1500:]}")
    marker.write_text(wanted)


def _records(work: Workload, rows: slice) -> Body:
    return json.dumps({"records": work.records[rows]}).encode(), None


def _listed_records(work: Workload, rows: slice) -> Body:
    return json.dumps(work.records[rows]).encode(), None


def _features(work: Workload, rows: slice) -> Body:
    return json.dumps({"features": work.features[rows].astype(float).round(6).tolist()}).encode(), None


def _v2_features(work: Workload, rows: slice) -> Body:
    chosen = work.features[rows]
    tensor = {
        "name": "features",
        "shape": list(chosen.shape),
        "datatype": "FP32",
        "data": chosen.astype(float).round(6).ravel().tolist(),
    }
    return json.dumps({"inputs": [tensor]}).encode(), None


def _v2_binary(work: Workload, rows: slice) -> Body:
    return tensors_of(work.records[rows], work.datatypes, binary=True, outputs=("score",))


def _of_predictions(body: bytes) -> list[float]:
    return [each["score"] for each in msgspec.json.decode(body)["predictions"]]


def _of_scores(body: bytes) -> list[float]:
    return list(msgspec.json.decode(body)["scores"])


def _of_v2(body: bytes) -> list[float]:
    return [float(value) for value in msgspec.json.decode(body)["outputs"][0]["data"]]


_OUR_RECORDS = Form("/v1/predict", _records, _of_predictions)


def _paceline_environment(port: int, work: Workload) -> dict[str, str]:
    state, key_file = work.folder / "state", work.folder / "keys.json"
    bundle = work.bundle
    write_state(state, State(champion=Remembered(version="1", bundle=bundle.id, path=str(bundle.path))))
    return {
        "PACELINE_SERVING_PROJECT": PROJECT,
        "PACELINE_SERVING_PORT": str(port),
        "PACELINE_SERVING_STATE": str(state),
        "PACELINE_SERVING_PREDICTIONS": str(work.folder / f"predictions-{port}"),
        "PACELINE_SERVING_KEYS": str(key_file),
        "PYTHONPATH": str(ROOT),
    }


def make_key(work: Workload) -> str:
    """An API key in the file that all of our servers read."""
    return str(keys.create(work.folder / "keys.json", "benchmark", scopes=["predict", "metadata", "metrics"])["key"])


def _without(part: str) -> tuple[str, ...]:
    return str(Path(__file__).with_name("without.py")), part


def _paceline(
    key: str,
    name: str,
    setting: str,
    *words: str,
    group: str = "variant",
    program: tuple[str, ...] = ("-m", "serving"),
    **more: Any,
) -> Contender:
    return Contender(
        key=key,
        name=name,
        group=group,
        setting=setting,
        command=lambda port: [sys.executable, *program, *words],
        environment=_paceline_environment,
        own=_OUR_RECORDS,
        records=_OUR_RECORDS,
        binary=Form(f"/v2/models/{PROJECT}/infer", _v2_binary, None),
        takes_key=True,
        **more,
    )


def _fastapi(key: str, name: str, setting: str, factory: str) -> Contender:
    return Contender(
        key=key,
        name=name,
        group="app",
        setting=setting,
        command=lambda port: [str(python_of("fastapi")), *_UVICORN, "--factory", f"app:{factory}", "--port", str(port)],
        environment=lambda port, work: {"BENCHMARK_BUNDLE": str(work.bundle.path), "PYTHONPATH": str(ROOT)},
        own=Form("/predict", _records, _of_predictions),
        records=Form("/predict", _records, _of_predictions),
        folder=PEERS / "fastapi",
        venv="fastapi",
        package="fastapi",
    )


def _bentoml(key: str, name: str, setting: str, *, batching: bool) -> Contender:
    return Contender(
        key=key,
        name=name,
        group="peer",
        setting=setting,
        command=lambda port: [
            *(str(VENVS / "bentoml" / "bin" / "bentoml"), "serve", "service:Trees"),
            *("--host", "127.0.0.1", "--port", str(port)),
        ],
        environment=lambda port, work: {
            "BENCHMARK_BUNDLE": str(work.bundle.path),
            "PYTHONPATH": str(ROOT),
            "BENCHMARK_BATCHING": "1" if batching else "0",
            "BENTOML_HOME": str(work.folder / "bentoml"),
            "BENTOML_DO_NOT_TRACK": "True",
        },
        own=Form("/predict", _features, msgspec.json.decode),
        records=Form("/predict_records", _records, msgspec.json.decode),
        folder=PEERS / "bentoml",
        venv="bentoml",
        package="bentoml",
    )


def _litserve(key: str, name: str, setting: str, *, batching: bool) -> Contender:
    return Contender(
        key=key,
        name=name,
        group="peer",
        setting=setting,
        command=lambda port: [str(python_of("litserve")), "server.py", "--port", str(port)],
        environment=lambda port, work: {
            "BENCHMARK_BUNDLE": str(work.bundle.path),
            "PYTHONPATH": str(ROOT),
            "BENCHMARK_BATCHING": "1" if batching else "0",
        },
        own=Form("/predict", _features, _of_scores),
        records=Form("/predict", _records, _of_scores),
        folder=PEERS / "litserve",
        venv="litserve",
        package="litserve",
    )


_BARE = Contender(
    key="bare",
    name="bare uvicorn",
    group="floor",
    setting="parses the JSON with msgspec and answers a constant: what HTTP itself costs",
    command=lambda port: [sys.executable, *_UVICORN, "app:bare", "--port", str(port)],
    environment=lambda port, work: {},
    own=Form("/", _records, None),
    records=Form("/", _records, None),
    folder=PEERS / "bare",
)
_MLSERVER = Contender(
    key="mlserver",
    name="MLServer",
    group="peer",
    setting="in the server's process, uvloop and httptools, without metrics; its batching made it slower, so it is off",
    command=lambda port: [str(VENVS / "mlserver" / "bin" / "mlserver"), "start", "."],
    environment=lambda port, work: {
        "BENCHMARK_BUNDLE": str(work.bundle.path),
        "PYTHONPATH": str(ROOT),
        "MLSERVER_HTTP_PORT": str(port),
        "MLSERVER_GRPC_PORT": "0",
    },
    own=Form(f"/v2/models/{PROJECT}/infer", _v2_features, _of_v2),
    records=Form("/predict_records", _listed_records, msgspec.json.decode),
    folder=PEERS / "mlserver",
    venv="mlserver",
    package="mlserver",
)
CONTENDERS: tuple[Contender, ...] = (
    _BARE,
    _paceline(
        "paceline",
        "Paceline",
        "validation, encoding, API keys, metrics and the prediction log on; one worker",
        group="ours",
    ),
    _fastapi("plain", "FastAPI, as in tutorials", "pydantic body, ONNX Runtime's default session", "plain"),
    _fastapi("tuned", "FastAPI, our session", "the same with our session options", "tuned"),
    _MLSERVER,
    _bentoml("bentoml", "BentoML", "one worker, async API, access log off, uvloop and httptools", batching=False),
    _bentoml("bentoml-batching", "BentoML, batching", "the same with its adaptive batching, up to 64", batching=True),
    _litserve("litserve", "LitServe", "one API process, one worker, its fast queue", batching=False),
    _litserve(
        "litserve-batching", "LitServe, batching", "the same, up to 64 rows a batch without a wait", batching=True
    ),
    _paceline(
        "no-log",
        "Paceline, log off",
        "the same without the prediction log",
        program=_without("log"),
    ),
    _paceline(
        "no-metrics",
        "Paceline, metrics off",
        "the same without metrics",
        program=_without("metrics"),
    ),
    _paceline("shadow", "Paceline, shadow on", "the same with a challenger that shadows every request", shadows=True),
    _paceline(
        "two-workers",
        "Paceline, two workers",
        "the same with two worker processes",
        "--workers",
        "2",
        needs_option="--workers",
    ),
)


def chosen(only: str | None) -> list[Contender]:
    """All, or those whose keys `only` names, in the usual order.

    Raises:
        ValueError: a key is not known.
    """
    if only is None:
        return list(CONTENDERS)
    wanted = [key.strip() for key in only.split(",") if key.strip()]
    unknown = sorted(set(wanted) - {each.key for each in CONTENDERS})
    if unknown or not wanted:
        known = ", ".join(each.key for each in CONTENDERS)
        raise ValueError(f"--only: found {', '.join(unknown) or 'nothing'}, expected some of {known}")
    return [each for each in CONTENDERS if each.key in wanted]


def version_of(contender: Contender) -> str:
    """The version of the framework in the peer's environment; empty for ours."""
    if contender.package is None or contender.venv is None:
        return ""
    code = f"import importlib.metadata as m; print(m.version({contender.package!r}))"
    found = subprocess.run([str(python_of(contender.venv)), "-c", code], capture_output=True, text=True, check=True)
    return found.stdout.strip()


def environment_of(contender: Contender, port: int, work: Workload) -> dict[str, str]:
    """This process's environment without settings of servers, and the contender's."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("PACELINE_", "MLSERVER_"))}
    kept.pop("PYTHONPATH", None)
    return {**kept, **contender.environment(port, work)}
