"""HTTP/1.1 over one kept-alive connection: bytes out, a status and a body back. Nothing here knows time."""

import asyncio
import ssl
from functools import cache
from typing import NamedTuple, Protocol, cast
from urllib.parse import urlsplit

import httptools


class Target(NamedTuple):
    """Where a server is. `path` is what stands before each route; `tls` whether it speaks HTTPS."""

    host: str
    port: int
    tls: bool = False
    path: str = ""

    @property
    def authority(self) -> str:
        """For the Host header."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{host}:{self.port}"

    @property
    def url(self) -> str:
        """Without a slash at its end."""
        return f"{'https' if self.tls else 'http'}://{self.authority}{self.path}"


def target_of(url: str) -> Target:
    """Reads `url`.

    Raises:
        ValueError: it is no http or https URL of a server.
    """
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError as error:
        raise ValueError(f"found the URL {url!r}: {error}") from None
    if parts.scheme not in ("http", "https") or not parts.hostname or parts.query or parts.fragment:
        raise ValueError(f"found the URL {url!r}, expected one such as http://127.0.0.1:8500")
    tls = parts.scheme == "https"
    return Target(parts.hostname, port or (443 if tls else 80), tls, parts.path.rstrip("/"))


def trusted(target: Target) -> ssl.SSLContext | bool:
    """Whose certificates count: the system's, or those in the file that `SSL_CERT_FILE` names; False without TLS."""
    return _trusted() if target.tls else False


@cache
def _trusted() -> ssl.SSLContext:
    return ssl.create_default_context()


class Owner(Protocol):
    """Who is told what became of a request."""

    def answered(self, connection: "Connection", status: int, body: bytes) -> None:
        """The whole answer is here; the connection takes the next request if it is still `usable`."""

    def lost(self, connection: "Connection", reason: str) -> None:
        """The connection is closed; a request that was on its way has no answer."""


class Connection(asyncio.Protocol):
    """One connection; one request at a time. `due_s` and `sent_s` belong to whoever sends."""

    __slots__ = ("_body", "_owner", "_parser", "_reason", "_transport", "due_s", "is_busy", "sent_s")

    def __init__(self, owner: Owner) -> None:
        self._owner = owner
        self._parser = httptools.HttpResponseParser(self)
        self._transport: asyncio.Transport | None = None
        self._body = b""
        self._reason = ""
        self.due_s = self.sent_s = 0.0
        self.is_busy = False

    @property
    def is_usable(self) -> bool:
        """Whether it can take a request."""
        return self._transport is not None and not self._transport.is_closing()

    def send(self, request: bytes) -> None:
        """Sends one whole request."""
        if self._transport is None:
            raise RuntimeError("the connection is closed: ask `is_usable` before")
        self.is_busy = True
        self._transport.write(request)

    def abort(self, reason: str) -> None:
        """Closes it at once; the owner is told with this reason."""
        self._reason = reason
        if self._transport is not None:
            self._transport.abort()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """From the event loop."""
        self._transport = cast("asyncio.Transport", transport)

    def connection_lost(self, exc: Exception | None) -> None:
        """From the event loop."""
        self._transport = None
        reason = self._reason or (
            f"{type(exc).__name__}: {exc}" if exc is not None else "the server closed the connection without an answer"
        )
        self._owner.lost(self, reason)

    def data_received(self, data: bytes) -> None:
        """From the event loop."""
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError as error:
            self.abort(f"the answer is no HTTP: {error}")

    def on_body(self, body: bytes) -> None:
        """From the parser, for each piece."""
        self._body = self._body + body if self._body else body

    def on_message_complete(self) -> None:
        """From the parser."""
        body, self._body = self._body, b""
        if not self.is_busy:
            self.abort("the server answered what was not asked")
            return
        if not self._parser.should_keep_alive() and self._transport is not None:
            self._transport.close()
        self.is_busy = False
        self._owner.answered(self, self._parser.get_status_code(), body)


async def connect(target: Target, owner: Owner) -> Connection:
    """A new connection.

    Raises:
        OSError: nobody listens there, or TLS fails.
    """
    _, connection = await asyncio.get_running_loop().create_connection(
        lambda: Connection(owner), target.host, target.port, ssl=trusted(target) or None
    )
    return connection
