"""The images of the pipelines and of a GPU's servers: gigabytes to download, so only where they are asked for."""

import pytest

from tests.fixtures.containers import Containers
from tests.images.conftest import Built

pytestmark = [pytest.mark.images, pytest.mark.slow]


def _run(containers: Containers, image: Built, *command: str) -> str:
    options = ("--rm", "--pull=never", "--network=none", "--read-only", "--tmpfs=/tmp", "--tmpfs=/opt/airflow")
    return containers.call("podman", "run", *options, image.name, *command).stdout


@pytest.mark.parametrize("others", ["pipelines"], indirect=True)
def test_the_pipelines_image_has_airflow_the_dags_and_the_command(containers: Containers, others: Built) -> None:
    assert "release" in _run(containers, others, "paceline", "--help")
    assert _run(containers, others, "airflow", "version").strip().splitlines()[-1].startswith("3.")
    found = _run(containers, others, "sh", "-c", "id -u; ls /opt/code/dags; ls /opt/paceline/bin")
    assert found.startswith("50000\n")
    assert {"release.py", "retrain.py", "watch.py"} <= set(found.splitlines())
    assert not [name for name in found.splitlines() if name.startswith("pip")]


@pytest.mark.parametrize("others", ["serving-gpu"], indirect=True)
def test_the_gpu_image_has_the_libraries_that_its_runtime_loads(containers: Containers, others: Built) -> None:
    code = """
import ctypes, onnxruntime
for name in ("libcudart.so.13", "libcublasLt.so.13", "libcudnn.so.9", "libnvinfer.so.10"):
    ctypes.CDLL(name)
print(onnxruntime.get_available_providers())
"""
    assert "TensorrtExecutionProvider" in _run(containers, others, "python", "-c", code)
