from typing import Any

import msgspec
import pytest

from pipelines.training.pods import TrainingPod


def test_a_gpu_is_asked_for_and_limited_alike_and_the_processor_is_not_limited() -> None:
    pod = TrainingPod(cpus=4, memory="16Gi", scratch="50Gi", gpus=2, gpu="nvidia.com/mig-1g.18gb")
    assert pod.requests == {
        "cpu": "4000m",
        "memory": "16Gi",
        "ephemeral-storage": "50Gi",
        "nvidia.com/mig-1g.18gb": "2",
    }
    assert pod.limits == {name: amount for name, amount in pod.requests.items() if name != "cpu"}


def test_without_a_gpu_none_is_named() -> None:
    assert set(TrainingPod().limits) == {"memory", "ephemeral-storage"}


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ({"memory": "4GB"}, r"\$\.memory"),
        ({"memory": "0Gi"}, r"\$\.memory"),
        ({"cpus": 0}, r"\$\.cpus"),
        ({"gpus": 0.5}, r"\$\.gpus"),
        ({"gpus": 17}, r"\$\.gpus"),
        ({"gpu": "nvidia.com/mig-1g.18gb"}, "say how many"),
        ({"cpu": 2}, "cpu"),
    ],
)
def test_what_kubernetes_would_refuse_is_refused_at_once(asked: dict[str, Any], said: str) -> None:
    with pytest.raises(msgspec.ValidationError, match=said):
        msgspec.convert(asked, TrainingPod)
