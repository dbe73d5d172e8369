"""A small installation with a snapshot, in a home of its own."""

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.fixtures.small_installation import PROJECT, copy_of_expectations, free_port, small_projects, small_warehouse


class Installation(NamedTuple):
    """Where it is, and its one snapshot, as of 1 April."""

    home: Path
    projects: Path
    snapshot: str


@pytest.fixture(scope="module")
def installation(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Installation]:
    """Trained nothing yet; the environment points at it."""
    from pipelines.tasks import retraining

    folder = tmp_path_factory.mktemp("installation")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PACELINE_HOME", str(folder / "home"))
        patch.setenv("PACELINE_PROJECTS", str(small_projects(folder / "projects", free_port())))
        patch.setenv("PACELINE_EXPECTATIONS", str(copy_of_expectations(folder / "great_expectations")))
        small_warehouse()
        snapshot = retraining.take_snapshot(PROJECT, retraining.choose_window(PROJECT, "2013-04-01"))
        yield Installation(folder / "home", folder / "projects", snapshot)
