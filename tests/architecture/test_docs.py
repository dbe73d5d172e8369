"""Docs that name code are compared with the code."""

import importlib
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
GLOSSARY = re.findall(
    r"^\| ([\w -]+) \| .* \| `([\w.]+)` \|$", (ROOT / "docs" / "glossary.md").read_text(), re.MULTILINE
)
DOCS = [*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")]


def test_the_glossary_has_its_words() -> None:
    words = [word for word, _ in GLOSSARY]
    assert {"champion", "challenger", "lease", "verdict", "bundle", "snapshot"} <= set(words)
    assert len(words) == len(set(words))


@pytest.mark.parametrize(("word", "name"), GLOSSARY, ids=[word for word, _ in GLOSSARY])
def test_a_word_of_the_glossary_is_where_it_says(word: str, name: str) -> None:
    module, _, attribute = name.rpartition(".")
    assert hasattr(importlib.import_module(module), attribute), f"{word}: there is no {name}"


@pytest.mark.parametrize("page", DOCS, ids=lambda page: str(page.relative_to(ROOT)))
def test_a_file_that_a_page_names_is_there(page: Path) -> None:
    named = re.findall(
        r"`((?:contracts|dags|docs|pipelines|plugins|projects|serving|tests)/[\w/.]*)`", page.read_text()
    )
    assert [name for name in named if not (ROOT / name).exists()] == []


def test_every_command_of_the_readme_exists() -> None:
    from typer.main import get_command

    from pipelines.cli import app

    known = set(get_command(app).commands)  # type: ignore[attr-defined]
    named = set(re.findall(r"`paceline ([a-z]+(?:-[a-z]+)*)", (ROOT / "README.md").read_text()))
    assert named - known == set()
    assert known - {"demo", "keys"} - named == set(), "the README does not name these"


def test_every_make_target_that_a_page_names_exists() -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    for page in DOCS:
        assert set(re.findall(r"^make ([a-z-]+)", page.read_text(), re.MULTILINE)) <= targets


def test_every_setting_of_the_model_server_is_on_its_page() -> None:
    from serving.settings import SETTINGS

    page = (ROOT / "docs" / "serving.md").read_text()
    rows = re.findall(r"^\| ((?:`[A-Z_]+`(?:, )?)+) \|", page, re.MULTILINE)
    assert sorted(re.findall(r"`([A-Z_]+)`", " ".join(rows))) == sorted(SETTINGS)


def test_every_key_of_a_project_and_of_its_validation_is_on_its_page() -> None:
    from pipelines.data.rules import ShiftRules, ValidationRules
    from pipelines.projects.definition import ProjectFile

    for page, keys in (
        ("projects.md", ProjectFile.__struct_encode_fields__),
        ("data.md", ValidationRules.__struct_encode_fields__),
        ("data.md", ShiftRules.__struct_encode_fields__),
    ):
        text = (ROOT / "docs" / page).read_text()
        assert [key for key in keys if f"`{key}`" not in text and f"`{key}:" not in text] == [], page


def test_every_key_of_the_watch_over_scores_is_on_its_page() -> None:
    from pipelines.monitoring.score_watch import ScoreWatchLimits

    text = (ROOT / "docs" / "score_watch.md").read_text()
    assert [key for key in ScoreWatchLimits.__struct_encode_fields__ if f"`{key}`" not in text] == []


def test_every_key_of_the_triggers_is_on_their_page() -> None:
    from pipelines.monitoring.holds import EVERY_HOLD, TRIGGERS, RetrainBudget
    from pipelines.monitoring.triggers import TriggerPolicy

    text = (ROOT / "docs" / "triggers.md").read_text()
    keys = [*TriggerPolicy.__struct_encode_fields__, *TRIGGERS, *EVERY_HOLD]
    assert [key for key in keys if f"`{key}" not in text] == []
    assert [key for key in RetrainBudget.__struct_encode_fields__ if f"{key}:" not in text] == []
