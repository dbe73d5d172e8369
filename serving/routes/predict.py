"""The prediction routes, as bare ASGI: no framework, no pydantic between the socket and the model.

One engine, thin adapters: a protocol decodes a body to records, `Answerer.answer` answers them, the protocol encodes.
"""

import logging
from collections.abc import Awaitable, Callable
from typing import NamedTuple

from contracts.encoder import InvalidRecordError
from serving.admission import (
    BINARY_TYPE,
    JSON_TYPE,
    MAXIMUM_IN_FLIGHT,
    ClientGoneError,
    Receive,
    RequestRefusedError,
    Scope,
    Send,
    client_request_id,
    header,
    read_body,
    respond,
    respond_problem,
)
from serving.answering import Answerer, ChampionFailedError, NotReadyError
from serving.metrics import Metrics
from serving.prediction_writer import PredictionIds
from serving.protocols import binary_tensors, instances, invocations, open_inference, records
from serving.slots import Slot, Slots

PREDICT_PATH = "/v1/predict"
INVOCATIONS_PATH = "/invocations"
_INFER_PREFIX, _INFER = "/v2/models/", "/infer"
_INSTANCES_PREFIX, _INSTANCES = "/v1/models/", ":predict"
_TOLD_PROBLEMS = 3
logger = logging.getLogger(__name__)


class _Answer(NamedTuple):
    """A body that goes out with status 200; `head_length` is that of its JSON when binary tensors stand behind it."""

    body: bytes
    content_type: str = JSON_TYPE
    head_length: int | None = None


class _Route(NamedTuple):
    """How one protocol answers. `has_error_member`: its clients look for the text of a problem under `error`."""

    name: str
    answer: Callable[[Scope, Receive, str], Awaitable[_Answer]]
    has_error_member: bool


class PredictionRoutes:
    """The routes that predict.

    `POST /v1/predict`; `POST /v2/models/{project}[/versions/{version}]/infer` (Open Inference Protocol v2);
    `POST /v1/models/{project}[/versions/{version}]:predict` (TensorFlow Serving, KServe v1); `POST /invocations`
    (SageMaker).
    """

    def __init__(self, *, project: str, slots: Slots, answerer: Answerer, metrics: Metrics, ids: PredictionIds) -> None:
        self._project = project
        self._slots = slots
        self._answerer = answerer
        self._metrics = metrics
        self._ids = ids
        self._in_flight = 0
        self._by_path = {
            PREDICT_PATH: _Route("predict", self._predict, has_error_member=False),
            INVOCATIONS_PATH: _Route("invocations", self._invocations, has_error_member=False),
        }
        self._infer_route = _Route("infer", self._infer, has_error_member=True)
        self._instances_route = _Route("instances", self._instances, has_error_member=True)

    def is_for(self, path: str) -> bool:
        """Whether `path` is a prediction route."""
        return self._route_of(path) is not None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answers one request; every failure is a problem, and the request's id comes back in a header."""
        route = self._route_of(scope["path"])
        if route is None:
            raise LookupError(f"{scope['path']} is no prediction route: ask `is_for` before")
        request_id = client_request_id(scope) or self._ids.next()
        headers = [(b"x-request-id", request_id.encode())]
        status = 200
        self._in_flight += 1
        try:
            self._admit(scope)
            answer = await route.answer(scope, receive, request_id)
            if answer.head_length is not None:
                headers.append((binary_tensors.HEADER, str(answer.head_length).encode()))
            await respond(send, 200, answer.body, answer.content_type, headers)
        except ClientGoneError:
            status = 499
        except Exception as error:
            refused = _refusal(error)
            status = refused.status
            if status == 500:
                logger.exception("request %s failed", request_id)
            if status == 405:
                headers.append((b"allow", b"POST"))
            if status == 503:
                headers.append((b"retry-after", b"1"))
            await respond_problem(send, refused, headers, is_open_inference=route.has_error_member)
        finally:
            self._in_flight -= 1
            self._metrics.responded(route.name, status)

    def _route_of(self, path: str) -> _Route | None:
        found = self._by_path.get(path)
        if found is not None:
            return found
        if path.startswith(_INFER_PREFIX) and path.endswith(_INFER):
            return self._infer_route
        if path.startswith(_INSTANCES_PREFIX) and path.endswith(_INSTANCES):
            return self._instances_route
        return None

    def _admit(self, scope: Scope) -> None:
        if scope["method"] != "POST":
            raise RequestRefusedError(405, f"found {scope['method']}, expected POST")
        if header(scope, b"content-encoding") not in (None, "identity"):
            raise RequestRefusedError(415, "a compressed body is not read: send it as it is")
        if self._in_flight > MAXIMUM_IN_FLIGHT:
            raise RequestRefusedError(503, f"{MAXIMUM_IN_FLIGHT} requests are being answered already: try again soon")

    async def _predict(self, scope: Scope, receive: Receive, request_id: str) -> _Answer:
        decoded = records.decode(await read_body(scope, receive))
        return _Answer(records.encode(await self._answerer.answer(decoded, request_id)))

    async def _infer(self, scope: Scope, receive: Receive, request_id: str) -> _Answer:
        version = self._version_of(scope["path"].removesuffix(_INFER))
        head_length = header(scope, binary_tensors.HEADER)
        request = open_inference.decode(await read_body(scope, receive), head_length)
        found = open_inference.records_of(request, self._champion(version).model.schema)
        answer = await self._answerer.answer(found, request_id, champion_only=version is not None)
        body, length = open_inference.encode(self._project, answer, request, answer_id=request_id)
        return _Answer(body, JSON_TYPE if length is None else BINARY_TYPE, length)

    async def _instances(self, scope: Scope, receive: Receive, request_id: str) -> _Answer:
        version = self._version_of(scope["path"].removesuffix(_INSTANCES))
        request = instances.decode(await read_body(scope, receive))
        found = instances.records_of(request, self._champion(version).model.schema)
        answer = await self._answerer.answer(found, request_id, champion_only=version is not None)
        return _Answer(instances.encode(answer, request))

    async def _invocations(self, scope: Scope, receive: Receive, request_id: str) -> _Answer:
        kind = invocations.content_type(header(scope, b"content-type"))
        wanted = invocations.answer_type(header(scope, b"accept"))
        body = await read_body(scope, receive)
        found = invocations.decode(body, kind, self._champion(None).model.schema)
        return _Answer(invocations.encode(await self._answerer.answer(found, request_id), wanted), wanted)

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
    if isinstance(error, NotReadyError):
        return RequestRefusedError(503, str(error))
    if isinstance(error, ChampionFailedError):
        return RequestRefusedError(500, str(error))
    if isinstance(error, RecursionError):  # JSON just shallow enough to be read, too deep to be shown or compared
        return RequestRefusedError(422, "found a value that is nested too deeply, expected a text, number or boolean")
    return RequestRefusedError(500, "the server failed on this request; its log has the reason under the request's id")


def _told(error: InvalidRecordError) -> str:
    """The first problems in words: many clients show their user nothing else of an error."""
    told = "; ".join(
        f"row {each.row}, {each.field}: found {each.found}, expected {each.expected}"
        for each in error.problems[:_TOLD_PROBLEMS]
    )
    more = len(error.problems) - _TOLD_PROBLEMS
    return f"the schema refuses {told}" + (f"; and {more} more" if more > 0 else "")
