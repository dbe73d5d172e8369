"""The prediction routes, as bare ASGI: no framework, no pydantic between the socket and the model."""

import logging
from collections.abc import Awaitable, Callable

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
from serving.protocols import binary_tensors, open_inference, records
from serving.protocols.open_inference import Encoded
from serving.slots import Slots

PREDICT_PATH = "/v1/predict"
logger = logging.getLogger(__name__)
Endpoint = Callable[[bytes, str], Awaitable[bytes]]


class PredictionRoutes:
    """`POST /v1/predict` and `POST /v2/models/{project}[/versions/{version}]/infer`."""

    def __init__(self, *, project: str, slots: Slots, answerer: Answerer, metrics: Metrics, ids: PredictionIds) -> None:
        self._project = project
        self._slots = slots
        self._answerer = answerer
        self._metrics = metrics
        self._ids = ids
        self._in_flight = 0

    def is_for(self, path: str) -> bool:
        """Whether `path` is a prediction route."""
        return path == PREDICT_PATH or (path.startswith("/v2/models/") and path.endswith("/infer"))

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answers one request; every failure is a problem, and the request's id comes back in a header."""
        path: str = scope["path"]
        is_v1 = path == PREDICT_PATH
        request_id = client_request_id(scope) or self._ids.next()
        headers = [(b"x-request-id", request_id.encode())]
        status = 200
        self._in_flight += 1
        try:
            body, head_length = await self._answer(scope, receive, request_id, is_v1=is_v1)
            if head_length is not None:
                headers.append((binary_tensors.HEADER, str(head_length).encode()))
            await respond(send, 200, body, JSON_TYPE if head_length is None else BINARY_TYPE, headers)
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
            await respond_problem(send, refused, headers, is_open_inference=not is_v1)
        finally:
            self._in_flight -= 1
            self._metrics.responded("predict" if is_v1 else "infer", status)

    async def _answer(self, scope: Scope, receive: Receive, request_id: str, *, is_v1: bool) -> Encoded:
        if scope["method"] != "POST":
            raise RequestRefusedError(405, f"found {scope['method']}, expected POST")
        if header(scope, b"content-encoding") not in (None, "identity"):
            raise RequestRefusedError(415, "a compressed body is not read: send it as it is")
        if self._in_flight > MAXIMUM_IN_FLIGHT:
            raise RequestRefusedError(503, f"{MAXIMUM_IN_FLIGHT} requests are being answered already: try again soon")
        if is_v1:
            decoded = records.decode(await read_body(scope, receive))
            return Encoded(records.encode(await self._answerer.answer(decoded, request_id)), None)
        return await self._infer(scope, receive, request_id)

    async def _infer(self, scope: Scope, receive: Receive, request_id: str) -> Encoded:
        version = self._version_of(scope["path"])
        head_length = header(scope, binary_tensors.HEADER)
        request = open_inference.decode(await read_body(scope, receive), head_length)
        champion = self._slots.champion
        if champion is None:
            raise NotReadyError("there is no champion yet: load a bundle and promote it")
        if version is not None and version != champion.model.version:
            raise RequestRefusedError(
                404,
                f"version {version!r} does not answer by name, only the champion, {champion.model.version!r}: "
                "a challenger gets its requests from its rollout",
            )
        answer = await self._answerer.answer(
            open_inference.records_of(request, champion.model.schema), request_id, champion_only=version is not None
        )
        return open_inference.encode(self._project, answer, request, answer_id=request_id)

    def _version_of(self, path: str) -> str | None:
        parts = path.split("/")[3:-1]  # /v2/models/<project>[/versions/<version>]/infer
        if parts[:1] == [self._project]:
            if len(parts) == 1:
                return None
            if len(parts) == 3 and parts[1] == "versions":
                return parts[2]
        raise RequestRefusedError(404, f"there is no {path}; this server has /v2/models/{self._project}/infer")


def _refusal(error: Exception) -> RequestRefusedError:
    """What the client is told; the text of an unforeseen error stays in the server's log."""
    if isinstance(error, RequestRefusedError):
        return error
    if isinstance(error, InvalidRecordError):
        fields = sorted({problem.field for problem in error.problems})
        return RequestRefusedError(
            422, f"{len(error.problems)} values do not fit the schema, in {', '.join(fields)[:500]}", error.problems
        )
    if isinstance(error, records.MalformedRequestError):
        return RequestRefusedError(error.status, str(error))
    if isinstance(error, NotReadyError):
        return RequestRefusedError(503, str(error))
    if isinstance(error, ChampionFailedError):
        return RequestRefusedError(500, str(error))
    return RequestRefusedError(500, "the server failed on this request; its log has the reason under the request's id")
