"""A training that is killed, by the system's own means, and goes on."""

import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from contracts.input_schema import InputSchema
from pipelines.training.checkpoints import Checkpoint, inputs_id
from pipelines.training.plan import NeuralNet, TrialSpec
from pipelines.training.rows import Pruned
from pipelines.training.trainer import Trained, TrainerError, train

SPEC = TrialSpec(
    trainer="neural_net",
    parameters={"hidden": (16,), "epochs": 5, "batch_rows": 64, "learning_rate": 0.01, "patience": 2},
)
KILLED = """
import os, signal, sys, msgspec, numpy as np
from pathlib import Path
from contracts.input_schema import InputSchema
from pipelines.training.trainer import TrialSpec, train

folder, trial, last_words = sys.argv[1:]
rows = list(np.load(folder + "/rows.npz").values())
schema = msgspec.json.decode(Path(folder, "schema.json").read_bytes(), type=InputSchema)

def progress(message):
    print(message, flush=True)
    if message.startswith(last_words):
        os.kill(os.getpid(), signal.SIGKILL)

spec = msgspec.json.decode(trial, type=TrialSpec)
train(spec, 3, schema, tuple(rows[:2]), tuple(rows[2:]), progress, checkpoints=Path(folder, "checkpoints"))
"""


@pytest.fixture
def run(schema: InputSchema, events: Callable[..., Any]) -> Callable[..., Trained]:
    def make(folder: Path | None, told: list[str], on_step: Any = None) -> Trained:
        return train(SPEC, 3, schema, events(900, 1), events(400, 2), told.append, on_step, checkpoints=folder)

    return make


def kept(folder: Path) -> list[str]:
    return sorted(file.name for file in folder.glob("*/*"))


def kill(folder: Path, last_words: str) -> str:
    trial = msgspec.json.encode(SPEC).decode()
    done = subprocess.run(
        [sys.executable, "-c", KILLED, str(folder), trial, last_words], capture_output=True, text=True, timeout=120
    )
    assert done.returncode == -signal.SIGKILL, done.stderr
    return done.stdout


def test_a_training_that_is_killed_twice_gives_the_bytes_of_one_that_was_not(
    run: Callable[..., Trained], schema: InputSchema, events: Callable[..., Any], tmp_path: Path
) -> None:
    np.savez(tmp_path / "rows.npz", *events(900, 1), *events(400, 2))
    (tmp_path / "schema.json").write_bytes(msgspec.json.encode(schema))
    folder = tmp_path / "checkpoints"

    kill(tmp_path, "neural net: epoch 3 of 5, log loss")  # in the first fit, before that epoch was saved
    assert kept(folder) == ["stopped.pt"]
    said = kill(tmp_path, "neural net: epoch 2 of ")  # in the second fit: the first one is not repeated
    assert "going on after epoch 2 of 5, from a checkpoint" in said
    assert "epoch 2 of 5, log loss" not in said
    assert len(kept(folder)) == 2

    told: list[str] = []
    resumed, whole = run(folder, told), run(None, [])
    assert sum("from a checkpoint" in message for message in told) == 2
    assert resumed.graph == whole.graph
    assert resumed.curve == whole.curve
    assert resumed.metrics == whole.metrics
    assert kept(folder) == []


def break_off(after: int) -> Callable[[int, float], None]:
    def on_step(step: int, _loss: float) -> None:
        if step > after:
            raise KeyboardInterrupt

    return on_step


def test_an_interrupted_training_tells_its_first_steps_again(run: Callable[..., Trained], tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, [], break_off(after=2))
    steps: list[int] = []
    run(tmp_path, [], lambda step, _loss: steps.append(step))
    assert steps == list(range(1, len(steps) + 1))
    assert len(steps) > 2


def test_a_trial_that_was_given_up_leaves_nothing(run: Callable[..., Trained], tmp_path: Path) -> None:
    def give_up(step: int, _loss: float) -> None:
        if step == 2:
            assert kept(tmp_path) == ["stopped.pt"]
            raise Pruned

    with pytest.raises(Pruned):
        run(tmp_path, [], give_up)
    assert kept(tmp_path) == []


def test_a_checkpoint_that_cannot_be_read_costs_time_and_nothing_else(
    run: Callable[..., Trained], tmp_path: Path
) -> None:
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, [], break_off(after=2))
    (file,) = tmp_path.glob("*/stopped.pt")
    file.write_bytes(file.read_bytes()[:100])
    told: list[str] = []
    assert run(tmp_path, told).graph == run(None, []).graph
    assert any("cannot be read" in message and "starting from the beginning" in message for message in told)


def test_a_disk_that_takes_no_checkpoint_does_not_stop_the_training(
    run: Callable[..., Trained], tmp_path: Path
) -> None:
    (tmp_path / "checkpoints").write_text("a file where the folder should be")
    told: list[str] = []
    assert run(tmp_path / "checkpoints", told).graph == run(None, []).graph
    assert any("cannot be written" in message and "going on without it" in message for message in told)


def test_a_save_that_fails_leaves_the_last_one_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import os

    told: list[str] = []
    checkpoint = Checkpoint(tmp_path / "state.pt", told.append)
    checkpoint.save({"epoch": 1})

    def full(_number: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    checkpoint.save({"epoch": 2})
    assert checkpoint.read() == {"epoch": 1}
    assert [file.name for file in tmp_path.iterdir()] == ["state.pt"]
    assert "No space left on device" in told[0]


def test_another_training_has_another_name(schema: InputSchema, events: Callable[..., Any]) -> None:
    features, labels = events(100, 1)
    other = features.copy()
    other[50, 0] += 1
    names = {
        inputs_id("neural_net", parameters, seed, schema, rows, labels)
        for parameters in (NeuralNet(), NeuralNet(epochs=3))
        for seed in (1, 2)
        for rows in (features, other)
    }
    assert len(names) == 8
    assert inputs_id("neural_net", NeuralNet(), 1, schema, features, labels) in names


def test_a_net_whose_gpu_is_not_there_is_refused(schema: InputSchema, events: Callable[..., Any]) -> None:
    import torch

    if torch.cuda.is_available():
        pytest.skip("there is a GPU")
    spec = TrialSpec(trainer="neural_net", parameters={"device": "cuda"})
    with pytest.raises(TrainerError, match="device: found cuda, but torch sees no GPU here: say auto"):
        train(spec, 3, schema, events(900, 1), events(400, 2), len)
