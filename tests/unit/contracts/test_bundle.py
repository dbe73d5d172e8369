from pathlib import Path

import pytest

from contracts.assignment import position
from contracts.bundle import BASELINE, CARD, GOLDEN, MODEL, SCHEMA, BundleError, Manifest, read_bundle, write_bundle

FILES = {name: name.encode() for name in (MODEL, SCHEMA, BASELINE, GOLDEN, CARD)}
MANIFEST = Manifest(
    project="flight_delay",
    trainer="boosted_trees",
    optimization="fp32",
    parameters={"b": 1, "a": 2},
    snapshot="0" * 64,
    lock="1" * 64,
    threshold=0.5,
    frameworks={},
)


def test_the_same_content_gives_the_same_bundle(tmp_path: Path) -> None:
    first = write_bundle(tmp_path, MANIFEST, FILES)
    again = write_bundle(tmp_path / "elsewhere", MANIFEST, dict(reversed(FILES.items())))
    assert first.id == again.id
    assert write_bundle(tmp_path, MANIFEST, FILES) == first


def test_a_flipped_byte_is_refused(tmp_path: Path) -> None:
    bundle = write_bundle(tmp_path, MANIFEST, FILES)
    bundle.model_path.write_bytes(b"Model.onnx")
    with pytest.raises(BundleError, match="the manifest says"):
        read_bundle(bundle.path)


def test_a_missing_a_surplus_file_and_another_id_are_refused(tmp_path: Path) -> None:
    bundle = write_bundle(tmp_path, MANIFEST, FILES)
    with pytest.raises(BundleError, match="expected " + "2" * 64):
        read_bundle(bundle.path, "2" * 64)
    (bundle.path / "surplus").touch()
    with pytest.raises(BundleError, match="surplus"):
        read_bundle(bundle.path)
    (bundle.path / "surplus").unlink()
    bundle.model_path.unlink()
    with pytest.raises(BundleError, match=r"expected .*model\.onnx"):
        read_bundle(bundle.path)


def test_an_incomplete_bundle_is_not_written(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match="golden"):
        write_bundle(tmp_path, MANIFEST, {name: b"" for name in FILES if name != GOLDEN})
    assert not list(tmp_path.iterdir())


def test_entities_are_spread_evenly_and_differently_for_each_rollout() -> None:
    entities = [f"N{number}" for number in range(10_000)]
    chosen = {entity for entity in entities if position("rollout-1", entity) < 0.1}
    others = {entity for entity in entities if position("rollout-2", entity) < 0.1}
    assert 850 < len(chosen) < 1150
    assert len(chosen & others) < 200


def test_an_entity_keeps_its_position_so_that_growing_shares_are_nested() -> None:
    places = {entity: position("rollout-1", entity) for entity in ("N14228", "N24211", "")}
    assert places == {entity: position("rollout-1", entity) for entity in places}
    assert all(0 <= place < 1 for place in places.values())
