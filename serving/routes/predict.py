"""The prediction routes: no framework, no pydantic, no task between the socket and the model.

One engine, thin adapters: a protocol decodes a body to records, `Answerer.answer` answers them, the protocol encodes.
`serving.connection` asks `route_of` for a path, `admit` once the headers are there and `answer` once the body is.
"""

import logging
import math
import time
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, NamedTuple

from contracts.encoder import InvalidRecordError
from contracts.problem import CONTENT_TYPE as PROBLEM_TYPE
from serving.access import Access, RequestHead
from serving.admission import (
    BINARY_TYPE,
    JSON_TYPE,
    MAXIMUM_BODY_BYTES,
    MAXIMUM_IN_FLIGHT,
    ClientGoneError,
    RequestRefusedError,
    problem_body,
    usable_request_id,
)
from serving.answering import Answerer, NotReadyError
from serving.assigned import SYNTHETIC_HEADER
from serving.batching import DeadlineError, OverloadedError
from serving.challenger import Slot
from serving.divided import ChampionFailedError
from serving.encoding import Record
from serving.metrics import Metrics
from serving.prediction_writer import LogFailedError, LogFullError, PredictionIds
from serving.protocols import binary_tensors, instances, invocations, media_types, open_inference, records
from serving.protocols.known_heads import KnownHeads
from serving.protocols.typed_records import TYPED_FROM, TypedRecords
from serving.slots import Slots
from serving.tracing import Marks, Tracer

PREDICT_PATH = "/v1/predict"
INVOCATIONS_PATH = "/invocations"
PREDICT_TYPES = (media_types.JSON, media_types.ARROW)
# Envoy and Istio tell the time that is left of a request in the second one
TIMEOUT_HEADERS = (b"x-request-timeout-ms", b"x-envoy-expected-rq-timeout-ms")
_INFER_PREFIX, _INFER = "/v2/models/", "/infer"
_INSTANCES_PREFIX, _INSTANCES = "/v1/models/", ":predict"
_TOLD_PROBLEMS = 3
_KNOWN_TYPES = 64
_MAXIMUM_TIMEOUT_DIGITS = 9
_CLIENT_GONE = 499  # as nginx counts it: nobody reads the answer
Headers = Sequence[tuple[bytes, bytes]]
logger = logging.getLogger(__name__)


class Response(NamedTuple):
    """What goes out. `content_type` is a header of its own."""

    status: int
    body: bytes
    content_type: str
    headers: Headers


class _Answer(NamedTuple):
    """A body that goes out with status 200; `head_length` is that of its JSON when binary tensors stand behind it."""

    body: bytes
    content_type: str = JSON_TYPE
    head_length: int | None = None


@dataclass(slots=True, eq=False)
class PredictionRequest:
    """A request that has been admitted. `headers` are by lower-case name; `deadline_s` is by `time.perf_counter`.

    `check_body`, of a signed request, raises AccessRefusedError where another body was signed.
    """

    route: "Route"
    path: str
    headers: dict[bytes, bytes]
    id: str
    deadline_s: float
    client: str | None
    answer_headers: list[tuple[bytes, bytes]]
    check_body: Callable[[bytes], None] | None = None
    body: bytes = b""
    marks: Marks | None = None

    def header(self, name: bytes) -> str | None:
        """The value of the header `name` (lower case), or None."""
        found = self.headers.get(name)
        return None if found is None else str(found, "latin-1")


class Route(NamedTuple):
    """How one protocol answers. `has_error_member`: its clients look for the text of a problem under `error`."""

    name: str
    answer: Callable[[PredictionRequest], Awaitable[_Answer]]
    has_error_member: bool


class PredictionRoutes:
    """The routes that predict.

    `POST /v1/predict`; `POST /v2/models/{project}[/versions/{version}]/infer` (Open Inference Protocol v2);
    `POST /v1/models/{project}[/versions/{version}]:predict` (TensorFlow Serving, KServe v1); `POST /invocations`
    (SageMaker). `timeout_s` is the time of a request that brings none of its own.
    """

    def __init__(
        self,
        *,
        project: str,
        slots: Slots,
        answerer: Answerer,
        metrics: Metrics,
        ids: PredictionIds,
        access: Access | None = None,
        timeout_s: float = math.inf,
    ) -> None:
        self._project = project
        self._slots = slots
        self._answerer = answerer
        self._metrics = metrics
        self._ids = ids
        self._access = access
        self.timeout_s = timeout_s
        self._tracer: Tracer | None = None
        self._typed: TypedRecords | None = None
        self._heads: KnownHeads | None = None
        self.in_flight = 0
        self._by_path = {
            PREDICT_PATH: Route("predict", self._predict, has_error_member=False),
            INVOCATIONS_PATH: Route("invocations", self._invocations, has_error_member=False),
        }
        self._infer_route = Route("infer", self._infer, has_error_member=True)
        self._instances_route = Route("instances", self._instances, has_error_member=True)

    def trace_by(self, tracer: Tracer) -> None:
        """Requests from now on are spans of `tracer`."""
        self._tracer = tracer

    def route_of(self, path: str) -> Route | None:
        """The prediction route that `path` is; None for every other path."""
        found = self._by_path.get(path)
        if found is not None:
            return found
        if path.startswith(_INFER_PREFIX) and path.endswith(_INFER):
            return self._infer_route
        if path.startswith(_INSTANCES_PREFIX) and path.endswith(_INSTANCES):
            return self._instances_route
        return None

    def admit(self, route: Route, path: str, head: RequestHead) -> PredictionRequest:
        """A request by its head, before its body is read; `path` is decoded. Raises RequestRefusedError."""
        access = self._access
        answer_headers: list[tuple[bytes, bytes]] = []
        client: str | None = None
        check_body = None
        if access is not None:
            client, _, limit_headers, check_body = access.admit(head, "predict")
            answer_headers.extend(limit_headers)
        if head.method != "POST":
            raise RequestRefusedError(405, f"found {head.method}, expected POST")
        by_name = dict(head.headers)
        if by_name.get(b"content-encoding", b"identity") != b"identity":
            raise RequestRefusedError(415, "a compressed body is not read: send it as it is")
        length = by_name.get(b"content-length")
        if length is not None and int(length) > MAXIMUM_BODY_BYTES:
            raise too_large()
        if self.in_flight >= MAXIMUM_IN_FLIGHT:
            raise RequestRefusedError(503, f"{MAXIMUM_IN_FLIGHT} requests are being answered already: try again soon")
        synthetic = by_name.get(SYNTHETIC_HEADER)
        if synthetic is not None and synthetic != b"1":
            raise RequestRefusedError(400, f"{SYNTHETIC_HEADER.decode()}: found {synthetic[:40]!r}, expected 1")
        request_id = usable_request_id(by_name.get(b"x-request-id")) or self._ids.next()
        answer_headers.append((b"x-request-id", request_id.encode()))
        deadline_s = time.perf_counter() + timeout_of(by_name, self.timeout_s)
        return PredictionRequest(route, path, by_name, request_id, deadline_s, client, answer_headers, check_body)

    def answer(self, request: PredictionRequest) -> Coroutine[Any, Any, Response]:
        """Answers one request; every failure is a problem, and the request's id comes back in a header."""
        return self._answer(request) if self._tracer is None else self._traced(self._tracer, request)

    async def _traced(self, tracer: Tracer, request: PredictionRequest) -> Response:
        marks = request.marks = Marks()
        span = tracer.begin(request.route.name, request.headers, marks)
        response = await self._answer(request)
        tracer.end(span, marks, response.status, request.id)
        return response

    async def _answer(self, request: PredictionRequest) -> Response:
        self.in_flight += 1
        try:
            if request.check_body is not None:
                request.check_body(request.body)
            answer = await request.route.answer(request)
            headers = request.answer_headers
            if answer.head_length is not None:
                headers.append((binary_tensors.HEADER, str(answer.head_length).encode()))
            self._metrics.responded(request.route.name, 200)
            return Response(200, answer.body, answer.content_type, headers)
        except Exception as error:  # noqa: BLE001  every failure is a problem
            return self.failed(request.route, error, request.id, request.answer_headers)
        finally:
            self.in_flight -= 1

    def failed(self, route: Route, error: Exception, request_id: str, headers: list[tuple[bytes, bytes]]) -> Response:
        """The answer to an admitted request that failed with `error`."""
        refused = _refusal(error)
        if refused.status == 500:
            logger.error("request %s failed", request_id, exc_info=error)
        return self._problem(route, refused, headers)

    def refuse(self, route: Route, refused: RequestRefusedError, headers: Sequence[tuple[bytes, bytes]]) -> Response:
        """The answer to a request with these `headers` that was not admitted, or whose body did not come."""
        told = []
        request_id = usable_request_id(dict(headers).get(b"x-request-id"))
        if request_id is not None:
            told.append((b"x-request-id", request_id.encode()))
        return self._problem(route, refused, told)

    def _problem(self, route: Route, refused: RequestRefusedError, headers: list[tuple[bytes, bytes]]) -> Response:
        status = refused.status
        self._metrics.responded(route.name, status)
        headers.extend(refused.headers)
        if status == 405:
            headers.append((b"allow", b"POST"))
        if status == 503:
            headers.append((b"retry-after", b"1"))
        body = problem_body(status, refused.detail, refused.errors, is_open_inference=route.has_error_member)
        return Response(status, body, PROBLEM_TYPE, headers)

    async def _predict(self, request: PredictionRequest) -> _Answer:
        headers = request.headers
        kind, wanted = types_of(headers.get(b"content-type"), headers.get(b"accept"))
        found = self._records(request.body, kind)
        return _Answer(invocations.encode(await self._ask(request, found), wanted), wanted)

    def _records(self, body: bytes, kind: str) -> Sequence[Record]:
        """The records in `body`, which has the media type `kind`; by column where JSON has several of a known kind."""
        schema = self._champion(None).model.schema
        if kind == media_types.JSON and body.count(b"{") > TYPED_FROM:
            if self._typed is None or self._typed.schema is not schema:
                self._typed = TypedRecords(schema)
            found = self._typed.decode(body)
            if found is not None:
                return found
        return invocations.decode(body, kind, schema)

    async def _infer(self, request: PredictionRequest) -> _Answer:
        version = self._version_of(request.path.removesuffix(_INFER))
        asked, found = self._tensors(request, version)
        answer = await self._ask(request, found, champion_only=version is not None)
        body, length = open_inference.encode(self._project, answer, asked, answer_id=request.id)
        return _Answer(body, JSON_TYPE if length is None else BINARY_TYPE, length)

    def _tensors(
        self, request: PredictionRequest, version: str | None
    ) -> tuple[open_inference.InferRequest, Sequence[Record]]:
        """What is asked by tensors, and the rows in them; the time that the request gives itself holds from now on."""
        body, head_length, heads = request.body, request.header(binary_tensors.HEADER), self._known_heads()
        known = heads.read(body, head_length) if heads is not None and head_length is not None else None
        if known is not None:
            asked, found = known
            request.deadline_s = min(request.deadline_s, time.perf_counter() + open_inference.timeout_s(asked))
            self._champion(version)
            return asked, found
        decoded = open_inference.decode(body, head_length)
        seconds = open_inference.timeout_s(decoded.request)
        request.deadline_s = min(request.deadline_s, time.perf_counter() + seconds)
        records_found = open_inference.records_of(decoded, self._champion(version).model.schema)
        if heads is not None and head_length is not None:
            heads.keep(body, head_length, decoded, len(records_found))
        return decoded.request, records_found

    def _known_heads(self) -> KnownHeads | None:
        champion = self._slots.champion
        if champion is None:
            return None
        if self._heads is None or self._heads.schema is not champion.model.schema:
            self._heads = KnownHeads(champion.model.schema)
        return self._heads

    async def _instances(self, request: PredictionRequest) -> _Answer:
        version = self._version_of(request.path.removesuffix(_INSTANCES))
        given = instances.decode(request.body)
        found = instances.records_of(given, self._champion(version).model.schema)
        return _Answer(instances.encode(await self._ask(request, found, champion_only=version is not None), given))

    async def _invocations(self, request: PredictionRequest) -> _Answer:
        kind = media_types.content_type(request.header(b"content-type"), invocations.TYPES)
        usual = kind if kind == media_types.ARROW else media_types.JSON
        wanted = media_types.answer_type(request.header(b"accept"), invocations.TYPES, usual)
        found = self._records(request.body, kind)
        return _Answer(invocations.encode(await self._ask(request, found), wanted), wanted)

    async def _ask(
        self, request: PredictionRequest, found: Sequence[Record], *, champion_only: bool = False
    ) -> records.PredictResponse:
        fields = self._champion(None).model.schema.fields
        records.refuse_oversized(len(request.body), len(found), len(fields))
        answer = await self._answerer.answer(found, request, champion_only=champion_only)
        if answer.predictions[0].cached:
            request.answer_headers.append((b"x-cache", b"hit"))
        return answer

    def _champion(self, version: str | None) -> Slot:
        """The champion, which has `version` where the path names one."""
        champion = self._slots.champion
        if champion is None:
            raise NotReadyError("there is no champion yet: load a bundle and promote it")
        if version is not None and version != champion.model.version:
            raise RequestRefusedError(
                404,
                f"version {version!r} does not answer by name, only the champion, {champion.model.version!r}: "
                "a challenger gets its requests from its rollout",
            )
        return champion

    def _version_of(self, path: str) -> str | None:
        parts = path.split("/")[3:]  # /v2/models/<project>[/versions/<version>], /v1/models/ likewise
        if parts[:1] == [self._project]:
            if len(parts) == 1:
                return None
            if len(parts) == 3 and parts[1] == "versions":
                return parts[2]
        raise RequestRefusedError(404, f"there is no {path}; this server has the model {self._project!r}")


def _refusal(error: Exception) -> RequestRefusedError:
    """What the client is told; the text of an unforeseen error stays in the server's log."""
    if isinstance(error, RequestRefusedError):
        return error
    if isinstance(error, InvalidRecordError):
        return RequestRefusedError(422, _told(error), error.problems)
    if isinstance(error, records.MalformedRequestError):
        return RequestRefusedError(error.status, str(error))
    if isinstance(error, NotReadyError | OverloadedError | LogFullError | LogFailedError):
        return RequestRefusedError(503, str(error))
    if isinstance(error, DeadlineError):
        return RequestRefusedError(504, str(error))
    if isinstance(error, ClientGoneError):
        return RequestRefusedError(_CLIENT_GONE, "the client closed the connection")
    if isinstance(error, ChampionFailedError):
        return RequestRefusedError(500, str(error))
    if isinstance(error, RecursionError):  # JSON just shallow enough to be read, too deep to be shown or compared
        return RequestRefusedError(422, "found a value that is nested too deeply, expected a text, number or boolean")
    return RequestRefusedError(500, "the server failed on this request; its log has the reason under the request's id")


@lru_cache(_KNOWN_TYPES)  # the same few headers come again and again
def types_of(content_type: bytes | None, accept: bytes | None) -> tuple[str, str]:
    """The media types of a body of records and of its answer. Raises MalformedRequestError."""
    is_arrow = media_types.is_arrow(None if content_type is None else str(content_type, "latin-1"))
    usual = media_types.ARROW if is_arrow else media_types.JSON
    return usual, media_types.answer_type(None if accept is None else str(accept, "latin-1"), PREDICT_TYPES, usual)


def too_large() -> RequestRefusedError:
    """The refusal of a body that is larger than the server reads."""
    return RequestRefusedError(413, f"the body is larger than {MAXIMUM_BODY_BYTES} bytes: send fewer records at once")


def timeout_of(headers: dict[bytes, bytes], usual_s: float) -> float:
    """The time that the client gives, in seconds; it can only shorten the usual one."""
    for name in TIMEOUT_HEADERS:
        given = headers.get(name)
        if given is not None:
            if not given.isdigit() or len(given) > _MAXIMUM_TIMEOUT_DIGITS or int(given) == 0:
                raise RequestRefusedError(
                    400, f"{name.decode()}: found {given[:40]!r}, expected a whole number of milliseconds above 0"
                )
            return min(int(given) / 1000, usual_s)
    return usual_s


def _told(error: InvalidRecordError) -> str:
    """The first problems in words: many clients show their user nothing else of an error."""
    told = "; ".join(
        f"row {each.row}, {each.field}: found {each.found}, expected {each.expected}"
        for each in error.problems[:_TOLD_PROBLEMS]
    )
    more = len(error.problems) - _TOLD_PROBLEMS
    return f"the schema refuses {told}" + (f"; and {more} more" if more > 0 else "")
