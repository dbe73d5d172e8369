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
import yaml

from tests.fixtures.running_cluster import kubeconfig
from tests.fixtures.scripts import ROOT
from tests.fixtures.small_installation import free_port

AS_PROCESS_1 = ("unshare", "--pid", "--fork", "--kill-child", "--mount-proc")
PATIENCE_S = 60.0
SERVER = ("serve",)
CONTROLLER = ("run", "paceline", "controller", "--port", "0")
EXPORTER = ("run", "paceline", "metrics", "--port", "0")


def _as_process_1() -> tuple[str, ...]:
    """What runs a command as process 1 of a namespace; skips where that is not allowed."""
    if shutil.which("unshare") is None or subprocess.run([*AS_PROCESS_1, "true"], capture_output=True).returncode:
        pytest.skip("this user may not open a process namespace here (unshare --pid)")
    return AS_PROCESS_1


def _environment(folder: Path, bundles: ModuleType) -> dict[str, str]:
    """Of both services: the server has a bundle, the controller a cluster that nobody answers for."""
    cluster = folder / "kubeconfig"
    cluster.write_text(yaml.safe_dump(kubeconfig(f"http://127.0.0.1:{free_port()}")))
    return {
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "PYTHONPATH": str(ROOT),
        "PYTHONVERBOSE": "1",  # says each module that is imported
        "PACELINE_SERVING_HOST": "127.0.0.1",
        "PACELINE_SERVING_PORT": "0",
        "PACELINE_SERVING_STATE": str(folder / "state"),
        "PACELINE_SERVING_PREDICTIONS": str(folder / "predictions"),
        "PACELINE_SERVING_PROJECT": "flight_delay",
        "PACELINE_SERVING_BUNDLE": str(bundles.tiny_bundle(folder / "bundles").path),
        "PACELINE_HOME": str(folder),
        "PACELINE_PLATFORM": "kubernetes",
        "PACELINE_NAMESPACE": "models",
        "KUBECONFIG": str(cluster),
    }


@pytest.fixture
def start(tmp_path: Path, bundles: ModuleType) -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """Starts a script of `docker`; its log is read by a pipe, so that a line in it is an event."""
    told = _environment(tmp_path, bundles)
    started: list[subprocess.Popen[str]] = []

    def run(around: tuple[str, ...], service: tuple[str, ...]) -> subprocess.Popen[str]:
        command = [*around, str(ROOT / "docker" / service[0]), *service[1:]]
        started.append(subprocess.Popen(command, env=told, stderr=subprocess.PIPE, text=True))
        return started[-1]

    yield run
    for process in started:
        assert process.stderr is not None
        process.stderr.close()
        if process.poll() is None:
            process.kill()
            process.wait(PATIENCE_S)


def _itself(started: subprocess.Popen[str], around: tuple[str, ...], service: tuple[str, ...]) -> psutil.Process:
    """The process of the service itself, once it runs the script or what that became."""
    word = "serv" if service == SERVER else service[2]  # docker/serve becomes python -m serving
    until_s = time.monotonic() + PATIENCE_S
    while time.monotonic() < until_s:
        process = psutil.Process(started.pid)
        found = process.children() if around else [process]
        if found and any(word in part for part in found[0].cmdline()[1:] if "/unshare" not in part):
            return found[0]
    raise AssertionError(f"{started.args} does not run")


@pytest.mark.parametrize(
    ("service", "moment", "is_process_1"),
    [
        (SERVER, "import 'serving'", True),
        (SERVER, "import 'numpy'", True),
        (SERVER, "import 'numpy'", False),
        (SERVER, "import 'onnxruntime'", True),
        (SERVER, "listens on", True),
        (CONTROLLER, "import 'pipelines'", True),
        (CONTROLLER, "import 'typer'", True),
        (CONTROLLER, "import 'typer'", False),
        (CONTROLLER, "import 'sqlalchemy'", True),
        (CONTROLLER, "listens on", True),
        (EXPORTER, "import 'typer'", True),
    ],
)
def test_a_stop_is_heard_at_every_moment_of_a_start(
    start: Callable[..., subprocess.Popen[str]], service: tuple[str, ...], moment: str, is_process_1: bool
) -> None:
    around = _as_process_1() if is_process_1 else ()
    process = start(around, service)
    itself = _itself(process, around, service)
    assert process.stderr is not None
    seen = next((line for line in process.stderr if moment in line), None)
    assert seen is not None, f"it never came to {moment}"
    itself.send_signal(signal.SIGTERM)
    _, log = process.communicate(timeout=PATIENCE_S)  # a signal that was lost would let it serve for ever
    assert process.returncode == 0, log[-2000:]
