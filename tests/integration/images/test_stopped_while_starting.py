"""A SIGTERM in the first seconds of a container, whose process 1 has no default action for a signal."""

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType

import psutil
import pytest

from tests.fixtures.scripts import ROOT

AS_PROCESS_1 = ("unshare", "--pid", "--fork", "--kill-child", "--mount-proc")
PATIENCE_S = 60.0


def _as_process_1() -> tuple[str, ...]:
    """What runs a command as process 1 of a namespace; skips where that is not allowed."""
    if shutil.which("unshare") is None or subprocess.run([*AS_PROCESS_1, "true"], capture_output=True).returncode:
        pytest.skip("this user may not open a process namespace here (unshare --pid)")
    return AS_PROCESS_1


@pytest.fixture
def start(tmp_path: Path, bundles: ModuleType) -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """Starts `docker/serve`; its log is read by a pipe, so that a line in it is an event."""
    bundle = bundles.tiny_bundle(tmp_path / "bundles")
    told = {
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "PYTHONPATH": str(ROOT),
        "PYTHONVERBOSE": "1",  # says each module that is imported
        "PACELINE_SERVING_HOST": "127.0.0.1",
        "PACELINE_SERVING_PORT": "0",
        "PACELINE_SERVING_STATE": str(tmp_path / "state"),
        "PACELINE_SERVING_PREDICTIONS": str(tmp_path / "predictions"),
        "PACELINE_SERVING_PROJECT": "flight_delay",
        "PACELINE_SERVING_BUNDLE": str(bundle.path),
    }
    started: list[subprocess.Popen[str]] = []

    def run(around: tuple[str, ...]) -> subprocess.Popen[str]:
        command = [*around, str(ROOT / "docker" / "serve")]
        started.append(subprocess.Popen(command, env=told, stderr=subprocess.PIPE, text=True))
        return started[-1]

    yield run
    for process in started:
        assert process.stderr is not None
        process.stderr.close()
        if process.poll() is None:
            process.kill()
            process.wait(PATIENCE_S)


def _server(started: subprocess.Popen[str], around: tuple[str, ...]) -> psutil.Process:
    """The process of the server itself, once it runs `docker/serve` or what that became."""
    until_s = time.monotonic() + PATIENCE_S
    while time.monotonic() < until_s:
        process = psutil.Process(started.pid)
        found = process.children() if around else [process]
        if found and any("serv" in part for part in found[0].cmdline()[1:] if "/unshare" not in part):
            return found[0]
    raise AssertionError(f"{started.args} does not run")


@pytest.mark.parametrize(
    ("moment", "is_process_1"),
    [
        ("import 'serving'", True),
        ("import 'numpy'", True),
        ("import 'numpy'", False),
        ("import 'onnxruntime'", True),
        ("listens on", True),
    ],
)
def test_a_stop_is_heard_at_every_moment_of_a_start(
    start: Callable[..., subprocess.Popen[str]], moment: str, is_process_1: bool
) -> None:
    around = _as_process_1() if is_process_1 else ()
    process = start(around)
    server = _server(process, around)
    assert process.stderr is not None
    seen = next((line for line in process.stderr if moment in line), None)
    assert seen is not None, f"it never came to {moment}"
    server.send_signal(signal.SIGTERM)
    _, log = process.communicate(timeout=PATIENCE_S)  # a signal that was lost would let it serve for ever
    assert process.returncode == 0, log[-2000:]
