"""The memory that all workers share: what has to be seen at once, by everybody, also when nobody answers messages.

An anonymous mapping made before the workers are forked. Every number has one writer, a worker its own, and is an
aligned word, so that it is read whole. Only the trip and the lease are written by whoever comes first, under a file
lock, which the kernel takes from a process that dies.

Epochs number the times that a challenger was put into its place; what belongs to another epoch does not count. Of
several challengers each has a seat, and so a part of the memory that is as all of it would be for one.
"""

import fcntl
import mmap
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

import msgspec
import numpy as np

from contracts.slots import MAXIMUM_CHALLENGERS, MAXIMUM_HARD_LIMIT_WINDOW, Tripped

ABSENT = 1 << 40  # connections of a worker that takes none
_WORD = 8
_TRIP_BYTES = 4096
_TRIP_EPOCH, _TRIP_LENGTH, _LEASE_ENDS, _HEAD_WORDS = 0, 1, 2, 8
_CONNECTIONS, _EPOCH, _REQUESTS, _ERRORS, _FIRST_AT, _FIRST_S, _WORKER_WORDS = 0, 1, 2, 3, 4, 5, 8
_LOCK_TRIES = 100
_LOCK_PAUSE_S = 0.0001


class FirstError(NamedTuple):
    """The first error of the epoch: when, and as which of the challenger's requests."""

    at_s: float
    position: int


class Board:
    """Made by the supervisor for `workers` processes, before it forks them. It is that of the first of its `seats`."""

    def __init__(self, workers: int, seats: int = MAXIMUM_CHALLENGERS) -> None:
        self._further = tuple(Board(workers, 1) for _ in range(seats - 1))
        self.workers = workers
        ring_words = workers * MAXIMUM_HARD_LIMIT_WINDOW
        words = _HEAD_WORDS + workers * _WORKER_WORDS
        self._memory = mmap.mmap(-1, (words + 2 * ring_words) * _WORD + _TRIP_BYTES)
        numbers = memoryview(self._memory)[: words * _WORD]
        self._q, self._d = numbers.cast("q"), numbers.cast("d")
        self._rings = np.frombuffer(self._memory, np.int64, ring_words, words * _WORD).reshape(workers, -1)
        ring_end = (words + ring_words) * _WORD
        self._failed = np.frombuffer(self._memory, np.uint64, ring_words, ring_end).reshape(workers, -1)
        self._text = memoryview(self._memory)[-_TRIP_BYTES:]
        self._lock = os.memfd_create("paceline-workers")
        for worker in range(workers):
            self._q[_base(worker) + _CONNECTIONS] = ABSENT

    def at(self, seat: int) -> "Board":
        """What is about the challenger of `seat`, from 0."""
        return self._further[seat - 1] if seat else self

    # -- connections -----------------------------------------------------------------------------------------------

    def set_connections(self, worker: int, connections: int) -> None:
        """How many connections `worker` has now; ABSENT when it takes none."""
        self._q[_base(worker) + _CONNECTIONS] = connections

    def least_connections(self) -> int:
        """The number of connections of the worker that has fewest."""
        return min(self._q[_base(worker) + _CONNECTIONS] for worker in range(self.workers))

    # -- the challenger's requests ---------------------------------------------------------------------------------

    def begin(self, worker: int, epoch: int) -> None:
        """`worker` holds the challenger of `epoch`; one that took a dead one's place goes on with its numbers."""
        base = _base(worker)
        if self._q[base + _EPOCH] != epoch:
            self._q[base + _EPOCH] = 0
            for word in (_REQUESTS, _ERRORS, _FIRST_AT):
                self._q[base + word] = 0
            self._d[base + _FIRST_S] = 0.0
            self._q[base + _EPOCH] = epoch

    def count_request(self, worker: int) -> None:
        """One more request that the challenger was asked in `worker`."""
        self._q[_base(worker) + _REQUESTS] += 1

    def count_error(self, worker: int, epoch: int, window: int, now_s: float, entity: int) -> int:
        """One more request of `entity` that failed; for how many entities all workers' last `window` requests did.

        It is `window` when each of them failed.

        An error keeps its position in the sum of all workers' requests, so the window is that of one process, but for
        requests that other workers count in the same instant: at most one for each of them.
        """
        base = _base(worker)
        position = self.requests(epoch)
        if not self._q[base + _FIRST_AT]:
            self._q[base + _FIRST_AT], self._d[base + _FIRST_S] = position, now_s
        errors = self._q[base + _ERRORS]
        self._rings[worker, errors % MAXIMUM_HARD_LIMIT_WINDOW] = position
        self._failed[worker, errors % MAXIMUM_HARD_LIMIT_WINDOW] = entity
        self._q[base + _ERRORS] = errors + 1
        found: set[int] = set()
        failed = 0
        for other in self._of(epoch):
            kept = min(self._q[_base(other) + _ERRORS], MAXIMUM_HARD_LIMIT_WINDOW)
            is_recent = self._rings[other, :kept] > position - window
            found.update(self._failed[other, :kept][is_recent].tolist())
            failed += int(np.count_nonzero(is_recent))
        return window if failed >= window else len(found)

    def forgive(self, worker: int, entity: int) -> None:
        """The last error of `entity` in `worker` is in no window any more."""
        kept = min(self._q[_base(worker) + _ERRORS], MAXIMUM_HARD_LIMIT_WINDOW)
        places = np.flatnonzero(self._failed[worker, :kept] == np.uint64(entity))
        if len(places):
            self._rings[worker, places[self._rings[worker, places].argmax()]] = -MAXIMUM_HARD_LIMIT_WINDOW

    def requests(self, epoch: int) -> int:
        """The challenger's requests over all workers."""
        return sum(self._q[_base(worker) + _REQUESTS] for worker in self._of(epoch))

    def first_error(self, epoch: int) -> FirstError | None:
        """The first error over all workers, None while there is none."""
        found = [
            FirstError(self._d[_base(worker) + _FIRST_S], self._q[_base(worker) + _FIRST_AT])
            for worker in self._of(epoch)
            if self._q[_base(worker) + _FIRST_AT]
        ]
        return min(found, default=None)

    def _of(self, epoch: int) -> list[int]:
        return [worker for worker in range(self.workers) if self._q[_base(worker) + _EPOCH] == epoch]

    # -- the trip and the lease ------------------------------------------------------------------------------------

    def has_tripped(self, epoch: int) -> bool:
        """Whether the challenger of `epoch` has tripped: what every request of a challenger asks."""
        return bool(self._q[_TRIP_EPOCH] == epoch)

    def tripped(self, epoch: int) -> Tripped | None:
        """The trip of `epoch`."""
        if not self.has_tripped(epoch):
            return None
        return msgspec.msgpack.decode(self._text[: self._q[_TRIP_LENGTH]], type=Tripped)

    def trip(self, epoch: int, tripped: Tripped) -> Tripped:
        """Trips the challenger of `epoch`, unless that has happened: the first one is the trip for everybody."""
        with self._locked():
            return self.tripped(epoch) or self._write(epoch, tripped)

    def trip_when_over(self, epoch: int, now_s: float, tripped: Tripped) -> Tripped | None:
        """As `trip`, unless the lease has been renewed meanwhile: None then."""
        with self._locked():
            found = self.tripped(epoch)
            if found is None and now_s >= self._d[_LEASE_ENDS]:
                found = self._write(epoch, tripped)
            return found

    def renew(self, epoch: int, ends_s: float) -> bool:
        """Sets the end of the lease; False when the challenger has tripped."""
        with self._locked():
            if self.has_tripped(epoch):
                return False
            self._d[_LEASE_ENDS] = ends_s
            return True

    @property
    def lease_ends_s(self) -> float:
        """The end of the lease that was given last."""
        return self._d[_LEASE_ENDS]

    def _write(self, epoch: int, tripped: Tripped) -> Tripped:
        body = msgspec.msgpack.encode(tripped)
        self._text[: len(body)] = body
        self._q[_TRIP_LENGTH] = len(body)
        self._q[_TRIP_EPOCH] = epoch  # last: who sees it finds the text
        return tripped

    @contextmanager
    def _locked(self) -> Iterator[None]:
        """Held for microseconds. Whoever stops a process in them must not stop the others: they go on without it."""
        for _ in range(_LOCK_TRIES):
            try:
                fcntl.lockf(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except OSError:
                time.sleep(_LOCK_PAUSE_S)
        try:
            yield
        finally:
            fcntl.lockf(self._lock, fcntl.LOCK_UN)


def _base(worker: int) -> int:
    return _HEAD_WORDS + worker * _WORKER_WORDS
