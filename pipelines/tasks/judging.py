"""From a candidate to a registered challenger: its bundle, the comparison with the champion, gates, registry."""

import logging
from importlib.metadata import version
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from contracts.bundle import BASELINE, CARD, GOLDEN, MODEL, SCHEMA, Bundle, Manifest, read_bundle, write_bundle
from contracts.hashing import canonical_json
from contracts.input_schema import InputSchema
from pipelines.data.snapshots import Snapshot, read_snapshot
from pipelines.projects import Project
from pipelines.registry.port import Trial
from pipelines.tasks import artifacts
from pipelines.tasks.features import encoded
from pipelines.wiring import commit, find_project, home, lock_id, open_ledger, open_registry

logger = logging.getLogger("paceline")
GOLDEN_ROWS = 32
FRAMEWORKS = ("numpy", "scikit-learn", "torch", "onnx", "skl2onnx")


def evaluate(project: str, candidate: dict[str, Any]) -> dict[str, Any]:
    """Writes the candidate's bundle and judges it by the gates, against the champion on the same held-out rows.

    Returns the bundle's id, the gates with their numbers, and whether all were passed.
    """
    from pipelines.evaluation import comparison, gates
    from pipelines.evaluation.latency import compare_latency
    from pipelines.inference import score

    found = find_project(project)
    snapshot = read_snapshot(home().snapshots, candidate["snapshot"])
    schema = msgspec.convert(artifacts.read_json(candidate["schema"]), InputSchema)
    graph = artifacts.read(candidate["graph"])
    test = encoded(found, snapshot, schema, "test")
    scores = score(graph, test.features)
    champion = open_ledger().champion(project)
    rival = None if champion is None else _rival(found, snapshot, champion.bundle)
    champion_scores = None if rival is None else score(*rival)
    compared = comparison.compare(
        scores, champion_scores, test.labels, test.days, found.decision_threshold, found.training.seed
    )
    measured = compare_latency((graph, test.features), rival, found.training.seed)
    judged = gates.gates(compared, measured.challenger, found.gates, len(test.labels), measured.difference_us_p50)
    card = _card(found, snapshot, candidate, compared.challenger)
    bundle = _write_bundle(found, snapshot, candidate, schema, graph, scores, compared.challenger, card)
    passed = all(gate.passed for gate in judged)
    evaluation = {
        "bundle": bundle.id,
        "snapshot": snapshot.id,
        "champion": None if champion is None else champion.version,
        "passed": passed,
        "gates": msgspec.to_builtins(judged),
        "comparison": msgspec.to_builtins(compared),
        "latency": msgspec.to_builtins(measured),
    }
    key = f"gates:{project}:{bundle.id}:{evaluation['champion']}"
    open_ledger().append(project, "gates", bundle.id, evaluation, key=key)
    for gate in judged:
        logger.info("%s %s: %s", "passed" if gate.passed else "FAILED", gate.name, gate.reason)
    return {**evaluation, "candidate": candidate}


def register(project: str, evaluation: dict[str, Any]) -> dict[str, Any]:
    """Registers the bundle of a passed evaluation as a version with the alias `challenger`.

    Raises:
        PermissionError: a gate failed.
    """
    if not evaluation["passed"]:
        raise PermissionError(f"{evaluation['bundle'][:12]} is not registered: {failed_gates(evaluation)}")
    candidate = evaluation["candidate"]
    bundle = read_bundle(home().bundles / evaluation["bundle"], evaluation["bundle"])
    snapshot = read_snapshot(home().snapshots, evaluation["snapshot"])
    registry = open_registry()
    registered = registry.register(
        project,
        bundle,
        metrics=evaluation["comparison"]["challenger"],
        parameters={"trainer": candidate["trainer"], "seed": candidate["seed"], **candidate["parameters"]},
        tags={
            "snapshot": snapshot.id,
            "as_of": str(snapshot.manifest.windows.as_of),
            "commit": commit(),
            "lock": lock_id(),
            "schema_version": str(bundle.schema.version),
            "optimization": candidate["optimization"],
        },
        trials=[
            Trial(
                name=f"{trial['trainer']}-{position}",
                parameters={"seed": trial["seed"], **trial["parameters"]},
                metrics=trial["metrics"],
                curve=tuple(artifacts.read_json(trial["curve"])),
                chosen=trial["graph"] == candidate["trained_graph"],
            )
            for position, trial in enumerate(candidate["trials"])
        ],
    )
    registry.set_aliases(project, {"challenger": registered.version})
    offer = {"version": registered.version, "bundle": bundle.id, "as_of": str(snapshot.manifest.windows.as_of)}
    open_ledger().append(
        project, "registered", registered.version, offer, key=f"registered:{project}:{registered.version}"
    )
    logger.info("registered %s version %s (bundle %s)", project, registered.version, bundle.id[:12])
    return offer


def failed_gates(evaluation: dict[str, Any]) -> str:
    """The gates that were not passed, with their numbers."""
    return "; ".join(f"{gate['name']}: {gate['reason']}" for gate in evaluation["gates"] if not gate["passed"])


def _rival(project: Project, snapshot: Snapshot, bundle_id: str) -> tuple[Path, NDArray[np.float32]]:
    """The champion's graph, and the same test rows as its own schema encodes them."""
    bundle = read_bundle(home().bundles / bundle_id, bundle_id)
    return bundle.model_path, encoded(project, snapshot, bundle.schema, "test").features


def _write_bundle(
    project: Project,
    snapshot: Snapshot,
    candidate: dict[str, Any],
    schema: InputSchema,
    graph: bytes,
    scores: NDArray[np.float32],
    metrics: dict[str, float],
    card: str,
) -> Bundle:
    from pipelines.evaluation import baseline

    names = [field.name for field in schema.fields]
    test = snapshot.table("test")
    chosen = np.linspace(0, test.num_rows - 1, min(GOLDEN_ROWS, test.num_rows)).astype(int)
    records = test.select(names).take(chosen).to_pylist()
    golden = baseline.make_golden(records, scores[chosen])
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
    training = encoded(project, snapshot, schema, "train")
    return write_bundle(
        home().bundles,
        manifest,
        {
            MODEL: graph,
            SCHEMA: canonical_json(schema),
            BASELINE: canonical_json(baseline.make_baseline(schema, training.features, scores, metrics)),
            GOLDEN: canonical_json(golden),
            CARD: card.encode(),
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
