"""What stops a retrain before its first trial trains."""

import shutil
from pathlib import Path

import pytest
import yaml  # type: ignore[import-untyped]

from pipelines.tasks import retraining
from pipelines.training.locks import FrameworkMismatchError
from pipelines.wiring import LOCK, REPOSITORY

SNAPSHOT = "5" * 64


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("PACELINE_PROJECTS", str(tmp_path))
    return shutil.copytree(REPOSITORY / "projects" / "flight_delay", tmp_path / "flight_delay")


def plan(folder: Path, *trials: dict[str, object]) -> None:
    file = folder / "project.yaml"
    file.write_text(yaml.safe_dump(yaml.safe_load(file.read_text()) | {"training": {"trials": list(trials)}}))


def test_a_model_with_another_hash_stops_the_plan_with_the_hash_to_write(folder: Path) -> None:
    (folder / "m.onnx").write_bytes(b"another model")
    parameters = {"path": "m.onnx", "sha256": "0" * 64, "columns": ["seats"]}
    plan(folder, {"trainer": "boosted_trees"}, {"trainer": "imported", "parameters": parameters})
    with pytest.raises(ValueError, match=r"if this is the model that is meant, write sha256: [0-9a-f]{64}"):
        retraining.plan_trials("flight_delay", SNAPSHOT)
    assert len(retraining.plan_trials("flight_delay", SNAPSHOT, ["boosted_trees"])) == 1


def test_parameters_that_an_own_trainer_does_not_know_stop_the_plan(folder: Path) -> None:
    (folder / "trainer.py").write_text(
        "import msgspec\n\n\nclass Trainer:\n"
        "    class Parameters(msgspec.Struct, forbid_unknown_fields=True):\n        depth: int = 3\n\n"
        "    def fit(self, *_): ...\n"
    )
    plan(folder, {"trainer": "own", "parameters": {"depht": 4}})
    with pytest.raises(
        ValueError, match=r"parameters of own: no 'depht', expected some of depth; did you mean 'depth'"
    ):
        retraining.plan_trials("flight_delay", SNAPSHOT)
    plan(folder, {"trainer": "own", "parameters": {"depth": 4}})
    assert retraining.plan_trials("flight_delay", SNAPSHOT)[0]["parameters"] == {"depth": 4}


SEARCH = {"trials": 6, "minutes": 60, "space": {"boosted_trees": {"leaves": {"low": 8, "high": 64}}}}


@pytest.mark.parametrize("trigger", ["alert", "performance"])
def test_an_urgent_retrain_tries_less_of_the_plan_and_no_other_one_does(folder: Path, trigger: str) -> None:
    trials = [{"trainer": "boosted_trees"}, {"trainer": "neural_net"}]
    emergency = {"trainers": ["boosted_trees"], "trials": 2, "minutes": 5}
    training = {"trials": trials, "search": SEARCH, "emergency": emergency}
    file = folder / "project.yaml"
    file.write_text(yaml.safe_dump(yaml.safe_load(file.read_text()) | {"training": training}))
    usual = retraining.plan_trials("flight_delay", SNAPSHOT, trigger="schedule")
    assert (len(usual), {trial["minutes"] for trial in usual}) == (6, {60})
    urgent = retraining.plan_trials("flight_delay", SNAPSHOT, trigger=trigger)
    assert [trial["trainer"] for trial in urgent] == ["boosted_trees", "boosted_trees"]
    assert {trial["minutes"] for trial in urgent} == {5}
    form = ["boosted_trees", "neural_net"]  # what a form that nobody has touched names
    assert retraining.plan_trials("flight_delay", SNAPSHOT, form, trigger=trigger) == urgent
    chosen = retraining.plan_trials("flight_delay", SNAPSHOT, ["neural_net"], 1, 9, trigger)
    assert [(trial["trainer"], trial["minutes"]) for trial in chosen] == [("neural_net", 9)]


def test_an_emergency_without_a_plan_of_its_own_tries_what_the_plan_says(folder: Path) -> None:
    plan(folder, {"trainer": "boosted_trees"}, {"trainer": "neural_net"})
    assert len(retraining.plan_trials("flight_delay", SNAPSHOT, trigger="alert")) == 2


def test_a_lock_of_other_libraries_stops_a_trial_before_anything_is_read(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import numpy as np

    other = tmp_path / "requirements.txt"
    other.write_text(LOCK.read_text().replace(f"numpy=={np.__version__}", "numpy==1.26.4"))
    monkeypatch.setattr(retraining, "LOCK", other)
    trial = {"snapshot": SNAPSHOT, "trainer": "boosted_trees", "parameters": {}, "seed": 1}
    with pytest.raises(FrameworkMismatchError, match=rf"numpy: installed {np.__version__}, locked 1\.26\.4"):
        retraining.train("flight_delay", trial)
