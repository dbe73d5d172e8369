from typing import Any

import msgspec

from pipelines.governance.model_card import CardFacts, CardTexts, model_card, model_card_page
from tests.fixtures.evidence import EVIDENCE

FACTS = CardFacts(
    title="Flight delay",
    description="Predicts lateness.\n",
    owner="operations",
    label="arrives 15 minutes late or more",
    windows={
        "as_of": "2013-07-01",
        "test": {"start": "2013-06-16", "end": "2013-06-30"},
        "train": {"start": "2013-01-01", "end": "2013-06-02"},
    },
    rows={"train": 140000, "test": 13000},
    trainer="boosted_trees",
    parameters={"trees": 200, "rate": 0.1, "words": "a | b\nc"},
    metrics={"log_loss": 0.51364, "auc": 0.70251, "base_rate": 0.318, "novel": 1.0},
    personal=("age",),
    lineage={"snapshot": "9f2b"},
)
FULL = msgspec.structs.replace(
    FACTS,
    evidence=EVIDENCE,
    texts=CardTexts(not_for=("People.",), failure_modes=("Storms.",), ethics=("Weighed.",), limits=("Elsewhere.",)),
)


def _with(**changes: Any) -> CardFacts:
    return msgspec.structs.replace(FACTS, **changes)


def _headings(card: str) -> list[str]:
    return [line.removeprefix("## ") for line in card.splitlines() if line.startswith("#")]


def test_the_card_has_its_sections_in_order() -> None:
    assert _headings(model_card(FULL)) == [
        "# Flight delay",
        "Intended use",
        "Data",
        "Model",
        "Quality on the test rows",
        "Beside simpler models",
        "Quality on slices",
        "Fairness",
        "When inputs are disturbed",
        "Privacy",
        "Limits",
        "Known failure modes",
        "Ethical considerations",
        "Energy, cost, gates and latency",
        "Lineage",
    ]


def test_what_was_not_measured_has_no_chapter() -> None:
    headings = _headings(model_card(FACTS))
    assert "Fairness" not in headings
    assert "Privacy" not in headings


def test_the_numbers_are_on_the_card() -> None:
    card = model_card(FULL)
    for line in (
        "| Training | 2013-01-01 up to 2013-06-02 | 140,000 | fitting |",
        "| Test | 2013-06-16 up to 2013-06-30 | 13,000 | the numbers below; nothing was fitted or chosen on them |",
        "| `rate` | `0.1` |",
        "| AUC | 0.7025 | 0.6900 … 0.7150 |",
        "| novel | 1.0000 |  |",
        "31.8% of the test outcomes were positive",
        "| carrier = AA | 1,200 | 30.0% | 29.0% | 0.5000 | 0.7100 |",
        "| age below 25 | 400 | 12.0% (10.0% … 14.0%) |",
        "| age from 60 | 20 | too few rows |",
        "| distance is missing | +0.0300 (+0.0200 … +0.0400) | no |",
        "| loss threshold | 0.520 (0.500 … 0.540) |",
    ):
        assert line in card


def test_what_is_done_to_many_fields_is_said_of_many() -> None:
    disturbed = {**EVIDENCE["robustness"]["perturbations"][0], "kind": "missing", "field": "all optional fields"}
    card = model_card(_with(evidence={"robustness": {**EVIDENCE["robustness"], "perturbations": [disturbed]}}))
    assert "| all optional fields are missing |" in card


def test_the_card_says_nothing_of_the_champion() -> None:
    assert "champion" not in model_card(FULL)
    assert "champion" not in model_card_page(FULL)


def test_the_page_has_the_same_text_and_plots() -> None:
    page = model_card_page(FULL)
    assert page.count("<svg") == 3
    for text in ("carrier = AA", "12.0% (10.0% … 14.0%)", "<code>a | b\nc</code>", "About persons"):
        assert text in page


def test_the_order_in_which_things_are_given_does_not_change_the_bytes() -> None:
    turned = {
        name: dict(reversed(value.items())) if isinstance(value := getattr(FACTS, name), dict) else value
        for name in ("windows", "rows", "parameters", "metrics")
    }
    assert model_card(_with(**turned)) == model_card(FACTS)
    assert model_card_page(_with(**turned)) == model_card_page(FACTS)


def test_a_value_can_break_neither_the_table_nor_the_page() -> None:
    assert "| `words` | `a \\| b c` |" in model_card(FACTS)
    page = model_card_page(_with(description="<script>alert(1)</script>"))
    assert "<script>" not in page


def test_more_limits_are_listed_and_default_parameters_are_named_so() -> None:
    card = model_card(_with(parameters={}, texts=CardTexts(limits=("Not for flights elsewhere.",))))
    assert "- Not for flights elsewhere." in card
    assert "with its default parameters" in card


def test_a_project_that_was_not_tested_for_privacy_says_so() -> None:
    card = model_card(_with(evidence={"privacy": {"ran": False, "reason": "the project is not marked sensitive"}}))
    assert "Not tested: the project is not marked sensitive." in card
