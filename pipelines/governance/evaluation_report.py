"""The report of one evaluation: outcome, gates with their numbers, the comparison with the champion, and all evidence.

Unlike the model card it belongs to one evaluation on one day: it names the champion, latencies, energy and cost.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec

from pipelines.governance import card_chapters as chapter
from pipelines.governance import report_chapters as report
from pipelines.governance import run_chapters as run
from pipelines.pages import Card, render
from pipelines.pages.document import Chapter, html

_TEMPLATES = Path(__file__).parent / "templates"


class Evaluated(msgspec.Struct, frozen=True, kw_only=True):
    """What a report is made of.

    Args:
        gates: `name`, `passed`, `reason`, `area` of each.
        outcome: `name` (first, better, not worse, worse) and `reason`.
        evidence: the sections by their names, as `pipelines.tasks.judging` keeps them.
        label: what an outcome of 1 means; `costs`: of a wrong decision, each way.
        windows, rows: of the snapshot, by part.
        trials: `trainer`, `parameters`, `metrics`, `curve` and what became of each; `chosen` marks the best.
        choice: why that one was chosen.
        candidates: the forms of the graph that optimisation tried; `chosen_form` and `form_choice`: which serves, and
            why; `timed_on`: for which processor or accelerator.
        subject: what was judged, by what a reader calls it; `facts`: names and ids of it.
        not_measured: what this project's evaluation leaves out, and why.
    """

    title: str
    champion: str | None
    passed: bool
    gates: Sequence[Mapping[str, Any]]
    outcome: Mapping[str, str]
    evidence: Mapping[str, Any]
    label: str = ""
    threshold: float = 0.5
    costs: Mapping[str, float] = {}
    windows: Mapping[str, Any] = {}
    rows: Mapping[str, int] = {}
    trials: Sequence[Mapping[str, Any]] = ()
    choice: str = ""
    candidates: Sequence[Mapping[str, Any]] = ()
    chosen_form: str = ""
    form_choice: str = ""
    timed_on: str = ""
    subject: Mapping[str, str] = {}
    facts: Mapping[str, str] = {}
    not_measured: Mapping[str, str] = {}


def evaluation_report(found: Evaluated) -> str:
    """The report as one HTML file that loads nothing else."""
    failed = [gate for gate in found.gates if not gate["passed"]]
    rival = "" if found.champion is None else f" than version {found.champion}"
    return render(
        "document.html",
        [_TEMPLATES],
        title=f"{found.title}: evaluation of a challenger",
        lead=[f"{found.outcome['name'].capitalize()}{rival}: {found.outcome['reason']}."],
        warnings=[f"{gate['name']}: {gate['reason']}" for gate in failed],
        cards=_cards(found, len(failed)),
        content=html(_chapters(found)),
        footer=(
            "The gates' numbers are also in the ledger, and all evidence is an artifact by the id above. What each "
            "gate asks, and why: docs/evaluation.md. The model card, in the bundle, is about the model alone."
        ),
    )


def _cards(found: Evaluated, failed: int) -> list[Card]:
    comparison = found.evidence.get("comparison", {}).get("comparison", {})
    ours, theirs = comparison.get("challenger", {}), comparison.get("champion") or {}
    cards = [
        Card(
            "gates",
            f"{len(found.gates) - failed} of {len(found.gates)}",
            more="passed" if failed else "all passed",
            tone="bad" if failed else "good",
            lead=True,
        ),
        Card("outcome", found.outcome["name"], tone="bad" if found.outcome["name"] == "worse" else ""),
    ]
    for name, title in (("log_loss", "log loss"), ("auc", "AUC"), ("calibration_error", "calibration error")):
        if name in ours:
            more = f"champion {theirs[name]:.4f}" if name in theirs else ""
            cards.append(Card(title, f"{ours[name]:.4f}", more=more))
    return cards


def _chapters(found: Evaluated) -> list[Chapter]:
    section = found.evidence
    compared = section.get("comparison", {})
    chapters = [
        report.gates(found.gates),
        report.subject(found.label, found.windows, found.rows, found.threshold, found.costs, found.subject),
        report.quality(compared.get("comparison", {})),
        report.against_the_champion(compared.get("comparison", {})),
        report.calibration(compared.get("reliability", {})),
        chapter.references(section.get("references", {})),
        report.slices(section.get("slices", {})),
        chapter.fairness(section.get("fairness", ())),
        report.sanity(section.get("sanity", {})),
        chapter.robustness(section.get("robustness", {})),
        chapter.privacy(section.get("privacy", {})),
        run.latency(section.get("latency", {})),
        run.optimisation(found.candidates, found.chosen_form, found.form_choice, found.timed_on),
        run.trials(found.trials, found.choice),
        run.energy(found.trials),
        report.not_measured(found.not_measured),
        chapter.lineage(found.facts),
    ]
    return [each for each in chapters if each is not None]
