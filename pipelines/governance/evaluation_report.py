"""The report of one evaluation: outcome, gates with their numbers, the comparison with the champion, and all evidence.

Unlike the model card it belongs to one evaluation on one day: it names the champion, latencies, energy and cost.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec

from pipelines.governance import card_chapters as chapter
from pipelines.governance import report_chapters as report
from pipelines.pages import Card, render
from pipelines.pages.document import Chapter, html

_TEMPLATES = Path(__file__).parent / "templates"


class Evaluated(msgspec.Struct, frozen=True, kw_only=True):
    """What a report is made of.

    Args:
        gates: `name`, `passed`, `reason`, `area` of each.
        outcome: `name` (first, better, not worse, worse) and `reason`.
        evidence: the sections by their names, as `pipelines.tasks.judging` keeps them.
        trials: `trainer`, `parameters`, `metrics`, `curve` and what became of each; `chosen` marks the best.
        candidates: the forms of the graph that optimisation tried.
        facts: names and ids of what was judged.
    """

    title: str
    champion: str | None
    passed: bool
    gates: Sequence[Mapping[str, Any]]
    outcome: Mapping[str, str]
    evidence: Mapping[str, Any]
    trials: Sequence[Mapping[str, Any]] = ()
    candidates: Sequence[Mapping[str, Any]] = ()
    chosen_form: str = ""
    facts: Mapping[str, str] = {}


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
        footer="Numbers in the ledger and in this report are the same. Made by the evaluation of a retrain.",
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
        report.against_the_champion(compared.get("comparison", {})),
        report.calibration(compared.get("reliability", {})),
        chapter.references(section.get("references", {})),
        report.slices(section.get("slices", {})),
        chapter.fairness(section.get("fairness", ())),
        report.sanity(section.get("sanity", {})),
        chapter.robustness(section.get("robustness", {})),
        chapter.privacy(section.get("privacy", {})),
        report.latency(section.get("latency", {})),
        report.optimisation(found.candidates, found.chosen_form),
        report.trials(found.trials),
        report.energy(found.trials),
        chapter.lineage(found.facts),
    ]
    return [each for each in chapters if each is not None]
