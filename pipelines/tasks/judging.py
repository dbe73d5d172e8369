"""From a candidate to a registered challenger: its bundle, the comparison with the champion, gates, registry."""

import logging
from pathlib import Path
from typing import Any

import msgspec

from contracts.bundle import Baseline, Bundle, read_bundle
from contracts.hashing import content_id
from pipelines.data.snapshots import read_snapshot
from pipelines.data.validation import keep_card
from pipelines.evaluation.comparison import Comparison
from pipelines.tasks import artifacts, searching, signing
from pipelines.tasks.bundling import bundle_candidate, card_evidence
from pipelines.tasks.cases import Case, Section, read_case
from pipelines.tasks.datasets import data_parts
from pipelines.tasks.features import encoded
from pipelines.tasks.measuring import compared_section, fair_section, sliced_section, timed_section
from pipelines.tasks.reporting import write_report
from pipelines.tasks.scrutinising import scrutinise
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


def evaluate(project: str, candidate: dict[str, Any]) -> dict[str, Any]:
    """Writes the candidate's bundle and judges it by the gates, against the champion on the same held-out rows.

    Returns the bundle's id, the gates with their numbers, whether all were passed, the outcome (first, better, not
    worse or worse) with its reason, the id of the artifact with the evidence of every section (`evidence`), and the
    file of the report (`report`).
    """
    from pipelines.evaluation import outcome

    found = find_project(project)
    champion = open_ledger().champion(project)
    case = read_case(found, candidate, None if champion is None else champion.bundle)
    compared, baseline, sections = _alone(case)
    bundle = _bundle(case, candidate, baseline, sections)
    sections.append(timed_section(case))
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
        "cpu_s": sum(trial["spent"]["cpu_s"] for trial in candidate["trials"] if trial.get("spent")),
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
    case = read_case(find_project(project), candidate, None)
    _, baseline, sections = _alone(case)
    return _bundle(case, candidate, baseline, sections)


def register(project: str, evaluation: dict[str, Any]) -> dict[str, Any]:
    """Registers the bundle of a passed evaluation as a version with the alias `challenger`.

    Raises:
        PermissionError: a gate failed.
        SigningKeyError: the project asks for signed bundles, and there is no key.
    """
    if not evaluation["passed"]:
        raise PermissionError(f"{evaluation['bundle'][:12]} is not registered: {failed_gates(evaluation)}")
    candidate = evaluation["candidate"]
    bundle = read_bundle(home().bundles / evaluation["bundle"], evaluation["bundle"])
    signing.sign_if_asked(project, bundle)
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


def _alone(case: Case) -> tuple[Comparison, Baseline, list[Section]]:
    """The comparison, the baseline, and the sections from which the model card takes what is about the model alone."""
    from pipelines.evaluation.baseline import make_baseline

    compared, quality = compared_section(case)
    training = encoded(case.project, case.snapshot, case.schema, "train")
    baseline = make_baseline(case.schema, training.features, case.scores, compared.challenger)
    return compared, baseline, [quality, sliced_section(case, baseline), fair_section(case), *scrutinise(case)]


def _bundle(case: Case, candidate: dict[str, Any], baseline: Baseline, sections: list[Section]) -> Bundle:
    evidence = card_evidence({section.name: section.content for section in sections})
    return bundle_candidate(
        case.project, case.snapshot, candidate, case.schema, case.graph, case.scores, baseline, evidence
    )
