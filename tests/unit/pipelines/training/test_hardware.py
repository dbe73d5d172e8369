from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from contracts.input_schema import InputSchema
from pipelines.training import neural_net
from pipelines.training.hardware import CPU, Hardware, choose_hardware, find_hardware
from pipelines.training.plan import TrialSpec
from pipelines.training.trainer import Trained, train

PARAMETERS = {"hidden": (32, 16), "epochs": 4, "batch_rows": 128, "learning_rate": 0.01}


def trained(schema: InputSchema, events: Callable[..., Any], device: str = "auto") -> tuple[Trained, list[str]]:
    told: list[str] = []
    spec = TrialSpec(trainer="neural_net", parameters=PARAMETERS | {"device": device})
    return train(spec, 3, schema, events(3000, 1), events(1000, 2), told.append), told


def test_a_gpu_is_taken_where_there_is_one_unless_the_cpu_is_wanted() -> None:
    assert choose_hardware("auto", gpu=True, bfloat16=True) == Hardware("cuda", "bfloat16")
    assert choose_hardware("auto", gpu=True, bfloat16=False) == Hardware("cuda", "float16")
    assert choose_hardware("cuda", gpu=True, bfloat16=True).device == "cuda"
    assert choose_hardware("auto", gpu=False, bfloat16=False) == CPU
    assert choose_hardware("cpu", gpu=True, bfloat16=True) == CPU
    with pytest.raises(ValueError, match="torch sees no GPU here"):
        choose_hardware("cuda", gpu=False, bfloat16=False)


def test_only_float16_needs_its_loss_scaled_and_the_cpu_stays_in_float32() -> None:
    assert Hardware("cuda", "float16").scales_loss
    assert not Hardware("cuda", "bfloat16").scales_loss
    assert CPU.dtype is None
    assert str(CPU) == "cpu in float32"


def test_mixed_precision_learns_as_well_and_is_written_in_float32(
    schema: InputSchema, events: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    plain, _ = trained(schema, events, "cpu")
    monkeypatch.setattr(neural_net, "find_hardware", lambda _wanted: Hardware("cpu", "bfloat16"))
    mixed, told = trained(schema, events)
    assert "neural net: on cpu in mixed precision (bfloat16)" in told
    assert mixed.graph != plain.graph
    assert mixed.metrics["auc"] == pytest.approx(plain.metrics["auc"], abs=0.02)
    assert mixed.parity.worst_difference < 1e-5


@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU")
def test_a_net_trained_on_a_gpu_is_as_good_and_served_from_the_cpu(
    schema: InputSchema, events: Callable[..., Any]
) -> None:
    assert find_hardware("auto").device == "cuda"
    plain, _ = trained(schema, events, "cpu")
    found, told = trained(schema, events)
    assert any(message.startswith("neural net: on cuda in mixed precision") for message in told)
    assert found.metrics["auc"] == pytest.approx(plain.metrics["auc"], abs=0.02)
    assert np.isfinite(found.parity.worst_difference)
