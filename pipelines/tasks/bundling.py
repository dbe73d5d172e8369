"""What a candidate hands to serving: its bundle, with baseline, golden rows and model card.

Nothing here depends on time, host, latency or on who leads: the same snapshot, parameters and lock give the same bytes.
"""

from collections.abc import Mapping
from importlib.metadata import version
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from contracts.bundle import BASELINE, CARD, CARD_PAGE, GOLDEN, MODEL, SCHEMA, Baseline, Bundle, Manifest, write_bundle
from contracts.encoder import Encoder
from contracts.hashing import canonical_json
from contracts.input_schema import InputSchema
from pipelines.data.snapshots import Snapshot
from pipelines.governance.model_card import CardFacts, model_card, model_card_page
from pipelines.projects import Project
from pipelines.wiring import home, lock_id

GOLDEN_ROWS = 32
SKEW_TOLERANCE = 1e-5  # runs of other batch sizes sum in another order


class SkewError(ValueError):
    """Training and serving do not have the same features; nothing was written."""


CARD_DIGITS = 6
_OF_A_SLICE = ("name", "rows", "label_share", "mean_score", "log_loss", "auc")
FRAMEWORKS = ("numpy", "scikit-learn", "torch", "onnx", "skl2onnx")


def bundle_candidate(
    project: Project,
    snapshot: Snapshot,
    candidate: dict[str, Any],
    schema: InputSchema,
    graph: bytes,
    scores: NDArray[np.float32],
    baseline: Baseline,
    evidence: Mapping[str, Any],
) -> Bundle:
    """Writes the bundle of `candidate`, whose `graph` gives the test rows their `scores`.

    `evidence` has the sections of the evaluation that go into the model card: none that depends on a champion or a
    clock.

    Raises:
        SkewError: single records get other scores than the rows that were evaluated.
    """
    from pipelines.evaluation.baseline import make_golden
    from pipelines.evaluation.persons import without_persons
    from pipelines.inference import score

    names = [field.name for field in schema.fields]
    test = snapshot.table("test")
    chosen = np.linspace(0, test.num_rows - 1, min(GOLDEN_ROWS, test.num_rows)).astype(int)
    records, golden_scores = test.select(names).take(chosen).to_pylist(), scores[chosen]
    refuse_skew(score(graph, Encoder(schema).encode_rows(records)), golden_scores)
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
    facts = _facts(project, snapshot, candidate, manifest, dict(baseline.metrics), evidence)
    return write_bundle(
        home().bundles,
        manifest,
        {
            MODEL: graph,
            SCHEMA: canonical_json(schema),
            BASELINE: canonical_json(baseline),
            GOLDEN: canonical_json(golden),
            CARD: model_card(facts).encode(),
            CARD_PAGE: model_card_page(facts).encode(),
        },
    )


def refuse_skew(of_records: NDArray[np.float32], evaluated: NDArray[np.float32]) -> None:
    """Holds the scores of raw records, encoded as the model server does, against those that the evaluation has judged.

    Raises:
        SkewError: they differ: what was judged is not what would be served.
    """
    differences = np.abs(of_records.astype(np.float64) - evaluated)
    if not (differences <= SKEW_TOLERANCE).all():
        worst = int(np.argmax(np.where(np.isnan(differences), np.inf, differences)))
        many = int((~(differences <= SKEW_TOLERANCE)).sum())
        raise SkewError(
            f"features: {many} of {len(evaluated)} test rows score otherwise when records are encoded one by one, "
            f"as the model server does: row {worst} {of_records[worst]:.6f}, evaluated with {evaluated[worst]:.6f}. "
            "Encode with the candidate's own schema, and delete the feature cache"
        )


def card_evidence(sections: Mapping[str, Any]) -> dict[str, Any]:
    """What of the evaluation's `sections` is about the model alone, and the same on every day and beside any champion.

    Rounded: sums of floats may differ in their last digits from machine to machine, and the card is hashed.
    """
    compared, sliced = sections["comparison"], sections["slices"]
    evidence = {
        "comparison": {
            "comparison": {"intervals": compared["comparison"]["intervals"]},
            "reliability": {name: curve for name, curve in compared["reliability"].items() if name == "challenger"},
        },
        "slices": {"declared": [{key: part[key] for key in _OF_A_SLICE} for part in sliced["declared"]]},
        "fairness": sections["fairness"],
        "references": {
            **sections["references"],
            "references": [found for found in sections["references"]["references"] if found["name"] != "champion"],
        },
        "robustness": sections["robustness"],
        "privacy": sections["privacy"],
    }
    rounded: dict[str, Any] = _rounded(evidence)
    return rounded


def _rounded(value: Any) -> Any:
    if isinstance(value, float):
        return round(value, CARD_DIGITS)
    if isinstance(value, Mapping):
        return {key: _rounded(item) for key, item in value.items()}
    return [_rounded(item) for item in value] if isinstance(value, list | tuple) else value


def _all_parameters(project: Project, candidate: dict[str, Any]) -> dict[str, Any]:
    """Those that the trial was given, and the defaults of all others: a card is read without the code."""
    from pipelines.training.plan import TrialSpec
    from pipelines.training.trainers import find_trainer

    spec = TrialSpec(trainer=candidate["trainer"], parameters=candidate["parameters"])
    parameters: dict[str, Any] = msgspec.to_builtins(find_trainer(spec, project.folder).parameters)
    return parameters


def _onnxruntime_version() -> str:
    import onnxruntime

    return str(onnxruntime.__version__)


def _facts(
    project: Project,
    snapshot: Snapshot,
    candidate: dict[str, Any],
    manifest: Manifest,
    metrics: dict[str, float],
    evidence: Mapping[str, Any],
) -> CardFacts:
    return CardFacts(
        title=project.title,
        description=project.description,
        owner=project.owner,
        label=project.label.description,
        windows=msgspec.to_builtins(snapshot.manifest.windows),
        rows=snapshot.manifest.rows_by_part,
        trainer=candidate["trainer"],
        parameters=_all_parameters(project, candidate),
        metrics=metrics,
        threshold=project.decision_threshold,
        texts=project.card,
        evidence=evidence,
        personal=tuple(field.name for field in project.schema.fields if field.personal),
        lineage={
            "snapshot": manifest.snapshot,
            "dependency lock": manifest.lock,
            "form of the graph": manifest.optimization,
            **{f"library {name}": number for name, number in sorted(manifest.frameworks.items())},
        },
    )
