"""The prediction log: groups of answered rows from the event loop, Parquet segments on disk by a thread.

The event loop only appends references; masking, JSON and Arrow happen in the thread, in pieces that give the
interpreter back often. Segments appear by one rename, so that a reader never sees half a file. A full buffer drops
rows and counts them: logging never holds up an answer.
"""

import logging
import os
import random
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from hashlib import blake2b
from itertools import islice
from pathlib import Path
from typing import Any

import msgspec
import pyarrow
import pyarrow.json
import pyarrow.parquet

from contracts.encoder import parse_timestamp
from contracts.input_schema import InputSchema
from contracts.prediction_row import PredictionRow

MAXIMUM_BUFFERED_ROWS = 100_000
MAXIMUM_SEGMENT_ROWS = 10_000
FLUSH_EVERY_S = 1.0
FLUSH_ROWS = 2_000
_STOP_TIMEOUT_S = 10.0
_MASK_PREFIX = "masked:"
_MAXIMUM_SEQUENCE = 0xFFF
_NODE = (1 << 48) - 1  # the last 48 bits of a UUID
logger = logging.getLogger(__name__)

_TYPES: dict[Any, pyarrow.DataType] = {
    str: pyarrow.string(),
    float: pyarrow.float64(),
    int: pyarrow.int64(),
    bool: pyarrow.bool_(),
}


def _arrow_type(annotation: Any) -> pyarrow.DataType:
    found = [kind for kind in _TYPES if kind is annotation or kind in getattr(annotation, "__args__", ())]
    return _TYPES[found[0]]


SEGMENT_SCHEMA: pyarrow.Schema = pyarrow.schema(
    [(column.name, _arrow_type(column.type)) for column in msgspec.structs.fields(PredictionRow)]
)


@dataclass(slots=True, eq=False)
class LoggedGroup:
    """Rows of one request that one slot answered; the sequences are parallel. `served_at_s` is since the epoch."""

    served_at_s: float
    request_id: str
    schema: InputSchema
    version: str
    bundle: str
    slot: str
    rollout: str | None
    share: float
    latency_us: int
    records: Sequence[Mapping[str, Any]]
    entities: Sequence[str]
    prediction_ids: Sequence[str]
    scores: Sequence[float | None]
    decisions: Sequence[bool | None]
    errors: Sequence[str | None]


class PredictionIds:
    """Unique ids that sort by time: UUIDs of version 7, in order also within a millisecond of one process."""

    def __init__(self, clock: Callable[[], float] = time.time) -> None:
        self._clock = clock
        self._stamp = -1
        self._sequence = 0
        self._head = self._tail = ""
        self._random = random.SystemRandom().getrandbits

    def next(self) -> str:
        """One more id: 48 bits of milliseconds, 12 of sequence, and 62 that are random for each millisecond."""
        stamp = int(self._clock() * 1000)
        if stamp > self._stamp or self._sequence == _MAXIMUM_SEQUENCE:
            self._stamp = stamp = max(stamp, self._stamp + 1)
            tail = (0b10 << 62) | self._random(62)
            self._head = f"{stamp >> 16:08x}-{stamp & 0xFFFF:04x}-7"
            self._tail = f"-{tail >> 48:04x}-{tail & _NODE:012x}"
            self._sequence = 0
        else:
            self._sequence += 1
        return f"{self._head}{self._sequence:03x}{self._tail}"


class Mask:
    """Stands a keyed hash in for personal values: equal values stay equal, and nobody without the key can try them."""

    def __init__(self, key: bytes) -> None:
        self._key = blake2b(key, digest_size=32).digest()

    def value(self, value: Any) -> str:
        """The mask of `value`."""
        return _MASK_PREFIX + blake2b(str(value).encode(), digest_size=16, key=self._key).hexdigest()

    def record(self, record: Mapping[str, Any], personal: Sequence[str]) -> Mapping[str, Any]:
        """`record` with its `personal` fields masked; missing values stay missing."""
        if not personal:
            return record
        masked = dict(record)
        for name in personal:
            if masked.get(name) is not None:
                masked[name] = self.value(masked[name])
        return masked


class PredictionWriter:
    """Writes segments below `root`; `start` before the first `append`, `stop` flushes what is left."""

    def __init__(
        self,
        root: Path,
        *,
        project: str,
        mask: Mask,
        maximum_rows: int = MAXIMUM_BUFFERED_ROWS,
        flush_every_s: float = FLUSH_EVERY_S,
    ) -> None:
        self._root = root
        self._project = project
        self._mask = mask
        self._maximum_rows = maximum_rows
        self._flush_every_s = flush_every_s
        self._groups: deque[LoggedGroup] = deque()
        self._wake = threading.Event()
        self._stopping = False
        self._thread = threading.Thread(target=self._run, name="prediction-writer", daemon=True)
        # each counter has one writing thread: the first two the event loop's, the others this writer's
        self.accepted_rows = 0
        self.dropped_rows = 0
        self.written_rows = 0
        self.lost_rows = 0
        self.failed_flushes = 0

    @property
    def buffered_rows(self) -> int:
        """Rows accepted that are not on disk yet."""
        return self.accepted_rows - self.written_rows - self.lost_rows

    @property
    def lag_s(self) -> float:
        """The age of the oldest row that is not on disk yet."""
        try:
            return max(0.0, time.time() - self._groups[0].served_at_s)
        except IndexError:
            return 0.0

    def start(self) -> None:
        """Starts the thread."""
        self._root.mkdir(parents=True, exist_ok=True)
        self._thread.start()

    def append(self, group: LoggedGroup) -> None:
        """Takes a group over, or drops and counts it when the buffer is full."""
        rows = len(group.prediction_ids)
        if self.buffered_rows + rows > self._maximum_rows:
            self.dropped_rows += rows
            return
        self._groups.append(group)
        self.accepted_rows += rows
        if self.buffered_rows >= FLUSH_ROWS:
            self._wake.set()

    def stop(self) -> None:
        """Flushes what is left and ends the thread; rows that the disk refuses are logged as lost."""
        self._stopping = True
        self._wake.set()
        self._thread.join(_STOP_TIMEOUT_S)
        if self.buffered_rows:
            logger.error("%d predictions could not be written below %s", self.buffered_rows, self._root)

    def _run(self) -> None:
        while not self._stopping:
            self._wake.wait(self._flush_every_s)
            self._wake.clear()
            self._flush()
        self._flush()

    def _flush(self) -> None:
        """Writes what waits now as segments; on a refusal of the disk the rows stay, for the next time.

        What comes meanwhile waits for the next flush: written at once it would make a stream of tiny segments, each
        with its own fsync, which cost half of the server's time.
        """
        waiting = len(self._groups)
        while waiting:
            taken: list[LoggedGroup] = []
            rows = 0
            for group in islice(tuple(self._groups), waiting):
                if taken and (rows + len(group.prediction_ids) > MAXIMUM_SEGMENT_ROWS or _day(group) != _day(taken[0])):
                    break
                taken.append(group)
                rows += len(group.prediction_ids)
            try:
                written = self._write_segment(taken)
            except OSError:
                self.failed_flushes += 1
                logger.exception("the prediction log below %s cannot be written; %d rows wait", self._root, rows)
                return
            waiting -= len(taken)
            for _ in taken:
                self._groups.popleft()
            self.written_rows += written
            self.lost_rows += rows - written

    def _write_segment(self, groups: Sequence[LoggedGroup]) -> int:
        lines: list[bytes] = []
        for group in groups:
            try:
                lines.extend(msgspec.json.encode(row) for row in self._rows(group))
            except Exception:  # one request that cannot be written must not stop the log for all others
                logger.exception("the predictions of request %s cannot be logged", group.request_id)
        if not lines:
            return 0
        # Arrow parses JSON without holding the interpreter; building arrays from lists would hold up the answers
        content = b"\n".join(lines)
        table = pyarrow.json.read_json(
            pyarrow.BufferReader(content),
            read_options=pyarrow.json.ReadOptions(use_threads=False, block_size=len(content) + 1),
            parse_options=pyarrow.json.ParseOptions(explicit_schema=SEGMENT_SCHEMA, unexpected_field_behavior="error"),
        )
        folder = self._root / f"day={_day(groups[0])}"
        folder.mkdir(parents=True, exist_ok=True)
        name = groups[0].prediction_ids[0]
        draft = folder / f".{name}.draft"
        try:
            with draft.open("wb") as file:
                pyarrow.parquet.write_table(table, file, compression="zstd")
                file.flush()
                os.fsync(file.fileno())
            draft.rename(folder / f"{name}.parquet")
        finally:
            draft.unlink(missing_ok=True)
        return len(lines)

    def _rows(self, group: LoggedGroup) -> list[PredictionRow]:
        schema = group.schema
        personal = [field.name for field in schema.fields if field.personal]
        served_at = datetime.fromtimestamp(group.served_at_s, UTC).isoformat(timespec="microseconds")
        return [
            PredictionRow(
                prediction_id=group.prediction_ids[row],
                request_id=group.request_id,
                served_at=served_at,
                event_time=_event_time(record.get(schema.time)),
                project=self._project,
                version=group.version,
                bundle=group.bundle,
                slot=group.slot,
                rollout=group.rollout,
                share=group.share,
                entity=self._mask.value(group.entities[row]) if schema.entity in personal else group.entities[row],
                score=group.scores[row],
                decision=group.decisions[row],
                latency_us=group.latency_us,
                error=group.errors[row],
                inputs=msgspec.json.encode(self._mask.record(record, personal)).decode(),
            )
            for row, record in enumerate(group.records)
        ]


def _day(group: LoggedGroup) -> str:
    return datetime.fromtimestamp(group.served_at_s, UTC).date().isoformat()


def _event_time(value: Any) -> str:
    try:
        return parse_timestamp(value).isoformat()
    except (TypeError, ValueError):
        return "" if value is None else str(value)  # a challenger's schema may have refused it: keep what was sent
