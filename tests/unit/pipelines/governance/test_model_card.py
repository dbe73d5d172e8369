from typing import Any

from pipelines.governance.model_card import model_card

CARD: dict[str, Any] = {
    "title": "Flight delay",
    "description": "Predicts lateness.\n",
    "owner": "operations",
    "label": "arrives 15 minutes late or more",
    "windows": {
        "as_of": "2013-07-01",
        "test": {"start": "2013-06-16", "end": "2013-06-30"},
        "train": {"start": "2013-01-01", "end": "2013-06-02"},
    },
    "rows": {"train": 140000, "test": 13000},
    "trainer": "boosted_trees",
    "parameters": {"trees": 200, "rate": 0.1, "words": "a | b\nc"},
    "metrics": {"log_loss": 0.51364, "auc": 0.70251, "base_rate": 0.318, "novel": 1.0},
}


def test_the_card_has_its_sections_in_order() -> None:
    headings = [line for line in model_card(**CARD).splitlines() if line.startswith("#")]
    assert headings == [
        "# Flight delay",
        "## Intended use",
        "## Data",
        "## Model",
        "## Quality on the test rows",
        "## Limits",
    ]


def test_the_numbers_are_on_the_card() -> None:
    card = model_card(**CARD)
    for line in (
        "| Training | 2013-01-01 up to 2013-06-02 | 140,000 |",
        "| Test | 2013-06-16 up to 2013-06-30 | 13,000 |",
        "| `rate` | `0.1` |",
        "| AUC | 0.7025 |",
        "| Log loss (nats) | 0.5136 |",
        "| novel | 1.0000 |",
        "31.8% of the test outcomes were positive",
    ):
        assert line in card


def test_the_order_in_which_things_are_given_does_not_change_the_bytes() -> None:
    turned = {name: dict(reversed(value.items())) if isinstance(value, dict) else value for name, value in CARD.items()}
    assert model_card(**turned) == model_card(**CARD)


def test_a_value_cannot_break_the_table() -> None:
    assert "| `words` | `a \\| b c` |" in model_card(**CARD)


def test_more_limits_are_listed_and_default_parameters_are_named_so() -> None:
    card = model_card(**{**CARD, "parameters": {}}, limits=["Not for flights elsewhere."])
    assert "- Not for flights elsewhere." in card
    assert "with its default parameters" in card
