"""What the manifests ask a model server for, it has."""

from collections.abc import Callable
from pathlib import Path
from types import ModuleType

from tests.fixtures.manifests import find, overlay, pod_of
from tests.fixtures.model_servers import ModelServerProcess


def test_the_probes_ask_routes_that_tell_a_server_with_a_champion_from_one_without(
    tmp_path: Path, bundles: ModuleType, model_servers: Callable[..., ModelServerProcess]
) -> None:
    container = pod_of(find(overlay("production"), "Deployment", "flight-delay-stable"))["containers"][0]
    paths = {kind: container[kind]["httpGet"]["path"] for kind in ("startupProbe", "readinessProbe", "livenessProbe")}
    empty = model_servers()
    assert [empty.client.get(path).status_code for path in paths.values()] == [503, 503, 200]
    empty.end()
    server = model_servers(bundle=str(bundles.tiny_bundle(tmp_path / "bundles").path))
    assert [server.client.get(path).status_code for path in paths.values()] == [200, 200, 200]


def test_the_autoscaler_looks_at_a_metric_that_servers_export(
    tmp_path: Path, bundles: ModuleType, model_servers: Callable[..., ModelServerProcess]
) -> None:
    scaler = find(overlay("production"), "HorizontalPodAutoscaler", "flight-delay-stable")
    (metric,) = [each["pods"]["metric"]["name"] for each in scaler["spec"]["metrics"] if each["type"] == "Pods"]
    server = model_servers(bundle=str(bundles.tiny_bundle(tmp_path / "bundles").path))
    assert f"\n{metric} 0.0\n" in server.client.get("/metrics").text


def test_the_route_lets_predictions_through_and_neither_control_nor_metrics(
    model_servers: Callable[..., ModelServerProcess],
) -> None:
    (rule,) = find(overlay("production"), "HTTPRoute", "flight-delay")["spec"]["rules"]
    prefixes = tuple(match["path"]["value"] + "/" for match in rule["matches"])
    routes = list(model_servers().client.get("/openapi.json").json()["paths"])
    outside = {route for route in routes if not route.startswith(prefixes)}
    assert {"/metrics", "/control/promote", "/control/share"} <= outside
    assert "/v1/predict" in set(routes) - outside
