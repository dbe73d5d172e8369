import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from pipelines.demo.supervisor import BusyPortError, ProcessFailedError, Program, Supervisor, check_ports

SLEEP = [sys.executable, "-c", "import time; time.sleep(600)"]


def test_a_program_ends_with_its_supervisor(tmp_path: Path) -> None:
    with Supervisor(tmp_path) as supervisor:
        supervisor.start(Program("sleeper", SLEEP))
        process = psutil.Process(supervisor.process_id("sleeper"))
        assert process.is_running()
    assert not process.is_running()


def test_a_program_that_ignores_sigterm_is_killed_with_its_children(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pipelines.demo.supervisor._STOP_S", 0.5)
    stubborn = (
        "import signal, subprocess, sys, time; signal.signal(signal.SIGTERM, signal.SIG_IGN);"
        "child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)']);"
        "print(child.pid, flush=True); time.sleep(600)"
    )
    with Supervisor(tmp_path) as supervisor:
        supervisor.start(Program("stubborn", [sys.executable, "-c", stubborn]))
        log = tmp_path / "stubborn.log"
        _wait_for(lambda: log.read_text().strip().isdigit())
        child = psutil.Process(int(log.read_text()))
    _wait_for(lambda: not child.is_running() or child.status() == psutil.STATUS_ZOMBIE)


def test_a_program_dies_with_a_supervisor_that_was_killed(tmp_path: Path) -> None:
    script = (
        "import sys, time; from pathlib import Path; from pipelines.demo.supervisor import *;"
        f"s = Supervisor(Path({str(tmp_path)!r})); s.__enter__(); s.start(Program('sleeper', {SLEEP!r}));"
        "print(s.process_id('sleeper'), flush=True); time.sleep(600)"
    )
    parent = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    sleeper = psutil.Process(int(parent.stdout.readline()))
    parent.send_signal(signal.SIGKILL)
    parent.communicate()
    _wait_for(lambda: not sleeper.is_running() or sleeper.status() == psutil.STATUS_ZOMBIE)


def test_a_program_that_fails_is_reported_with_the_end_of_its_log(tmp_path: Path) -> None:
    with Supervisor(tmp_path) as supervisor:
        supervisor.start(Program("failing", [sys.executable, "-c", "raise SystemExit('no such table')"]))
        with pytest.raises(ProcessFailedError, match=r"failing ended with code 1(.|\n)*no such table"):
            _wait_for(lambda: supervisor.check() is not None)


def test_a_program_that_may_end_by_itself_is_not_reported(tmp_path: Path) -> None:
    with Supervisor(tmp_path) as supervisor:
        supervisor.start(Program("short", [sys.executable, "-c", ""], ends=True))
        process = psutil.Process(supervisor.process_id("short"))
        _wait_for(lambda: process.status() == psutil.STATUS_ZOMBIE)
        supervisor.check()


def test_a_program_that_never_answers_is_reported(tmp_path: Path) -> None:
    with Supervisor(tmp_path) as supervisor:
        supervisor.start(Program("deaf", SLEEP, ready_url="http://127.0.0.1:9/", ready_s=0.3))
        with pytest.raises(ProcessFailedError, match="deaf did not answer"):
            supervisor.wait_ready("deaf")


def test_a_busy_port_is_named_and_free_ones_are_not() -> None:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        busy = int(listener.getsockname()[1])
        with pytest.raises(BusyPortError, match=rf"{busy} \(mlflow: choose another with --mlflow-port\)"):
            check_ports({"mlflow": busy})
    check_ports({"mlflow": busy})


def _wait_for(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline, "waited for 20 s"
        time.sleep(0.02)
