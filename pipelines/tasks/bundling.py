"""What a candidate hands to serving: its bundle, with baseline, golden rows and model card.

Nothing here depends on time, host, latency or on who leads: the same snapshot, parameters and lock give the same bytes.
"""

from importlib.metadata import version
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from contracts.bundle import BASELINE, CARD, GOLDEN, MODEL, SCHEMA, Baseline, Bundle, Manifest, write_bundle
from contracts.encoder import Encoder
from contracts.hashing import canonical_json
from contracts.input_schema import InputSchema
from pipelines.data.snapshots import Snapshot
from pipelines.projects import Project
from pipelines.wiring import home, lock_id

GOLDEN_ROWS = 32
FRAMEWORKS = ("numpy", "scikit-learn", "torch", "onnx", "skl2onnx")


def bundle_candidate(
    project: Project,
    snapshot: Snapshot,
    candidate: dict[str, Any],
    schema: InputSchema,
    graph: bytes,
    scores: NDArray[np.float32],
    baseline: Baseline,
) -> Bundle:
    """Writes the bundle of `candidate`, whose `graph` gives the test rows their `scores`."""
    from pipelines.evaluation.baseline import make_golden
    from pipelines.evaluation.persons import without_persons
    from pipelines.inference import score

    names = [field.name for field in schema.fields]
    test = snapshot.table("test")
    chosen = np.linspace(0, test.num_rows - 1, min(GOLDEN_ROWS, test.num_rows)).astype(int)
    records, golden_scores = test.select(names).take(chosen).to_pylist(), scores[chosen]
    if any(field.personal for field in schema.fields):
        records = without_persons(records, schema, baseline)
        golden_scores = score(graph, Encoder(schema).encode_rows(records))
    golden = make_golden(records, golden_scores)
    manifest = Manifest(
        project=project.name,
        trainer=candidate["trainer"],
        optimization=candidate["optimization"],
        parameters={"seed": candidate["seed"], **candidate["parameters"]},
        snapshot=snapshot.id,
        lock=lock_id(),
        threshold=project.decision_threshold,
        frameworks={name: version(name) for name in FRAMEWORKS} | {"onnxruntime": _onnxruntime_version()},
        serving=project.serving,
    )
    return write_bundle(
        home().bundles,
        manifest,
        {
            MODEL: graph,
            SCHEMA: canonical_json(schema),
            BASELINE: canonical_json(baseline),
            GOLDEN: canonical_json(golden),
            CARD: _card(project, snapshot, candidate, dict(baseline.metrics)).encode(),
        },
    )


def _onnxruntime_version() -> str:
    import onnxruntime

    return str(onnxruntime.__version__)


def _card(project: Project, snapshot: Snapshot, candidate: dict[str, Any], metrics: dict[str, float]) -> str:
    """Part of the bundle, so it has no gates: their latencies, and the champion that they name, are not its content."""
    from pipelines.governance.model_card import model_card

    return model_card(
        title=project.title,
        description=project.description,
        owner=project.owner,
        label=project.label.description,
        windows=msgspec.to_builtins(snapshot.manifest.windows),
        rows=snapshot.manifest.rows_by_part,
        trainer=candidate["trainer"],
        parameters=candidate["parameters"],
        metrics=metrics,
    )
