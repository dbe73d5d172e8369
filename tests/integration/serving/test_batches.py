"""What the wire carries beside single JSON records: tensors in binary form, and many requests at once."""

import asyncio
import struct
from typing import Any

import httpx
import msgspec
import numpy as np
import pyarrow
import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.fixtures.arrow_bodies import arrow_body, arrow_table
from tests.fixtures.bundles import tiny_bundle, tiny_record
from tests.fixtures.model_servers import ModelServerProcess
from tests.fixtures.prediction_log import logged_rows


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


ARROW = "application/vnd.apache.arrow.stream"


def scores_of(answer: httpx.Response) -> list[float]:
    answer.raise_for_status()
    if answer.headers["content-type"] == ARROW:
        table = pyarrow.ipc.open_stream(answer.content).read_all()
        table.validate(full=True)
        return list(table["score"].to_pylist())
    return [each["score"] for each in answer.json()["predictions"]]


@pytest.mark.parametrize("path", ["/v1/predict", "/invocations"])
def test_arrow_goes_in_and_out_as_the_headers_say(server: ModelServerProcess, path: str) -> None:
    records = [tiny_record(number, humid=None if number % 3 else 40.0) for number in range(150)]
    expected = scores_of(server.predict(*records))
    body = arrow_body(arrow_table(records), 60)
    for accept, kind in [
        ({}, ARROW),
        ({"accept": "*/*"}, ARROW),
        ({"accept": "application/json"}, "application/json"),
        ({"accept": f"application/json;q=0.1, {ARROW}"}, ARROW),
    ]:
        headers = {**accept, "content-type": f"{ARROW}; charset=utf-8"}
        request = server.client.build_request("POST", path, content=body, headers=headers)
        if not accept:
            del request.headers["accept"]
        answer = server.client.send(request)
        assert (answer.headers["content-type"], scores_of(answer)) == (kind, expected), accept
    asked = server.client.post(path, json={"records": records}, headers={"accept": ARROW})
    assert (asked.headers["content-type"], scores_of(asked)) == (ARROW, expected)
    metadata = pyarrow.ipc.open_stream(asked.content).schema.metadata
    assert (metadata[b"model_version"], metadata[b"rollout"], metadata[b"share"]) == (b"1", b"", b"0.0")
    other = {"content-type": "application/vnd.apache.arrow.file"}
    assert server.client.post(path, content=body, headers=other).status_code == 415
    assert server.client.post(path, json={"records": records}, headers={"accept": "image/png"}).status_code == 406
    wrong = arrow_body(arrow_table([*records, tiny_record(distance=-1.0)]))
    refused = server.client.post(path, content=wrong, headers={"content-type": ARROW})
    assert refused.status_code == 422
    assert refused.json()["errors"][0] == {
        "field": "distance",
        "found": "-1.0",
        "expected": "a number from 0 to 3.40282e+38",
        "row": 150,
    }


def test_the_rows_of_an_arrow_batch_stick_to_their_slots_as_records_do(server: ModelServerProcess) -> None:
    server.load(tiny_bundle(server.root / "bundles", bias=0.5), "2", "r1").raise_for_status()
    server.share("r1", 0.5).raise_for_status()
    records = [tiny_record(number) for number in range(200)]
    one_by_one = [server.predict(record).json()["predictions"][0] for record in records]
    answer = server.client.post(
        "/v1/predict", content=arrow_body(arrow_table(records), 90), headers={"content-type": ARROW}
    ).raise_for_status()
    table = pyarrow.ipc.open_stream(answer.content).read_all()
    assert table.schema.metadata[b"rollout"] == b"r1"
    slots = table["slot"].to_pylist()
    assert {*slots} == {"champion", "challenger"}
    assert slots == [each["slot"] for each in one_by_one]
    assert table["score"].to_pylist() == [each["score"] for each in one_by_one]
    assert len({*table["prediction_id"].to_pylist()}) == 200


def test_a_batch_of_ten_thousand_rows_is_answered_and_logged(server: ModelServerProcess) -> None:
    records = [tiny_record(number % 100) for number in range(10_000)]
    answer = server.client.post(
        "/v1/predict", content=arrow_body(arrow_table(records)), headers={"content-type": ARROW}
    )
    scores = scores_of(answer)
    assert scores == scores[:100] * 100
    assert server.stop() == 0
    assert sorted(row["score"] for row in logged_rows(server.predictions)) == sorted(scores)
