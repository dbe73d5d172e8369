"""One worker: the model server of one process, which takes its share of the connections and follows the supervisor."""

import asyncio
import contextlib
import logging
import os
import signal
import socket
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

from serving.app import Member, ModelServer
from serving.champion_file import Remembered
from serving.connection import PredictionConnection
from serving.engine import Model
from serving.garbage import settle
from serving.process import GRACE_S, Server, configuration
from serving.settings import Settings
from serving.workers.acceptor import Acceptor
from serving.workers.board import Board
from serving.workers.link import Link, SupervisorGoneError
from serving.workers.shared_slots import SharedSlots

ORPHAN_S = GRACE_S + 15.0  # for the graceful stop and the log; then an orphan ends, whatever it does
logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Place:
    """What a worker is given by the supervisor: its number, its end of the socket pair, and what all share.

    `lifeline` is the reading end of a pipe whose other end only the supervisor has.
    """

    number: int
    server: str
    connection: socket.socket
    lifeline: int
    listener: socket.socket
    board: Board
    models: dict[Remembered, Model]


class _CountedConnection(PredictionConnection):
    """A connection that tells the acceptor when it is gone."""

    def __init__(self, acceptor: list[Acceptor], **more: Any) -> None:
        super().__init__(**more)
        self._acceptor = acceptor[0]

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """A client has come, perhaps while the server was told to stop."""
        super().connection_made(transport)
        if self._acceptor.is_closed:
            self.shutdown()

    def connection_lost(self, exc: Exception | None) -> None:
        """The client is gone."""
        super().connection_lost(exc)
        self._acceptor.ended()


class _WorkerServer(Server):
    """The server, but for how it begins: it joins the others first, and shares their queue of connections."""

    stopped_by = (signal.SIGTERM,)

    def __init__(self, application: ModelServer, settings: Settings, place: Place, link: Link) -> None:
        super().__init__(configuration(settings, application))
        self._place = place
        self._link = link

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Listens once it is in the state that the others are in."""
        await self._link.join(self._place.connection)
        await super().startup([])  # no sockets: the acceptor has them
        made: list[Acceptor] = []
        acceptor = Acceptor(
            self._place.listener,
            partial(
                _CountedConnection,
                acceptor=made,
                config=self.config,
                server_state=self.server_state,
                app_state=self.lifespan.state,
            ),
            tls=self.config.ssl,
            board=self._place.board,
            worker=self._place.number,
        )
        made.append(acceptor)
        self.servers.append(acceptor)  # type: ignore[arg-type]  # has what uvicorn asks of one
        acceptor.open()
        self._link.opened()

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """SIGTERM has been held back since the fork."""
        with super().capture_signals():
            signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM})
            yield

    def settle(self) -> None:
        """What came from the supervisor stays shared with it: it is frozen already."""
        settle(keep_frozen=True)


def run_worker(settings: Settings, place: Place) -> int:
    """Runs in the forked process until SIGTERM, or until the supervisor is gone; the exit status."""
    threading.Thread(target=_end_with, args=(place.lifeline,), name="lifeline", daemon=True).start()
    slots = SharedSlots(server=place.server, board=place.board, worker=place.number)
    link = Link(
        project=settings.project,
        execution=settings.execution,
        trusted=settings.trusted_keys,
        slots=slots,
        models=dict(place.models),
        on_gone=lambda: server.stop(),
    )
    member = Member(slots, commands=link, exposition=link.exposition, not_ready=lambda: link.not_ready)
    application = ModelServer(settings, member)
    link.collect = application.metrics.gather
    server = _WorkerServer(application, settings, place, link)
    try:
        server.run(sockets=[])
    except SupervisorGoneError as error:
        logger.error("worker %d ends: %s", place.number, error)
        return 1
    return 0 if server.started else 1


def _end_with(lifeline: int) -> None:
    """Ends a worker without a supervisor that does not end by itself, since its event loop hangs."""
    while True:
        try:
            if not os.read(lifeline, 1):
                break
        except InterruptedError:
            continue
    threading.Event().wait(ORPHAN_S)
    os._exit(1)
