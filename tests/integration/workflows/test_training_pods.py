"""Where trials train: beside the other tasks, or in pods with what their project asks for."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from pipelines.wiring import REPOSITORY
from tests.fixtures.manifests import findings
from tests.fixtures.scripts import linter

PARSED = """
import json, sys
from airflow.dag_processing.dagbag import DagBag
bag = DagBag(sys.argv[1])
assert bag.import_errors == {}, bag.import_errors
told = {}
for task in bag.dags["flight_delay.retrain"].tasks:
    partial = getattr(task, "partial_kwargs", {})
    config = partial.get("executor_config", None) or getattr(task, "executor_config", None) or {}
    pod = config.get("pod_override")
    if pod is not None:
        from kubernetes.client import ApiClient
        pod = ApiClient().sanitize_for_serialization(pod)
    told[task.task_id] = [partial.get("executor") or getattr(task, "executor", None), pod]
print(json.dumps([told, "kubernetes" in sys.modules]))
"""
TEMPLATE = {  # of the official chart, with deploy/airflow's values
    "apiVersion": "v1",
    "kind": "Pod",
    "metadata": {"name": "trial"},
    "spec": {"containers": [{"name": "base", "image": "paceline-pipelines:0.1.0"}], "restartPolicy": "Never"},
}


@pytest.fixture(scope="module")
def projects(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The repository's projects; flight_delay asks for a GPU."""
    folder = tmp_path_factory.mktemp("pods") / "projects"
    shutil.copytree(REPOSITORY / "projects", folder)
    file = folder / "flight_delay" / "project.yaml"
    asked = yaml.safe_load(file.read_text())
    asked["training_pod"] = {"cpus": 3.5, "memory": "12Gi", "gpus": 1, "node_labels": {"paceline.dev/pool": "training"}}
    file.write_text(yaml.safe_dump(asked))
    return folder


def _parsed(projects: Path, executors: str) -> tuple[dict[str, Any], bool]:
    environment = {"AIRFLOW__CORE__EXECUTOR": executors, "PACELINE_PROJECTS": str(projects)}
    environment["PACELINE_TRAINING_IMAGE"] = "registry.example.com/paceline-pipelines:0.1.0-cu130"
    ran = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", PARSED, str(REPOSITORY / "dags" / "retrain.py")],
        capture_output=True,
        text=True,
        timeout=120,
        env={**os.environ, **environment},
    )
    assert ran.returncode == 0, ran.stderr
    told, is_loaded = json.loads(ran.stdout.splitlines()[-1])
    return told, is_loaded


@pytest.fixture(scope="module")
def on_kubernetes(projects: Path, airflow_database: Path) -> dict[str, Any]:
    return _parsed(projects, "CeleryExecutor,KubernetesExecutor")[0]


def test_without_the_executor_nothing_changes_and_nothing_of_kubernetes_is_loaded(
    projects: Path, airflow_database: Path
) -> None:
    told, is_loaded = _parsed(projects, "LocalExecutor")
    assert set(map(tuple, told.values())) == {(None, None)}
    assert not is_loaded


def test_a_trial_has_a_pod_of_its_own_and_no_other_task_has(on_kubernetes: dict[str, Any]) -> None:
    placed = {task for task, (executor, pod) in on_kubernetes.items() if executor or pod}
    assert placed == {"train"}
    assert on_kubernetes["train"][0] == "KubernetesExecutor"


def test_the_pod_gets_what_the_project_asks_for(on_kubernetes: dict[str, Any]) -> None:
    spec = on_kubernetes["train"][1]["spec"]
    (container,) = spec["containers"]
    limits = {"memory": "12Gi", "ephemeral-storage": "10Gi", "nvidia.com/gpu": "1"}
    assert container == {
        "name": "base",
        "image": "registry.example.com/paceline-pipelines:0.1.0-cu130",
        "resources": {"requests": {"cpu": "3500m", **limits}, "limits": limits},
    }
    assert spec["nodeSelector"] == {"paceline.dev/pool": "training"}
    assert [each["key"] for each in spec["tolerations"]] == ["nvidia.com/gpu"]


def test_the_pod_with_the_charts_template_is_valid_by_the_real_schema(
    on_kubernetes: dict[str, Any], tmp_path: Path
) -> None:
    asked = on_kubernetes["train"][1]["spec"]
    (base,), (override,) = TEMPLATE["spec"]["containers"], asked["containers"]  # type: ignore[index]
    pod = {**TEMPLATE, "spec": {**TEMPLATE["spec"], **asked, "containers": [{**base, **override}]}}  # type: ignore[dict-item]
    path = tmp_path / "pod.yaml"
    path.write_text(yaml.safe_dump(pod))
    done = subprocess.run(
        [linter("kubernetes-validate"), "--strict", "-k", "1.34.0", str(path)], capture_output=True, text=True
    )
    assert (done.returncode, "WARN" in done.stderr + done.stdout) == (0, False), done.stdout + done.stderr
    job = {"kind": "Job", "metadata": {"name": "trial"}, "spec": {"template": {"spec": pod["spec"]}}}
    assert not [each for each in findings([job]) if "GPU" in each or "requests" in each or "limits" in each]
