"""One prediction request on its connection, from its head to its answer."""

import asyncio
import logging
from typing import Any, Protocol

from serving.access import RequestHead
from serving.admission import MAXIMUM_BODY_BYTES, RequestRefusedError
from serving.routes.predict import PredictionRequest, PredictionRoutes, Response, Route, too_large
from serving.short_way import NOBODY_WAITS
from serving.suspension import Driven, drive

logger = logging.getLogger(__name__)


class Connection(Protocol):
    """What an exchange asks of the connection that it takes place on."""

    transport: asyncio.Transport
    routes: PredictionRoutes
    expect_100_continue: bool

    @property
    def is_stopping(self) -> bool:
        """Whether it ends with its next answer."""

    def answering(self, exchange: Any) -> None:
        """`exchange` is the prediction in hand."""

    def write(self, response: Response, *, keep_alive: bool, has_body: bool) -> None:
        """Sends the answer of the prediction in hand."""


class Exchange:
    """One prediction request and its answer. Has what uvicorn asks of a cycle, and no more."""

    __slots__ = (
        "_connection",
        "_driven",
        "_is_begun",
        "_path",
        "_request",
        "body",
        "disconnected",
        "expects_100",
        "head",
        "is_admitted",
        "keep_alive",
        "message_event",
        "more_body",
        "response_complete",
        "route",
    )

    def __init__(self, connection: Connection, route: Route, path: str, head: RequestHead, *, keep_alive: bool) -> None:
        self._connection = connection
        self.route = route
        self._path = path
        self.head = head
        self._request: PredictionRequest | None = None
        self._driven: Driven[Response] | None = None
        self._is_begun = False
        self.body: bytes | bytearray = b""
        self.more_body = True
        self.expects_100 = connection.expect_100_continue
        self.keep_alive = keep_alive and not connection.is_stopping
        self.is_admitted = False
        self.response_complete = False
        self.disconnected = False
        self.message_event = NOBODY_WAITS

    def begin(self) -> None:
        """Its turn on the connection has come, and its headers are here."""
        connection = self._connection
        if connection.transport.is_closing():
            return
        self._is_begun = True
        connection.answering(self)
        try:
            self._request = connection.routes.admit(self.route, self._path, self.head)
        except RequestRefusedError as refused:
            self.refuse(refused)
            return
        self.is_admitted = True
        if len(self.body) > MAXIMUM_BODY_BYTES:
            self.refuse(too_large())
        elif not self.more_body:
            self._answer()
        elif self.expects_100:
            connection.transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")

    def add(self, piece: bytes) -> None:
        """A piece of the body; of one that was refused already nothing is kept."""
        if self.response_complete:
            return
        if not self.body:
            self.body = piece
        else:
            if not isinstance(self.body, bytearray):
                self.body = bytearray(self.body)
            self.body += piece
        if len(self.body) > MAXIMUM_BODY_BYTES and self._is_begun:
            self.refuse(too_large())

    def complete(self) -> None:
        """The last byte is here."""
        self.more_body = False
        if self._is_begun and not self.response_complete:
            self._answer()

    def refuse(self, refused: RequestRefusedError) -> None:
        """Answers with a problem at once."""
        self._send(self._connection.routes.refuse(self.route, refused, self.head.headers))

    def abandon(self, error: Exception) -> None:
        """The client is gone: what still waits for a graph run is dropped."""
        self.disconnected = True
        if self._driven is not None:
            self._driven.abandon(error)

    def _answer(self) -> None:
        request = self._request
        if request is None:
            raise RuntimeError("a request is answered after it was admitted")
        request.body = bytes(self.body)
        driven = drive(self._connection.routes.answer(request), self._send, self._fail)
        if not self.response_complete:
            self._driven = driven

    def _fail(self, error: Exception) -> None:
        logger.error("request %s failed", self._path, exc_info=error)
        self._connection.transport.close()

    def _send(self, response: Response) -> None:
        if self.response_complete:
            return
        self.response_complete = True
        # large bodies must not wait for a garbage collection
        self.body = b""
        self._request = self._driven = None
        self._connection.write(response, keep_alive=self.keep_alive, has_body=self.head.method != "HEAD")
