"""One process that serves: uvicorn with our connections, how it starts, listens and ends."""

import asyncio
import contextlib
import logging
import signal
import socket
import sys
from collections.abc import Iterator

import uvicorn

from serving.access.tls import uvicorn_tls
from serving.app import ModelServer
from serving.connection import PredictionConnection
from serving.garbage import settle
from serving.settings import PREFIX, Settings, SettingsError

GRACE_S = 10
_BACKLOG = 2048
_KEEP_ALIVE_S = 30


class Server(uvicorn.Server):
    """uvicorn's server, which ends with exit status 0 after a signal; uvicorn itself would raise the signal again."""

    stopped_by: tuple[signal.Signals, ...] = (signal.SIGTERM, signal.SIGINT)

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """The champion is loaded when this is over: the process has what it will keep."""
        await super().startup(sockets)
        self.settle()

    def settle(self) -> None:
        """What is here now stays."""
        settle()

    def stop(self) -> None:
        """As SIGTERM."""
        self.handle_exit(signal.SIGTERM, None)

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """The signals of `stopped_by` stop accepting, let requests finish, and flush the log."""
        loop = asyncio.get_running_loop()
        for number in self.stopped_by:
            loop.add_signal_handler(number, self.handle_exit, number, None)
        yield


def configuration(settings: Settings, application: ModelServer) -> uvicorn.Config:
    """How uvicorn runs `application`. Raises SettingsError when TLS is set up and cannot be."""
    return uvicorn.Config(
        application,
        http=PredictionConnection,
        loop="uvloop" if sys.platform != "win32" else "asyncio",
        ws="none",
        lifespan="on",
        access_log=False,
        log_config=None,
        server_header=False,
        proxy_headers=False,  # nothing here believes a client about its address, and it costs every request
        backlog=_BACKLOG,
        timeout_keep_alive=_KEEP_ALIVE_S,
        timeout_graceful_shutdown=GRACE_S,
        **uvicorn_tls(settings),
    )


def listen(settings: Settings) -> socket.socket:
    """The socket that clients connect to; its address is logged. Raises SettingsError."""
    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    try:
        listener = socket.create_server((settings.host, settings.port), family=family, backlog=_BACKLOG)
    except OSError as error:
        raise SettingsError(
            f"{settings.host}:{settings.port} cannot be listened on ({error.strerror}): "
            f"stop what holds it, or set {PREFIX}PORT to another port"
        ) from error
    host, port = listener.getsockname()[:2]
    logging.getLogger("serving").info(
        "the model server of %s listens on %s://%s:%d, its API page is /docs",
        settings.project,
        "https" if settings.tls_certificate else "http",
        host,
        port,
    )
    return listener
