"""From a candidate to a registered challenger: its bundle, the comparison with the champion, gates, registry."""

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import numpy as np
from numpy.typing import NDArray

from contracts.bundle import Baseline, Bundle, read_bundle
from contracts.hashing import content_id
from contracts.input_schema import InputSchema
from pipelines.data.snapshots import Snapshot, read_snapshot
from pipelines.data.validation import keep_card
from pipelines.evaluation.comparison import Comparison
from pipelines.evaluation.gate import Gate
from pipelines.projects import Project
from pipelines.tasks import artifacts, searching
from pipelines.tasks.bundling import bundle_candidate, card_evidence
from pipelines.tasks.datasets import data_parts
from pipelines.tasks.features import Part, encoded
from pipelines.tasks.groupings import fairness_groupings, slice_groupings
from pipelines.tasks.reporting import write_report
from pipelines.tasks.spending import spent_tags
from pipelines.wiring import (
    expectations_folder,
    find_project,
    home,
    lock_id,
    open_ledger,
    open_registry,
)

logger = logging.getLogger("paceline")
Side = tuple[Path, NDArray[np.float32]]  # the champion's graph, and the test rows as its own schema encodes them


@dataclass(frozen=True)
class Case:
    """What is judged: a candidate's graph on the held-out rows, beside the champion's (None where there is none)."""

    project: Project
    snapshot: Snapshot
    schema: InputSchema
    graph: bytes
    test: Part
    scores: NDArray[np.float32]
    rival: Side | None
    rival_scores: NDArray[np.float32] | None


class Section(NamedTuple):
    """What one part of the evaluation found, as plain values for the report, and the gates that rest on it."""

    name: str
    content: Any
    gates: tuple[Gate, ...]


def evaluate(project: str, candidate: dict[str, Any]) -> dict[str, Any]:
    """Writes the candidate's bundle and judges it by the gates, against the champion on the same held-out rows.

    Returns the bundle's id, the gates with their numbers, whether all were passed, the outcome (first, better, not
    worse or worse) with its reason, the id of the artifact with the evidence of every section (`evidence`), and the
    file of the report (`report`).
    """
    from pipelines.evaluation import outcome

    found = find_project(project)
    champion = open_ledger().champion(project)
    case = _case(found, candidate, None if champion is None else champion.bundle)
    compared, baseline, sections = _alone(case)
    bundle = _bundle(case, candidate, baseline, sections)
    sections.append(_timed(case))
    gates = [gate for section in sections for gate in section.gates]
    came_out = outcome.decide(compared, gates, found.gates)
    gates += outcome.superiority_gates(compared, found.gates)
    evaluation = {
        "bundle": bundle.id,
        "snapshot": case.snapshot.id,
        "champion": None if champion is None else champion.version,
        "passed": all(gate.passed for gate in gates),
        "outcome": came_out.name,
        "reason": came_out.reason,
        "gates": msgspec.to_builtins(gates),
        "comparison": msgspec.to_builtins(compared),
        "evidence": artifacts.keep_json({section.name: section.content for section in sections}),
    }
    limits = content_id((found.decision_threshold, found.costs, found.gates, found.slices, found.fairness))
    key = f"gates:{project}:{bundle.id}:{evaluation['champion']}:{limits[:16]}"
    open_ledger().append(project, "gates", bundle.id, evaluation, key=key)
    for gate in gates:
        logger.info("%s %s: %s", "passed" if gate.passed else "FAILED", gate.name, gate.reason)
    logger.info("outcome: %s: %s", came_out.name, came_out.reason)
    judged = {**evaluation, "candidate": candidate}
    report = write_report(project, judged)
    logger.info("the report is %s", report)
    return {**judged, "report": str(report)}


def build_bundle(project: str, candidate: dict[str, Any]) -> Bundle:
    """The candidate's bundle alone, the same that `evaluate` writes: no champion, no gates, nothing in the ledger."""
    case = _case(find_project(project), candidate, None)
    _, baseline, sections = _alone(case)
    return _bundle(case, candidate, baseline, sections)


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
    configuration = artifacts.keep_folder(find_project(project).folder)
    registered = registry.register(
        project,
        bundle,
        metrics=evaluation["comparison"]["challenger"],
        parameters={"trainer": candidate["trainer"], "seed": candidate["seed"], **candidate["parameters"]},
        tags={
            "snapshot": snapshot.id,
            "as_of": str(snapshot.manifest.windows.as_of),
            "lock": lock_id(),
            "configuration": configuration,
            **candidate["made_by"],
            "schema_version": str(bundle.schema.version),
            "optimization": candidate["optimization"],
            "chosen": candidate["name"],
            "reason": candidate["reason"],
            **spent_tags(candidate["trials"]),
        },
        trials=searching.registry_trials(candidate),
        importances=candidate["importances"],
        reports=[Path(evaluation["report"])],
        data=data_parts(snapshot),
        against=evaluation["champion"],
    )
    registry.set_aliases(project, {"challenger": registered.version})
    if bundle.card_page is not None:
        keep_card(expectations_folder(), project, bundle.card_page)
    offer = {"version": registered.version, "bundle": bundle.id, "as_of": str(snapshot.manifest.windows.as_of)}
    entry = {**offer, "configuration": configuration}
    open_ledger().append(
        project, "registered", registered.version, entry, key=f"registered:{project}:{registered.version}"
    )
    logger.info("registered %s version %s (bundle %s)", project, registered.version, bundle.id[:12])
    return offer


def why_the_champion_stays(evaluation: dict[str, Any]) -> str:
    """The outcome, and the gates that were not passed, with their numbers."""
    outcome = f"{evaluation['outcome']} ({evaluation['reason']})"
    return f"The champion stays. Outcome: {outcome}. Failed gates: {failed_gates(evaluation)}"


def failed_gates(evaluation: dict[str, Any]) -> str:
    """The gates that were not passed, with their numbers."""
    return "; ".join(f"{gate['name']}: {gate['reason']}" for gate in evaluation["gates"] if not gate["passed"])


def _case(project: Project, candidate: dict[str, Any], champion: str | None) -> Case:
    from pipelines.inference import score

    snapshot = read_snapshot(home().snapshots, candidate["snapshot"])
    schema = msgspec.convert(artifacts.read_json(candidate["schema"]), InputSchema)
    graph = artifacts.read(candidate["graph"])
    test = encoded(project, snapshot, schema, "test")
    rival = None if champion is None else _rival(project, snapshot, champion)
    return Case(
        project=project,
        snapshot=snapshot,
        schema=schema,
        graph=graph,
        test=test,
        scores=score(graph, test.features),
        rival=rival,
        rival_scores=None if rival is None else score(*rival),
    )


def _alone(case: Case) -> tuple[Comparison, Baseline, list[Section]]:
    """The comparison, the baseline, and the sections from which the model card takes what is about the model alone."""
    from pipelines.evaluation.baseline import make_baseline
    from pipelines.tasks.scrutinising import scrutinise

    compared, quality = _compared(case)
    training = encoded(case.project, case.snapshot, case.schema, "train")
    baseline = make_baseline(case.schema, training.features, case.scores, compared.challenger)
    return compared, baseline, [quality, _sliced(case, baseline), _fair(case), *scrutinise(case)]


def _bundle(case: Case, candidate: dict[str, Any], baseline: Baseline, sections: list[Section]) -> Bundle:
    evidence = card_evidence({section.name: section.content for section in sections})
    return bundle_candidate(
        case.project, case.snapshot, candidate, case.schema, case.graph, case.scores, baseline, evidence
    )


def _compared(case: Case) -> tuple[Comparison, Section]:
    from pipelines.evaluation import comparison, gates

    compared = comparison.compare(
        case.scores,
        case.rival_scores,
        case.test.labels,
        case.test.days,
        case.project.decision_threshold,
        case.project.training.seed,
        resamples=case.project.gates.resamples,
        costs=case.project.costs,
    )
    found = gates.quality_gates(compared.comparison, case.project.gates)
    return compared.comparison, Section("comparison", msgspec.to_builtins(compared), found)


def _sliced(case: Case, baseline: Baseline) -> Section:
    from pipelines.evaluation import slices

    groupings = slice_groupings(case.project, case.snapshot, case.schema, case.test.features, baseline)
    rival = None if case.rival_scores is None else case.rival_scores.astype(np.float64)
    rows = slices.SliceRows(case.test.labels, case.test.days, case.scores.astype(np.float64), rival)
    found = slices.measure_slices(rows, *groupings, case.project.slices)
    return Section("slices", msgspec.to_builtins(found), slices.slice_gates(found, case.project.slices))


def _fair(case: Case) -> Section:
    from pipelines.evaluation import fairness

    limits = case.project.fairness
    found = fairness.measure_fairness(
        case.test.labels,
        case.scores.astype(np.float64),
        case.test.days,
        fairness_groupings(case.project, case.snapshot),
        case.project.decision_threshold,
        limits,
        case.project.training.seed,
        case.project.gates.resamples,
    )
    return Section("fairness", msgspec.to_builtins(found), fairness.fairness_gates(found, limits))


def _timed(case: Case) -> Section:
    from pipelines.evaluation import gates
    from pipelines.evaluation.latency import compare_latency

    measured = compare_latency((case.graph, case.test.features), case.rival, case.project.training.seed)
    return Section("latency", msgspec.to_builtins(measured), gates.latency_gates(measured, case.project.gates))


def _rival(project: Project, snapshot: Snapshot, bundle_id: str) -> Side:
    """The champion's graph, and the same test rows as its own schema encodes them."""
    bundle = read_bundle(home().bundles / bundle_id, bundle_id)
    return bundle.model_path, encoded(project, snapshot, bundle.schema, "test").features
