"""The report of an evaluation as a page, and where it lies."""

from pathlib import Path
from typing import Any

from pipelines.governance.evaluation_report import Evaluated, evaluation_report
from pipelines.pages import write_whole
from pipelines.tasks import artifacts
from pipelines.wiring import commit, find_project, home


def write_report(project: str, evaluation: dict[str, Any]) -> Path:
    """Writes the page of an evaluation (as `judging.evaluate` returns it), and returns its file.

    The same evaluation against the same champion has the same file.
    """
    found, candidate = find_project(project), evaluation["candidate"]
    optimised = candidate.get("optimization_evidence")
    forms = {"candidates": []} if optimised is None else artifacts.read_json(optimised)
    page = evaluation_report(
        Evaluated(
            title=found.title,
            champion=evaluation["champion"],
            passed=evaluation["passed"],
            gates=evaluation["gates"],
            outcome={"name": evaluation["outcome"], "reason": evaluation["reason"]},
            evidence=artifacts.read_json(evaluation["evidence"]),
            trials=[_trial(trial) for trial in candidate["trials"]],
            candidates=forms["candidates"],
            chosen_form=candidate["optimization"],
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


def _trial(trial: dict[str, Any]) -> dict[str, Any]:
    """A trial with its learning curve, which is an artifact of its own."""
    curve = trial.get("curve")
    return {**trial, "curve": [] if curve is None else artifacts.read_json(curve)}
