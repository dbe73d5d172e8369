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
