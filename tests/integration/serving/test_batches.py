"""What the wire carries beside single JSON records: tensors in binary form, and many requests at once."""

import asyncio
import struct
from typing import Any

import httpx
import msgspec
import numpy as np
import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.fixtures.bundles import tiny_bundle, tiny_record
from tests.fixtures.model_servers import ModelServerProcess


@pytest.fixture
def server(model_servers: Any, tmp_path: Any) -> ModelServerProcess:
    started: ModelServerProcess = model_servers()
    started.install(tiny_bundle(tmp_path / "bundles"), "1")
    return started


def test_tensors_in_binary_form_have_the_scores_of_the_records(server: ModelServerProcess) -> None:
    records = [tiny_record(number) for number in range(3)]
    texts = {name: [record[name] for record in records] for name in ("tailnum", "scheduled", "carrier")}
    tensors = [(name, "BYTES", b"".join(_text(value) for value in values)) for name, values in texts.items()]
    tensors += [
        (name, "FP64", np.array([record[name] for record in records], "<f8").tobytes())
        for name in ("distance", "humid")
    ]
    inputs = [
        {"name": name, "datatype": datatype, "shape": [3], "parameters": {"binary_data_size": len(data)}}
        for name, datatype, data in tensors
    ]
    head = msgspec.json.encode({"inputs": inputs, "parameters": {"binary_data_output": True}})
    answer = server.client.post(
        "/v2/models/flight_delay/infer",
        content=head + b"".join(data for _, _, data in tensors),
        headers={"Inference-Header-Content-Length": str(len(head))},
    ).raise_for_status()
    length = int(answer.headers["inference-header-content-length"])
    outputs = msgspec.json.decode(answer.content[:length])["outputs"]
    assert [output["name"] for output in outputs] == ["score", "decision", "prediction_id", "model_version"]
    size = outputs[0]["parameters"]["binary_data_size"]
    scores = np.frombuffer(answer.content[length : length + size], "<f4")
    expected = server.client.post("/v1/predict", json={"records": records}).json()["predictions"]
    np.testing.assert_allclose(scores, [each["score"] for each in expected], rtol=1e-6)


def test_requests_at_once_share_runs_and_each_gets_its_own_score(server: ModelServerProcess) -> None:
    async def all_at_once() -> list[httpx.Response]:
        async with httpx.AsyncClient(base_url=server.url, timeout=30, trust_env=False) as client:
            sent = [client.post("/v1/predict", json={"records": [tiny_record(number)]}) for number in range(200)]
            return await asyncio.gather(*sent)

    found = [answer.raise_for_status().json()["predictions"][0]["score"] for answer in asyncio.run(all_at_once())]
    alone = server.client.post("/v1/predict", json={"records": [tiny_record(number) for number in range(200)]})
    assert found == [each["score"] for each in alone.json()["predictions"]]
    metrics = {
        sample.name: sample.value
        for family in text_string_to_metric_families(server.client.get("/metrics").text)
        for sample in family.samples
    }
    assert metrics["paceline_graph_rows_sum"] == 400
    assert metrics["paceline_graph_rows_count"] < 204
    assert metrics["paceline_queue_rows"] == 0


def _text(value: str) -> bytes:
    return struct.pack("<I", len(value)) + value.encode()
