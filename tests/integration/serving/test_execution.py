"""On what a graph runs, as clients and operators of a real server see it; on a machine without a GPU."""

from collections.abc import Callable
from types import ModuleType
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from contracts.providers import CPU, CUDA
from serving.providers import missing_library
from tests.fixtures.model_servers import ModelServerProcess

NO_CUDA = pytest.mark.skipif(missing_library(CUDA) is None, reason="needs a machine without CUDA")


def samples(server: ModelServerProcess) -> dict[str, list[tuple[dict[str, str], float]]]:
    """The metrics by name, each with its labels and value."""
    found: dict[str, list[tuple[dict[str, str], float]]] = {}
    for family in text_string_to_metric_families(server.client.get("/metrics").text):
        for sample in family.samples:
            found.setdefault(sample.name, []).append((sample.labels, sample.value))
    return found


def test_metadata_and_metrics_tell_on_what_a_model_runs_and_what_it_costs(
    model_servers: Callable[..., ModelServerProcess], bundles: ModuleType
) -> None:
    server = model_servers()
    server.install(bundles.tiny_bundle(server.root / "bundles"), "1")
    server.load(bundles.tiny_bundle(server.root / "bundles", bias=0.1), "2", "r1").raise_for_status()
    found = samples(server)
    assert found["paceline_execution_provider"] == [
        ({"version": "1", "slot": "champion", "provider": CPU}, 1),
        ({"version": "2", "slot": "challenger", "provider": CPU}, 1),
    ]
    load = {labels["version"]: value for labels, value in found["paceline_model_load_seconds"]}
    assert load.keys() == {"1", "2"}
    assert all(0 < value < 30 for value in load.values())
    ((_, resident),) = found["process_resident_memory_bytes"]
    assert 20e6 < resident < 2e9
    assert "paceline_gpu_memory_used_bytes" not in found
    for path in ("/v2/models/flight_delay", "/v2/models/flight_delay/versions/2"):
        parameters: dict[str, Any] = server.client.get(path).raise_for_status().json()["parameters"]
        assert (parameters["execution_provider"], parameters["maximum_batch_rows"]) == (CPU, 64)
        assert list(parameters["operators"]) == [CPU]
    assert server.stop() == 0


@NO_CUDA
def test_a_server_that_must_have_cuda_loads_nothing_without_it_and_says_which_library_is_missing(
    model_servers: Callable[..., ModelServerProcess], bundles: ModuleType
) -> None:
    server = model_servers(providers="cuda,cpu", require_provider="cuda")
    answer = server.load(bundles.tiny_bundle(server.root / "bundles"), "1")
    assert answer.status_code == 422
    said = answer.json()["detail"]
    assert f"requires {CUDA}, in use would be {CPU}: lib" in said
    assert ".so" in said
    assert server.client.get("/readyz").status_code == 503


@NO_CUDA
def test_a_champion_that_needs_cuda_is_not_served_after_the_machine_has_lost_it(
    model_servers: Callable[..., ModelServerProcess], bundles: ModuleType
) -> None:
    server = model_servers(providers="cuda,cpu")
    server.install(bundles.tiny_bundle(server.root / "bundles"), "1")
    assert f"and not on {CUDA}: lib" in server.log.read_text(), "a wish that is not met is told"
    assert server.predict(bundles.tiny_record()).status_code == 200
    assert server.stop() == 0
    restarted = model_servers(providers="cuda,cpu", require_provider="cuda")
    answer = restarted.client.get("/readyz")
    assert answer.status_code == 503
    assert f"version 1, cannot be loaded: the graph requires {CUDA}" in answer.json()["detail"]
    assert restarted.client.get("/livez").status_code == 200
