"""`python -m serving`: one model server on one port, until SIGTERM or SIGINT."""

import asyncio
import contextlib
import logging
import os
import signal
import socket
import sys
from collections.abc import Iterator

import uvicorn

from serving.access.tls import uvicorn_tls
from serving.app import ModelServer
from serving.garbage import settle
from serving.http import PredictionConnection
from serving.settings import PREFIX, Settings, SettingsError, read_settings

GRACE_S = 10
_BACKLOG = 2048
_KEEP_ALIVE_S = 30


class _Server(uvicorn.Server):
    """uvicorn's server, which ends with exit status 0 after a signal; uvicorn itself would raise the signal again."""

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """The champion is loaded when this is over: the process has what it will keep."""
        await super().startup(sockets)
        settle()

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """SIGTERM and SIGINT stop accepting, let requests finish, and flush the log."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self.handle_exit, number, None)
        yield


def main() -> int:
    """Runs the server; returns the exit status."""
    logging.basicConfig(level=logging.INFO, stream=sys.stderr, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    try:
        settings = read_settings(os.environ)
        application = ModelServer(settings)
        tls = uvicorn_tls(settings)
        listener = _listen(settings)
    except SettingsError as error:
        print(error, file=sys.stderr)  # noqa: T201  the one line that a person at the command line needs
        return 2
    config = uvicorn.Config(
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
        **tls,
    )
    server = _Server(config)
    host, port = listener.getsockname()[:2]
    logging.getLogger("serving").info(
        "the model server of %s listens on %s://%s:%d, its API page is /docs",
        settings.project,
        "https" if tls else "http",
        host,
        port,
    )
    server.run(sockets=[listener])
    return 0 if server.started else 1


def _listen(settings: Settings) -> socket.socket:
    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    try:
        return socket.create_server((settings.host, settings.port), family=family, backlog=_BACKLOG)
    except OSError as error:
        raise SettingsError(
            f"{settings.host}:{settings.port} cannot be listened on ({error.strerror}): "
            f"stop what holds it, or set {PREFIX}PORT to another port"
        ) from error


if __name__ == "__main__":
    sys.exit(main())
