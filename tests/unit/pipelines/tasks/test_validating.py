"""A snapshot against the one that was accepted before it, through the ledger; on the loans of credit_risk."""

import logging
import shutil
from datetime import date
from pathlib import Path

import pytest

from pipelines.tasks import preparing, retraining
from pipelines.wiring import REPOSITORY, home, open_ledger
from tests.fixtures.small_installation import copy_of_expectations

PROJECT = "credit_risk"
TODAY = date(2026, 1, 1)
IN_TWELFTHS = """

_sound = events


def events(connection, warehouse):
    loans = _sound(connection, warehouse)
    return loans.mutate(amount=loans.amount * 12)
"""


@pytest.fixture
def source(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The project's source.py in an installation of its own, to be changed by the test."""
    folder = tmp_path / "projects" / PROJECT
    shutil.copytree(REPOSITORY / "projects" / PROJECT, folder)
    monkeypatch.setenv("PACELINE_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("PACELINE_PROJECTS", str(folder.parent))
    monkeypatch.setenv("PACELINE_EXPECTATIONS", str(copy_of_expectations(tmp_path / "great_expectations")))
    monkeypatch.delenv("PACELINE_LEDGER_URL", raising=False)
    return folder / "source.py"


def entry() -> dict[str, object]:
    return open_ledger().entries(project=PROJECT, kinds=("validation",))[-1].body


def test_a_unit_that_changed_stops_a_retrain_until_a_person_accepts_it(
    source: Path, caplog: pytest.LogCaptureFixture
) -> None:
    first = preparing.prepare(PROJECT, "2024-03-21", TODAY)
    assert first["why"] == "as asked"
    assert entry()["compared_with"] is None

    source.write_text(source.read_text() + IN_TWELFTHS)
    with pytest.raises(retraining.DataRejectedError) as refused:
        preparing.prepare(PROJECT, "2024-04-21", TODAY)
    assert "same scale of amount" in str(refused.value)
    assert "12.2 times in the newest rows" in str(refused.value)
    assert "the same past values of amount" in str(refused.value)
    assert "--accept-shifts NOTE" in str(refused.value)

    accepted = preparing.prepare(PROJECT, "2024-04-21", TODAY, accept_shifts="amounts are by the year since spring")
    assert entry()["accepted_shifts"] == "amounts are by the year since spring"
    assert entry()["compared_with"] == first["snapshot"]

    shutil.rmtree(home().snapshots / accepted["snapshot"])
    with caplog.at_level(logging.WARNING, "paceline"):
        preparing.prepare(PROJECT, "2024-04-11", TODAY)
    assert entry()["compared_with"] == accepted["snapshot"]
    assert "the past is not compared: no snapshot at" in caplog.text


def test_without_an_as_of_it_is_the_first_day_that_knows_all_labels_or_today(source: Path) -> None:
    made = preparing.prepare(PROJECT, "", TODAY)
    assert (made["as_of"], made["windows"]["test"]["end"]) == ("2024-04-21", "2024-03-22")
    assert "the data ends on 2024-03-21, and labels are known 30 days later" in made["why"]
    early = preparing.prepare(PROJECT, "", date(2024, 4, 1))
    assert early["as_of"] == "2024-04-01"
    assert early["why"].startswith("today; the data goes on to 2024-03-21")
