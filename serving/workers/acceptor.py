"""How a worker takes its share of the connections: all workers wait at one queue, and whoever has fewest goes first.

One queue, since nothing in it is lost with a worker that ends. Left to themselves whole bursts went to one worker, up
to all of 64 connections, and with a listening socket for each worker (`SO_REUSEPORT`) the kernel deals by chance: 12 to
4 of 16. So a worker that is more than `LEAD` connections ahead of another lets that one go first; for `YIELD_S`, then
it takes the connection itself, since the other one may be busy. Without a lead, clients with a new connection for each
request got a third of the throughput; with 0.5 ms bursts were as uneven as without an order.
"""

import asyncio
import logging
import socket
import ssl
from collections.abc import Callable

from serving.workers.board import ABSENT, Board

LEAD = 2
YIELD_S = 0.002
MAXIMUM_LAST = 1024  # connections that are taken at the end
PAUSE_S = 0.1  # after an error of `accept`: no file handle is free, most likely
logger = logging.getLogger(__name__)


class Acceptor:
    """Has what uvicorn asks of a server: `close` and `wait_closed`."""

    def __init__(
        self,
        listener: socket.socket,
        make: Callable[[], asyncio.Protocol],
        *,
        tls: ssl.SSLContext | None,
        board: Board,
        worker: int,
    ) -> None:
        self._listener = listener
        self._make = make
        self._tls = tls
        self._board = board
        self._worker = worker
        self._connections = 0
        self._loop = asyncio.get_running_loop()
        self._later: asyncio.TimerHandle | None = None
        self.is_closed = False
        self._starting: set[asyncio.Task[None]] = set()

    def open(self) -> None:
        """From now on this worker takes connections."""
        self._listener.setblocking(False)
        self._board.set_connections(self._worker, 0)
        self._loop.add_reader(self._listener, self._look)

    def close(self) -> None:
        """Takes what has come already, which would be lost with the queue, and no more."""
        if self.is_closed:
            return
        for _ in range(MAXIMUM_LAST):
            if not self._accept():
                break
        self.is_closed = True
        if self._later is not None:
            self._later.cancel()
        self._loop.remove_reader(self._listener)
        self._board.set_connections(self._worker, ABSENT)
        self._listener.close()

    async def wait_closed(self) -> None:
        """Returns when the connections that were just taken are the server's."""
        await asyncio.gather(*self._starting, return_exceptions=True)

    def ended(self) -> None:
        """A connection of this worker is gone."""
        self._count(-1)

    def _count(self, more: int) -> None:
        self._connections += more
        if not self.is_closed:
            self._board.set_connections(self._worker, self._connections)

    def _look(self) -> None:
        """A connection waits: is it ours?"""
        if self._connections > self._board.least_connections() + LEAD:
            self._wait(YIELD_S)
        else:
            self._accept()

    def _wait(self, seconds: float) -> None:
        self._loop.remove_reader(self._listener)
        self._later = self._loop.call_later(seconds, self._look_again)

    def _look_again(self) -> None:
        self._loop.add_reader(self._listener, self._look)
        self._accept()

    def _accept(self) -> bool:
        """Takes a connection; whether there was one."""
        try:
            connection, _ = self._listener.accept()
        except (BlockingIOError, InterruptedError, ConnectionAbortedError):
            return False  # another worker was faster, or the client has gone
        except OSError:
            logger.exception("no connection can be taken; the next look is in %g s", PAUSE_S)
            self._wait(PAUSE_S)
            return False
        connection.setblocking(False)
        self._count(1)
        task = self._loop.create_task(self._start(connection))
        self._starting.add(task)
        task.add_done_callback(self._starting.discard)
        return True

    async def _start(self, connection: socket.socket) -> None:
        try:
            await self._loop.connect_accepted_socket(self._make, connection, ssl=self._tls)
        except OSError as error:  # a client that fails at TLS, or is gone: it never was a connection of the server
            logger.debug("a connection was not made: %s", error)
            connection.close()
            self._count(-1)
