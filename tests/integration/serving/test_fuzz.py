"""Requests that nobody planned for, over the connection of a real server.

Never a 5xx, never a hang, never a wrong answer: what the schema accepts has the scores of encoder and graph in this
process, what it refuses names the same fields and rows, and everything else ends in a 4xx that says why.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from schemathesis.specs.openapi.checks import positive_data_acceptance

from contracts.encoder import InvalidRecordError
from contracts.input_schema import Field, InputSchema
from serving.engine import Model, load_model
from tests.fixtures.bundles import tiny_bundle
from tests.fixtures.model_servers import ModelServerProcess
from tests.fixtures.protocol_bodies import ARROW, changed, requests_of
from tests.fixtures.wire import Answered, Wire

PROJECT = "flight_delay"
INFER, INSTANCES = f"/v2/models/{PROJECT}/infer", f"/v1/models/{PROJECT}:predict"
ROUTES = ("/v1/predict", INFER, INSTANCES, "/invocations", f"/v2/models/{PROJECT}/versions/1/infer")
TYPES = ("application/json", "application/jsonlines", "text/csv", ARROW, "application/octet-stream")
TIMEOUT = "x-request-timeout-ms"
SCHEMA = InputSchema(
    version=1,
    entity="tailnum",
    time="scheduled",
    key=("carrier", "scheduled"),
    fields=(
        Field(name="tailnum", kind="identifier", required=False),
        Field(name="scheduled", kind="timestamp", parts=("minute_of_day", "day_of_week", "day_of_year")),
        Field(name="carrier", kind="category", vocabulary=("AA", "UA", "WN")),
        Field(name="distance", kind="number", minimum=0),
        Field(name="humid", kind="number", required=False, minimum=0, maximum=100, outside="missing"),
        Field(name="wind", kind="number", required=False, minimum=-5, maximum=5, outside="clip"),
        Field(name="cabin", kind="category", vocabulary=("first", "economy"), unseen="reject", required=False),
        Field(name="holiday", kind="boolean", required=False),
        Field(name="passenger", kind="identifier", required=False, personal=True),
    ),
)
FAST, SLOW = 1, 14  # about 1,000 requests, and 13,000
REPEATS = [pytest.param(FAST, id="fast"), pytest.param(SLOW, id="slow", marks=pytest.mark.slow)]


class Target:
    """A server with a champion, a connection to it, and the same model in this process."""

    def __init__(self, server: ModelServerProcess, model: Model) -> None:
        self.server = server
        self.model = model
        self.wire = Wire(server.url)


@pytest.fixture(scope="module")
def target(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Target]:
    root: Path = tmp_path_factory.mktemp("fuzz")
    server = ModelServerProcess(root)
    try:
        server.wait_until_live()
        bundle = tiny_bundle(root / "bundles", schema=SCHEMA)
        server.install(bundle, "1")
        found = Target(server, load_model(bundle.path, bundle.id, "1", PROJECT))
        yield found
        # whatever came, it still answers, and nothing failed inside
        assert server.predict(bundle.golden.records[0]).status_code == 200
        assert server.process.poll() is None
        assert "Traceback" not in server.log.read_text()
    finally:
        server.end()


def repeated(examples: int) -> settings:
    """So many examples; failures are shrunk, and no time is measured."""
    return settings(
        max_examples=examples,
        deadline=None,
        phases=(Phase.generate, Phase.shrink),
        suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
    )


def check_refusal(answer: Answered, what: object) -> None:
    """A 4xx that names its cause."""
    assert 400 <= answer.status < 500, (what, answer)
    assert answer.headers["content-type"] == "application/problem+json", (what, answer)
    problem = msgspec.json.decode(answer.body)
    assert problem["status"] == answer.status, (what, answer)
    assert len(problem["detail"]) > 10, (what, answer)


NUMBERS = st.floats(-200, 2000, allow_nan=False) | st.integers(-200, 2000) | st.just(1e300)
TEXTS = st.text(st.characters(codec="utf-8", exclude_categories=["Cs"]), max_size=8)
TIMES = st.datetimes().map(lambda moment: moment.isoformat()) | st.sampled_from(
    ["2013-07-01", "2013-07-01T08:30Z", "20130701T0830", "2013-W27-1", "noon", ""]
)


@st.composite
def records(draw: st.DrawFn) -> dict[str, Any]:
    """A record of the right kinds; one in some breaks a rule of the schema."""
    is_bold = draw(st.integers(0, 3)) == 0
    return {
        "tailnum": draw(st.none() | TEXTS),
        "scheduled": draw(TIMES if is_bold else st.datetimes().map(lambda moment: moment.isoformat())),
        "carrier": draw(st.sampled_from(["AA", "UA", "WN", "ZZ", "é"])),
        "distance": draw(NUMBERS if is_bold else st.floats(0, 3000)),
        "humid": draw(st.none() | NUMBERS),
        "wind": draw(st.none() | NUMBERS),
        "cabin": draw(st.none() | st.sampled_from(["first", "economy", *(["steerage"] if is_bold else [])])),
        "holiday": draw(st.none() | st.booleans()),
        "passenger": draw(st.none() | TEXTS),
    }


def check_by_reference(target: Target, rows: list[dict[str, Any]]) -> None:
    try:
        features = target.model.encoder.encode_rows(rows)
        expected, problems = target.model.score(features).tolist(), set()
    except InvalidRecordError as refused:
        expected, problems = None, {(each.row, each.field) for each in refused.problems}
    for name, request in requests_of(PROJECT, SCHEMA, rows).items():
        answer = target.wire.post(request.path, request.body, **request.headers)
        if expected is not None:
            assert answer.status == 200, (name, rows, answer)
            assert request.scores(answer) == expected, (name, rows, answer)
        else:
            assert answer.status == 422, (name, rows, answer)
            check_refusal(answer, (name, rows))
            errors = msgspec.json.decode(answer.body)["errors"]
            assert {(each.get("row", 0), each["field"]) for each in errors} == problems, (name, rows, answer)


@pytest.mark.parametrize("repeats", REPEATS)
def test_every_protocol_gives_the_scores_of_encoder_and_graph_or_the_encoders_refusal(
    target: Target, repeats: int
) -> None:
    @repeated(25 * repeats)
    @given(st.lists(records(), min_size=1, max_size=4))
    def ask(rows: list[dict[str, Any]]) -> None:
        check_by_reference(target, rows)

    ask()
    for size in (8, 65, 200):  # by column, and in pieces
        good = {**target.model.bundle.golden.records[0], "wind": 7, "cabin": None, "holiday": True}
        check_by_reference(target, [{**good, "distance": float(row)} for row in range(size)])
        check_by_reference(target, [{**good, "distance": float(row - 1)} for row in range(size)])


WORDS = [
    *(field.name for field in SCHEMA.fields),
    *("records", "inputs", "instances", "outputs", "name", "shape", "datatype", "data", "parameters", "id", "timeout"),
    *("signature_name", "binary_data_size", "binary_data_output", "FP64", "FP16", "BYTES", "BOOL", "INT64", "score"),
]
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats() | TEXTS | st.sampled_from(WORDS),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(WORDS) | TEXTS, inner, max_size=4),
    max_leaves=12,
)


def check_any(answer: Answered, what: object) -> None:
    """Predictions that can be some, or a refusal that names its cause."""
    if answer.status != 200:
        check_refusal(answer, what)
    elif answer.headers["content-type"] == "application/json":
        for each in msgspec.json.decode(answer.body).get("predictions", []):
            assert 0 <= each["score"] <= 1, what


@pytest.mark.parametrize("repeats", REPEATS)
def test_nearly_right_bodies_are_answered_or_refused(target: Target, repeats: int) -> None:
    golden = target.model.bundle.golden.records[:2]
    valid = list(
        requests_of(
            PROJECT, SCHEMA, [{**dict.fromkeys(field.name for field in SCHEMA.fields), **each} for each in golden]
        ).values()
    )

    @repeated(300 * repeats)
    @given(st.data())
    def ask(data: st.DataObject) -> None:
        request = data.draw(st.sampled_from(valid))
        headers, body = dict(request.headers), request.body
        if body[:1] == b"{" and not headers.get("content_type") and "inference_header_content_length" not in headers:
            body = msgspec.json.encode(data.draw(changed(msgspec.json.decode(body), VALUES)))
        else:
            damaged = bytearray(body)
            for _ in range(data.draw(st.integers(0, 4))):
                damaged[data.draw(st.integers(0, len(damaged) - 1))] = data.draw(st.integers(0, 255))
            body = bytes(damaged[: len(damaged) - data.draw(st.integers(0, 40))])
        if data.draw(st.integers(0, 4)) == 0:
            headers["content_type"] = data.draw(st.sampled_from(TYPES))
        if data.draw(st.integers(0, 9)) == 0:
            headers["inference_header_content_length"] = str(data.draw(st.integers(-1, len(body) + 1)))
        check_any(target.wire.post(request.path, body, **headers), (request.path, headers, body))

    ask()


HEADER_TEXT = st.text(st.characters(min_codepoint=0x20, max_codepoint=0x7E), max_size=30)


@pytest.mark.parametrize("repeats", REPEATS)
def test_any_bytes_with_any_headers_are_answered_or_refused(target: Target, repeats: int) -> None:
    @repeated(250 * repeats)
    @given(
        st.sampled_from(ROUTES),
        st.binary(max_size=300) | st.text(max_size=100).map(str.encode) | VALUES.map(msgspec.json.encode),
        st.fixed_dictionaries(
            {},
            optional={
                "content_type": st.sampled_from(TYPES) | HEADER_TEXT,
                "accept": st.sampled_from(TYPES) | HEADER_TEXT,
                "inference_header_content_length": st.integers(-1, 300).map(str) | HEADER_TEXT,
                "x_request_id": HEADER_TEXT,
                "x_request_timeout_ms": st.integers(-1, 10**10).map(str) | HEADER_TEXT,
                "content_encoding": st.sampled_from(["gzip", "identity", ""]),
            },
        ),
    )
    def ask(route: str, body: bytes, headers: dict[str, str]) -> None:
        answer = target.wire.post(route, body, **headers)
        if answer.status == 504 and headers.get("x_request_timeout_ms"):
            return  # a millisecond may be over before the rows are scored
        check_any(answer, (route, headers, body))

    ask()


@pytest.mark.parametrize("repeats", REPEATS)
def test_every_operation_of_the_openapi_document_answers_as_it_says(target: Target, repeats: int) -> None:
    """schemathesis generates by the live document: its checks are no 5xx, and answers that the document knows.

    That valid requests are accepted is another test's: no JSON schema says which texts are local times.
    """
    document = target.server.client.get("/openapi.json").json()
    asked = 0
    for found in schemathesis.openapi.from_dict(document).get_all_operations():
        operation = found.ok()
        if operation.path.startswith("/control"):
            continue  # it would take the champion away; its messages have tests of their own

        right, wrong = (operation.as_strategy(generation_mode=mode) for mode in schemathesis.GenerationMode)

        @repeated(20 * repeats if operation.method == "post" else 2 * repeats)
        @given(case=right | wrong)
        def ask(case: schemathesis.Case) -> None:
            nonlocal asked
            asked += 1
            if str(given := case.headers.get(TIMEOUT, "")).isdigit() and len(str(given)) < 5:
                case.headers[TIMEOUT] = "10000"  # a few milliseconds may be over before the rows are scored
            case.call_and_validate(base_url=target.server.url, timeout=20, excluded_checks=[positive_data_acceptance])

        ask()
    assert asked > 50


def test_hostile_bodies_leave_the_servers_memory_as_it_was(target: Target) -> None:
    """Each is refused, and in the end the process has at most some tens of MB more than after the first round."""
    import psutil

    record = target.model.bundle.golden.records[0]
    nested = msgspec.json.encode({"records": [{**record, "carrier": "?"}]})
    size = (4 << 20) - 100
    bodies = {
        "one unseen word": msgspec.json.encode({"records": [{**record, "carrier": "x" * (size - 400)}]}),
        "one text": msgspec.json.encode({"records": [{**record, "cabin": "x" * (size - 400)}]}),
        "one name": b'{"records":[{"' + b"x" * (size - 40) + b'":1}]}',
        "open lists": b"[" * size,
        "empty objects": b'{"records":[' + b"{}," * (size // 3 - 20) + b"{}]}",
        "empty lists in a value": nested.replace(b'"?"', b"[" + b"[]," * (size // 3 - 200) + b"[]]"),
        "depth in a value": nested.replace(b'"?"', b"[" * 900 + b"]" * 900),
        "a long number": nested.replace(b'"?"', b"1" * (size - 400)),
        "ten thousand fields": msgspec.json.encode(
            {"records": [{f"field {place}": 1 for place in range(10_000)}] * 20}
        ),
        "ten thousand columns": msgspec.json.encode({"inputs": {f"field {place}": [1] for place in range(10_000)}}),
        "ten thousand tensors": msgspec.json.encode(
            {"inputs": [{"name": str(place), "shape": [1], "datatype": "FP64", "data": [1]} for place in range(10_000)]}
        ),
        "a large shape": msgspec.json.encode(
            {"inputs": [{"name": "distance", "shape": [2**62], "datatype": "FP64", "data": [1]}]}
        ),
        "a long table": b"distance\n" + b"1\n" * (size // 2 - 10),
        "a wide table": b"a," * (size // 2 - 10) + b"a\n1",
        "a long cell": b"scheduled,carrier,distance\n2013-07-01,AA," + b"1" * (size - 100),
    }
    routes = {"ten thousand columns": INSTANCES, "ten thousand tensors": INFER, "a large shape": INFER}
    process = psutil.Process(target.server.process.pid)
    after: list[int] = []
    for _ in range(200):  # small numbers of large bodies must go without a garbage collection
        check_refusal(target.wire.post("/v1/predict", bodies["one unseen word"]), "one unseen word")
    assert process.memory_info().rss < 600 << 20
    for _ in range(4):
        for name, body in bodies.items():
            is_table = name.startswith("a long table") or "table" in name or "cell" in name
            headers = {"content_type": "text/csv"} if is_table else {}
            route = "/invocations" if is_table else routes.get(name, "/v1/predict")
            answer = target.wire.post(route, body, **headers)
            check_refusal(answer, name)
            assert len(answer.body) < 64 << 10, (name, len(answer.body))
        after.append(process.memory_info().rss)
    assert after[-1] - after[0] < 64 << 20, [size >> 20 for size in after]
    assert after[-1] < 600 << 20, [size >> 20 for size in after]
