"""What a training pod gets on a cluster: the project's own wishes, in Kubernetes' words. Pure."""

from typing import Annotated

import msgspec

_QUANTITY = "^[1-9][0-9]*(Ki|Mi|Gi|Ti)$"
Share = Annotated[float, msgspec.Meta(gt=0, le=256)]
Memory = Annotated[str, msgspec.Meta(pattern=_QUANTITY)]
Name = Annotated[str, msgspec.Meta(pattern=r"^[a-z0-9]([a-z0-9./-]{0,251}[a-z0-9])?$")]
DEFAULT_GPU = "nvidia.com/gpu"


class TrainingPod(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Resources of one trial's pod: `cpus` and `memory` are asked for, and `memory` is the limit too.

    `gpus` are whole ones of the resource `gpu`, or parts of one by MIG (`nvidia.com/mig-1g.18gb`); they are asked for
    and limited alike, as Kubernetes wants it. `scratch` is the disk of the pod itself. `node_labels` choose its nodes.

    Raises:
        ValueError: a `gpu` is named and none is asked for.
    """

    cpus: Share = 2
    memory: Memory = "4Gi"
    scratch: Memory = "10Gi"
    gpus: Annotated[int, msgspec.Meta(ge=0, le=16)] = 0
    gpu: Name = DEFAULT_GPU
    node_labels: dict[str, str] = {}

    def __post_init__(self) -> None:
        if self.gpu != DEFAULT_GPU and self.gpus == 0:
            raise ValueError(f"gpu: found {self.gpu!r}, and gpus is 0: say how many")

    @property
    def requests(self) -> dict[str, str]:
        """By the names of Kubernetes' resources.

        >>> TrainingPod(cpus=0.5, gpus=1).requests
        {'cpu': '500m', 'memory': '4Gi', 'ephemeral-storage': '10Gi', 'nvidia.com/gpu': '1'}
        """
        return {"cpu": f"{round(self.cpus * 1000)}m", **self.limits}

    @property
    def limits(self) -> dict[str, str]:
        """Without the processor: a limit of it would only slow the training down."""
        gpus = {self.gpu: str(self.gpus)} if self.gpus else {}
        return {"memory": self.memory, "ephemeral-storage": self.scratch, **gpus}
