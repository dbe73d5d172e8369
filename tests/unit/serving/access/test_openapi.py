from pathlib import Path
from typing import Any

import pytest

from pipelines.tasks import keys
from serving.access import Access
from serving.access.openapi import secure
from tests.fixtures.access import certificate_part, write_rules


@pytest.fixture
def document() -> dict[str, Any]:
    answers = {"responses": {"200": {"description": "The answer"}}}
    return {
        "paths": {
            "/v1/predict": {"post": {"tags": ["predictions"], **answers}, "parameters": []},
            "/livez": {"get": {"tags": ["health"], **answers}},
            "/metrics": {"get": {"tags": ["health"], **answers}},
            "/control/observation": {"get": {"tags": ["control"], **answers}},
        },
        "components": {"schemas": {"Problem": {}}},
    }


def security(document: dict[str, Any]) -> dict[str, Any]:
    return {
        path: operation["security"]
        for path, methods in document["paths"].items()
        for method, operation in methods.items()
        if method != "parameters"
    }


def test_an_open_server_asks_for_nothing_and_says_so(document: dict[str, Any]) -> None:
    described = secure(document, None, has_control_token=False)
    assert set(map(str, security(described).values())) == {"[]"}
    assert "securitySchemes" not in described["components"]
    assert "401" not in described["paths"]["/v1/predict"]["post"]["responses"]


def test_each_operation_names_its_scope_and_one_scheme_is_enough(document: dict[str, Any], tmp_path: Path) -> None:
    keys.create(tmp_path / "keys.json", "acme")
    rules = write_rules(tmp_path / "access.toml", certificate_part("CN:acme", "acme"))
    before = str(document)
    access = Access(tmp_path / "keys.json", project="p", rules=rules)
    described = secure(document, access, has_control_token=True)
    assert str(document) == before, "what the routes carry is left as it is"
    kinds = ("apiKey", "apiKeyAsBearer", "clientCertificate")
    assert security(described) == {
        "/v1/predict": [{kind: ["predict"]} for kind in kinds],
        "/livez": [],
        "/metrics": [{kind: ["metrics"]} for kind in kinds],
        "/control/observation": [{"controlToken": []}],
    }
    responses = described["paths"]["/v1/predict"]["post"]["responses"]
    assert set(responses) == {"200", "401", "403", "429"}
    assert "Retry-After" in responses["429"]["headers"]
    assert set(described["components"]) == {"schemas", "securitySchemes"}
