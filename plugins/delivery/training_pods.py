"""Where a trial trains: beside the other tasks, or in a pod of its own with what the project's `training_pod` asks for.

A pod needs the KubernetesExecutor among the executors of the installation (`[core] executor`); without it nothing
changes, and the Kubernetes client is not loaded.
"""

import os
from typing import Any

from airflow.sdk.configuration import conf

from pipelines.projects import Project

EXECUTOR = "KubernetesExecutor"
IMAGE = "PACELINE_TRAINING_IMAGE"
CONTAINER = "base"  # as Airflow's pod templates call the one of the task


def training_place(project: Project) -> dict[str, Any]:
    """The arguments of a task that trains; none where it runs as all others do."""
    if project.training_pod is None or EXECUTOR not in conf.get("core", "executor").replace(" ", "").split(","):
        return {}
    from kubernetes.client import models

    wanted = project.training_pod
    resources = models.V1ResourceRequirements(requests=wanted.requests, limits=wanted.limits)
    container = models.V1Container(name=CONTAINER, image=os.environ.get(IMAGE) or None, resources=resources)
    # nodes with GPUs are kept free of all that needs none
    tolerations = [models.V1Toleration(key="nvidia.com/gpu", operator="Exists", effect="NoSchedule")]
    spec = models.V1PodSpec(
        containers=[container],
        node_selector=wanted.node_labels or None,
        tolerations=tolerations if wanted.gpus else None,
    )
    return {"executor": EXECUTOR, "executor_config": {"pod_override": models.V1Pod(spec=spec)}}
