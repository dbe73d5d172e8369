"""A server that is told its bundle by its settings leads with it at once, as in a container."""

from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest

from pipelines.governance.bundle_signing import make_key, sign
from tests.fixtures.model_servers import ModelServerProcess

Servers = Callable[..., ModelServerProcess]


@pytest.mark.parametrize("workers", ["1", "2"])
def test_the_bundle_of_the_settings_leads_until_another_is_promoted(
    tmp_path: Path, bundles: ModuleType, model_servers: Servers, workers: str
) -> None:
    first = bundles.tiny_bundle(tmp_path / "bundles")
    second = bundles.tiny_bundle(tmp_path / "bundles", bias=0.5)
    server = model_servers(bundle=str(first.path), version="7", workers=workers)
    assert server.client.get("/readyz").json() == {"ready": True, "model_version": "7", "bundle": first.id}
    server.predict(bundles.tiny_record()).raise_for_status()
    server.load(second, "8").raise_for_status()
    server.promote("8", "7").raise_for_status()
    assert server.stop() == 0
    again = model_servers(bundle=str(first.path), version="7", workers=workers)
    assert again.client.get("/readyz").json()["model_version"] == "8", "what was promoted since stands"


def test_a_bundle_without_a_name_is_called_by_the_start_of_its_id(
    tmp_path: Path, bundles: ModuleType, model_servers: Servers
) -> None:
    bundle = bundles.tiny_bundle(tmp_path / "bundles")
    server = model_servers(bundle=str(bundle.path))
    assert server.client.get("/readyz").json()["model_version"] == bundle.id[:12]


def test_a_bundle_that_is_not_there_leaves_the_server_alive_and_saying_why(
    tmp_path: Path, model_servers: Servers
) -> None:
    server = model_servers(bundle=str(tmp_path / "absent"))
    answer = server.client.get("/readyz")
    assert answer.status_code == 503
    assert "PACELINE_SERVING_BUNDLE" in answer.json()["detail"]


def test_a_folder_that_is_named_by_another_hash_does_not_lead(
    tmp_path: Path, bundles: ModuleType, model_servers: Servers
) -> None:
    bundle = bundles.tiny_bundle(tmp_path / "bundles")
    moved = bundle.path.rename(bundle.path.with_name("0" * 64))
    answer = model_servers(bundle=str(moved)).client.get("/readyz")
    assert (answer.status_code, "expected 000000" in answer.json()["detail"]) == (503, True)


@pytest.mark.parametrize("workers", ["1", "2"])
def test_a_server_that_asks_for_signatures_takes_signed_bundles_alone(
    tmp_path: Path, bundles: ModuleType, model_servers: Servers, workers: str
) -> None:
    private, public = tmp_path / "signing.key", tmp_path / "signing.pub"
    make_key(private, public)
    champion = bundles.tiny_bundle(tmp_path / "bundles")
    challenger = bundles.tiny_bundle(tmp_path / "bundles", bias=0.5)
    unsigned = model_servers(bundle=str(champion.path), trusted_keys=str(public), workers=workers)
    answer = unsigned.client.get("/readyz")
    assert answer.status_code == 503
    unsigned.end()
    sign(champion, private)
    server = model_servers(bundle=str(champion.path), trusted_keys=str(public), workers=workers)
    assert server.client.get("/readyz").status_code == 200
    refused = server.load(challenger, "8")
    assert refused.status_code == 422
    assert "is not signed" in refused.json()["detail"]
    sign(challenger, private)
    server.load(challenger, "8").raise_for_status()
    assert server.observe()["challenger"]["version"] == "8"


def test_others_reach_a_server_without_credentials_only_where_a_gateway_is_said_to_ask(
    tmp_path: Path, bundles: ModuleType, model_servers: Servers
) -> None:
    bundle = bundles.tiny_bundle(tmp_path / "bundles")
    open_to_all = {"bundle": str(bundle.path), "host": "0.0.0.0", "control_token": "t" * 20}
    with pytest.raises(AssertionError, match="AUTHENTICATED_IN_FRONT=yes says that a gateway"):
        model_servers(**open_to_all)
    server = model_servers(**open_to_all, authenticated_in_front="yes")
    server.predict(bundles.tiny_record()).raise_for_status()
    assert server.client.get("/control/observation").status_code == 401
