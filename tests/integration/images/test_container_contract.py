"""What SageMaker, Cloud Run and Azure ML say to a container, said to the image's entry point without a container."""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType

import httpx
import pytest

from tests.fixtures.scripts import ROOT

_START_S = 60.0


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port: int = listener.getsockname()[1]
        return port


@contextmanager
def _container(folder: Path, *arguments: str, **environment: str) -> Iterator[subprocess.Popen[bytes]]:
    """`docker/serve` with the environment of the image, as process of its own."""
    told = {
        "PATH": f"{Path(sys.executable).parent}:/usr/bin:/bin",
        "PYTHONPATH": str(ROOT),
        "PACELINE_SERVING_HOST": "127.0.0.1",
        "PACELINE_SERVING_STATE": str(folder / "state"),
        "PACELINE_SERVING_PREDICTIONS": str(folder / "predictions"),
        "PACELINE_SERVING_PROJECT": "flight_delay",
        **environment,
    }
    with subprocess.Popen([ROOT / "docker" / "serve", *arguments], env=told, stderr=subprocess.DEVNULL) as process:
        try:
            yield process
        finally:
            process.send_signal(signal.SIGTERM)


def _wait(url: str, process: subprocess.Popen[bytes]) -> httpx.Response:
    until_s = time.monotonic() + _START_S
    while time.monotonic() < until_s and process.poll() is None:
        try:
            return httpx.get(url, trust_env=False)
        except httpx.TransportError:
            time.sleep(0.05)
    raise AssertionError(f"{url} does not answer; exit status {process.poll()}")


@pytest.mark.parametrize("arguments", [(), ("serve",)])
def test_the_container_listens_where_port_says_with_the_model_that_is_mounted(
    tmp_path: Path, bundles: ModuleType, arguments: tuple[str, ...]
) -> None:
    bundle = bundles.tiny_bundle(tmp_path / "bundles")
    port = _free_port()
    with _container(tmp_path, *arguments, PORT=str(port), AZUREML_MODEL_DIR=str(bundle.path)) as process:
        assert _wait(f"http://127.0.0.1:{port}/readyz", process).json()["bundle"] == bundle.id
        assert httpx.get(f"http://127.0.0.1:{port}/ping", trust_env=False).status_code == 200
        answer = httpx.post(
            f"http://127.0.0.1:{port}/invocations", json={"records": [bundles.tiny_record()]}, trust_env=False
        )
        assert answer.status_code == 200, answer.text
        refused = httpx.get(f"http://127.0.0.1:{port}/control/observation", trust_env=False)
        assert refused.status_code == 401, "nobody knows the token"
        asks = {**os.environ, "PORT": str(port), "PATH": f"{Path(sys.executable).parent}:/usr/bin:/bin"}
        assert subprocess.run([ROOT / "docker" / "serve", "healthy"], env=asks).returncode == 0
    assert process.returncode == 0
    assert subprocess.run([ROOT / "docker" / "serve", "healthy"], env=asks, stderr=subprocess.DEVNULL).returncode != 0


def test_another_command_runs_as_it_is() -> None:
    done = subprocess.run([ROOT / "docker" / "serve", "echo", "a b"], capture_output=True, text=True, check=True)
    assert done.stdout == "a b\n"
