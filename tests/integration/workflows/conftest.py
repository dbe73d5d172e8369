"""A small installation: a slice of the real flights, a quick plan, a real model server, SQLite for all the rest.

Airflow reads its settings when it is imported, so they are set here, before a test module imports it.
"""

import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from datetime import date
from pathlib import Path

import httpx
import pytest
import yaml

from pipelines.wiring import REPOSITORY

FOLDER = Path(tempfile.mkdtemp(prefix="paceline-workflows-"))
PROJECT = "flight_delay"
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


def pytest_sessionfinish() -> None:
    shutil.rmtree(FOLDER, ignore_errors=True)


@pytest.fixture(scope="session")
def airflow_database() -> Path:
    """A migrated metadata database."""
    (FOLDER / "airflow").mkdir(parents=True, exist_ok=True)
    subprocess.run([sys.executable, "-m", "airflow", "db", "migrate"], check=True, capture_output=True, timeout=180)
    return FOLDER / "airflow.db"


@pytest.fixture(scope="session")
def small_home() -> Iterator[Path]:
    """`PACELINE_HOME` with every fourth flight until the end of April, and a project that is quick to release."""
    port = _free_port()
    home = FOLDER / "home"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PACELINE_HOME", str(home))
        patch.setenv("PACELINE_PROJECTS", str(_small_projects(port)))
        patch.setenv("PACELINE_EXPECTATIONS", str(_copy_of_expectations()))
        patch.setenv("PACELINE_SERVER_URL", f"http://127.0.0.1:{port}")
        patch.setenv("OMP_NUM_THREADS", "1")
        _small_warehouse()
        yield home


def _small_projects(port: int) -> Path:
    folder = FOLDER / "projects" / PROJECT
    folder.mkdir(parents=True)
    shutil.copy(REPOSITORY / "projects" / PROJECT / "source.py", folder)
    configuration = yaml.safe_load((REPOSITORY / "projects" / PROJECT / "project.yaml").read_text())
    step = {"minimum_requests": 10, "minimum_s": 0.5, "maximum_s": 120}
    configuration |= {
        "serving_port": port,
        "split": {
            "train_days": 60,
            "validation_days": 7,
            "test_days": 7,
            "minimum_train_rows": 1000,
            "minimum_train_days": 14,
        },
        "gates": {"minimum_test_rows": 500, "log_loss_margin": 0.05, "auc_margin": 0.1, "brier_margin": 0.05},
        "training": {
            "seed": 1,
            "trials": [
                {"trainer": "boosted_trees", "parameters": {"iterations": 30}},
                {"trainer": "neural_net", "parameters": {"epochs": 1}},
            ],
        },
        "rollout": {
            "shadow": {"minimum_pairs": 10, "minimum_s": 0.5, "maximum_s": 120},
            "steps": [{"share": share, **step} for share in (0.1, 0.5, 1.0)],
            "look_every_s": 0.2,
            "lease_s": 3,
        },
    }
    configuration["validation"] |= {"minimum_rows_per_day": 75, "minimum_train_rows": 1000}
    (folder / "project.yaml").write_text(yaml.safe_dump(configuration, sort_keys=False))
    return FOLDER / "projects"


def _copy_of_expectations() -> Path:
    target = FOLDER / "great_expectations"
    shutil.copytree(REPOSITORY / "great_expectations", target, ignore=shutil.ignore_patterns("uncommitted"))
    return target


def _small_warehouse() -> None:
    import duckdb

    from pipelines.tasks import ingesting
    from pipelines.wiring import home

    ingesting.ingest(PROJECT)
    flights = home().warehouse(PROJECT) / "flights.parquet"
    with duckdb.connect() as connection:
        some = f"SELECT * FROM '{flights}' WHERE month <= 4 AND (flight + day) % 4 = 0"
        connection.execute(f"COPY ({some}) TO '{flights}.small' (FORMAT parquet)")
    Path(f"{flights}.small").replace(flights)


@pytest.fixture(scope="session")
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
    command = [sys.executable, "-m", "pipelines", "replay", PROJECT, "--from", "2013-04-01", "--until", "2013-05-01"]
    command += ["--rate", "60", "--answers", str(answers), "--json"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    try:
        yield answers
    finally:
        process.terminate()
        process.wait(20)


@pytest.fixture(scope="session")
def as_of() -> date:
    return date(2013, 4, 1)


def _answers(url: str) -> bool:
    try:
        return httpx.get(url, timeout=1).status_code == 200
    except httpx.HTTPError:
        return False


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
