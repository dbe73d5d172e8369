"""Traces: what asks for them, what a span tells, and that nothing of them is loaded otherwise."""

import asyncio
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind, StatusCode

from serving.app import ModelServer
from serving.champion_file import Remembered, State, write_state
from serving.settings import Settings, SettingsError
from serving.tracing import Tracer, open_tracer
from tests.fixtures.answers import answer_of
from tests.fixtures.bundles import tiny_bundle, tiny_record

BODY = msgspec.json.encode({"records": [tiny_record(), tiny_record(1)]})


@pytest.fixture
def exporter() -> InMemorySpanExporter:
    return InMemorySpanExporter()


@pytest.fixture
def server(tmp_path: Path, exporter: InMemorySpanExporter) -> ModelServer:
    bundle = tiny_bundle(tmp_path / "bundles")
    write_state(tmp_path / "state", State(champion=Remembered(version="7", bundle=bundle.id, path=str(bundle.path))))
    server = ModelServer(
        Settings(project="flight_delay", state=tmp_path / "state", predictions=tmp_path / "predictions")
    )
    provider = TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    server.predictions.trace_by(Tracer(provider, "flight_delay"))
    return server


def asked(server: ModelServer, body: bytes, *headers: tuple[bytes, bytes]) -> int:
    async def run() -> int:
        await server.start()
        try:
            return (await answer_of(server.predictions, "/v1/predict", body, list(headers))).status
        finally:
            await server.stop()

    return asyncio.run(run())


def test_a_request_is_a_span_with_its_parts_in_their_order(server: ModelServer, exporter: InMemorySpanExporter) -> None:
    assert asked(server, BODY, (b"x-request-id", b"r-1")) == 200
    *parts, whole = exporter.get_finished_spans()
    assert (whole.name, whole.kind) == ("POST predict", SpanKind.SERVER)
    assert whole.attributes is not None
    assert dict(whole.attributes) == {
        "http.request.method": "POST",
        "http.route": "predict",
        "http.response.status_code": 200,
        "paceline.project": "flight_delay",
        "paceline.request_id": "r-1",
        "paceline.model_version": "7",
        "paceline.rows": 2,
    }
    assert [part.name for part in parts] == ["decode and encode", "queue and graph", "log and answer"]
    assert {part.parent.span_id for part in parts if part.parent} == {whole.context.span_id}
    assert [parts[0].start_time, *(part.end_time for part in parts)] == [
        whole.start_time,
        parts[1].start_time,
        parts[2].start_time,
        whole.end_time,
    ]


def test_a_trace_of_the_client_goes_on(server: ModelServer, exporter: InMemorySpanExporter) -> None:
    trace, parent = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
    asked(server, BODY, (b"traceparent", f"00-{trace}-{parent}-01".encode()))
    whole = exporter.get_finished_spans()[-1]
    assert f"{whole.context.trace_id:032x}" == trace
    assert whole.parent is not None
    assert f"{whole.parent.span_id:016x}" == parent


def test_a_broken_traceparent_begins_a_trace_of_its_own(server: ModelServer, exporter: InMemorySpanExporter) -> None:
    assert asked(server, BODY, (b"traceparent", b"\xff00-nonsense")) == 200
    assert exporter.get_finished_spans()[-1].parent is None


def test_a_refused_request_has_its_status_and_only_the_servers_errors_are_errors(
    server: ModelServer, exporter: InMemorySpanExporter
) -> None:
    assert asked(server, b"no JSON") == 400
    [whole] = exporter.get_finished_spans()
    assert whole.attributes is not None
    assert whole.attributes["http.response.status_code"] == 400
    assert whole.status.status_code is StatusCode.UNSET


@pytest.mark.parametrize(
    ("environment", "is_on"),
    [
        ({}, False),
        ({"OTEL_TRACES_EXPORTER": "none", "OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:9"}, False),
        ({"OTEL_SDK_DISABLED": "true", "OTEL_TRACES_EXPORTER": "console"}, False),
        ({"OTEL_TRACES_EXPORTER": "console"}, True),
        ({"OTEL_TRACES_EXPORTER": "otlp"}, True),
        ({"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "http://127.0.0.1:9/v1/traces"}, True),
    ],
)
def test_the_usual_variables_turn_traces_on_and_off(environment: dict[str, str], is_on: bool) -> None:
    tracer = open_tracer(environment, "flight_delay")
    assert (tracer is not None) is is_on
    if tracer is not None:
        tracer.stop()


def test_an_exporter_that_is_not_there_is_named() -> None:
    with pytest.raises(SettingsError, match="OTEL_TRACES_EXPORTER is 'zipkin', expected otlp, console or none"):
        open_tracer({"OTEL_TRACES_EXPORTER": "zipkin"}, "flight_delay")


@pytest.fixture
def collector() -> Iterator[tuple[str, list[bytes]]]:
    """A server that takes spans over HTTP."""
    import threading
    from http.server import BaseHTTPRequestHandler, HTTPServer

    got: list[bytes] = []

    class Take(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            got.append(self.rfile.read(int(self.headers["content-length"])))
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            """Says nothing."""

    listener = HTTPServer(("127.0.0.1", 0), Take)
    thread = threading.Thread(target=listener.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{listener.server_address[1]}/v1/traces", got
    listener.shutdown()
    thread.join()
    listener.server_close()


def test_spans_reach_a_collector_when_the_server_stops(
    server: ModelServer, collector: tuple[str, list[bytes]], monkeypatch: pytest.MonkeyPatch
) -> None:
    url, got = collector
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", url)
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_TRACES_COMPRESSION", "none")
    tracer = open_tracer({"OTEL_TRACES_EXPORTER": "otlp"}, "flight_delay")
    assert tracer is not None
    server.predictions.trace_by(tracer)
    assert asked(server, BODY) == 200
    tracer.stop()
    assert b"queue and graph" in b"".join(got)
    assert b"paceline-flight_delay" in b"".join(got)


def test_without_them_nothing_of_opentelemetry_is_loaded() -> None:
    code = "import serving.app, sys; print([name for name in sys.modules if name.startswith('opentelemetry')])"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert found.stdout.strip() == "[]"
