"""What a new user does first: the demo, as a process of its own, on the state of nobody and then of itself."""

import json
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.fixtures.small_installation import free_port, users_environment


def command(*options: str) -> list[str]:
    ports = [f"--{name}-port={free_port()}" for name in ("airflow", "mlflow", "server")]
    return [sys.executable, "-m", "pipelines", "demo", *ports, *options]


def run_demo(home: Path) -> dict[str, Any]:
    """Runs the demo to its end, and returns its summary."""
    ended = subprocess.run(
        command("--exit"),
        env=users_environment(home),
        capture_output=True,
        text=True,
        timeout=900,
    )
    assert ended.returncode == 0, ended.stdout[-6000:] + ended.stderr[-2000:]
    assert left_over(home) == []
    return dict(json.loads((home / "demo" / "summary.json").read_text()))


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("demo") / "var"


@pytest.fixture(scope="module")
def first(home: Path) -> dict[str, Any]:
    return run_demo(home)


@pytest.mark.slow
def test_the_demo_ends_well(first: dict[str, Any]) -> None:
    assert [check for check in first["checks"] if not check["passed"]] == []
    assert first["replay"]["requests"] >= 10_000
    assert first["replay"]["failed"] == 0
    assert first["rollback"]["seconds"] <= 10
    assert first["rollback"]["challenger_requests"] < 200
    assert [split["share"] for split in first["splits"]] == [0.05, 0.1, 0.25, 0.5, 0.95]  # the rest is the holdout
    assert first["side_changes"] == 0
    assert [version["version"] for version in first["versions"]] == ["1", "2", "3"]
    assert all(gate["passed"] for version in first["versions"] for gate in version["gates"])
    assert first["lineage"]["snapshot"]


@pytest.mark.slow
def test_a_second_demo_works_on_the_state_that_the_first_one_left(home: Path, first: dict[str, Any]) -> None:
    second = run_demo(home)
    assert [check for check in second["checks"] if not check["passed"]] == []
    assert second["bootstrap"]["by"] == "rollback"
    assert [version["bundle"] for version in second["versions"]] == [version["bundle"] for version in first["versions"]]


@pytest.fixture
def busy_port() -> Iterator[int]:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        yield int(listener.getsockname()[1])


def test_a_busy_port_is_named_with_the_option_that_chooses_another(busy_port: int, tmp_path: Path) -> None:
    ended = subprocess.run(
        [*command("--exit"), f"--mlflow-port={busy_port}"],
        env=users_environment(tmp_path),
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert ended.returncode == 1
    said = " ".join(ended.stdout.split())
    assert f"{busy_port} (mlflow" in said
    assert "--mlflow-port" in said


def _hear_interrupts() -> None:
    """As a terminal starts it: what a shell starts in the background ignores interrupts, and so do its children."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


@pytest.mark.slow
def test_an_interrupt_stops_everything_that_the_demo_started(tmp_path: Path) -> None:
    process = subprocess.Popen(
        command("--exit"),
        env=users_environment(tmp_path),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
        preexec_fn=_hear_interrupts,
    )
    assert process.stdout is not None
    for line in process.stdout:
        if "starting Airflow" in line:  # said when all of it is up
            break
    assert len(left_over(tmp_path)) > 4
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=120)
    assert process.returncode == 130
    assert left_over(tmp_path) == []


def left_over(home: Path) -> list[str]:
    """Processes that run on this home."""
    found = []
    for process in psutil.process_iter():
        try:
            if process.environ().get("PACELINE_HOME") == str(home) and process.status() != psutil.STATUS_ZOMBIE:
                found.append(" ".join(process.cmdline()))
        except (psutil.NoSuchProcess, psutil.AccessDenied):
            continue
    return found
