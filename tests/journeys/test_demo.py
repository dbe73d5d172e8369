"""What a new user does first: the demo, as a process of its own, on the state of nobody and then of itself."""

import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from tests.fixtures.small_installation import free_port

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("demo") / "var"


def command(*options: str) -> list[str]:
    ports = [f"--{name}-port={free_port()}" for name in ("airflow", "mlflow", "server")]
    return [sys.executable, "-m", "pipelines", "demo", *ports, *options]


@pytest.mark.parametrize("attempt", ["on no state", "on the state that the first one left"])
def test_the_demo_ends_well(home: Path, attempt: str) -> None:
    ended = subprocess.run(
        command("--exit"),
        env={**os.environ, "PACELINE_HOME": str(home)},
        capture_output=True,
        text=True,
        timeout=900,
    )
    assert ended.returncode == 0, ended.stdout[-6000:] + ended.stderr[-2000:]
    summary = json.loads((home / "demo" / "summary.json").read_text())
    assert [check for check in summary["checks"] if not check["passed"]] == []
    assert summary["replay"]["requests"] >= 10_000
    assert summary["replay"]["failed"] == 0
    assert summary["rollback"]["seconds"] <= 10
    assert summary["rollback"]["challenger_requests"] < 200
    assert [split["share"] for split in summary["splits"]] == [0.05, 0.1, 0.25, 0.5, 1.0]
    assert _left_over(home) == []


@pytest.fixture
def busy_port() -> Iterator[int]:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        yield int(listener.getsockname()[1])


def test_a_busy_port_is_named_with_the_option_that_chooses_another(busy_port: int, tmp_path: Path) -> None:
    ended = subprocess.run(
        [*command("--exit"), f"--mlflow-port={busy_port}"],
        env={**os.environ, "PACELINE_HOME": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert ended.returncode == 1
    said = " ".join(ended.stdout.split())
    assert f"{busy_port} (mlflow" in said
    assert "--mlflow-port" in said


def test_an_interrupt_stops_everything_that_the_demo_started(tmp_path: Path) -> None:
    process = subprocess.Popen(
        command("--exit"),
        env={**os.environ, "PACELINE_HOME": str(tmp_path)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    assert process.stdout is not None
    for line in process.stdout:
        if "starting Airflow" in line:  # said when all of it is up
            break
    assert len(_left_over(tmp_path)) > 4
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=120)
    assert process.returncode == 130
    assert _left_over(tmp_path) == []


def _left_over(home: Path) -> list[str]:
    """Processes that run on this home."""
    found = []
    for process in psutil.process_iter():
        try:
            if process.environ().get("PACELINE_HOME") == str(home) and process.status() != psutil.STATUS_ZOMBIE:
                found.append(" ".join(process.cmdline()))
        except (psutil.NoSuchProcess, psutil.AccessDenied):
            continue
    return found
