"""A real server over HTTP, called as the stock clients of each protocol call it."""

import csv
import io
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import msgspec
import numpy as np
import pytest

from tests.fixtures.bundles import tiny_bundle, tiny_record
from tests.fixtures.model_servers import ModelServerProcess

Start = Callable[..., ModelServerProcess]
RECORDS = [tiny_record(0), tiny_record(1), tiny_record(2, humid=None)]
LENGTH = "inference-header-content-length"


@pytest.fixture
def server(model_servers: Start, tmp_path: Path) -> ModelServerProcess:
    """A server with version 1 as champion."""
    started = model_servers()
    started.install(tiny_bundle(tmp_path / "bundles"), "1")
    return started


@pytest.fixture
def scores(server: ModelServerProcess) -> list[float]:
    """What `/v1/predict` says about `RECORDS`."""
    return [each["score"] for each in server.predict(*RECORDS).raise_for_status().json()["predictions"]]


def texts(*values: str) -> bytes:
    return b"".join(struct.pack("<I", len(value.encode())) + value.encode() for value in values)


def triton_request(records: list[dict[str, Any]], **more: Any) -> dict[str, Any]:
    """What `tritonclient.http` makes of numpy arrays: a body of JSON and the arrays' bytes behind it, and headers."""
    data = {
        name: texts(*(record[name] for record in records)) for name in ("tailnum", "scheduled", "carrier", "passenger")
    }
    for name in ("distance", "humid"):
        numbers = [float("nan") if record[name] is None else record[name] for record in records]
        data[name] = np.array(numbers, dtype="<f4").tobytes()
    inputs = [
        {
            "name": name,
            "shape": [len(records), 1],
            "datatype": "FP32" if name in ("distance", "humid") else "BYTES",
            "parameters": {"binary_data_size": len(each)},
        }
        for name, each in data.items()
    ]
    head = msgspec.json.encode({"inputs": inputs, **more})
    headers = {"content-type": "application/octet-stream", LENGTH: str(len(head))}
    return {"content": head + b"".join(data.values()), "headers": headers}


def triton_outputs(answer: httpx.Response) -> tuple[dict[str, Any], dict[str, bytes]]:
    """The JSON of an answer and the bytes of its binary outputs, cut as the client cuts them."""
    length = int(answer.headers[LENGTH])
    head, rest = msgspec.json.decode(answer.content[:length]), answer.content[length:]
    outputs: dict[str, bytes] = {}
    for output in head["outputs"]:
        size = output.get("parameters", {}).get("binary_data_size")
        if size is not None:
            outputs[output["name"]], rest = rest[:size], rest[size:]
    assert rest == b""
    return head, outputs


def test_tensors_go_in_and_out_in_binary_form(server: ModelServerProcess, scores: list[float]) -> None:
    request = triton_request(RECORDS, id="mine", parameters={"binary_data_output": True})
    for path in ("/v2/models/flight_delay/infer", "/v2/models/flight_delay/versions/1/infer"):
        answer = server.client.post(path, **request).raise_for_status()
        head, outputs = triton_outputs(answer)
        assert answer.headers["content-type"] == "application/octet-stream"
        assert (head["id"], head["model_version"]) == ("mine", "1")
        assert np.frombuffer(outputs["score"], "<f4") == pytest.approx(scores, abs=1e-6)
        assert outputs["decision"] == bytes(score >= 0.6 for score in scores)
        assert outputs["model_version"] == texts("1", "1", "1")


def test_an_output_is_binary_only_where_the_client_asks_for_it(server: ModelServerProcess, scores: list[float]) -> None:
    wanted = [{"name": "score", "parameters": {"binary_data": False}}, {"name": "decision"}]
    answer = server.client.post("/v2/models/flight_delay/infer", **triton_request(RECORDS, outputs=wanted))
    assert LENGTH not in answer.headers
    [score, decision] = answer.raise_for_status().json()["outputs"]
    assert score["data"] == pytest.approx(scores, abs=1e-6)
    assert decision["data"] == [each >= 0.6 for each in scores]


def test_a_wrong_tensor_is_refused_in_the_words_that_tritons_client_shows(server: ModelServerProcess) -> None:
    answer = server.client.post(
        "/v2/models/flight_delay/infer", **triton_request([tiny_record(0), tiny_record(1, distance=-5)])
    )
    assert answer.status_code == 422
    assert "row 1, distance: found -5.0, expected a number from 0" in answer.json()["error"]
    compressed = triton_request(RECORDS)
    compressed["headers"]["content-encoding"] = "gzip"
    refused = server.client.post("/v2/models/flight_delay/infer", **compressed)
    assert refused.status_code == 415
    assert "compressed" in refused.json()["error"]


def test_tensorflow_servings_clients_get_predictions_for_rows_and_for_columns(
    server: ModelServerProcess, scores: list[float]
) -> None:
    columns = {name: [record[name] for record in RECORDS] for name in RECORDS[0]}
    for path in ("/v1/models/flight_delay:predict", "/v1/models/flight_delay/versions/1:predict"):
        by_rows = server.client.post(path, json={"signature_name": "serving_default", "instances": RECORDS})
        assert [each["score"] for each in by_rows.raise_for_status().json()["predictions"]] == scores
        by_columns = server.client.post(path, json={"inputs": columns}).raise_for_status().json()
        assert [each["score"] for each in by_columns["predictions"]] == scores
        assert by_columns["outputs"]["score"] == scores
    status = server.client.get("/v1/models/flight_delay").raise_for_status().json()
    assert (status["name"], status["ready"]) == ("flight_delay", True)
    assert [(each["version"], each["state"]) for each in status["model_version_status"]] == [("1", "AVAILABLE")]
    assert server.client.get("/v1/models/flight_delay/versions/1").json() == status
    assert server.client.get("/v1/models").json() == {"models": ["flight_delay"]}


def test_a_version_that_is_asked_for_by_name_is_the_champion_and_no_other(server: ModelServerProcess) -> None:
    server.load(tiny_bundle(server.root / "bundles", bias=0.5), "2", "r1").raise_for_status()
    server.share("r1", 1.0).raise_for_status()
    pinned = server.client.post("/v1/models/flight_delay/versions/1:predict", json={"instances": RECORDS})
    assert {each["slot"] for each in pinned.json()["predictions"]} == {"champion"}
    free = server.client.post("/v1/models/flight_delay:predict", json={"instances": RECORDS})
    assert {each["slot"] for each in free.json()["predictions"]} == {"challenger"}
    other = server.client.post("/v1/models/flight_delay/versions/2:predict", json={"instances": RECORDS})
    assert other.status_code == 404
    assert "a challenger gets its requests from its rollout" in other.json()["error"]


def test_sagemakers_container_contract_takes_and_gives_three_types(
    server: ModelServerProcess, scores: list[float]
) -> None:
    names = list(RECORDS[0])
    table = io.StringIO()
    csv.writer(table).writerows([names, *([record[name] for name in names] for record in RECORDS)])
    bodies = {
        "application/json": msgspec.json.encode({"records": RECORDS}),
        "application/jsonlines": b"".join(msgspec.json.encode(record) + b"\n" for record in RECORDS),
        "text/csv": table.getvalue().encode(),
    }
    for kind, body in bodies.items():
        for wanted in bodies:
            answer = server.client.post(
                "/invocations", content=body, headers={"content-type": kind, "accept": wanted}
            ).raise_for_status()
            assert answer.headers["content-type"] == wanted
            assert scores_of(answer) == scores, (kind, wanted)
    assert scores_of(server.client.post("/invocations", content=bodies["application/json"])) == scores
    ping = server.client.get("/ping")
    assert (ping.status_code, ping.content) == (200, b"")


def scores_of(answer: httpx.Response) -> list[float]:
    kind = answer.headers["content-type"]
    if kind == "application/json":
        return [each["score"] for each in answer.json()["predictions"]]
    if kind == "text/csv":
        return [float(row["score"]) for row in csv.DictReader(io.StringIO(answer.text))]
    return [msgspec.json.decode(line)["score"] for line in answer.content.splitlines()]


def test_every_wrong_request_is_a_problem_with_the_member_that_the_protocols_clients_read(
    server: ModelServerProcess,
) -> None:
    client, instances = server.client, "/v1/models/flight_delay:predict"
    as_csv = {"content-type": "text/csv"}
    wrong = {
        400: [client.post(instances, content=b"{"), client.post("/invocations", content=b'"', headers=as_csv)],
        404: [
            client.get("/v1/models/other"),
            client.get("/v1/models/flight_delay/versions/9"),
            client.post("/v1/models/other:predict", json={"instances": RECORDS}),
            client.post("/v1/models/flight_delay/labels/x:predict", json={"instances": RECORDS}),
            client.post("/v1/models/flight_delay/versions/9:predict", json={"instances": RECORDS}),
        ],
        405: [
            client.get(instances),
            client.get("/invocations"),
            client.post("/ping"),
            client.post("/v1/models/flight_delay"),
        ],
        406: [client.post("/invocations", json={"records": RECORDS}, headers={"accept": "image/png"})],
        413: [client.post(path, content=b"x" * (5 << 20)) for path in (instances, "/invocations")],
        415: [
            client.post("/invocations", content=b"x", headers={"content-type": "application/x-npy"}),
            client.post(instances, content=b"{}", headers={"content-encoding": "gzip"}),
        ],
        422: [
            client.post(instances, json={"instances": [tiny_record(distance="far")]}),
            client.post(instances, json={"inputs": {"distance": [1]}}),
            client.post("/invocations", content=b"distance\n1\n", headers=as_csv),
        ],
    }
    for status, answers in wrong.items():
        for answer in answers:
            path = answer.request.url.path
            what = f"{answer.request.method} {path}: {answer.status_code} {answer.text}"
            assert answer.status_code == status, what
            assert answer.headers["content-type"] == "application/problem+json", what
            problem = answer.json()
            assert problem["detail"], what
            assert problem.get("error") == (problem["detail"] if path.startswith("/v1/models") else None), what
    assert "row 0, distance: found 'far', expected a number" in wrong[422][0].json()["error"]
    assert server.predict(tiny_record()).status_code == 200


def test_a_server_without_champion_says_so_in_every_protocol(model_servers: Start) -> None:
    server = model_servers()
    asked = [
        server.client.get("/ping"),
        server.client.get("/v1/models/flight_delay"),
        server.client.post("/v1/models/flight_delay:predict", json={"instances": RECORDS}),
        server.client.post("/invocations", content=b"at\n", headers={"content-type": "text/csv"}),
        server.client.post("/v2/models/flight_delay/infer", **triton_request(RECORDS)),
    ]
    for answer in asked:
        assert answer.status_code == 503, answer.request.url
        assert "no champion yet" in answer.json()["detail"], answer.request.url
    described = server.client.get("/openapi.json").json()["paths"]["/invocations"]["post"]
    assert "example" not in described["requestBody"]["content"]["text/csv"]


def test_the_api_page_describes_each_protocol_with_an_example_that_works(server: ModelServerProcess) -> None:
    paths = server.client.get("/openapi.json").json()["paths"]
    assert {"/ping", "/v1/models", "/v1/models/{name}"} <= paths.keys()
    tried = 0
    binary: set[tuple[str, str]] = set()
    for path, described in paths.items():
        if "predictions" not in described.get("post", {}).get("tags", ()):
            continue
        for kind, content in described["post"]["requestBody"]["content"].items():
            if content["schema"].get("format") == "binary":  # described in words: no text can be an example
                binary.add((path, kind))
                continue
            example = content["example"]
            body = example.encode() if isinstance(example, str) else msgspec.json.encode(example)
            answer = server.client.post(path.replace("{version}", "1"), content=body, headers={"content-type": kind})
            assert answer.status_code == 200, (path, kind, answer.text)
            tried += 1
    assert tried == 8
    arrow, tensors = "application/vnd.apache.arrow.stream", "application/octet-stream"
    assert binary == {
        ("/v1/predict", arrow),
        ("/invocations", arrow),
        ("/v2/models/flight_delay/infer", tensors),
        ("/v2/models/flight_delay/versions/{version}/infer", tensors),
    }
    for path in ("/v1/predict", "/invocations", "/v2/models/flight_delay/infer"):
        expected = {"200", "400", "408", "413", "415", "422", "431", "500", "503", "504"}
        assert expected <= paths[path]["post"]["responses"].keys(), path
        names = {each["name"] for each in paths[path]["post"]["parameters"]}
        assert {"x-request-id", "x-request-timeout-ms"} <= names, path
    operations = [each["operationId"] for methods in paths.values() for each in methods.values()]
    assert len(set(operations)) == len(operations)


def test_responses_are_counted_by_protocol(server: ModelServerProcess) -> None:
    server.client.post("/v1/models/flight_delay:predict", json={"instances": RECORDS})
    server.client.post("/invocations", content=b"x", headers={"content-type": "text/plain"})
    metrics = server.client.get("/metrics").text
    assert 'paceline_responses_total{route="instances",status="200"} 1.0' in metrics
    assert 'paceline_responses_total{route="invocations",status="415"} 1.0' in metrics
