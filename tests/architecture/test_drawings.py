from pathlib import Path

from pipelines.rollout.drawing import mermaid, table
from pipelines.rollout.state import FINAL, TRANSITIONS

DOCS = Path(__file__).parents[2] / "docs" / "rollouts.md"


def test_the_drawing_of_the_state_machine_is_that_of_the_code() -> None:
    text = DOCS.read_text()
    assert f"```mermaid\n{mermaid()}\n```" in text, "run: python -m pipelines.rollout.drawing docs/rollouts.md"
    assert f"<!-- transitions -->\n{table()}\n<!-- end of transitions -->" in text


def test_every_phase_can_be_reached_and_only_the_last_ones_are_left_by_nothing() -> None:
    sources, targets = {way.source for way in TRANSITIONS}, {way.target for way in TRANSITIONS}
    assert targets - sources == set(FINAL)
    assert sources - targets == {"waiting"}
