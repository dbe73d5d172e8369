"""The model card: what a model is for, what it was made from, how good it is and for whom, and where it must not be
trusted. As Markdown, and as a page with plots.

It is hashed with its bundle, so it says nothing that changes between two runs on the same content: no times, no hosts,
no latencies, and no gates, which compare with whoever leads on that day. Those are in the evaluation report, in the
registry and in a prediction's lineage. After Mitchell et al., "Model Cards for Model Reporting", 2019.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec

from pipelines.governance import card_chapters as chapter
from pipelines.pages import Card, render
from pipelines.pages.document import Chapter, html, markdown

_TEMPLATES = Path(__file__).parent / "templates"


class CardTexts(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What only people can say of a model: `card` in project.yaml.

    `intended_use`: for whom, for which decision. `not_for`: uses that are wrong. `limits`: where it must not be
    trusted. `failure_modes`: how it is known to go wrong, and how that shows. `ethics`: what was weighed about those
    whom it is about. Each of the last four is a list of sentences.
    """

    intended_use: str = ""
    not_for: tuple[str, ...] = ()
    limits: tuple[str, ...] = ()
    failure_modes: tuple[str, ...] = ()
    ethics: tuple[str, ...] = ()


class CardFacts(msgspec.Struct, frozen=True, kw_only=True):
    """Everything that a card is made of.

    Args:
        description: of the project: what is predicted, from what, for whom, and what it is not for.
        label: what an outcome of 1 means.
        windows: by part (`train`, `validation`, `test`) the days `start` up to and without `end`.
        rows: by part.
        metrics: on the test rows, by the names of `pipelines.evaluation.metrics`.
        evidence: sections of the evaluation by their names, those that say nothing of the champion or of a clock.
        personal: the fields that are about persons.
        lineage: names and ids of what the model was made from.
    """

    title: str
    description: str
    owner: str
    label: str
    windows: Mapping[str, Any]
    rows: Mapping[str, int]
    trainer: str
    parameters: Mapping[str, Any]
    metrics: Mapping[str, float]
    threshold: float = 0.5
    texts: CardTexts = CardTexts()
    evidence: Mapping[str, Any] = {}
    personal: tuple[str, ...] = ()
    lineage: Mapping[str, str] = {}


def model_card(facts: CardFacts) -> str:
    """The card as Markdown."""
    return markdown(facts.title, _lead(facts), _chapters(facts))


def model_card_page(facts: CardFacts) -> str:
    """The card as one HTML file that loads nothing else."""
    return render(
        "document.html",
        [_TEMPLATES],
        title=f"{facts.title}: model card",
        lead=_lead(facts),
        warnings=[],
        cards=_cards(facts),
        content=html(_chapters(facts)),
        footer="Part of the bundle, and hashed with it. Nothing on it depends on a clock, a host or another model.",
    )


def _lead(facts: CardFacts) -> list[str]:
    return [
        facts.description.strip(),
        f"Owner: {facts.owner}. Outcome: {facts.label or 'see the description'}.",
    ]


def _cards(facts: CardFacts) -> list[Card]:
    shown = (("auc", "AUC"), ("log_loss", "log loss"), ("calibration_error", "calibration error"), ("brier", "Brier"))
    cards = [Card(title, f"{facts.metrics[name]:.3f}") for name, title in shown if name in facts.metrics]
    if "test" in facts.rows:
        cards.append(Card("test rows", f"{facts.rows['test']:,}"))
    return cards


def _chapters(facts: CardFacts) -> list[Chapter]:
    found = facts.evidence
    of_texts = facts.texts
    chapters: Sequence[Chapter | None] = [
        chapter.intended_use(facts.label, facts.threshold, of_texts.intended_use, of_texts.not_for),
        chapter.data(facts.windows, facts.rows, facts.personal),
        chapter.model(facts.trainer, facts.parameters),
        chapter.quality(facts.metrics, found.get("comparison", {}), facts.threshold),
        chapter.references(found.get("references", {})),
        chapter.slices(found.get("slices", {})),
        chapter.fairness(found.get("fairness", ())),
        chapter.robustness(found.get("robustness", {})),
        chapter.privacy(found.get("privacy", {})),
        chapter.limits(facts.windows, facts.rows, facts.metrics, of_texts.limits),
        chapter.sentences("Known failure modes", of_texts.failure_modes),
        chapter.sentences("Ethical considerations", of_texts.ethics),
        chapter.elsewhere(),
        chapter.lineage(facts.lineage),
    ]
    return [each for each in chapters if each is not None]
