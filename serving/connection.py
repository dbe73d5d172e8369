"""The connection: uvicorn's own, on which prediction routes are answered without a task and without ASGI.

Everything else of a connection stays uvicorn's: parsing, TLS, pipelining, the graceful stop, and every other route,
which goes on to the ASGI application. A prediction is answered in the call that brings its last byte, or in the one
that runs its graph (`serving.batching`).
"""

import asyncio
from functools import lru_cache
from typing import Any, NamedTuple, cast
from urllib.parse import unquote_to_bytes

import httptools
from uvicorn._types import ASGI3Application
from uvicorn.config import Config
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol
from uvicorn.server import ServerState

from serving.access import ClientCertificate, RequestHead
from serving.access.certificates import certificate_of
from serving.admission import ClientGoneError, RequestRefusedError
from serving.exchange import Exchange
from serving.routes.predict import PredictionRoutes, Response
from serving.short_way import KnownHead, ShortRequest, ShortWay

MAXIMUM_REQUEST_S = 10.0  # for a request to come in, from its first byte to its last
MAXIMUM_HEAD_BYTES = 64 << 10
LINGER_S = 0.5  # when the server stops: for the request that a client is sending on a connection that was idle
_KNOWN_TARGETS = 64
_KNOWN_HEADS = (
    8  # of a connection, one after the other: a client that never sends the same one is not looked at for ever
)


class _Target(NamedTuple):
    """What a request line asks for: path and query as they stand there, and the path decoded."""

    path: str
    query: bytes
    decoded: str


@lru_cache(_KNOWN_TARGETS)  # the same few come again and again
def _target_of(url: bytes) -> _Target:
    path, query = url, b""
    if b"?" in url or not url.startswith(b"/"):
        parsed = httptools.parse_url(url)
        path, query = parsed.path or b"", parsed.query or b""
    decoded = (unquote_to_bytes(path) if b"%" in path else path).decode("latin-1")
    return _Target(path.decode("latin-1"), query, decoded)


class PredictionConnection(HttpToolsProtocol):
    """One client's connection. `config.app.predictions` are the routes that are answered here."""

    cycle: Any  # uvicorn's RequestResponseCycle, an Exchange or a ShortRequest

    def __init__(
        self,
        config: Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
    ) -> None:
        super().__init__(config, server_state, app_state, _loop)
        self.routes: PredictionRoutes = config.app.predictions  # type: ignore[union-attr]  # the ModelServer
        self.certificate: ClientCertificate | None = None
        self._answering: Exchange | ShortRequest | None = None
        self._is_receiving = self._is_in_head = False
        self._head_bytes = 0
        self._since_s = self.loop.time()  # of the request that comes in, or of the last answer
        self._is_stopping = False
        self._usual: list[tuple[bytes, bytes]] = []
        self._written_usual = b""
        self._watch: asyncio.TimerHandle | None = None
        self._short_way: ShortWay = config.app.short_way  # type: ignore[union-attr]  # the ModelServer
        self._known: KnownHead | None = None
        self._left_to_know = _KNOWN_HEADS
        self._messages = 0  # that began since the connection was idle

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """A client has come."""
        super().connection_made(cast(asyncio.Transport, transport))
        self.certificate = certificate_of(transport)
        if self.certificate is not None:
            self.app_state = {**self.app_state, "certificate": self.certificate}
        self._watch_later()

    def connection_lost(self, exc: Exception | None) -> None:
        """The client is gone, and with it what it waits for."""
        if self._watch is not None:
            self._watch.cancel()
        if self._answering is not None:
            self._answering.abandon(ClientGoneError())
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Bytes of a request, or of several."""
        is_between = not self._is_receiving and self._is_idle() and not self._is_stopping
        if is_between:
            known = self._known
            if known is not None and self.parser is not None:
                body = known.body_of(data)
                if body is not None:
                    if not self._short_way.take(self, known, body):
                        self._unset_keepalive_if_required()
                        self.cycle = exchange = self._behind(known, body)
                        exchange.begin()
                    return
            self._messages = 0
        super().data_received(data)
        if is_between and self._left_to_know and self._messages == 1 and not self._is_receiving:
            self._get_to_know(data)
        if self._is_receiving and self.parser is not None:
            self._head_bytes += len(data)
            if self._head_bytes > MAXIMUM_HEAD_BYTES and self._is_in_head:
                self._refuse_head(431, f"The request's headers are larger than {MAXIMUM_HEAD_BYTES} bytes.")

    # -- the parser's callbacks ------------------------------------------------------------------------------------

    def on_message_begin(self) -> None:
        """The first byte of a request; ASGI's scope is made only for routes that need one."""
        self._messages += 1
        self.url = b""
        self.headers = []
        self.expect_100_continue = False
        self._is_receiving = self._is_in_head = True
        self._head_bytes = 0
        self._since_s = self.loop.time()

    def on_headers_complete(self) -> None:
        """The head of a request is here."""
        self._is_in_head = False
        target = _target_of(self.url)
        route = self.routes.route_of(target.decoded)
        if route is None:
            self._give_to_asgi()
            return
        before = self.cycle
        keep_alive = self.parser.should_keep_alive() and self.parser.get_http_version() != "1.0"
        exchange = Exchange(self, route, target.decoded, self._head(target), keep_alive=keep_alive)
        # uvicorn looks at its cycle for what a connection is doing: this one has what it looks at
        self.cycle = exchange
        if before is None or before.response_complete:
            exchange.begin()
        else:
            self.flow.pause_reading()
            self.pipeline.appendleft((self.cycle, self.app))

    def on_body(self, body: bytes) -> None:
        """A piece of a body."""
        exchange = self.cycle
        if isinstance(exchange, Exchange):
            exchange.add(body)
        else:
            super().on_body(body)

    def on_message_complete(self) -> None:
        """The last byte of a request."""
        self._is_receiving = False
        exchange = self.cycle
        if isinstance(exchange, Exchange):
            exchange.complete()
        else:
            super().on_message_complete()

    def _head(self, target: _Target) -> RequestHead:
        peer = self.client
        return RequestHead(
            self.parser.get_method().decode(),
            target.path,
            target.query,
            self.headers,
            self.scheme or "http",
            self.certificate,
            peer[0] if peer else None,
        )

    # -- the short way (serving.short_way) -------------------------------------------------------------------------

    def _get_to_know(self, data: bytes) -> None:
        """The head of `data`, which was one whole request: the next one may have the same."""
        exchange = self.cycle
        if not isinstance(exchange, Exchange) or not exchange.is_admitted or not exchange.keep_alive:
            return
        self._left_to_know -= 1
        self._known = self._short_way.know(data, exchange.head, exchange.route)

    def begin(self, request: ShortRequest) -> None:
        """`request` is the prediction in hand."""
        self._unset_keepalive_if_required()
        self.cycle = self._answering = request

    def write_answer(self, request: ShortRequest, headers: bytes, body: bytes) -> None:
        """Answers `request` with status 200; `headers` are those that not every answer has."""
        request.response_complete = True
        transport = self.transport
        if not transport.is_closing():
            if request.keep_alive:
                transport.write(b"".join((STATUS_LINE[200], self.usual_headers(), headers, b"\r\n", body)))
            else:
                transport.write(
                    b"".join((STATUS_LINE[200], self.usual_headers(), headers, b"connection: close\r\n\r\n", body))
                )
                transport.close()
        self.answered()

    def write_response(self, request: ShortRequest, response: Response) -> None:
        """Answers `request` with whatever `response` is."""
        request.response_complete = True
        self.write(response, keep_alive=request.keep_alive, has_body=True)

    def begin_again(self, request: ShortRequest) -> None:
        """`request` goes the long way, in its place on the connection."""
        exchange = self._behind(request.known, request.body, keep_alive=request.keep_alive)
        request.response_complete = True
        if self.cycle is request:
            self.cycle = exchange
        exchange.begin()

    def _behind(self, known: KnownHead, body: bytes, *, keep_alive: bool = True) -> Exchange:
        """A request whose head is known and whose body is whole, for the long way."""
        exchange = Exchange(self, known.route, known.head.path, known.head, keep_alive=keep_alive)
        exchange.body, exchange.more_body = body, False
        return exchange

    def _give_to_asgi(self) -> None:
        url, headers, expects = self.url, self.headers, self.expect_100_continue
        super().on_message_begin()
        self.url, self.expect_100_continue = url, expects
        self.headers.extend(headers)
        super().on_headers_complete()

    # -- the order of things on a connection -----------------------------------------------------------------------

    def _start_asgi_task(self, cycle: Any, app: ASGI3Application) -> None:
        """Starts the next request of the pipeline, which may be a prediction."""
        if isinstance(cycle, Exchange):
            self.loop.call_soon(cycle.begin)
        else:
            super()._start_asgi_task(cycle, app)

    def answered(self) -> None:
        """The prediction in hand has its answer."""
        self._answering = None
        self._since_s = self.loop.time()
        if self.transport.is_closing():
            return
        if self.pipeline:
            self.on_response_complete()
            return
        self.server_state.total_requests += 1
        if not self.flow.write_paused:
            self.flow.resume_reading()

    def write(self, response: Response, *, keep_alive: bool, has_body: bool) -> None:
        """Sends the answer of the prediction in hand."""
        transport = self.transport
        if not transport.is_closing():
            status, body, content_type, headers = response
            transport.write(
                b"%s%scontent-type: %s\r\ncontent-length: %d\r\n%s%s\r\n%s"
                % (
                    STATUS_LINE[status],
                    self.usual_headers(),
                    content_type.encode(),
                    len(body),
                    b"".join([b"%s: %s\r\n" % header for header in headers]),
                    b"" if keep_alive else b"connection: close\r\n",
                    body if has_body else b"",
                )
            )
            if not keep_alive:
                transport.close()
        self.answered()

    def usual_headers(self) -> bytes:
        """The headers of every answer, written out: uvicorn makes them anew once a second."""
        found = self.server_state.default_headers
        if found is not self._usual:
            self._usual = found
            self._written_usual = b"".join([b"%s: %s\r\n" % header for header in found])
        return self._written_usual

    def answering(self, exchange: Exchange) -> None:
        """`exchange` is the prediction in hand."""
        self._answering = exchange

    def pause_writing(self) -> None:
        """A client that does not read its answers is not read from either."""
        super().pause_writing()
        self.flow.pause_reading()

    def resume_writing(self) -> None:
        """The client reads again."""
        super().resume_writing()
        if self._answering is None:
            self.flow.resume_reading()

    def send_400_response(self, msg: str) -> None:
        """What came is not HTTP: the request before it still gets its answer, the last one of this connection."""
        if self._answering is not None and (self._is_in_head or not self._is_receiving):
            self.cycle.keep_alive = False
            self.flow.pause_reading()
        else:
            super().send_400_response(msg)

    def shutdown(self) -> None:
        """The server stops: what is in hand is answered, and what a client is just sending as well."""
        self._is_stopping = True
        cycle = self.cycle
        if cycle is not None and not cycle.response_complete:
            cycle.keep_alive = False
        else:
            self.loop.call_later(LINGER_S, self._close_if_idle)

    def _close_if_idle(self) -> None:
        if not self._is_receiving and (self.cycle is None or self.cycle.response_complete):
            self.transport.close()

    @property
    def is_stopping(self) -> bool:
        """Whether this connection ends with its next answer."""
        return self._is_stopping

    # -- time ------------------------------------------------------------------------------------------------------

    def _watch_later(self) -> None:
        """One timer a connection and not one a request: it looks often enough to end a connection in time."""
        self._watch = self.loop.call_later(min(self.timeout_keep_alive, MAXIMUM_REQUEST_S) / 2, self._look)

    def _look(self) -> None:
        waited_s = self.loop.time() - self._since_s
        if self._is_receiving and not self.flow.read_paused:
            if waited_s >= MAXIMUM_REQUEST_S:
                self._give_up()
        elif self._is_idle() and waited_s >= self.timeout_keep_alive:
            self.transport.close()
        if not self.transport.is_closing():
            self._watch_later()

    def _is_idle(self) -> bool:
        return self.cycle is None or self.cycle.response_complete

    def _give_up(self) -> None:
        exchange = self.cycle
        if self._is_in_head or not isinstance(exchange, Exchange) or exchange.response_complete:
            self._refuse_head(408, f"The request was not complete after {MAXIMUM_REQUEST_S:g} s.")
        else:
            exchange.keep_alive = False
            exchange.refuse(RequestRefusedError(408, f"the body was not complete after {MAXIMUM_REQUEST_S:g} s"))

    def _refuse_head(self, status: int, text: str) -> None:
        content = text.encode()
        self.transport.write(
            b"%scontent-type: text/plain; charset=utf-8\r\ncontent-length: %d\r\nconnection: close\r\n\r\n%s"
            % (STATUS_LINE[status], len(content), content)
        )
        self.transport.close()
