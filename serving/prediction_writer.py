"""The prediction log: groups of answered rows from the event loop, segments on disk by a thread.

The event loop only appends references; masking, JSON and Arrow happen in the thread, in pieces that give the
interpreter back often. All rows that wait are committed together, by one write and one fsync. What happens when the
disk is full or slow is the policy:

- `drop`: logging never holds up an answer. Rows wait in a bounded buffer until the disk takes them; what the full
  buffer cannot take is dropped and counted. A killed process loses what it took in its last half second.
- `fail`: an answer is sent only after its rows are durable, and refused where they cannot be. Rows that the disk has
  refused are not tried again: their client was told that there is no prediction, so the log must not show one.
"""

import asyncio
import contextlib
import logging
import random
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Literal

from contracts.masking import Mask
from serving.arrow_columns import DAY_S
from serving.logged_groups import LoggedGroup, OfRequests
from serving.prediction_batch import BatchBuilder
from serving.prediction_segments import Segments
from serving.suspension import Suspension

__all__ = [
    "LogFailedError",
    "LogFullError",
    "LogPolicy",
    "LoggedGroup",
    "Mask",
    "OfRequests",
    "PredictionIds",
    "PredictionWriter",
]

LogPolicy = Literal["drop", "fail"]
MAXIMUM_BUFFERED_ROWS = 100_000
MAXIMUM_BUFFERED_BYTES = 64 << 20  # of request bodies; what they are decoded to takes several times as much
MAXIMUM_BATCH_GROUPS = 5_000
MAXIMUM_UNUSUAL_SERIES = 500  # versions × slots × flags that are counted; the oldest go
FLUSH_EVERY_S = 0.5  # a kill loses at most this and one write
FLUSH_ROWS = 2_000
COMMIT_EVERY_S = 0.002  # with the policy `fail`, at most: a commit has a price of its own, which its rows share
RETRY_AFTER_S = 1.0
_PAUSE_S = 2e-5  # sleep(0) would take the interpreter back before anybody else has woken up
_STOP_TIMEOUT_S = 10.0
_MAXIMUM_SEQUENCE = 0xFFF
_SEQUENCES = tuple(f"{sequence:03x}" for sequence in range(_MAXIMUM_SEQUENCE + 1))
_RENEWED_EVERY_MS = 1000
_KEPT_FAILURES = 64
_NODE = (1 << 48) - 1  # the last 48 bits of a UUID
logger = logging.getLogger(__name__)


class LogFullError(Exception):
    """The prediction log of an audited project takes no rows now: its buffer is full, or the disk has refused."""


class LogFailedError(Exception):
    """The disk has refused rows that an answer waited for; they are not in the log, and will not be."""


class PredictionIds:
    """Unique ids that sort by time: UUIDs of version 7, in order also within a millisecond of one process."""

    def __init__(self, clock: Callable[[], float] = time.time) -> None:
        self._clock = clock
        self._stamp = -1
        self._renewed = -_RENEWED_EVERY_MS
        self._sequence = 0
        self._head = self._tail = ""
        self._random = random.SystemRandom().getrandbits

    def next(self) -> str:
        """One more id: 48 bits of milliseconds, 12 of sequence, and 62 that are drawn anew in each second."""
        stamp = int(self._clock() * 1000)
        if stamp > self._stamp or self._sequence == _MAXIMUM_SEQUENCE:
            self._stamp = stamp = max(stamp, self._stamp + 1)
            self._head = f"{stamp >> 16:08x}-{stamp & 0xFFFF:04x}-7"
            self._sequence = 0
            if stamp >= self._renewed + _RENEWED_EVERY_MS:
                self._renewed = stamp
                tail = (0b10 << 62) | self._random(62)
                self._tail = f"-{tail >> 48:04x}-{tail & _NODE:012x}"
        else:
            self._sequence += 1
        return f"{self._head}{self._sequence:03x}{self._tail}"

    def take(self, count: int) -> list[str]:
        """As many ids as one request has rows, a few at a time: what they have in common is made once."""
        ids = [self.next()]
        while len(ids) < count:
            first = self._sequence + 1
            last = min(self._sequence + count - len(ids), _MAXIMUM_SEQUENCE)
            head, tail = self._head, self._tail
            ids += [head + sequence + tail for sequence in _SEQUENCES[first : last + 1]]
            self._sequence = last
            if len(ids) < count:
                ids.append(self.next())
        return ids


class PredictionWriter:
    """Writes segments below `root`; `start` before the first `append`, `stop` flushes what is left.

    `features_share` of the requests are logged with the rows as they were encoded, too.
    """

    def __init__(
        self,
        root: Path,
        *,
        project: str,
        mask: Mask,
        policy: LogPolicy = "drop",
        maximum_rows: int = MAXIMUM_BUFFERED_ROWS,
        maximum_bytes: int = MAXIMUM_BUFFERED_BYTES,
        flush_every_s: float = FLUSH_EVERY_S,
        features_share: float = 0.0,
    ) -> None:
        self._root = root
        self._is_audited = policy == "fail"
        self._maximum_rows = maximum_rows
        self._maximum_bytes = maximum_bytes
        self._flush_every_s = flush_every_s
        self._segments = Segments(root)
        self._builder = BatchBuilder(project, mask, lambda: time.sleep(_PAUSE_S), features_share)
        self._groups: deque[LoggedGroup] = deque()
        self._in_hand: list[LoggedGroup] = []
        self._wake = threading.Event()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="prediction-writer", daemon=True)
        self._loop: asyncio.AbstractEventLoop | None = None
        # positions count groups from the first on: what waits for position 7 waits for the first seven
        self._appended = 0
        self._settled = 0
        self._waiters: deque[tuple[int, Suspension[None]]] = deque()
        self._failures: deque[tuple[int, int, LogFailedError]] = deque(maxlen=_KEPT_FAILURES)
        self._refused_until_s = 0.0
        self._is_refusing = False
        # each counter has one writing thread: the first three the event loop's, the others this writer's
        self.accepted_rows = 0
        self.dropped_rows = 0
        self.refused_rows = 0
        self.written_rows = 0
        self.lost_rows = 0
        self.failed_flushes = 0
        self._taken_rows = 0
        self._accepted_bytes = self._settled_bytes = 0
        self.unusual: dict[tuple[str, str, str], int] = {}  # version, slot, flag → rows

    @property
    def buffered_rows(self) -> int:
        """Rows accepted that are not on disk yet."""
        return self.accepted_rows - self.written_rows - self.lost_rows

    @property
    def lag_s(self) -> float:
        """The age of the oldest row that is not on disk yet."""
        for waiting in (self._in_hand, self._groups):
            with contextlib.suppress(IndexError):
                return max(0.0, time.time() - waiting[0].served_at_s)
        return 0.0

    def start(self, loop: asyncio.AbstractEventLoop | None = None) -> None:
        """Starts the thread. `loop` is where `committed` is awaited; the policy `fail` needs it."""
        if self._is_audited and loop is None:
            raise ValueError("with the policy fail the log needs the event loop on which answers wait for it")
        self._loop = loop
        self._thread.start()

    def append(self, group: LoggedGroup) -> None:
        """Takes a group over. Where the buffer is full, `drop` drops and counts it.

        Raises:
            LogFullError: with the policy `fail`, when the buffer is full or the disk has refused within a second.
        """
        rows = len(group.prediction_ids)
        accepted = self.accepted_rows
        if not rows:
            return
        if (
            accepted + rows - self.written_rows - self.lost_rows > self._maximum_rows
            or self._accepted_bytes + group.size_bytes - self._settled_bytes > self._maximum_bytes
        ):
            if self._is_audited:
                self._refuse(rows, f"{self.buffered_rows} predictions wait for the disk")
            self.dropped_rows += rows
            return
        if self._is_audited and time.monotonic() < self._refused_until_s:
            self._refuse(rows, "the disk has refused predictions")
        self._groups.append(group)
        self._appended += 1
        self.accepted_rows = accepted + rows
        self._accepted_bytes += group.size_bytes
        if accepted + rows - self._taken_rows >= FLUSH_ROWS:
            self._wake.set()

    def committed(self) -> Suspension[None] | None:
        """What an answer waits for before it is sent; None where it need not wait (`drop`).

        It is resolved on the event loop once all rows appended so far are durable. It fails with LogFailedError when
        the disk refused those appended last, or when one of them cannot be logged.
        """
        if not self._is_audited:
            return None
        waiter: Suspension[None] = Suspension()
        if not self._thread.is_alive():
            waiter.fail(LogFailedError("the prediction log has ended"))
            return waiter
        self._waiters.append((self._appended, waiter))
        self._wake.set()
        return waiter

    def stop(self) -> None:
        """Flushes what is left and ends the thread; rows that the disk refuses are logged as lost."""
        self._stop.set()
        self._wake.set()
        self._thread.join(_STOP_TIMEOUT_S)
        if self.buffered_rows:
            logger.error("%d predictions could not be written below %s", self.buffered_rows, self._root)

    def _refuse(self, rows: int, reason: str) -> None:
        self.refused_rows += rows
        raise LogFullError(f"{reason}, and this project's predictions must be logged")

    # -- in the thread ---------------------------------------------------------------------------------------------

    def _run(self) -> None:
        while not self._stop.is_set():
            self._wake.wait(self._flush_every_s)
            self._wake.clear()
            started_s = time.monotonic()
            self._flush()
            self._segments.retire()
            if self._is_audited:
                time.sleep(max(0.0, started_s + COMMIT_EVERY_S - time.monotonic()))
            elif self._is_refusing:
                self._stop.wait(self._flush_every_s)  # a full buffer must not ask the disk without a pause
        self._flush()
        self._segments.close()

    def _flush(self) -> None:
        """Commits what waits now, a batch for each day; what comes meanwhile waits for the next flush.

        Written at once it would make a stream of tiny batches, each with its own fsync.
        """
        waiting = len(self._groups)
        while waiting:
            day, taken = self._take(waiting)
            waiting -= len(taken)
            try:
                given_back = self._commit(day, taken)
            except OSError as error:
                self.failed_flushes += 1
                if not self._is_refusing:
                    self._is_refusing = True
                    logger.exception("the prediction log below %s cannot be written", self._root)
                if not self._is_audited:
                    self._give_back(taken)
                    self._in_hand = []
                    return
                self._refused_until_s = time.monotonic() + RETRY_AFTER_S
                self._lose(taken, f"the prediction log cannot be written: {error}")
            except Exception:
                logger.exception("%d predictions cannot be logged", _rows(taken))
                self._lose(taken, "the predictions cannot be logged")
            else:
                waiting += given_back
                if self._is_refusing:
                    self._is_refusing = False
                    logger.warning("the prediction log below %s is written again", self._root)
            self._in_hand = []
        self._settle()

    def _take(self, waiting: int) -> tuple[int, list[LoggedGroup]]:
        """The first of the groups that wait, as far as they are of the same day."""
        taken = [self._groups.popleft()]
        day = int(taken[0].served_at_s // DAY_S)
        for _ in range(min(waiting, MAXIMUM_BATCH_GROUPS) - 1):
            if self._groups[0].served_at_s // DAY_S != day:
                break
            taken.append(self._groups.popleft())
        self._in_hand = taken
        self._taken_rows += _rows(taken)
        return day, taken

    def _commit(self, day: int, groups: list[LoggedGroup]) -> int:
        """Writes `groups`, durably; gives those back that were too many for one batch, and says how many."""
        batch = self._builder.build(day, groups)
        if batch.rows:
            self._segments.append(day, groups[0].prediction_ids[0], batch.content)
        too_many = groups[batch.taken :]
        self._give_back(too_many)
        del groups[batch.taken :]
        if batch.refused:
            error = LogFailedError("the predictions of one of the requests committed together cannot be logged")
            self._failures.append((self._settled + batch.refused[0], self._settled + batch.taken, error))
        self._count_unusual(batch.unusual)
        self.written_rows += batch.rows
        self.lost_rows += _rows(groups) - batch.rows
        self._settled_bytes += sum(group.size_bytes for group in groups)
        self._settled += batch.taken
        self._settle()
        return len(too_many)

    def _count_unusual(self, found: Mapping[tuple[str, str, str], int]) -> None:
        for key, rows in found.items():
            self.unusual[key] = self.unusual.get(key, 0) + rows
        while len(self.unusual) > MAXIMUM_UNUSUAL_SERIES:
            del self.unusual[next(iter(self.unusual))]

    def _give_back(self, groups: Sequence[LoggedGroup]) -> None:
        self._groups.extendleft(reversed(groups))
        self._taken_rows -= _rows(groups)

    def _lose(self, groups: Sequence[LoggedGroup], reason: str) -> None:
        self._failures.append((self._settled, self._settled + len(groups), LogFailedError(reason)))
        self.lost_rows += _rows(groups)
        self._settled_bytes += sum(group.size_bytes for group in groups)
        self._settled += len(groups)
        self._settle()

    def _settle(self) -> None:
        """Hands the answers whose rows have been dealt with back to the event loop, all in one call."""
        due: list[tuple[Suspension[None], LogFailedError | None]] = []
        while self._waiters and self._waiters[0][0] <= self._settled:
            position, waiter = self._waiters.popleft()
            failed = [error for start, end, error in self._failures if start < position <= end]
            due.append((waiter, failed[0] if failed else None))
        if due and self._loop is not None:
            with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits any more
                self._loop.call_soon_threadsafe(_wake_up, due)


def _rows(groups: Sequence[LoggedGroup]) -> int:
    return sum(len(group.prediction_ids) for group in groups)


def _wake_up(due: Sequence[tuple[Suspension[None], LogFailedError | None]]) -> None:
    for waiter, error in due:
        try:
            if error is None:
                waiter.resolve(None)
            else:
                waiter.fail(error)
        except Exception:  # one answer that cannot be sent must not hold up those beside it
            logger.exception("an answer that waited for the prediction log failed")
