"""Bodies that nobody would send on purpose, on each prediction route of a server in this process."""

import asyncio
import math
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from serving.app import ModelServer
from serving.champion_file import Remembered, State, write_state
from serving.settings import Settings
from tests.fixtures.answers import answer_of
from tests.fixtures.bundles import TINY_SCHEMA, tiny_bundle, tiny_record
from tests.fixtures.protocol_bodies import changed

Headers = dict[str, str]
Answer = tuple[int, Headers, bytes]
Call = Callable[..., Answer]
INFER = "/v2/models/flight_delay/infer"
INSTANCES = "/v1/models/flight_delay:predict"
ROUTES = ("/v1/predict", INFER, INSTANCES, "/invocations")
TYPES = ("application/json", "application/jsonlines", "text/csv")


@pytest.fixture(scope="module")
def call() -> Iterator[Call]:
    """Sends one request to a server with a champion."""
    with tempfile.TemporaryDirectory() as folder, asyncio.Runner() as runner:
        root = Path(folder)
        bundle = tiny_bundle(root / "bundles")
        write_state(root / "state", State(champion=Remembered(version="1", bundle=bundle.id, path=str(bundle.path))))
        server = ModelServer(Settings(project="flight_delay", state=root / "state", predictions=root / "predictions"))
        runner.run(server.start())

        async def ask(path: str, body: bytes, headers: Headers) -> Answer:
            encoded = [(name.encode(), value.encode()) for name, value in headers.items()]
            response = await answer_of(server.predictions, path, body, encoded)
            got = {name.decode(): value.decode() for name, value in response.headers}
            return response.status, got | {"content-type": response.content_type}, response.body

        yield lambda path, body, **headers: runner.run(
            ask(path, body, {name.replace("_", "-"): value for name, value in headers.items()})
        )
        runner.run(server.stop())


def infer_inputs(value: Any = ...) -> list[dict[str, Any]]:
    datatypes = {"distance": "FP64", "humid": "FP64"}
    record = tiny_record()
    return [
        {
            "name": name,
            "datatype": datatypes.get(name, "BYTES"),
            "shape": [1],
            "data": [found if value is ... else value],
        }
        for name, found in record.items()
    ]


VALID: dict[str, list[Any]] = {
    "/v1/predict": [{"records": [tiny_record()]}],
    INFER: [{"inputs": infer_inputs()}],
    INSTANCES: [{"instances": [tiny_record()]}, {"inputs": {name: [value] for name, value in tiny_record().items()}}],
    "/invocations": [{"records": [tiny_record()]}],
}
WORDS = [
    *(field.name for field in TINY_SCHEMA.fields),
    *("records", "inputs", "instances", "outputs", "name", "shape", "datatype", "data", "parameters", "id"),
    *("signature_name", "binary_data_size", "binary_data_output", "FP64", "BYTES", "BOOL", "INT64", "score"),
]
SCALARS = (
    st.none()
    | st.booleans()
    | st.integers(-(2**70), 2**70)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=8)
    | st.sampled_from(WORDS)
)
VALUES = st.recursive(
    SCALARS,
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(WORDS) | st.text(max_size=4), inner, max_size=4)
    ),
    max_leaves=12,
)


def check(answer: Answer, what: object) -> None:
    """A prediction that can be one, or a refusal that says what to change."""
    status, headers, body = answer
    if status == 200:
        if headers["content-type"] == "application/json":
            for each in msgspec.json.decode(body).get("predictions", []):
                assert 0 <= each["score"] <= 1, what
        return
    assert 400 <= status < 500, (what, status, body)
    problem = msgspec.json.decode(body)
    assert headers["content-type"] == "application/problem+json", what
    assert problem["status"] == status, what
    assert problem["detail"], what


@settings(max_examples=300, deadline=None)
@given(route=st.sampled_from(ROUTES), body=st.binary(max_size=200), data=st.data())
def test_any_bytes_on_any_route_are_answered_or_refused(
    call: Call, route: str, body: bytes, data: st.DataObject
) -> None:
    headers = data.draw(
        st.fixed_dictionaries(
            {},
            optional={
                "content_type": st.sampled_from(TYPES) | st.text(st.characters(codec="ascii"), max_size=30),
                "accept": st.sampled_from(TYPES) | st.text(st.characters(codec="ascii"), max_size=30),
                "inference_header_content_length": st.integers(-1, 300).map(str) | st.text(max_size=5),
            },
        )
    )
    check(call(route, body, **headers), (route, body, headers))


@settings(max_examples=800, deadline=None)
@given(route=st.sampled_from(ROUTES), data=st.data())
def test_any_json_that_is_nearly_a_request_is_answered_or_refused(call: Call, route: str, data: st.DataObject) -> None:
    request = data.draw(changed(data.draw(st.sampled_from(VALID[route])), VALUES))
    check(call(route, msgspec.json.encode(request)), (route, request))


@settings(max_examples=300, deadline=None)
@given(
    rows=st.lists(
        st.lists(st.sampled_from([*WORDS, "1", "true", "2013-07-01", "AA", "", '"', "1e999"]), max_size=5), max_size=4
    ),
    separator=st.sampled_from([",", ";", "\t"]),
    accept=st.sampled_from(TYPES),
)
def test_any_table_that_is_nearly_csv_is_answered_or_refused(
    call: Call, rows: list[list[str]], separator: str, accept: str
) -> None:
    body = "\n".join(separator.join(row) for row in rows).encode()
    check(call("/invocations", body, content_type="text/csv", accept=accept), body)


@settings(max_examples=300, deadline=None)
@given(sizes=st.lists(st.integers(-1, 40), min_size=6, max_size=6), behind=st.binary(max_size=120), data=st.data())
def test_any_data_behind_the_json_is_answered_or_refused(
    call: Call, sizes: list[int], behind: bytes, data: st.DataObject
) -> None:
    tensors = [
        {**tensor, "data": None, "parameters": {"binary_data_size": size}}
        for tensor, size in zip(infer_inputs(), sizes, strict=True)
    ]
    head = msgspec.json.encode({"inputs": data.draw(st.just(tensors) | changed(tensors, VALUES))})
    length = len(head) + data.draw(st.sampled_from([0, 0, 0, 1, -1]))
    check(call(INFER, head + behind, inference_header_content_length=str(length)), (head, behind, length))


@pytest.mark.parametrize("route", ROUTES)
def test_a_value_of_any_depth_is_refused_as_the_clients_fault(call: Call, route: str) -> None:
    text = msgspec.json.encode(VALID[route][0])
    for depth in (1, 10, *range(900, 1010), 10_000):
        nested = text.replace(b'"AA"', b"[" * depth + b"]" * depth)
        assert nested != text
        assert call(route, nested)[0] in (400, 422), (route, depth)


@pytest.mark.parametrize("length", ["9" * 5000, "1_0", "٣", "", "-0", "1.0"])
def test_a_length_that_is_no_number_is_refused(call: Call, length: str) -> None:
    status, _, body = call(INFER, b"{}", inference_header_content_length=length)
    assert status == 400
    assert "expected a length up to 2" in msgspec.json.decode(body)["error"]


@pytest.mark.parametrize("route", ROUTES)
def test_the_words_of_a_refusal_name_the_field_what_was_found_and_what_was_expected(call: Call, route: str) -> None:
    text = msgspec.json.encode(VALID[route][0]).replace(b"55.5", b"500000").replace(b"100.0", b"-100")
    status, _, body = call(route, text)
    assert status == 422
    problem = msgspec.json.decode(body)
    assert "row 0, distance: found -100, expected a number from 0" in problem["detail"]
    assert problem.get("error") == (problem["detail"] if route in (INFER, INSTANCES) else None)


def test_a_refusal_with_many_problems_tells_three_and_counts_the_rest(call: Call) -> None:
    records = [tiny_record(distance=-1) for _ in range(5)]
    _, _, body = call("/v1/predict", msgspec.json.encode({"records": records}))
    problem = msgspec.json.decode(body)
    assert problem["detail"].count("distance") == 3
    assert problem["detail"].endswith("; and 2 more")
    assert len(problem["errors"]) == 5


def test_all_protocols_give_the_same_scores(call: Call) -> None:
    scores = [
        msgspec.json.decode(call(route, msgspec.json.encode(request))[2])
        for route in ROUTES
        for request in VALID[route]
    ]
    found = [
        each["outputs"][0]["data"][0] if "predictions" not in each else each["predictions"][0]["score"]
        for each in scores
    ]
    assert found == [pytest.approx(1 / (1 + math.exp(-0.1)))] * len(found)
    assert len(set(found)) == 1
