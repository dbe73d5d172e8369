import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import msgspec
import pytest

from contracts.bundle import BASELINE, CARD, GOLDEN, MODEL, SCHEMA, Bundle, Manifest, write_bundle
from contracts.input_schema import Field, InputSchema
from pipelines.registry import Trial, Version
from pipelines.registry.mlflow_registry import MlflowRegistry, RegistryError


def bundle_of(root: Path, card: bytes = b"card") -> Bundle:
    schema = InputSchema(
        version=3,
        entity="id",
        time="at",
        key=("id",),
        fields=(Field(name="id", kind="identifier"), Field(name="at", kind="timestamp", parts=("day_of_week",))),
    )
    manifest = Manifest(
        project="flights",
        trainer="boosted_trees",
        optimization="fp32",
        parameters={"depth": 3},
        snapshot="s" * 64,
        lock="l" * 64,
        threshold=0.5,
        frameworks={},
    )
    files = {MODEL: b"graph", SCHEMA: msgspec.json.encode(schema), BASELINE: b"{}", GOLDEN: b"{}", CARD: card}
    return write_bundle(root / "bundles", manifest, files)


def register(registry: MlflowRegistry, bundle: Bundle) -> Version:
    return registry.register(
        "flights",
        bundle,
        metrics={"auc": 0.71, "log_loss": 0.5, "undefined": float("nan")},
        parameters={"depth": 3, "long": "x" * 2000},
        tags={"commit": "abc"},
        trials=(
            Trial(name="trees", parameters={"depth": 3}, metrics={"auc": 0.7}, curve=({"loss": 0.6}, {"loss": 0.5})),
            {"name": "net", "metrics": {"auc": 0.69}, "curve": [{"epoch": 1, "loss": 0.6}]},
        ),
    )


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Path]:
    root = tmp_path_factory.mktemp("mlflow")
    return f"sqlite:///{root}/mlflow.db", root / "artifacts"


@pytest.fixture
def registry(store: tuple[str, Path]) -> Iterator[MlflowRegistry]:
    opened = MlflowRegistry(*store)
    yield opened
    for found in opened.versions("flights"):
        opened.set_aliases("flights", dict.fromkeys(found.aliases))
    if opened.versions("flights"):
        opened._client.delete_registered_model("flights")


def test_a_registered_version_points_at_its_bundle_and_names_its_origin(
    registry: MlflowRegistry, tmp_path: Path
) -> None:
    bundle = bundle_of(tmp_path)
    made = register(registry, bundle)
    assert (made.version, made.bundle, made.metrics) == ("1", bundle.id, {"auc": 0.71, "log_loss": 0.5})
    assert made.tags["snapshot"] == "s" * 64
    assert made.tags["lock"] == "l" * 64
    assert made.tags["commit"] == "abc"
    assert made.tags["schema_version"] == "3"
    assert registry.version("flights", "1") == made
    assert registry.versions("flights") == [made]


def test_the_run_holds_the_bundles_files_and_nests_the_trials(registry: MlflowRegistry, tmp_path: Path) -> None:
    bundle = bundle_of(tmp_path)
    made = register(registry, bundle)
    client = registry._client
    assert made.run is not None
    artifacts = {Path(found.path).name for found in client.list_artifacts(made.run, "bundle")}
    assert artifacts == {*bundle.manifest.files, "manifest.json"}
    run = client.get_run(made.run)
    assert run.info.status == "FINISHED"
    assert run.data.params["depth"] == "3"
    nested = client.search_runs([run.info.experiment_id], f"tags.mlflow.parentRunId = '{made.run}'")
    assert {found.info.run_name for found in nested} == {"trees", "net"}
    trees = next(found for found in nested if found.info.run_name == "trees")
    assert [point.value for point in client.get_metric_history(trees.info.run_id, "curve.loss")] == [0.6, 0.5]


def test_each_trial_says_how_it_ended_and_plots_how_it_learned(registry: MlflowRegistry, tmp_path: Path) -> None:
    curve = ({"step": 1, "train_log_loss": 0.6, "validation_log_loss": 0.6}, {"step": 2, "validation_log_loss": 0.5})
    trials = (
        Trial(
            name="trees 0",
            metrics={"log_loss": 0.50},
            curve=curve,
            seconds=2.5,
            behind=0.001,
            behind_se=0.002,
            chosen=True,
        ),
        Trial(name="net 1", metrics={"log_loss": 0.49}, behind=0.0, behind_se=0.0),
        Trial(name="trees 2", state="pruned", error="behind the median", curve=curve),
        Trial(name="net 3", state="failed", error="MemoryError"),
        Trial(name="net 4", state="over budget"),
    )
    report = tmp_path / "evaluation.html"
    report.write_text("<h1>All gates passed</h1>")
    made = registry.register(
        "flights",
        bundle_of(tmp_path),
        metrics={"auc": 0.7},
        parameters={},
        tags={"chosen": "trees 0", "reason": "simpler"},
        trials=trials,
        importances={"boosted_trees": {"leaves": 0.9, "l2": 0.1}},
        reports=[report],
    )
    client = registry._client
    assert made.run is not None
    parent = client.get_run(made.run)
    assert (parent.data.tags["chosen"], parent.data.tags["reason"]) == ("trees 0", "simpler")
    plots = {Path(found.path).name for found in client.list_artifacts(made.run, "plots")}
    assert plots == {"trials.png", "importance-boosted_trees.png"}
    assert [found.path for found in client.list_artifacts(made.run, "reports")] == ["reports/evaluation.html"]
    nested = client.search_runs([parent.info.experiment_id], f"tags.mlflow.parentRunId = '{made.run}'")
    runs = {found.info.run_name: found for found in nested}
    assert {name: run.info.status for name, run in runs.items()} == {
        "trees 0": "FINISHED",
        "net 1": "FINISHED",
        "trees 2": "KILLED",
        "net 3": "FAILED",
        "net 4": "KILLED",
    }
    first = runs["trees 0"].data.tags
    assert (first["chosen"], first["seconds"], first["behind_the_best"]) == ("true", "2.5", "0.00100 ± 0.00200")
    assert runs["net 3"].data.tags["error"] == "MemoryError"
    for name, count in (("trees 0", 1), ("trees 2", 1), ("net 1", 0)):
        found = client.list_artifacts(runs[name].info.run_id, "plots")
        assert [Path(one.path).name for one in found] == ["curve.png"] * count
    drawn = Path(client.download_artifacts(runs["trees 0"].info.run_id, "plots/curve.png", str(tmp_path)))
    assert drawn.read_bytes().startswith(b"\x89PNG")


def test_registering_the_same_bundle_again_gives_the_same_version(registry: MlflowRegistry, tmp_path: Path) -> None:
    first = register(registry, bundle_of(tmp_path))
    assert register(registry, bundle_of(tmp_path)) == first
    other = register(registry, bundle_of(tmp_path, b"another"))
    assert [version.version for version in registry.versions("flights")] == [first.version, other.version]


def test_two_that_register_one_bundle_at_once_get_one_version(registry: MlflowRegistry, tmp_path: Path) -> None:
    register(registry, bundle_of(tmp_path, b"first"))
    bundle = bundle_of(tmp_path)
    with ThreadPoolExecutor(4) as pool:
        versions = list(pool.map(lambda _: register(registry, bundle), range(4)))
    assert {version.version for version in versions} == {versions[0].version}
    assert [version.bundle for version in registry.versions("flights")].count(bundle.id) == 1


def test_aliases_move_and_go(registry: MlflowRegistry, tmp_path: Path) -> None:
    one = register(registry, bundle_of(tmp_path, b"1")).version
    two = register(registry, bundle_of(tmp_path, b"2")).version
    registry.set_aliases("flights", {"champion": one, "challenger": two})
    for _ in range(2):
        registry.set_aliases("flights", {"champion": two, "previous": one, "challenger": None})
    champion, previous = registry.version("flights", "champion"), registry.version("flights", "previous")
    assert champion is not None
    assert previous is not None
    assert (champion.version, champion.aliases, previous.version) == (two, ("champion",), one)
    assert registry.version("flights", "challenger") is None


def test_an_alias_cannot_point_at_a_version_that_is_not_there(registry: MlflowRegistry, tmp_path: Path) -> None:
    one = register(registry, bundle_of(tmp_path)).version
    with pytest.raises(RegistryError, match=r"version 99 of flights; it has 1"):
        registry.set_aliases("flights", {"champion": one, "challenger": "99"})
    assert registry.version("flights", "champion") is None


def test_a_trial_with_an_unknown_key_is_refused_before_anything_is_made(
    registry: MlflowRegistry, tmp_path: Path
) -> None:
    with pytest.raises(RegistryError, match=r"'trees' cannot be registered: .*metric"):
        registry.register(
            "flights", bundle_of(tmp_path), metrics={}, parameters={}, tags={}, trials=[{"name": "trees", "metric": {}}]
        )
    assert registry.versions("flights") == []


def test_an_unknown_project_has_no_versions(registry: MlflowRegistry) -> None:
    assert registry.versions("nothing") == []
    assert registry.version("nothing", "1") is None
    assert registry.version("nothing", "champion") is None


@pytest.fixture
def server(tmp_path: Path) -> Iterator[str]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port), "--workers", "1"]
    command += [
        "--backend-store-uri",
        f"sqlite:///{tmp_path}/server.db",
        "--artifacts-destination",
        str(tmp_path / "a"),
    ]
    environment = {**os.environ, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
    with (tmp_path / "server.log").open("w") as log:
        process = subprocess.Popen(command, env=environment, stdout=log, stderr=log, start_new_session=True)
    try:
        deadline = time.monotonic() + 90
        while True:
            try:
                with urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=2):
                    break
            except OSError:
                if process.poll() is not None or time.monotonic() > deadline:
                    raise
                time.sleep(0.2)
        yield f"http://127.0.0.1:{port}"
    finally:
        os.killpg(process.pid, signal.SIGTERM)
        process.wait(30)


def test_a_registry_on_a_server_behaves_as_one_on_a_file(server: str, tmp_path: Path) -> None:
    registry = MlflowRegistry(server)
    bundle = bundle_of(tmp_path)
    made = register(registry, bundle)
    registry.set_aliases("flights", {"champion": made.version})
    assert register(registry, bundle).aliases == ("champion",)
    found = registry.version("flights", "champion")
    assert found is not None
    assert (found.bundle, found.metrics["auc"]) == (bundle.id, 0.71)
    assert registry._client.get_logged_model(found.tags["logged_model"]).source_run_id == found.run
