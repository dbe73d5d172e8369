"""The short way of the most frequent request: one record as JSON, behind a head that its connection has sent before.

Who keeps a connection open sends the same head again and again, but for the length of the body. What follows from a
head alone (route, credential, media types, deadline) is known then, and neither parsed nor looked up again; the record
is read straight to a typed row. Rows that one graph run has scored are logged, counted and answered together, the
answers written from a template. Whatever is unusual in any way is not taken here, and so goes the long way
(`serving.exchange.Exchange`), which alone knows how to refuse. Behind a known head that begins where the body is whole:
so do batches and the other protocols, whose heads are known as well.
"""

import re
import time
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, Protocol

import msgspec
import numpy as np
from msgspec.structs import astuple
from numpy.typing import NDArray

from serving.access import Access, Known, RequestHead
from serving.admission import JSON_TYPE, MAXIMUM_IN_FLIGHT
from serving.answering import entities_of
from serving.assigned import SYNTHETIC_HEADER
from serving.batching import Batcher, OverloadedError, Waiting
from serving.challenger import CHAMPION, Slot
from serving.columns import Columns
from serving.engine import ScoringError, problem_of
from serving.metrics import Metrics
from serving.prediction_writer import LoggedGroup, OfRequests, PredictionIds, PredictionWriter
from serving.protocols import media_types, records
from serving.protocols.records import MalformedRequestError, Prediction, PredictResponse
from serving.protocols.typed_records import TypedRecords
from serving.routes.predict import PREDICT_PATH, PredictionRoutes, Response, Route, timeout_of, types_of
from serving.shadow import Shadow, ShadowWork
from serving.slots import Slots

_LENGTH = re.compile(rb"\r\ncontent-length:[ \t]*([0-9]+)\r\n", re.IGNORECASE)
_MAXIMUM_DIGITS = 7  # of a content length
_NEVER_KNOWN = frozenset({b"transfer-encoding", b"expect", b"upgrade", b"x-request-id", SYNTHETIC_HEADER})
_OWN_ID, _OWN_SCORE = "<the id>", 0.5  # in the template, where each answer has its own
_TYPE = JSON_TYPE.encode()
_encode_json = msgspec.json.Encoder().encode


class KnownHead(NamedTuple):
    """A head that was admitted, without the digits of its content length, and what follows from it.

    `is_short`: what comes behind it may go the short way. Of the headers in `head` the content length is another's.
    """

    before: bytes
    after: bytes
    head: RequestHead
    route: Route
    access: Known | None
    timeout_s: float
    is_short: bool

    def body_of(self, data: bytes) -> bytes | None:
        """The body of `data` where that is one whole request with this head; None where it is anything else."""
        before, after = self.before, self.after
        if not data.startswith(before):
            return None
        start = len(before)
        end = data.find(after, start, start + _MAXIMUM_DIGITS + len(after))
        if end < 0:
            return None
        digits, first = data[start:end], end + len(after)
        return data[first:] if digits.isdigit() and int(digits) == len(data) - first else None


class Connection(Protocol):
    """What the short way asks of the connection that a request came on."""

    def begin(self, request: "ShortRequest") -> None:
        """`request` is in hand, and what comes after it waits for its answer."""

    def write_answer(self, request: "ShortRequest", headers: bytes, body: bytes) -> None:
        """An answer of status 200; `headers` are those that not every answer has, with the blank line."""

    def write_response(self, request: "ShortRequest", response: Response) -> None:
        """Any other answer."""

    def begin_again(self, request: "ShortRequest") -> None:
        """`request` goes the long way after all."""


class _NobodyWaits:
    """Stands where uvicorn wakes the task of a request: a prediction has none."""

    def set(self) -> None:
        """Wakes nobody."""


NOBODY_WAITS = _NobodyWaits()


class ShortRequest(Waiting):
    """One request that waits for its score. Has what uvicorn asks of a cycle, and no more."""

    __slots__ = (
        "began_s",
        "body",
        "champion",
        "connection",
        "disconnected",
        "keep_alive",
        "known",
        "limit_headers",
        "response_complete",
        "row",
        "score",
        "typed",
        "values",
        "way",
    )
    more_body = False
    message_event = NOBODY_WAITS
    score: float
    body: bytes
    row: msgspec.Struct
    values: tuple[Any, ...]
    limit_headers: Sequence[tuple[bytes, bytes]]

    def __init__(
        self,
        way: "ShortWay",
        connection: Connection,
        known: KnownHead,
        champion: Slot,
        typed: TypedRecords,
        features: NDArray[np.float32],
        began_s: float,
    ) -> None:
        super().__init__(features, began_s, began_s + known.timeout_s)
        self.began_s = began_s
        self.way = way
        self.connection = connection
        self.known = known
        self.champion = champion
        self.typed = typed
        self.keep_alive = True
        self.disconnected = self.response_complete = False

    def resolve(self, value: list[float]) -> None:
        """Its score is here; the answer follows with those of the others of its run."""
        if not self.is_done:
            self.is_done = True
            (self.score,) = value
            self.way.resolved(self)

    def fail(self, error: Exception) -> None:
        """There is no score."""
        if not self.is_done:
            self.is_done = True
            self.way.failed(self, error)

    def abandon(self, error: Exception) -> None:
        """The client is gone: what still waits for a graph run is dropped."""
        self.disconnected = True
        self.fail(error)


class _Template(NamedTuple):
    """The body of an answer of one champion, around its id and its score; `ends` are for decisions False and True."""

    champion: Slot
    start: bytes
    middle: bytes
    ends: tuple[bytes, bytes]


class ShortWay:
    """Takes requests where it can, and answers them turn by turn."""

    def __init__(
        self,
        *,
        routes: PredictionRoutes,
        slots: Slots,
        metrics: Metrics,
        writer: PredictionWriter,
        shadow: Shadow,
        ids: PredictionIds,
        batcher: Batcher,
        access: Access | None,
        is_open: bool,
    ) -> None:
        """`is_open`: no request of this server is logged before its answer, cached or traced."""
        self._routes = routes
        self._slots = slots
        self._metrics = metrics
        self._writer = writer
        self._shadow = shadow
        self._ids = ids
        self._batcher = batcher
        self._access = access
        self.is_open = is_open
        self._typed: TypedRecords | None = None
        self._template: _Template | None = None
        self._turn: list[ShortRequest] = []
        batcher.when_resolved = self.end_turn

    def know(self, data: bytes, head: RequestHead, route: Route) -> KnownHead | None:
        """What `head` is known by, which `data` begins with and which has been admitted; None where it can not be."""
        end = data.find(b"\r\n\r\n") + 4
        found = _LENGTH.findall(data, 0, end - 2)
        by_name = dict(head.headers)
        if (
            head.method != "POST"
            or "%" in head.path
            or not data.startswith(b"POST ")
            or len(found) != 1
            or int(found[0]) != len(data) - end
            or [name for name, _ in head.headers].count(b"content-length") != 1
            or not _NEVER_KNOWN.isdisjoint(by_name)
            or by_name.get(b"connection", b"keep-alive").lower() != b"keep-alive"
        ):
            return None
        access = None if self._access is None else self._access.known(head, "predict")
        if access is None and self._access is not None:
            return None
        place = _LENGTH.search(data, 0, end - 2)
        assert place is not None
        before, after = data[: place.start(1)], data[place.end(1) : end]
        timeout_s = timeout_of(by_name, self._routes.timeout_s)
        return KnownHead(before, after, head, route, access, timeout_s, _is_short(head, by_name))

    def take(self, connection: Connection, known: KnownHead, body: bytes) -> bool:
        """Whether the request is answered here; where not, nothing has happened."""
        slots = self._slots
        champion = slots.champion
        began_s = time.perf_counter()
        if (
            champion is None
            or not (self.is_open and known.is_short)
            or (slots.challengers and (slots.lanes is not None or slots.sharing() is not None))
            or slots.holdout is not None
            or self._routes.in_flight >= MAXIMUM_IN_FLIGHT
            or body.count(b"{") != 2
        ):
            return False
        model = champion.model
        schema = model.schema
        typed = self._typed
        if typed is None or typed.schema is not schema:
            typed = self._typed = TypedRecords(schema)
        rows = typed.rows(body)
        if rows is None or len(body) > records.MAXIMUM_FIELD_BYTES * len(schema.fields):
            return False
        (row,) = rows
        values = astuple(row)
        features = model.encoder.encode_values(values)
        if features is None:
            return False
        limit_headers: Sequence[tuple[bytes, bytes]] = ()
        if self._access is not None:
            assert known.access is not None
            admitted = self._access.admit_known(known.access)
            if admitted is None:
                return False
            limit_headers = admitted
        request = ShortRequest(self, connection, known, champion, typed, features, began_s)
        request.body, request.row, request.values, request.limit_headers = body, row, values, limit_headers
        self._routes.in_flight += 1
        connection.begin(request)
        try:
            self._batcher.add(model, request)
        except OverloadedError as error:
            request.fail(error)
        return True

    def failed(self, request: ShortRequest, error: Exception) -> None:
        """`request` has no score."""
        self._routes.in_flight -= 1
        if isinstance(error, ScoringError):
            request.connection.begin_again(request)
            return
        request_id = self._ids.next()
        headers = [*request.limit_headers, (b"x-request-id", request_id.encode())]
        request.connection.write_response(request, self._routes.failed(request.known.route, error, request_id, headers))

    def resolved(self, request: ShortRequest) -> None:
        """`request` has its score, and waits for the end of the turn."""
        if problem_of(request.score) is not None:
            self._routes.in_flight -= 1
            request.connection.begin_again(request)
            return
        turn = self._turn
        if turn and turn[0].champion is not request.champion:
            self.end_turn()
            turn = self._turn
        turn.append(request)

    def end_turn(self) -> None:
        """Logs, counts and answers what a run has scored."""
        turn, self._turn = self._turn, []
        if not turn:
            return
        count = len(turn)
        self._routes.in_flight -= count
        champion = turn[0].champion
        model = champion.model
        threshold = model.threshold
        now_s = time.perf_counter()
        scores = [request.score for request in turn]
        decisions = [score >= threshold for score in scores]
        seconds = [now_s - request.began_s for request in turn]
        ids = self._ids.take(2 * count)
        request_ids, ids = ids[:count], ids[count:]
        columns = turn[0].typed.columns([request.row for request in turn], [request.values for request in turn])
        entities = entities_of(model.schema, columns)
        self._log(turn, columns, entities, request_ids, ids, scores, decisions, seconds)
        shadowing = self._slots.shadowing() if self._slots.challengers else None
        if shadowing is not None:
            self._slots.gather_each(shadowing, CHAMPION, entities, seconds, scores)
            self._shadow.offer_each(ShadowWork(shadowing, request_ids, columns, entities, scores, seconds, threshold))
        self._metrics.answered_each(champion.counts, model.version, seconds, scores)
        self._metrics.responded(turn[0].known.route.name, 200, count)
        template = self._template
        if template is None or template.champion is not champion:
            template = self._template = _template_of(champion)
        _, start, middle, ends = template
        fixed = len(start) + len(middle)
        told = _encode_json(scores)[1:-1].split(b",")
        for request, request_id, prediction_id, score, decision in zip(
            turn, request_ids, ids, told, decisions, strict=True
        ):
            end = ends[decision]
            own = prediction_id.encode()
            limits = request.limit_headers
            request.connection.write_answer(
                request,
                b"content-type: %s\r\ncontent-length: %d\r\n%sx-request-id: %s\r\n"
                % (
                    _TYPE,
                    fixed + len(own) + len(score) + len(end),
                    b"".join([b"%s: %s\r\n" % header for header in limits]) if limits else b"",
                    request_id.encode(),
                ),
                b"".join((start, own, middle, score, end)),
            )

    def _log(
        self,
        turn: Sequence[ShortRequest],
        columns: Columns,
        entities: Sequence[str],
        request_ids: Sequence[str],
        ids: Sequence[str],
        scores: Sequence[float],
        decisions: Sequence[bool],
        seconds: Sequence[float],
    ) -> None:
        model = turn[0].champion.model
        clients = [None if (access := request.known.access) is None else access.grant.client for request in turn]
        self._writer.append(
            LoggedGroup(
                served_at_s=time.time(),
                request_id=request_ids[0],
                schema=model.schema,
                version=model.version,
                bundle=model.bundle.id,
                slot="champion",
                rollout=None,
                share=0.0,
                latency_us=0,
                records=columns,
                entities=entities,
                prediction_ids=ids,
                scores=scores,
                decisions=decisions,
                errors=(None,) * len(turn),
                features=np.concatenate([request.features for request in turn]),
                baseline=model.baseline,
                size_bytes=sum([len(request.body) for request in turn]),
                each=OfRequests(request_ids, clients, [int(each * 1e6) for each in seconds]),
            )
        )


def _is_short(head: RequestHead, by_name: Mapping[bytes, bytes]) -> bool:
    if head.path != PREDICT_PATH:
        return False
    try:
        return types_of(by_name.get(b"content-type"), by_name.get(b"accept")) == (media_types.JSON, media_types.JSON)
    except MalformedRequestError:
        return False


def _template_of(champion: Slot) -> _Template:
    """Made by what encodes every other answer."""
    model = champion.model
    ends = []
    for decision in (False, True):
        answer = PredictResponse(
            predictions=[Prediction(_OWN_ID, _OWN_SCORE, decision, model.version, "champion")],
            rollout=None,
            share=0.0,
            model_version=model.version,
            bundle=model.bundle.id,
        )
        start, _, rest = records.encode(answer).partition(_OWN_ID.encode())
        middle, _, end = rest.partition(_encode_json(_OWN_SCORE))
        ends.append(end)
    return _Template(champion, start, middle, (ends[0], ends[1]))
