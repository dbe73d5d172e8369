"""A small installation: a slice of the real flights, a quick plan, a real model server, SQLite for all the rest.

Airflow reads its settings when it is imported, so they are set here, before a test module imports it.
"""

import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from datetime import date
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi.testclient import TestClient

from pipelines.ledger import Ledger
from pipelines.wiring import REPOSITORY, open_ledger
from tests.fixtures.small_installation import (
    PROJECT,
    copy_of_expectations,
    free_port,
    replay_command,
    small_projects,
    small_warehouse,
)

FOLDER = Path(tempfile.mkdtemp(prefix="paceline-workflows-"))
AIRFLOW = {
    "AIRFLOW_HOME": str(FOLDER / "airflow"),
    "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
    "AIRFLOW__CORE__UNIT_TEST_MODE": "False",
    "AIRFLOW__CORE__DAGS_FOLDER": str(REPOSITORY / "dags"),
    "AIRFLOW__CORE__PLUGINS_FOLDER": str(REPOSITORY / "plugins"),
    "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": f"sqlite:///{FOLDER / 'airflow.db'}",
    "PACELINE_SCHEDULES": "on",
}
os.environ.update(AIRFLOW)
sys.path.append(AIRFLOW["AIRFLOW__CORE__PLUGINS_FOLDER"])  # as Airflow does


def pytest_sessionfinish() -> None:
    shutil.rmtree(FOLDER, ignore_errors=True)


@pytest.fixture(scope="session")
def airflow_database() -> Path:
    """A migrated metadata database."""
    (FOLDER / "airflow").mkdir(parents=True, exist_ok=True)
    subprocess.run([sys.executable, "-m", "airflow", "db", "migrate"], check=True, capture_output=True, timeout=180)
    return FOLDER / "airflow.db"


@pytest.fixture(scope="module")
def small_home() -> Iterator[Path]:
    """`PACELINE_HOME` with every second flight until the end of April, and a project that is quick to release."""
    port, folder = free_port(), Path(tempfile.mkdtemp(dir=FOLDER))
    home = folder / "home"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PACELINE_HOME", str(home))
        patch.setenv("PACELINE_PROJECTS", str(small_projects(folder / "projects", port)))
        patch.setenv("PACELINE_EXPECTATIONS", str(copy_of_expectations(folder / "great_expectations")))
        patch.setenv("PACELINE_SERVER_URL", f"http://127.0.0.1:{port}")
        patch.setenv("OMP_NUM_THREADS", "1")
        small_warehouse()
        yield home


@pytest.fixture(scope="module")
def model_server(small_home: Path) -> Iterator[str]:
    """The URL of a model server that allows faults; it is told to stop, and must."""
    from pipelines.tasks.serving import server_environment

    url = os.environ["PACELINE_SERVER_URL"]
    environment = {**os.environ, **server_environment(PROJECT, allow_faults=True)}
    with (FOLDER / "server.log").open("wb") as log:
        process = subprocess.Popen([sys.executable, "-m", "serving"], env=environment, stdout=log, stderr=log)
    try:
        deadline = time.monotonic() + 30
        while not _answers(f"{url}/livez"):
            assert process.poll() is None, (FOLDER / "server.log").read_text()
            assert time.monotonic() < deadline, (FOLDER / "server.log").read_text()
            time.sleep(0.05)
        yield url
    finally:
        process.terminate()
        assert process.wait(20) == 0, (FOLDER / "server.log").read_text()


@pytest.fixture
def traffic(model_server: str) -> Iterator[Path]:
    """The real flights of April as requests, 60 a second, until the test ends; the path of what the clients saw."""
    answers = FOLDER / f"answers-{time.monotonic_ns()}.jsonl"
    process = subprocess.Popen(replay_command(answers, rate=60), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        yield answers
    finally:
        process.terminate()
        process.wait(90)  # for the answers to up to 256 requests, which a busy machine gives slowly


@pytest.fixture
def rollouts_ledger(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Ledger]:
    """The ledger of an empty home with the repository's projects."""
    monkeypatch.setenv("PACELINE_HOME", str(tmp_path))
    for name in ("PACELINE_LEDGER_URL", "PACELINE_PROJECTS"):
        monkeypatch.delenv(name, raising=False)
    with open_ledger() as opened:
        yield opened


@pytest.fixture(scope="module")
def airflow_tokens(airflow_database: Path) -> dict[str, str]:
    """A token of Airflow's simple auth manager for each role, in the name of `<role>-ann`."""
    from airflow.api_fastapi.app import init_auth_manager
    from airflow.api_fastapi.auth.managers.simple.user import SimpleAuthManagerUser

    manager: Any = init_auth_manager()
    return {
        role: manager.generate_jwt(SimpleAuthManagerUser(username=f"{role}-ann", role=role))
        for role in ("viewer", "user", "admin")
    }


@pytest.fixture
def console(rollouts_ledger: Ledger, airflow_tokens: dict[str, str]) -> Iterator[TestClient]:
    """The app in Airflow's UI on `rollouts_ledger`, asked by a user who may edit DAGs."""
    from delivery import console as served

    served._watch.cache_clear()  # it has the ledger of the test before
    headers = {"Authorization": f"Bearer {airflow_tokens['user']}"}
    with TestClient(served.app, headers=headers, raise_server_exceptions=False) as opened:
        yield opened


@pytest.fixture(scope="session")
def as_of() -> date:
    return date(2013, 4, 1)


def _answers(url: str) -> bool:
    try:
        return httpx.get(url, timeout=1).status_code == 200
    except httpx.HTTPError:
        return False
