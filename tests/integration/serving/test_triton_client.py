"""NVIDIA's own client, `tritonclient[http]`, as it is installed, against a real server."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tritonclient.http as triton
from tritonclient.utils import InferenceServerException

from tests.fixtures.bundles import tiny_bundle, tiny_record
from tests.fixtures.model_servers import ModelServerProcess

MODEL = "flight_delay"
RECORDS = [tiny_record(0), tiny_record(1), tiny_record(2, humid=None)]
NUMBERS = ("distance", "humid")


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ModelServerProcess]:
    root: Path = tmp_path_factory.mktemp("server")
    started = ModelServerProcess(root)
    try:
        started.wait_until_live()
        started.install(tiny_bundle(root / "bundles"), "1")
        yield started
    finally:
        started.end()


@pytest.fixture
def client(server: ModelServerProcess) -> Iterator[triton.InferenceServerClient]:
    with triton.InferenceServerClient(server.url.removeprefix("http://"), concurrency=4) as opened:
        yield opened


@pytest.fixture
def scores(server: ModelServerProcess) -> list[float]:
    return [each["score"] for each in server.predict(*RECORDS).raise_for_status().json()["predictions"]]


def inputs(records: list[dict[str, Any]] = RECORDS, *, binary: bool = True, number: Any = np.float64) -> list[Any]:
    found = []
    for name in records[0]:
        values = [record[name] for record in records]
        if name in NUMBERS:
            array = np.array([np.nan if value is None else value for value in values], dtype=number)
            kind = "FP64" if number is np.float64 else "FP32"
        else:
            array, kind = np.array([value.encode() for value in values], dtype=np.object_), "BYTES"
        each = triton.InferInput(name, [len(values)], kind)
        each.set_data_from_numpy(array, binary_data=binary)
        found.append(each)
    return found


def test_it_finds_the_server_and_its_model(server: ModelServerProcess, client: triton.InferenceServerClient) -> None:
    assert client.is_server_live()
    assert client.is_server_ready()
    assert client.is_model_ready(MODEL)
    assert client.is_model_ready(MODEL, "1")
    assert not client.is_model_ready(MODEL, "2")
    assert not client.is_model_ready("other")
    about = client.get_server_metadata()
    assert about["name"] == "paceline"
    assert "binary_tensor_data" in about["extensions"]
    model = client.get_model_metadata(MODEL)
    assert (model["name"], model["versions"], model["platform"]) == (MODEL, ["1"], "onnxruntime_onnx")
    assert {each["name"]: each["datatype"] for each in model["inputs"]} == {
        "tailnum": "BYTES",
        "scheduled": "BYTES",
        "carrier": "BYTES",
        "distance": "FP64",
        "humid": "FP64",
        "passenger": "BYTES",
    }
    assert {each["name"]: (each["datatype"], each["shape"]) for each in model["outputs"]} == {
        "score": ("FP32", [-1]),
        "decision": ("BOOL", [-1]),
        "prediction_id": ("BYTES", [-1]),
        "model_version": ("BYTES", [-1]),
    }
    assert client.get_model_metadata(MODEL, "1") == model
    assert client.get_model_repository_index() == [{"name": MODEL, "version": "1", "state": "READY"}]


def test_the_configuration_has_the_tensors_of_the_metadata(client: triton.InferenceServerClient) -> None:
    metadata, configuration = client.get_model_metadata(MODEL), client.get_model_config(MODEL)
    for ours, theirs in (("inputs", "input"), ("outputs", "output")):
        names = [each["name"] for each in metadata[ours]]
        assert [each["name"] for each in configuration[theirs]] == names
        assert all(each["dims"] == [-1] for each in configuration[theirs])
    assert {each["name"]: each["data_type"] for each in configuration["output"]} == {
        "score": "TYPE_FP32",
        "decision": "TYPE_BOOL",
        "prediction_id": "TYPE_STRING",
        "model_version": "TYPE_STRING",
    }
    assert client.get_model_config(MODEL, "1")["version_policy"] == {"specific": {"versions": ["1"]}}


@pytest.mark.parametrize("number", [np.float64, np.float32])
@pytest.mark.parametrize("binary_out", [True, False])
@pytest.mark.parametrize("version", ["", "1"])
def test_it_infers(
    client: triton.InferenceServerClient, scores: list[float], number: Any, binary_out: bool, version: str
) -> None:
    outputs = [triton.InferRequestedOutput(name, binary_data=binary_out) for name in ("score", "decision")]
    answer = client.infer(MODEL, inputs(number=number), model_version=version, outputs=outputs, request_id="mine")
    assert answer.as_numpy("score") == pytest.approx(scores, abs=1e-6)
    assert answer.as_numpy("decision").tolist() == [score >= 0.6 for score in scores]
    assert answer.as_numpy("prediction_id") is None
    response = answer.get_response()
    assert (response["id"], response["model_name"], response["model_version"]) == ("mine", MODEL, "1")


def test_it_infers_by_json_alone_and_gets_every_output(
    client: triton.InferenceServerClient, scores: list[float]
) -> None:
    records = RECORDS[:2]  # its JSON has no null
    answer = client.infer(MODEL, inputs(records, binary=False))
    assert answer.as_numpy("score") == pytest.approx(scores[:2], abs=1e-6)
    assert answer.as_numpy("model_version").tolist() == [b"1", b"1"]
    ids = answer.as_numpy("prediction_id").tolist()
    assert len({*ids}) == 2
    assert all(len(each) == 36 for each in ids)


def test_texts_of_any_script_go_in(client: triton.InferenceServerClient, scores: list[float]) -> None:
    named = [{**record, "passenger": name} for record, name in zip(RECORDS, ("Ada", "Łukasz", "李"), strict=True)]
    assert client.infer(MODEL, inputs(named)).as_numpy("score") == pytest.approx(scores, abs=1e-6)


def test_many_requests_are_in_flight_at_once(client: triton.InferenceServerClient, scores: list[float]) -> None:
    asked = [client.async_infer(MODEL, inputs(), request_id=str(number)) for number in range(20)]
    for number, each in enumerate(asked):
        answer = each.get_result()
        assert answer.get_response()["id"] == str(number)
        assert answer.as_numpy("score") == pytest.approx(scores, abs=1e-6)


def test_what_was_answered_is_in_the_statistics(client: triton.InferenceServerClient) -> None:
    client.infer(MODEL, inputs())
    before = client.get_inference_statistics(MODEL)["model_stats"][0]
    client.infer(MODEL, inputs())
    for asked in ((MODEL,), (MODEL, "1"), ()):
        [found] = client.get_inference_statistics(*asked)["model_stats"]
        assert (found["name"], found["version"]) == (MODEL, "1")
        assert found["inference_count"] == before["inference_count"] + 3
        success, earlier = found["inference_stats"]["success"], before["inference_stats"]["success"]
        assert success["count"] == earlier["count"] + 3
        assert success["ns"] > earlier["ns"]
        assert found["inference_stats"]["fail"]["count"] == 0


def test_its_errors_have_our_words(client: triton.InferenceServerClient) -> None:
    def said(call: Callable[[], Any]) -> tuple[str, str]:
        with pytest.raises(InferenceServerException) as raised:
            call()
        return raised.value.status(), raised.value.message()

    wrong = [RECORDS[0], {**RECORDS[1], "distance": -5.0}]
    status, text = said(lambda: client.infer(MODEL, inputs(wrong)))
    assert "422" in status
    assert "row 1, distance: found -5.0, expected a number from 0" in text
    assert "there is no model 'other'" in said(lambda: client.get_model_metadata("other"))[1]
    assert "version '9' is not loaded; loaded: 1" in said(lambda: client.get_model_config(MODEL, "9"))[1]
    assert "this server has the model" in said(lambda: client.infer("other", inputs()))[1]
    assert (
        "there is no output 'odds'"
        in said(lambda: client.infer(MODEL, inputs(), outputs=[triton.InferRequestedOutput("odds")]))[1]
    )
    assert (
        "a compressed body is not read"
        in said(lambda: client.infer(MODEL, inputs(), request_compression_algorithm="gzip"))[1]
    )
    for absent in (
        lambda: client.load_model(MODEL),
        lambda: client.unload_model(MODEL),
        lambda: client.get_trace_settings(),
        lambda: client.get_log_settings(),
        lambda: client.get_system_shared_memory_status(),
    ):
        status, text = said(absent)
        assert "501" in status
        assert "/v2/" in text


def test_its_timeout_ends_what_waits_too_long(client: triton.InferenceServerClient, scores: list[float]) -> None:
    with pytest.raises(InferenceServerException) as raised:
        client.infer(MODEL, inputs(), timeout=1)  # microseconds: over before the tensors are read
    assert "504" in raised.value.status()
    answer = client.infer(MODEL, inputs(), timeout=10_000_000)
    assert answer.as_numpy("score") == pytest.approx(scores, abs=1e-6)
