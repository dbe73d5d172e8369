"""What a model server says about the model that it serves, and varied valid records made from that."""

from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Any

import httpx
import msgspec
import numpy as np

from contracts.encoder import parse_timestamp
from pipelines.benchmarking.connections import Target, trusted

REQUEST_TIMEOUT_S = 10.0
DIFFERENT_RECORDS = 1000
_HORIZON_MINUTES = 30 * 24 * 60
_SPREAD = 0.5  # a number without bounds differs from the example by up to this share
_MISSING_SHARE = 0.05
_HINT = "give the records by --records FILE.jsonl, or"


class LiveModel(msgspec.Struct, frozen=True, kw_only=True):
    """The champion behind a URL.

    `record_schema` is its record as JSON schema, `example` one valid record, `datatypes` those of its tensors.
    """

    project: str
    server: str
    api_version: str
    version: str
    bundle: str
    record_schema: dict[str, Any]
    example: dict[str, Any]
    datatypes: dict[str, str]


def read_live_model(target: Target, api_key: str | None) -> LiveModel:
    """Asks the server at `target`.

    Raises:
        ConnectionError: nobody answers there.
        PermissionError: the key is missing, wrong, or has not the scope `metadata`.
        RuntimeError: the server has no champion yet, or is none of ours.
    """
    headers = {} if api_key is None else {"x-api-key": api_key}
    url, verify = target.url, trusted(target)
    with httpx.Client(
        base_url=url, headers=headers, timeout=REQUEST_TIMEOUT_S, trust_env=False, verify=verify
    ) as client:
        ready = _get(client, "/readyz")
        described = _get(client, "/openapi.json")
        about = _get(client, "/v2")
        project = str(_get(client, "/v1/models")["models"][0])
        metadata = _get(client, f"/v2/models/{project}")
    try:
        content = described["paths"]["/v1/predict"]["post"]["requestBody"]["content"]["application/json"]
        return LiveModel(
            project=project,
            server=str(about["name"]),
            api_version=str(about["version"]),
            version=str(ready["model_version"]),
            bundle=str(ready["bundle"]),
            record_schema=described["components"]["schemas"]["Record"],
            example=content["example"]["records"][0],
            datatypes={tensor["name"]: tensor["datatype"] for tensor in metadata["inputs"]},
        )
    except (LookupError, TypeError) as error:
        raise RuntimeError(
            f"{url}/openapi.json has no record of a live model ({type(error).__name__}: {error}): {_HINT} look whether "
            "that is Paceline's model server"
        ) from error


def make_records(model: LiveModel, count: int = DIFFERENT_RECORDS, seed: int = 1) -> list[dict[str, Any]]:
    """`count` valid records by the live model's schema, varied around its example; the same for the same seed.

    Entities differ, so that a challenger with a share gets its part of them.
    """
    random = np.random.default_rng(seed)
    properties: Mapping[str, Any] = model.record_schema.get("properties", {})
    required = set(model.record_schema.get("required", ()))
    return [
        {
            name: value
            for name, schema in properties.items()
            if (value := _value(schema, model.example.get(name), random, may_miss=name not in required)) is not None
        }
        for _ in range(count)
    ]


def _value(schema: Mapping[str, Any], example: Any, random: np.random.Generator, *, may_miss: bool) -> Any:
    if may_miss and (example is None or random.random() < _MISSING_SHARE):
        return None
    kinds = schema.get("type", [])
    kinds = [kinds] if isinstance(kinds, str) else kinds
    if words := [word for word in schema.get("enum", ()) if word is not None]:
        return words[int(random.integers(len(words)))]
    if "boolean" in kinds:
        return bool(random.integers(2))
    if "integer" in kinds:  # an identifier: any text or number
        return _identifier(example, random)
    if "number" in kinds:
        return _number(schema, example, random)
    if (moment := _moment(example)) is not None:
        return (moment + timedelta(minutes=int(random.integers(_HORIZON_MINUTES)))).isoformat()
    words = [word for word in (*schema.get("examples", ()), example) if isinstance(word, str)]
    return words[int(random.integers(len(words)))] if words else example


def _number(schema: Mapping[str, Any], example: Any, random: np.random.Generator) -> float:
    centre = float(example) if isinstance(example, int | float) and not isinstance(example, bool) else 1.0
    spread = max(abs(centre) * _SPREAD, 0.5)
    low = max(float(schema.get("minimum", centre - spread)), centre - spread)
    high = min(float(schema.get("maximum", centre + spread)), centre + spread)
    return round(float(random.uniform(low, high)), 3) if high - low > 0.01 else centre


def _identifier(example: Any, random: np.random.Generator) -> str | int:
    number = int(random.integers(10_000, 100_000))
    if isinstance(example, int) and not isinstance(example, bool):
        return number
    stem = str(example or "load").rstrip("0123456789")
    return f"{stem}{number}"


def _moment(example: Any) -> datetime | None:
    try:
        return parse_timestamp(example) if isinstance(example, str) else None
    except ValueError:
        return None


def _get(client: httpx.Client, path: str) -> dict[str, Any]:
    url = f"{str(client.base_url).rstrip('/')}{path}"
    try:
        response = client.get(path)
    except httpx.TransportError as error:
        raise ConnectionError(
            f"{url} does not answer ({type(error).__name__}: {error}): is that the model server's address, and does it "
            "run? `paceline serve PROJECT` starts it"
        ) from error
    if response.status_code in (401, 403):
        raise PermissionError(
            f"{url} answers {response.status_code}: name an API key with the scopes predict and metadata by "
            "PACELINE_API_KEY or --api-key; `paceline keys create CLIENT --scope predict --scope metadata` makes one"
        )
    try:
        response.raise_for_status()
        found: dict[str, Any] = response.json()
    except (httpx.HTTPStatusError, ValueError) as error:
        raise RuntimeError(f"{url} answers {response.status_code}: {response.text[:300]}") from error
    return found
