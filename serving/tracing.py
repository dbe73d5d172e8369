"""Traces of predictions by OpenTelemetry, where its own environment variables ask for them.

`OTEL_TRACES_EXPORTER=otlp` (or an `OTEL_EXPORTER_OTLP_ENDPOINT`) sends them over HTTP, `console` writes them to
standard output; without either nothing of OpenTelemetry is even imported. Sampling, the service's name and the
exporter's headers are OpenTelemetry's variables as well (`OTEL_TRACES_SAMPLER`, `OTEL_SERVICE_NAME`, …). A request that
comes with a `traceparent` (W3C Trace Context) continues its trace.
"""

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from serving.settings import SettingsError

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.trace import Span

_EXPORTER = "OTEL_TRACES_EXPORTER"
_ENDPOINTS = ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")


@dataclass(slots=True, eq=False)
class Marks:
    """When a request got where, in nanoseconds since the epoch; what the answerer adds is 0 until it has come there."""

    begun_ns: int = field(default_factory=time.time_ns)
    encoded_ns: int = 0
    scored_ns: int = 0
    version: str = ""
    rows: int = 0

    def encoded(self, version: str, rows: int) -> None:
        """The records are features for `version` now."""
        self.encoded_ns, self.version, self.rows = time.time_ns(), version, rows

    def scored(self) -> None:
        """Their scores are here."""
        self.scored_ns = time.time_ns()


class Tracer:
    """One span a request, and below it what took its time: decoding and encoding, queue and graph, log and answer."""

    def __init__(self, provider: "TracerProvider", project: str) -> None:
        from opentelemetry.trace import SpanKind, Status, StatusCode
        from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

        self._provider = provider
        self._tracer = provider.get_tracer("paceline.serving")
        self._project = project
        self._extract = TraceContextTextMapPropagator().extract
        self._kind = SpanKind.SERVER
        self._failed = Status(StatusCode.ERROR)

    def begin(self, route: str, headers: Mapping[bytes, bytes], marks: Marks) -> "Span":
        """The span of a request that has been admitted; `headers` are by lower-case name."""
        given = {
            name: str(headers[name.encode()], "latin-1")
            for name in ("traceparent", "tracestate")
            if name.encode() in headers
        }
        return self._tracer.start_span(
            f"POST {route}",
            context=self._extract(given) if given else None,
            kind=self._kind,
            start_time=marks.begun_ns,
            attributes={"http.request.method": "POST", "http.route": route, "paceline.project": self._project},
        )

    def end(self, span: "Span", marks: Marks, status: int, request_id: str) -> None:
        """Ends the span of a request and tells what its parts took."""
        ended_ns = time.time_ns()
        if span.is_recording():
            attributes: dict[str, Any] = {"http.response.status_code": status, "paceline.request_id": request_id}
            if marks.version:
                attributes |= {"paceline.model_version": marks.version, "paceline.rows": marks.rows}
            span.set_attributes(attributes)
            if status >= 500:
                span.set_status(self._failed)
            self._parts(span, marks, ended_ns)
        span.end(ended_ns)

    def stop(self) -> None:
        """Sends what is left; waits for it as long as the exporter does."""
        self._provider.shutdown()

    def _parts(self, span: "Span", marks: Marks, ended_ns: int) -> None:
        from opentelemetry.trace import set_span_in_context

        context = set_span_in_context(span)
        begun_ns = marks.begun_ns
        for name, end_ns in (
            ("decode and encode", marks.encoded_ns),
            ("queue and graph", marks.scored_ns),
            ("log and answer", ended_ns),
        ):
            if not end_ns:
                return
            self._tracer.start_span(name, context=context, start_time=begun_ns).end(end_ns)
            begun_ns = end_ns


def open_tracer(environment: Mapping[str, str], project: str) -> Tracer | None:
    """The tracer that the environment asks for; None where it asks for none.

    Raises:
        SettingsError: an exporter that this server does not have.
    """
    wanted = environment.get(_EXPORTER, "").strip().lower()
    if environment.get("OTEL_SDK_DISABLED", "").strip().lower() == "true" or wanted == "none":
        return None
    if not wanted and not any(environment.get(name) for name in _ENDPOINTS):
        return None
    if wanted not in ("", "otlp", "console"):
        raise SettingsError(f"{_EXPORTER} is {wanted!r}, expected otlp, console or none")

    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor, ConsoleSpanExporter, SpanExporter

    exporter: SpanExporter
    if wanted == "console":
        exporter = ConsoleSpanExporter()
    else:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter

        exporter = OTLPSpanExporter()
    named = {} if environment.get("OTEL_SERVICE_NAME") else {"service.name": f"paceline-{project}"}
    provider = TracerProvider(resource=Resource.create(named), shutdown_on_exit=False)
    provider.add_span_processor(BatchSpanProcessor(exporter))
    return Tracer(provider, project)
