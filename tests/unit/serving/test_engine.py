import gc
import math
import weakref
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from numpy.typing import NDArray

from serving import engine
from serving.bound_runs import BoundRuns
from serving.engine import CPU_ROWS, ModelRefusedError, ScoringError, are_sound, load_model, problem_of
from serving.providers import Opened


def test_a_bundle_whose_golden_rows_agree_is_loaded(bundles: ModuleType, tmp_path: Path) -> None:
    bundle = bundles.tiny_bundle(tmp_path)
    model = load_model(bundle.path, bundle.id, "7", "flight_delay")
    scores = model.score(model.encoder.encode(bundles.tiny_record(0)))
    assert scores == pytest.approx([1 / (1 + np.exp(-0.1))], abs=1e-6)


def test_golden_scores_that_differ_are_refused_with_both_numbers(bundles: ModuleType, tmp_path: Path) -> None:
    bundle = bundles.tiny_bundle(tmp_path, golden_shift=0.01)
    with pytest.raises(ModelRefusedError, match=r"golden row \d+ scores 0\.\d+ here, expected 0\.\d+ within 1e-05"):
        load_model(bundle.path, bundle.id, "7", "flight_delay")


def test_another_projects_bundle_is_refused(bundles: ModuleType, tmp_path: Path) -> None:
    bundle = bundles.tiny_bundle(tmp_path, project="credit_risk")
    with pytest.raises(ModelRefusedError, match="of project 'credit_risk', this server of 'flight_delay'"):
        load_model(bundle.path, bundle.id, "7", "flight_delay")


def test_a_damaged_and_a_missing_bundle_are_refused(bundles: ModuleType, tmp_path: Path) -> None:
    bundle = bundles.tiny_bundle(tmp_path)
    bundle.model_path.write_bytes(b"")
    with pytest.raises(ModelRefusedError, match="the manifest says"):
        load_model(bundle.path, bundle.id, "7", "flight_delay")
    with pytest.raises(ModelRefusedError, match="no bundle at"):
        load_model(tmp_path / "nowhere", bundle.id, "7", "flight_delay")


def test_a_required_provider_that_is_not_in_use_is_refused(bundles: ModuleType, tmp_path: Path) -> None:
    bundle = bundles.tiny_bundle(tmp_path, require="NoSuchExecutionProvider")
    with pytest.raises(
        ModelRefusedError,
        match="requires NoSuchExecutionProvider, in use would be CPUExecutionProvider: it is not among the providers",
    ):
        load_model(bundle.path, bundle.id, "7", "flight_delay")


def test_a_graph_that_fails_says_so(bundles: ModuleType, tmp_path: Path) -> None:
    bundle = bundles.tiny_bundle(tmp_path)
    model = load_model(bundle.path, bundle.id, "7", "flight_delay")
    with pytest.raises(ScoringError, match="features"):
        model.score(np.zeros((1, 99), dtype=np.float32))


def test_only_scores_between_0_and_1_are_usable() -> None:
    assert [problem_of(score) for score in (0.0, 1.0, 0.5, 1.0000001)] == [None] * 4
    for score in (math.nan, math.inf, -math.inf, -0.1, 1.1):
        assert problem_of(score) == f"the score is {score}, expected 0 to 1"
        for place in range(3):
            scores = [0.0, 0.5, 1.0000001]
            assert are_sound(scores)
            scores[place] = score
            assert not are_sound(scores), f"{score} at {place}"


def test_a_model_says_on_what_it_runs_how_many_rows_it_takes_and_how_long_it_took_to_load(
    bundles: ModuleType, tmp_path: Path
) -> None:
    bundle = bundles.tiny_bundle(tmp_path)
    model = load_model(bundle.path, bundle.id, "7", "flight_delay")
    assert list(model.providers) == ["CPUExecutionProvider"]
    assert model.providers["CPUExecutionProvider"] > 0
    assert (model.gpu, model.maximum_rows) == (None, CPU_ROWS)
    assert 0 < model.load_s < 60


def test_the_profile_of_the_bundle_says_how_many_rows_go_together(bundles: ModuleType, tmp_path: Path) -> None:
    bundle = bundles.tiny_bundle(tmp_path, maximum_batch_rows=200)
    assert load_model(bundle.path, bundle.id, "7", "flight_delay").maximum_rows == 200


def test_a_row_alone_is_held_to_its_golden_score_too(
    bundles: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class StaleForOneRow(BoundRuns):
        def __call__(self, features: NDArray[np.float32]) -> NDArray[np.float32]:
            scores = super().__call__(features)
            return scores if len(features) > 1 else np.full_like(scores, 0.5)

    monkeypatch.setattr(engine, "BoundRuns", StaleForOneRow)
    bundle = bundles.tiny_bundle(tmp_path)
    with pytest.raises(ModelRefusedError, match=r"golden row 29 scores 0\.5 here"):
        load_model(bundle.path, bundle.id, "7", "flight_delay")


def test_with_a_device_every_size_runs_once_before_the_first_request(
    bundles: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes: list[int] = []

    class Watched(BoundRuns):
        def __call__(self, features: NDArray[np.float32]) -> NDArray[np.float32]:
            sizes.append(len(features))
            return super().__call__(features)

    monkeypatch.setattr(engine, "BoundRuns", Watched)
    monkeypatch.setattr(Opened, "has_device", property(lambda opened: True))
    bundle = bundles.tiny_bundle(tmp_path, maximum_batch_rows=48)
    assert load_model(bundle.path, bundle.id, "7", "flight_delay").maximum_rows == 48
    assert sizes[:7] == [48, 32, 16, 8, 4, 2, 1]


def test_a_model_that_is_dropped_is_freed_at_once_without_a_collection(bundles: ModuleType, tmp_path: Path) -> None:
    bundle = bundles.tiny_bundle(tmp_path)
    gc.disable()
    try:
        model = load_model(bundle.path, bundle.id, "7", "flight_delay")
        kept = [weakref.ref(part) for part in (model, model.run, model.run.session, model.encoder)]
        assert all(each() is not None for each in kept)
        del model
        assert [each() for each in kept] == [None] * 4
    finally:
        gc.enable()
