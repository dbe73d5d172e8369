"""A warehouse of real flights, ingested once; a home of its own for each test."""

import shutil
from datetime import date
from pathlib import Path

import pytest

from contracts.bundle import Bundle
from tests.fixtures import watched_flights
from tests.fixtures.watched_flights import PROJECT


@pytest.fixture(scope="session")
def ingested(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The home of an installation that has the flights of 2013 in its warehouse."""
    from pipelines.tasks import ingesting

    home = tmp_path_factory.mktemp("ingested")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PACELINE_HOME", str(home))
        ingesting.ingest(PROJECT)
    return home


@pytest.fixture
def watched(ingested: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of the prediction log of a project that has a champion, version 7, and nothing logged yet."""
    log = _home(ingested, tmp_path, monkeypatch)
    watched_flights.lead()
    return log


@pytest.fixture
def trained(ingested: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Bundle:
    """The champion's bundle, with the snapshot of real flights that it names; nothing is logged yet."""
    _home(ingested, tmp_path, monkeypatch)
    return watched_flights.lead(snapshot=watched_flights.training(date(2013, 3, 11)).id)


def _home(ingested: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    home = tmp_path / "home"
    shutil.copytree(ingested / "warehouse", home / "warehouse")
    monkeypatch.setenv("PACELINE_HOME", str(home))
    monkeypatch.setenv("PACELINE_PROJECTS", str(watched_flights.project_of(tmp_path / "projects")))
    for name in ("PACELINE_LEDGER_URL", "PACELINE_SERVING_MASK_KEY"):
        monkeypatch.delenv(name, raising=False)
    return home / "predictions" / PROJECT
