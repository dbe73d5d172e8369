"""Segments on disk: Arrow IPC streams that grow by one record batch for each commit.

A segment is held by an exclusive `flock` from before anybody can see it until it is whole, so that a compaction knows
that its writer lives. What the disk refuses is cut off again, and the next commit goes to another segment.
"""

import contextlib
import fcntl
import logging
import os
import time
from pathlib import Path

from contracts.prediction_row import END_OF_STREAM
from serving.arrow_columns import day_name
from serving.prediction_batch import STREAM_HEAD

MAXIMUM_SEGMENT_BYTES = 64 << 20
MAXIMUM_SEGMENT_AGE_S = 3600.0
_MAXIMUM_OPEN = 2  # around midnight rows of both days come in turns
logger = logging.getLogger(__name__)


class Segment:
    """One open segment, named by its first prediction."""

    def __init__(self, folder: Path, name: str) -> None:
        """Raises OSError when the disk refuses; nothing is left behind then."""
        self._path = folder / f"{name}.arrows"
        draft = folder / f".{name}.draft"
        folder.mkdir(parents=True, exist_ok=True)
        self._handle = os.open(draft, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o644)
        self.size = len(STREAM_HEAD)
        self.opened_s = time.monotonic()
        try:
            fcntl.flock(self._handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            _write_all(self._handle, STREAM_HEAD)
            os.fsync(self._handle)
            draft.rename(self._path)
            for holder in (folder, folder.parent):
                _sync_folder(holder)
        except OSError:
            os.close(self._handle)
            for path in (draft, self._path):
                path.unlink(missing_ok=True)
            raise

    def append(self, content: bytes) -> None:
        """Adds a batch, durably.

        Raises:
            OSError: the disk refuses it; the segment is as it was before, and must not be written any more.
        """
        try:
            _write_all(self._handle, content)
            os.fsync(self._handle)
        except OSError:
            self._give_up()
            raise
        self.size += len(content)

    def close(self) -> None:
        """Marks the segment as whole and lets go of it; without the mark it counts as a crashed writer's."""
        try:
            _write_all(self._handle, END_OF_STREAM)
            os.fsync(self._handle)
        except OSError:
            self._give_up()
            return
        os.close(self._handle)

    def _give_up(self) -> None:
        """Cuts off what was not committed. After a failed fsync nothing is known about the file: it ends here."""
        try:
            os.ftruncate(self._handle, self.size)
            if self.size == len(STREAM_HEAD):
                self._path.unlink(missing_ok=True)
            with contextlib.suppress(OSError):  # eight bytes; readers do without them
                _write_all(self._handle, END_OF_STREAM, at=self.size)
        except OSError:
            logger.exception("%s cannot be cut back to its last commit at byte %d", self._path, self.size)
        finally:
            os.close(self._handle)


class Segments:
    """The open segments below `root`: one for the day, two around midnight; replaced by size and by age."""

    def __init__(
        self,
        root: Path,
        *,
        maximum_bytes: int = MAXIMUM_SEGMENT_BYTES,
        maximum_age_s: float = MAXIMUM_SEGMENT_AGE_S,
    ) -> None:
        self._root = root
        self._maximum_bytes = maximum_bytes
        self._maximum_age_s = maximum_age_s
        self._open: dict[int, Segment] = {}

    def append(self, day: int, name: str, content: bytes) -> None:
        """Commits a batch of `day`; a segment that begins with it gets this name. Raises OSError."""
        segment = self._open.get(day)
        if segment is not None and segment.size >= self._maximum_bytes:
            self._open.pop(day).close()
            segment = None
        if segment is None:
            while len(self._open) >= _MAXIMUM_OPEN:
                self._open.pop(next(iter(self._open))).close()
            segment = self._open[day] = Segment(self._root / f"day={day_name(day)}", name)
        try:
            segment.append(content)
        except OSError:
            del self._open[day]
            raise

    def retire(self) -> None:
        """Closes what is old, also where no row comes any more: a compaction waits for it."""
        for day, segment in list(self._open.items()):
            if time.monotonic() - segment.opened_s >= self._maximum_age_s:
                self._open.pop(day).close()

    def close(self) -> None:
        """Closes all."""
        while self._open:
            self._open.popitem()[1].close()


def _write_all(handle: int, content: bytes, *, at: int | None = None) -> None:
    if at is not None:
        os.lseek(handle, at, os.SEEK_SET)
    left = memoryview(content)
    while left:
        left = left[os.write(handle, left) :]


def _sync_folder(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
