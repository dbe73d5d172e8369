"""The report of an evaluation as a page, and where that and the model card of a version lie."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec

from contracts.bundle import CARD, CARD_PAGE, read_bundle
from pipelines.data.snapshots import read_manifest
from pipelines.governance.evaluation_report import Evaluated, evaluation_report
from pipelines.pages import write_whole
from pipelines.projects import Project
from pipelines.registry.port import Version
from pipelines.tasks import artifacts
from pipelines.wiring import commit, find_project, home, read_ledger, read_registry


def write_report(project: str, evaluation: dict[str, Any]) -> Path:
    """Writes the page of an evaluation (as `judging.evaluate` returns it), and returns its file.

    The same evaluation against the same champion has the same file.
    """
    found, candidate = find_project(project), evaluation["candidate"]
    optimised = candidate.get("optimization_evidence")
    forms = {} if optimised is None else artifacts.read_json(optimised)
    evidence = artifacts.read_json(evaluation["evidence"])
    snapshot = read_manifest(home().snapshots, evaluation["snapshot"])
    champion = evaluation["champion"]
    page = evaluation_report(
        Evaluated(
            title=found.title,
            champion=evaluation["champion"],
            passed=evaluation["passed"],
            gates=evaluation["gates"],
            outcome={"name": evaluation["outcome"], "reason": evaluation["reason"]},
            evidence=evidence,
            label=found.label.description,
            threshold=found.decision_threshold,
            costs=msgspec.to_builtins(found.costs),
            windows=msgspec.to_builtins(snapshot.windows),
            rows=snapshot.rows_by_part,
            trials=[_trial(trial) for trial in candidate["trials"]],
            choice=candidate.get("reason", ""),
            candidates=forms.get("candidates", ()),
            chosen_form=candidate["optimization"],
            form_choice=forms.get("reason", ""),
            timed_on=forms.get("timed_on", ""),
            subject={
                "Challenger": f"`{candidate['trainer']}`, form `{candidate['optimization']}`",
                "Champion": "none: this is the first" if champion is None else f"version {champion}",
            },
            not_measured=_not_measured(found, evidence),
            facts={
                "bundle": evaluation["bundle"],
                "snapshot": evaluation["snapshot"],
                "commit": commit(),
                "evidence": evaluation["evidence"],
            },
        )
    )
    file = report_file(project, evaluation["bundle"], evaluation["champion"])
    write_whole(file, page)
    return file


def report_file(project: str, bundle: str, champion: str | None) -> Path:
    """Where the report of a bundle's evaluation against a champion (or none) lies."""
    return home().reports(project) / "evaluations" / f"{bundle[:16]}-against-{champion or 'none'}.html"


def _not_measured(project: Project, evidence: Mapping[str, Any]) -> dict[str, str]:
    """What a reader of a report looks for, and why the evaluation has nothing of it."""
    said = {}
    if not evidence.get("fairness"):
        said["Fairness"] = "the project names no groups (`fairness` in project.yaml)"
    if "privacy" not in evidence:
        why = "" if project.sensitive else " (the project is not marked `sensitive`)"
        said["Privacy"] = (
            f"no attack was tried{why}: nothing is known of what the model gives away of its training rows"
        )
    if "robustness" not in evidence:
        said["Robustness"] = "inputs were not disturbed in this evaluation"
    if "references" not in evidence:
        said["Simpler models"] = "beside the base rate (see the gates) no simpler model was trained in this evaluation"
    return said


def find_card(project: str, version: str = "") -> dict[str, Any]:
    """Where the model card of a version lies, in its bundle: `card` (Markdown) and `page` (HTML, or None).

    `version` is a number or an alias; empty is the champion, else the challenger.

    Raises:
        LookupError: there is no such version, or its bundle is not kept here any more.
        contracts.bundle.BundleError: the bundle was altered.
    """
    found = _version(project, version)
    folder = home().bundles / found.bundle
    if not folder.is_dir():
        raise LookupError(
            f"the bundle {found.bundle[:12]} of {project} version {found.version} is not in {home().bundles}; where it "
            f"was archived, `paceline restore {project} {found.version}` brings it back; its card is also in MLflow"
        )
    bundle = read_bundle(folder, found.bundle)
    return {
        "project": project,
        "version": found.version,
        "bundle": bundle.id,
        "card": str(folder / CARD),
        "page": None if bundle.card_page is None else str(folder / CARD_PAGE),
    }


def find_report(project: str, version: str = "") -> dict[str, Any]:
    """Where the report of the newest evaluation of a version lies, and beside which `champion` it was judged.

    Raises:
        LookupError: there is no such version, it was never judged, or its report is not kept here any more.
    """
    found = _version(project, version)
    judged = read_ledger().entries(project=project, kinds=("gates",), subject=found.bundle)
    if not judged:
        raise LookupError(f"the ledger has no evaluation of {project} version {found.version}")
    champion = judged[-1].body["champion"]
    file = report_file(project, found.bundle, champion)
    if not file.is_file():
        raise LookupError(
            f"the report {file} is gone; it is also among the artifacts of the run of {project} version "
            f"{found.version} in MLflow, and its gates are in the ledger (`paceline status {project}`)"
        )
    return {"project": project, "version": found.version, "champion": champion, "report": str(file)}


def _version(project: str, version: str) -> Version:
    find_project(project)
    leader, registry = read_ledger().champion(project), read_registry()
    # who leads is the ledger's to say: the registry's alias follows it
    champion = "champion" if leader is None else leader.version
    for wanted in [champion, "challenger"] if not version else [champion if version == "champion" else version]:
        if (found := registry.version(project, wanted)) is not None:
            return found
    known = ", ".join(each.version for each in registry.versions(project)) or "none"
    named = f"no version {version!r}" if version else "neither champion nor challenger"
    raise LookupError(f"{project} has {named}; its versions: {known}. `paceline retrain {project}` makes one")


def _trial(trial: dict[str, Any]) -> dict[str, Any]:
    """A trial with its learning curve, which is an artifact of its own."""
    curve = trial.get("curve")
    return {**trial, "curve": [] if curve is None else artifacts.read_json(curve)}
