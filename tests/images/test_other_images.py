"""The images of the pipelines and of a GPU's servers: gigabytes to download, so only where they are asked for."""

import re

import pytest
import yaml

from tests.fixtures.containers import Containers, check_nothing_but_what_runs, installed_mb
from tests.fixtures.scripts import ROOT
from tests.images.conftest import Built

pytestmark = [pytest.mark.images, pytest.mark.slow]
of_pipelines = pytest.mark.parametrize("others", ["pipelines"], indirect=True)

_DAGS = """
from airflow.dag_processing.dagbag import DagBag
bag = DagBag("/opt/code/dags")
assert bag.import_errors == {}, bag.import_errors
print(*sorted(bag.dags))
"""


def _run(containers: Containers, image: Built, *command: str) -> str:
    """What a component says, with the least memory and the rights that the chart's values give to one."""
    memory = yaml.safe_load((ROOT / "deploy/airflow/values.yaml").read_text())["dagProcessor"]["resources"]["limits"][
        "memory"
    ]
    limits = [f"--memory={memory.removesuffix('i').lower()}", "--cap-drop=all", "--security-opt=no-new-privileges"]
    options = ["--rm", "--pull=never", "--network=none", "--read-only", "--tmpfs=/tmp", "--tmpfs=/opt/airflow"]
    return containers.call("podman", "run", *options, *limits, image.name, *command).stdout


@of_pipelines
def test_the_pipelines_image_has_the_locked_airflow_and_the_command(containers: Containers, others: Built) -> None:
    lock = (ROOT / "docker/requirements-pipelines.txt").read_text()
    (locked,) = re.findall(r"^apache-airflow==(\S+)$", lock, re.MULTILINE)
    assert _run(containers, others, "airflow", "version").strip().splitlines()[-1] == locked
    assert "release" in _run(containers, others, "paceline", "--help")


@of_pipelines
def test_airflow_imports_every_dag_file_of_the_image(containers: Containers, others: Built) -> None:
    loaded = "airflow db migrate > /tmp/migrated 2>&1 || { cat /tmp/migrated; exit 1; }; exec python -W ignore -c "
    found = _run(containers, others, "sh", "-c", f"{loaded}'{_DAGS}'").split()
    workflows = {name.partition(".")[2] for name in found if name.startswith("flight_delay.")}
    assert workflows == {path.stem for path in (ROOT / "dags").glob("*.py")}


@of_pipelines
def test_a_training_in_the_pipelines_image_has_a_pytorch_that_this_machine_can_load(
    containers: Containers, others: Built
) -> None:
    code = "import sklearn, torch; print(torch.ones(3).sum().item())"
    assert _run(containers, others, "python", "-c", code).strip() == "3.0"


@of_pipelines
def test_the_pipelines_run_as_a_user_who_can_write_to_volumes_alone(containers: Containers, others: Built) -> None:
    said = _run(containers, others, "sh", "-c", "id -u; id -g; touch /opt/code/written 2>&1 || touch /opt/airflow/w")
    assert (said.split("\n")[:2], "Read-only" in said) == (["50000", "0"], True)


@of_pipelines
def test_the_last_stage_of_the_pipelines_has_no_compiler_no_cache_and_no_installer(
    containers: Containers, others: Built
) -> None:
    with containers.mounted(others.name) as root:
        check_nothing_but_what_runs(root)
        size_mb = installed_mb(root)
    assert containers.inspect("image", others.name)["Labels"]["dev.paceline.lock"] == others.source.lock
    print(f"{size_mb:.0f} MB in /opt/paceline")  # noqa: T201


@pytest.mark.parametrize("others", ["serving-gpu"], indirect=True)
def test_the_gpu_image_has_the_libraries_that_its_runtime_loads(containers: Containers, others: Built) -> None:
    code = """
import ctypes, onnxruntime
for name in ("libcudart.so.13", "libcublasLt.so.13", "libcudnn.so.9", "libnvinfer.so.10"):
    ctypes.CDLL(name)
print(onnxruntime.get_available_providers())
"""
    assert "TensorrtExecutionProvider" in _run(containers, others, "python", "-c", code)
