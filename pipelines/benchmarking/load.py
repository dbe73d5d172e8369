"""The load: requests go out when they are due, however late the answers before them are (open loop).

Latency counts from the moment a request was due. A server that stalls for half a second so shows that half second in
all requests that were due meanwhile, as their clients would have felt it (coordinated omission, corrected).
"""

import asyncio
import contextlib
import gc
import time
from array import array
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from pipelines.benchmarking.alarm import Alarm
from pipelines.benchmarking.connections import Connection, Target, connect
from pipelines.benchmarking.recording import Label, Recording

MAXIMUM_CONNECTIONS = 1024
IDLE_S_MAX = 15.0  # servers close idle connections (ours after 30 s), perhaps just when a request is on its way
SWEEP_EVERY_S = 0.05
PROGRESS_EVERY_S = 0.5
STOP_WAIT_S = 2.0
_FIRST_CONNECTIONS = 4
NOT_SENT = "not sent: all connections were waiting for answers"
TIMED_OUT = "no answer in time"
Classify = Callable[[bytes], tuple[str, str]]


class Progress(NamedTuple):
    """Counts so far."""

    seconds: float
    sent: int
    answered: int
    failed: int
    waiting: int
    latency_ms_p99: float


class LoadResult(NamedTuple):
    """A recording, and what it took; seconds are of the wall, `cpu_s` of this process."""

    recording: Recording
    sent: int
    seconds: float
    cpu_s: float
    was_stopped: bool


class Load:
    """One run of load on one server. Use it once."""

    def __init__(
        self,
        target: Target,
        requests: Sequence[bytes],
        *,
        connections: int = 64,
        timeout_s: float = 5.0,
        queues: bool = True,
        classify: Classify | None = None,
        stop: asyncio.Event | None = None,
        on_progress: Callable[[Progress], None] | None = None,
    ) -> None:
        """A load of `requests` on `target`.

        Args:
            requests: whole HTTP requests, sent in turns.
            connections: the most that are open, so the most requests on their way; further ones wait their turn.
            timeout_s: how long a client waits, from when its request was due.
            queues: whether a request that is due while no connection is free waits for one. Without, it is given up at
                once, so that what a server in overload gets is fresh, as from clients that are many.
            classify: the slot and the model version in the body of an answer with status 200.
            stop: ends the run early, with what is there.
        """
        if not 1 <= connections <= MAXIMUM_CONNECTIONS:
            raise ValueError(f"found {connections} connections, expected 1 to {MAXIMUM_CONNECTIONS}")
        if not timeout_s > 0:
            raise ValueError(f"found a timeout of {timeout_s:g} s, expected one above 0")
        self._target = target
        self._requests = requests
        self._limit = connections
        self._timeout_s = timeout_s
        self._queues = queues
        self._classify = classify
        self._stop = stop or asyncio.Event()
        self._on_progress = on_progress
        self.recording = Recording()
        self._labels: dict[tuple[str, str], Label] = {}
        self._open: set[Connection] = set()
        self._idle: list[Connection] = []
        self._opening: set[asyncio.Task[None]] = set()
        self._waiting: deque[float] = deque()
        self._due = array("d")
        self._next = self._sent = self._answered = 0
        self._start_s = 0.0
        self._closed_until_s = 0.0
        self._ended = asyncio.Event()

    @property
    def started_s(self) -> float:
        """The moment of `time.monotonic` that the recording's times count from; 0.0 before."""
        return self._start_s

    async def open_loop(self, due_s: NDArray[np.float64]) -> LoadResult:
        """Sends one request at each of `due_s`, in seconds after the start; ends when all have ended."""
        return await self._run(array("d", due_s.tolist()))

    async def closed_loop(self, seconds: float) -> LoadResult:
        """Each connection sends its next request when it has its answer: what the server can do, not how it feels."""
        self._closed_until_s = seconds
        return await self._run(array("d", [0.0] * self._limit))

    async def _run(self, due_s: "array[float]") -> LoadResult:
        self._due = due_s
        self._alarm = Alarm(self._look)
        try:
            with _quiet_collector():
                await self._open_first(self._limit if self._closed_until_s else min(self._limit, _FIRST_CONNECTIONS))
                cpu_s, self._start_s = time.process_time(), time.monotonic()
                self._look()
                watch = asyncio.get_running_loop().create_task(self._watch())
                ended = asyncio.get_running_loop().create_task(self._ended.wait())
                done, _ = await asyncio.wait((watch, ended), return_when=asyncio.FIRST_COMPLETED)
                seconds, cpu_s = time.monotonic() - self._start_s, time.process_time() - cpu_s
                watch.cancel()
                ended.cancel()
                if watch in done:
                    watch.result()  # it only ends by an error
        finally:
            self._alarm.close()
            await self._close()
        return LoadResult(self.recording, self._sent, seconds, cpu_s, self._stop.is_set())

    async def _open_first(self, count: int) -> None:
        """Opens the first connections before the clock runs. Raises OSError when nobody listens."""
        for _ in range(count):
            connection = await connect(self._target, self)
            connection.sent_s = time.monotonic()
            self._open.add(connection)
            self._idle.append(connection)

    def _look(self) -> None:
        """Sends what is due, and sets the alarm for the next."""
        now_s = time.monotonic() - self._start_s
        due, position = self._due, self._next
        if position < len(due) and not self._waiting:
            self.recording.late(max(0.0, now_s - due[position]))
        while position < len(due) and due[position] <= now_s:
            self._dispatch(due[position])
            position += 1
        self._next = position
        if position < len(due):
            self._alarm.set(self._start_s + due[position])
        else:
            self._end_when_idle()

    def _dispatch(self, due_s: float) -> None:
        while self._idle:
            connection = self._idle.pop()
            if connection.is_usable and time.monotonic() - connection.sent_s < IDLE_S_MAX:
                self._send(connection, due_s)
                return
            connection.abort("it was idle for too long")
        is_below_limit = len(self._open) + len(self._opening) < self._limit
        if not is_below_limit and not self._queues:
            self._fail(due_s, Label(0, error=NOT_SENT, given_up=True))
            return
        self._waiting.append(due_s)
        if is_below_limit:
            task = asyncio.get_running_loop().create_task(self._connect())
            self._opening.add(task)
            task.add_done_callback(self._opening.discard)

    def _send(self, connection: Connection, due_s: float) -> None:
        connection.due_s = due_s
        connection.sent_s = time.monotonic()
        connection.send(self._requests[self._sent % len(self._requests)])
        self._sent += 1

    async def _connect(self) -> None:
        try:
            connection = await asyncio.wait_for(connect(self._target, self), self._timeout_s)
        except OSError as error:  # also that it took too long
            if self._waiting:  # one request fails with the connection that was opened for it
                self._fail(self._waiting.popleft(), Label(0, error=f"cannot connect: {_told(error)}"))
            self._end_when_idle()
            return
        connection.sent_s = time.monotonic()
        self._open.add(connection)
        self._go_on(connection)

    def answered(self, connection: Connection, status: int, body: bytes) -> None:
        """From a connection."""
        now_s = time.monotonic() - self._start_s
        example = ""
        if status == 200:
            key = self._classify(body) if self._classify is not None else ("", "")
            label = self._labels.get(key)
            if label is None:
                label = self._labels[key] = Label(200, *key)
            self._answered += 1
        else:
            label = Label(status, error="" if 200 <= status < 300 else f"HTTP {status}")
            example = body[:1000].decode("utf-8", "replace")
        self.recording.add(connection.due_s, now_s - connection.due_s, label, example)
        self._go_on(connection)

    def lost(self, connection: Connection, reason: str) -> None:
        """From a connection."""
        self._open.discard(connection)
        with contextlib.suppress(ValueError):
            self._idle.remove(connection)
        if connection.is_busy:
            self._fail(connection.due_s, Label(0, error=reason, given_up=reason == TIMED_OUT))
        if self._waiting and not self._ended.is_set():
            self._dispatch(self._waiting.popleft())
        elif self._closed_until_s and time.monotonic() - self._start_s < self._closed_until_s:
            self._dispatch(time.monotonic() - self._start_s)
        self._end_when_idle()

    def _go_on(self, connection: Connection) -> None:
        """The connection is free: what waits longest goes next."""
        if not connection.is_usable:
            return
        if self._waiting:
            self._send(connection, self._waiting.popleft())
            return
        if self._closed_until_s and not self._stop.is_set():
            now_s = time.monotonic() - self._start_s
            if now_s < self._closed_until_s:
                self._send(connection, now_s)
                return
        self._idle.append(connection)
        self._end_when_idle()

    def _fail(self, due_s: float, label: Label) -> None:
        self.recording.add(due_s, time.monotonic() - self._start_s - due_s, label)

    def _end_when_idle(self) -> None:
        if self._next < len(self._due) or self._waiting or self._opening:
            return
        if not any(connection.is_busy for connection in self._open):
            self._ended.set()

    async def _watch(self) -> None:
        """Gives up what waits too long, tells the progress, and heeds a wish to stop."""
        told_s = stopped_s = 0.0
        while True:
            await asyncio.sleep(SWEEP_EVERY_S)
            now_s = time.monotonic() - self._start_s
            if self._stop.is_set() and not stopped_s:
                stopped_s = now_s
                del self._due[self._next :]
                self._waiting.clear()  # they are asked for no more, neither answered nor failed
            limit_s = now_s - self._timeout_s
            while self._waiting and self._waiting[0] < limit_s:
                self._fail(self._waiting.popleft(), Label(0, error=NOT_SENT, given_up=True))
            patience_is_over = bool(stopped_s) and now_s - stopped_s > STOP_WAIT_S
            for connection in [each for each in self._open if each.is_busy]:
                if connection.due_s < limit_s or patience_is_over:
                    connection.abort(TIMED_OUT)
            self._end_when_idle()
            if self._on_progress is not None and now_s - told_s >= PROGRESS_EVERY_S:
                told_s = now_s
                self._on_progress(self._progress(now_s))

    def _progress(self, now_s: float) -> Progress:
        newest = self.recording.newest_latency_s(2000)
        return Progress(
            seconds=now_s,
            sent=self._sent,
            answered=self._answered,
            failed=len(self.recording) - self._answered,
            waiting=len(self._waiting),
            latency_ms_p99=float(np.percentile(newest, 99)) * 1e3 if len(newest) else 0.0,
        )

    async def _close(self) -> None:
        for task in self._opening:
            task.cancel()
        await asyncio.gather(*self._opening, return_exceptions=True)
        for connection in list(self._open):
            connection.is_busy = False
            connection.abort("the run is over")
        await asyncio.sleep(0)


def _told(error: OSError) -> str:
    return "it took too long" if isinstance(error, TimeoutError) else (error.strerror or str(error))


@contextlib.contextmanager
def _quiet_collector() -> Iterator[None]:
    """No garbage collection while latencies are taken: what a run keeps is in arrays."""
    was_enabled = gc.isenabled()
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()
