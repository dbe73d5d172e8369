"""The lineage that MLflow's pages show, read back by its API from a real SQLite store."""

import json
from pathlib import Path

import msgspec
import pytest

from contracts.bundle import Bundle, read_bundle
from pipelines.registry import DataPart, Version
from pipelines.registry.mlflow_registry import MlflowRegistry
from tests.fixtures.bundles import tiny_bundle

SNAPSHOT = "5" * 64
TRAIN = DataPart(
    name="train",
    snapshot=SNAPSHOT,
    uri="/snapshots/5/data.parquet",
    columns={"at": "timestamp[us]", "seats": "int64", "late": "bool", "carrier": "string", "miles": "double"},
    rows=120,
    start="2013-01-01",
    end="2013-03-01",
    label="late",
    label_share=0.25,
)
PARTS = (TRAIN, *(msgspec.structs.replace(TRAIN, name=name, rows=20) for name in ("validation", "test")))


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory) -> MlflowRegistry:
    root = tmp_path_factory.mktemp("mlflow")
    return MlflowRegistry(f"sqlite:///{root}/mlflow.db", root / "artifacts")


def register(registry: MlflowRegistry, bundle: Bundle, against: str | None = None) -> Version:
    return registry.register(
        "flights",
        bundle,
        metrics={"auc": 0.71, "undefined": float("nan")},
        parameters={},
        tags={},
        data=PARTS,
        against=against,
    )


@pytest.fixture(scope="module")
def versions(registry: MlflowRegistry, tmp_path_factory: pytest.TempPathFactory) -> tuple[Version, Version]:
    root = tmp_path_factory.mktemp("bundles")
    first = register(registry, tiny_bundle(root, bias=0.0))
    return first, register(registry, tiny_bundle(root, bias=1.0), against=first.version)


def test_a_versions_run_has_each_part_of_its_snapshot_as_a_dataset(
    registry: MlflowRegistry, versions: tuple[Version, Version]
) -> None:
    found = {each.dataset.name: each for each in registry._client.get_run(versions[0].run).inputs.dataset_inputs}
    assert sorted(found) == ["flights.test", "flights.train", "flights.validation"]
    tags = {tag.key: tag.value for tag in found["flights.train"].tags}
    assert tags == {"mlflow.data.context": "training", "snapshot": SNAPSHOT, "label": "late"}
    dataset = found["flights.train"].dataset
    assert dataset.digest == SNAPSHOT[:36]
    assert json.loads(dataset.source) == {"uri": "/snapshots/5/data.parquet"}
    assert json.loads(dataset.profile)["num_rows"] == 120
    kinds = {column["name"]: column["type"] for column in json.loads(dataset.schema)["mlflow_colspec"]}
    assert kinds == {"at": "datetime", "seats": "long", "late": "boolean", "carrier": "string", "miles": "double"}


def test_mlflow_itself_understands_the_dataset(registry: MlflowRegistry, versions: tuple[Version, Version]) -> None:
    import mlflow.data
    from mlflow.types import Schema

    dataset = registry._client.get_run(versions[0].run).inputs.dataset_inputs[0].dataset
    assert mlflow.data.get_source(dataset).to_dict()["uri"] == "/snapshots/5/data.parquet"
    assert len(Schema.from_json(json.dumps(json.loads(dataset.schema)["mlflow_colspec"])).inputs) == 5


def test_a_version_points_at_a_logged_model_whose_metrics_are_those_of_the_test_rows(
    registry: MlflowRegistry, versions: tuple[Version, Version]
) -> None:
    model = registry._client.get_logged_model(versions[0].tags["logged_model"])
    assert model.source_run_id == versions[0].run
    assert str(model.status) == "READY"
    assert model.tags["bundle"] == versions[0].bundle
    assert json.loads(model.tags["mlflow.modelVersions"]) == [{"name": "flights", "version": versions[0].version}]
    assert [(m.key, m.value, m.dataset_name) for m in model.metrics] == [("auc", 0.71, "flights.test")]
    run = registry._client.get_run(versions[0].run)
    assert [output.model_id for output in run.outputs.model_outputs] == [model.model_id]
    assert run.data.metrics == {"auc": 0.71}


def test_the_bundle_can_be_fetched_by_the_versions_name(
    registry: MlflowRegistry, versions: tuple[Version, Version], tmp_path: Path
) -> None:
    from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository

    uri = registry._client.get_model_version_download_uri("flights", versions[0].version)
    fetched = get_artifact_repository(uri).download_artifacts("", dst_path=str(tmp_path))
    assert read_bundle(Path(fetched), versions[0].bundle).id == versions[0].bundle


def test_a_version_is_linked_with_the_champion_that_it_was_compared_with(
    registry: MlflowRegistry, versions: tuple[Version, Version]
) -> None:
    first, second = versions
    assert (second.tags["compared_with"], second.tags["compared_with_run"]) == (first.version, first.run)
    assert "compared_with" not in first.tags
    run = registry._client.get_run(second.run)
    assert [model.model_id for model in run.inputs.model_inputs] == [first.tags["logged_model"]]
    assert run.data.tags["compared_with"] == first.version
    described = registry._client.get_model_version("flights", second.version).description
    assert f"[version {first.version}](#/models/flights/versions/{first.version})" in described
    assert second.bundle in described


def test_a_champion_that_the_registry_does_not_have_is_no_link(registry: MlflowRegistry, tmp_path: Path) -> None:
    made = register(registry, tiny_bundle(tmp_path, bias=2.0), against="99")
    assert "compared_with" not in made.tags
