"""The process that holds the port: it forks the workers, starts again those that end, and stops them all.

It has one thread and no event loop, so that it can fork at any time. A worker ends when it does: at the other end of
its socket pair nobody is left then, whatever became of the supervisor.
"""

import gc
import logging
import os
import secrets
import selectors
import signal
import socket
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from contracts.bundle import BundleError, read_bundle
from contracts.providers import CPU, name_of, provider_name
from serving.app import ModelServer
from serving.champion_file import Remembered, State, StateError, first_state, write_state
from serving.engine import Model, ModelRefusedError, load_model
from serving.flags import write_flags
from serving.held import Held
from serving.process import GRACE_S, configuration, listen
from serving.settings import PREFIX, Settings, SettingsError
from serving.slots import adopt_remembered_flags
from serving.workers.board import ABSENT, Board
from serving.workers.hub import Hub
from serving.workers.messages import Frames, ToWorker, decode_from_worker, framed
from serving.workers.shared_slots import SharedSlots, named
from serving.workers.worker import Place, run_worker

TICK_S = 0.2
STOP_S = GRACE_S + 15.0  # for a worker's graceful stop and its log
BACK_OFF_S = (0.0, 0.1, 0.3, 1.0, 3.0, 10.0)  # before the next start of a worker that has just ended again
STEADY_S = 30.0  # a worker that has lived this long has not "just" ended
_READ_BYTES = 1 << 16
logger = logging.getLogger(__name__)


@dataclass(eq=False)
class _Worker:
    """One place among the workers, and the process that is in it."""

    number: int
    pid: int = 0
    connection: socket.socket | None = None
    frames: Frames = field(default_factory=Frames)
    unsent: bytearray = field(default_factory=bytearray)
    started_s: float = 0.0
    failures: int = 0
    start_at_s: float | None = 0.0


def supervise(settings: Settings) -> int:
    """Serves by `settings.workers` processes until SIGTERM or SIGINT; the exit status.

    Raises:
        SettingsError: what is set cannot be used.
    """
    if not hasattr(os, "fork") or not hasattr(os, "memfd_create"):
        raise SettingsError(f"{PREFIX}WORKERS is {settings.workers}, which needs Linux; one process runs anywhere")
    _check(settings)
    with listen(settings) as listener:
        return _Supervisor(settings, listener).run()


class _Supervisor:
    """What the hub asks for, done to processes and sockets."""

    def __init__(self, settings: Settings, listener: socket.socket) -> None:
        self._settings = settings
        self._listener = listener
        self._selector = selectors.DefaultSelector()
        self._workers = [_Worker(number) for number in range(settings.workers)]
        self._board = Board(settings.workers)
        remembered = _remembered(settings)
        self._models = _shared_models(settings, remembered)
        self._server = secrets.token_hex(6)
        slots = SharedSlots(server=self._server, board=self._board, worker=None, remembered=remembered)
        if remembered is not None:
            slots.install_champion(named(remembered.champion))
            if (holdout := remembered.holdout) is not None:
                slots.holdout = Held.begin(named(holdout.model), holdout.rollout, holdout.share)
        adopt_remembered_flags(slots, settings.state)
        self._hub = Hub(
            slots=slots,
            remember=partial(write_state, settings.state),
            remember_flags=partial(write_flags, settings.state),
            crew=self,
        )
        self._lifeline, self._life = os.pipe()
        self._wake, wake = socket.socketpair()
        self._wake_end = wake
        self._signals: set[int] = set()
        self._stop_by_s: float | None = None
        self._has_served = False
        self._status = 0

    def run(self) -> int:
        """Until all workers have ended."""
        gc.collect()
        gc.freeze()  # what the workers get stays as it is, so that it stays shared
        for end in (self._wake, self._wake_end):
            end.setblocking(False)
        before = signal.set_wakeup_fd(self._wake_end.fileno(), warn_on_full_buffer=False)
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGCHLD):
            signal.signal(number, self._on_signal)
        self._selector.register(self._wake, selectors.EVENT_READ, self._drain)
        try:
            while self._go_on():
                for key, _ in self._selector.select(TICK_S):
                    key.data()
                self._reap()
                self._hub.tick()
        finally:
            signal.set_wakeup_fd(before)
        logger.info("all workers have ended")
        return self._status

    def _go_on(self) -> bool:
        """Stops, starts and ends what is due; whether there is anything left to wait for."""
        now_s = time.monotonic()
        self._has_served = self._has_served or self._hub.serving > 0
        if self._signals & {signal.SIGTERM, signal.SIGINT} and self._stop_by_s is None:
            self._stop()
        if self._stop_by_s is not None:
            if now_s >= self._stop_by_s:
                for worker in self._workers:
                    if worker.pid:
                        logger.error("worker %d does not stop: it is killed", worker.number)
                        os.kill(worker.pid, signal.SIGKILL)
                self._stop_by_s = now_s + STOP_S
            return any(worker.pid for worker in self._workers)
        for worker in self._workers:
            if not worker.pid and worker.start_at_s is not None and now_s >= worker.start_at_s:
                self._start(worker)
        return True

    def _stop(self) -> None:
        logger.info("stopping %d workers", sum(1 for worker in self._workers if worker.pid))
        self._stop_by_s = time.monotonic() + STOP_S
        self._listener.close()
        for worker in self._workers:
            if worker.pid:
                os.kill(worker.pid, signal.SIGTERM)

    # -- what the hub asks for -------------------------------------------------------------------------------------

    def send(self, worker: int, message: ToWorker) -> None:
        """Sends what the socket takes now, and the rest when it takes more."""
        found = self._workers[worker]
        if found.connection is None:
            return
        found.unsent += framed(message)
        self._flush(found)

    def end(self, worker: int, reason: str) -> None:
        """Kills a worker that does not do what all have to do; it is started again."""
        found = self._workers[worker]
        logger.error("worker %d is killed: %s", worker, reason)
        if found.pid:
            os.kill(found.pid, signal.SIGKILL)
            self._left(found, os.waitpid(found.pid, 0)[1])

    # -- processes -------------------------------------------------------------------------------------------------

    def _start(self, worker: _Worker) -> None:
        ours, theirs = socket.socketpair()
        worker.started_s = time.monotonic()
        # a worker that is told to stop before it can listen to that hears it later, and not with this process's ears
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
        pid = os.fork()
        if pid == 0:
            ours.close()
            self._become(worker, theirs)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM})
        theirs.close()
        ours.setblocking(False)
        worker.pid, worker.connection, worker.start_at_s = pid, ours, None
        worker.frames, worker.unsent = Frames(), bytearray()
        self._selector.register(ours, selectors.EVENT_READ, partial(self._read, worker, ours))
        logger.info("worker %d is process %d", worker.number, pid)
        self._hub.join(worker.number)

    def _become(self, worker: _Worker, connection: socket.socket) -> None:
        """Runs the worker in the forked process, and never returns: nothing of the supervisor goes on in it."""
        status = 1
        try:
            signal.set_wakeup_fd(-1)
            for number in (signal.SIGTERM, signal.SIGCHLD):
                signal.signal(number, signal.SIG_DFL)
            signal.signal(signal.SIGINT, signal.SIG_IGN)  # of a terminal, for all: the supervisor passes it on
            # ends of other workers' pairs that stayed open here would keep those from noticing the supervisor's end
            self._selector.close()
            os.close(self._life)
            for end in (self._wake, self._wake_end, *(other.connection for other in self._workers)):
                if end is not None:
                    end.close()
            place = Place(
                number=worker.number,
                server=self._server,
                connection=connection,
                lifeline=self._lifeline,
                listener=self._listener,
                board=self._board,
                models=self._models,
            )
            status = run_worker(self._settings, place)
        except SystemExit as ended:  # how uvicorn says that the application did not start
            status = ended.code if isinstance(ended.code, int) else 1
        except BaseException:
            logger.exception("worker %d has failed", worker.number)
        finally:
            logging.shutdown()
            os._exit(status)

    def _reap(self) -> None:
        for worker in self._workers:
            if worker.pid:
                pid, status = os.waitpid(worker.pid, os.WNOHANG)
                if pid:
                    self._left(worker, status)

    def _left(self, worker: _Worker, wait_status: int) -> None:
        """The process of `worker` has ended: it is replaced, unless all are to end."""
        status = os.waitstatus_to_exitcode(wait_status)
        if worker.connection is not None:
            self._read(worker, worker.connection)  # what it said last
        self._forget(worker)
        worker.pid = 0
        self._board.set_connections(worker.number, ABSENT)
        self._has_served = self._has_served or self._hub.serving > 0
        is_stopping = self._stop_by_s is not None
        crash = None if is_stopping or status == 0 else _end_of(status)
        self._hub.leave(worker.number, is_replaced=not is_stopping, crash=crash)
        if is_stopping:
            self._status = self._status or (1 if status else 0)
        elif not self._has_served:
            logger.error("worker %d has ended with %d before any could serve: the server ends", worker.number, status)
            self._status = 1
            self._stop()
        else:
            now_s = time.monotonic()
            worker.failures = 0 if now_s - worker.started_s >= STEADY_S else worker.failures + 1
            wait_s = BACK_OFF_S[min(worker.failures, len(BACK_OFF_S) - 1)]
            worker.start_at_s = now_s + wait_s
            logger.error("worker %d has ended with %d; the next starts in %g s", worker.number, status, wait_s)

    def _on_signal(self, number: int, _: object) -> None:
        self._signals.add(number)

    def _drain(self) -> None:
        try:
            while self._wake.recv(_READ_BYTES):
                pass
        except BlockingIOError:
            return

    # -- sockets ---------------------------------------------------------------------------------------------------

    def _read(self, worker: _Worker, connection: socket.socket) -> None:
        """What a worker says; one that says nonsense is ended."""
        while worker.connection is connection:
            try:
                data = connection.recv(_READ_BYTES)
            except BlockingIOError:
                return
            except OSError:
                data = b""
            if not data:
                self._forget(worker)
                return
            try:
                messages = [decode_from_worker(body) for body in worker.frames.feed(data)]
            except ValueError as error:
                self._forget(worker)
                logger.error("worker %d is killed: it said what nobody understands: %s", worker.number, error)
                os.kill(worker.pid, signal.SIGKILL)
                return
            for message in messages:
                self._hub.receive(worker.number, message)

    def _flush(self, worker: _Worker) -> None:
        connection = worker.connection
        if connection is None:
            return
        try:
            while worker.unsent:
                del worker.unsent[: connection.send(worker.unsent)]
        except BlockingIOError:
            pass
        except OSError:  # it is about to be reaped
            worker.unsent.clear()
        self._watch(worker, connection)

    def _watch(self, worker: _Worker, connection: socket.socket) -> None:
        events = selectors.EVENT_READ | (selectors.EVENT_WRITE if worker.unsent else 0)
        if self._selector.get_key(connection).events != events:
            act: Callable[[], None] = partial(self._act, worker, connection)
            self._selector.modify(connection, events, act)

    def _act(self, worker: _Worker, connection: socket.socket) -> None:
        self._read(worker, connection)
        if worker.connection is connection:
            self._flush(worker)

    def _forget(self, worker: _Worker) -> None:
        if worker.connection is not None:
            self._selector.unregister(worker.connection)
            worker.connection.close()
            worker.connection = None


def _end_of(status: int) -> str:
    """How a process has ended, by its exit code; that of a signal is negative."""
    return signal.Signals(-status).name if status < 0 else f"exit status {status}"


def _check(settings: Settings) -> None:
    """Finds what a worker would refuse to start with, and makes a mask key once for all.

    In a process of its own: a server may begin threads as soon as it is made, and this one must have none to fork.

    Raises:
        SettingsError: the worker's word.
    """
    reading, writing = os.pipe()
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            configuration(settings, ModelServer(settings))
            status = 0
        except SettingsError as error:
            os.write(writing, str(error).encode())
        except BaseException:
            logger.exception("a worker cannot be made")
        finally:
            logging.shutdown()
            os._exit(status)
    os.close(writing)
    with os.fdopen(reading, "rb") as pipe:
        text = pipe.read().decode()
    _, wait_status = os.waitpid(pid, 0)
    if os.waitstatus_to_exitcode(wait_status) != 0:
        raise SettingsError(text or "a worker cannot be made by these settings; the lines above say why")


def _remembered(settings: Settings) -> State | None:
    try:
        return first_state(settings)
    except StateError as error:
        logger.error("%s", error)
        return None


def _shared_models(settings: Settings, remembered: State | None) -> dict[Remembered, Model]:
    """Champion and holdout, loaded before the fork so that all workers share their memory."""
    if remembered is None:
        return {}
    names = [remembered.champion, *([remembered.holdout.model] if remembered.holdout else [])]
    return {name: model for name in names if (model := _shared_model(settings, name)) is not None}


def _shared_model(settings: Settings, name: Remembered) -> Model | None:
    """A model that a fork may share, since its session has no threads.

    A session with threads of its own, or on a GPU, does not survive a fork: each worker loads it then, and each says
    itself why a bundle cannot be loaded.
    """
    path = Path(name.path)
    try:
        profile = read_bundle(path, name.bundle).manifest.serving
        providers = {provider_name(name_of(each)) for each in settings.execution.providers_for(profile)}
        if profile.intra_op_threads != 1 or providers != {CPU}:
            return None
        return load_model(path, name.bundle, name.version, settings.project, settings.execution, settings.trusted_keys)
    except (BundleError, ModelRefusedError, OSError, ValueError) as error:
        logger.warning("version %s is loaded by each worker: %s", name.version, error)
        return None
