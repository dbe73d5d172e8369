"""Groups of answered rows → one Arrow record batch, column by column from buffers.

No array is made from a list of Python objects: that imports pandas where it is installed, and holds the interpreter for
long. Strings are joined and their lengths summed by numpy; what is the same for all rows is repeated as bytes, and
compression takes it away again.
"""

import json
import logging
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import chain, repeat
from typing import Any, cast

import msgspec
import numpy as np
import pyarrow
from numpy.typing import NDArray

from contracts.bundle import Baseline
from contracts.encoder import parse_timestamp
from contracts.input_schema import InputSchema
from contracts.masking import Mask
from contracts.prediction_row import END_OF_STREAM, SYNTHETIC, PredictionRow
from serving.unusual import EXTREME_SCORE, Reference

MAXIMUM_BATCH_BYTES = 64 << 20  # of inputs; far below what 32-bit offsets can address
PIECE_ROWS = 512  # between two pauses, in which answers go on: some 1 ms
_SIZED_ROWS = 128  # between two looks at how much it has become
_COLUMNS_AT_ONCE = 3
COMPRESSED_ROWS = 16  # smaller batches only grow by it
DAY_S = 86_400
_KNOWN_BUNDLES = 16
_encode_json = msgspec.json.Encoder().encode
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
STREAM_HEAD: bytes = SEGMENT_SCHEMA.serialize().to_pybytes()


class LoggedGroup(msgspec.Struct, gc=False, eq=False, kw_only=True):
    """Rows of one request that one slot answered; the sequences are parallel. `served_at_s` is since the epoch.

    `features` are the rows as encoded for that version (float32, rows × columns), `baseline` its bundle's: without both
    of them inputs, without the latter also scores are not looked at for what is unusual. `client` is who got the rows,
    `cached` whether another request's run gave their scores, `uncounted` why no comparison of versions has them,
    `size_bytes` the size of the request's body, for the bound on what waits.
    """

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
    features: NDArray[np.float32] | None = None
    baseline: Baseline | None = None
    client: str | None = None
    cached: bool = False
    uncounted: str | None = None
    size_bytes: int = 0


@dataclass(frozen=True, slots=True)
class _Known:
    """What a batch needs to know of one bundle."""

    personal: tuple[str, ...]
    time: str
    masks_entity: bool
    reference: Reference | None


@dataclass(frozen=True, slots=True)
class Batch:
    """`content` is the encapsulated message of `rows` rows; `refused` are the groups' positions that cannot be logged.

    `taken` groups were looked at: fewer than given when the batch is full. `unusual` counts rows by version, slot and
    flag.
    """

    content: bytes
    rows: int
    taken: int
    refused: list[int]
    unusual: Mapping[tuple[str, str, str], int]


class BatchBuilder:
    """Builds batches for one project. `pause` is called between pieces, to let other threads have the interpreter."""

    def __init__(self, project: str, mask: Mask, pause: Callable[[], None]) -> None:
        self._project = project
        self._mask = mask
        self._pause = pause
        self._known: dict[str, _Known] = {}

    def build(self, day: int, groups: Sequence[LoggedGroup]) -> Batch:
        """One batch of as many of `groups` as fit, all of `day`; one that cannot be logged is left out, and said so."""
        good: list[LoggedGroup] = []
        refused: list[int] = []
        inputs: list[bytes] = []
        times: list[str] = []
        size = looked_at = paused_at = taken = 0
        for taken, group in enumerate(groups, start=1):
            start = len(inputs)
            try:
                self._encode(group, inputs, times)
            except Exception:  # one request that cannot be logged must not stop the log for all others
                logger.exception("the predictions of request %s cannot be logged", group.request_id)
                del inputs[start:], times[start:]
                refused.append(taken - 1)
            else:
                if group.records:
                    good.append(group)
            if len(inputs) - looked_at >= _SIZED_ROWS:
                size += sum(map(len, inputs[looked_at:]))
                looked_at = len(inputs)
                if size >= MAXIMUM_BATCH_BYTES:
                    break
                if looked_at - paused_at >= PIECE_ROWS:
                    paused_at = looked_at
                    self._pause()
        if not inputs:
            return Batch(b"", 0, taken, refused, {})
        unusual: Counter[tuple[str, str, str]] = Counter()
        columns: list[pyarrow.Array] = []
        try:
            for column in self._columns(day, good, inputs, times, unusual):
                columns.append(column)
                if len(inputs) >= PIECE_ROWS and len(columns) % _COLUMNS_AT_ONCE == 0:
                    self._pause()
            batch = pyarrow.RecordBatch.from_arrays(columns, schema=SEGMENT_SCHEMA)
        except (TypeError, ValueError, OverflowError, AttributeError):
            return self._build_without_culprits(day, groups[:taken])
        return Batch(_message(batch), len(inputs), taken, refused, unusual)

    def _build_without_culprits(self, day: int, groups: Sequence[LoggedGroup]) -> Batch:
        """Some value does not fit its column, which shows only when all are put together; whose, each alone tells.

        Raises:
            RuntimeError: it is nobody's.
        """
        if len(groups) == 1:
            logger.exception("the predictions of request %s cannot be logged", groups[0].request_id)
            return Batch(b"", 0, 1, [0], {})
        refused = [place for place, group in enumerate(groups) if self.build(day, [group]).refused]
        if not refused:
            raise RuntimeError("a batch cannot be built of groups that all can be logged")
        rest = self.build(day, [group for place, group in enumerate(groups) if place not in set(refused)])
        return Batch(rest.content, rest.rows, len(groups), refused, rest.unusual)

    def _encode(self, group: LoggedGroup, inputs: list[bytes], times: list[str]) -> None:
        """Appends the JSON and the event time of each record."""
        known = self._known.get(group.bundle)
        if known is None or (known.reference is None and group.baseline is not None):
            known = self._learn(group)
        time, personal, rows = known.time, known.personal, len(group.records)
        if rows != len(group.scores) or rows != len(group.prediction_ids) or rows != len(group.entities):
            raise ValueError(f"{rows} records have {len(group.scores)} scores, {len(group.prediction_ids)} ids")
        for record in group.records:
            masked = self._mask.record(record, personal) if personal else record
            try:
                encoded = _encode_json(masked)
            except (TypeError, ValueError, OverflowError):  # half a surrogate pair, or a value of another library
                encoded = json.dumps(masked, default=str, ensure_ascii=False).encode(errors="replace")
            times.append(_event_time(record.get(time)))
            inputs.append(encoded)

    def _learn(self, group: LoggedGroup) -> _Known:
        personal = tuple(field.name for field in group.schema.fields if field.personal)
        known = _Known(
            personal=personal,
            time=group.schema.time,
            masks_entity=group.schema.entity in personal,
            reference=None if group.baseline is None else Reference(group.schema, group.baseline),
        )
        self._known[group.bundle] = known
        if len(self._known) > _KNOWN_BUNDLES:
            del self._known[next(iter(self._known))]
        return known

    def _columns(
        self,
        day: int,
        groups: Sequence[LoggedGroup],
        inputs: Sequence[bytes],
        times: Sequence[str],
        counted: Counter[tuple[str, str, str]],
    ) -> Iterator[pyarrow.Array]:
        """In the order of `PredictionRow`'s fields; counts the flags of unusual rows in `counted`."""
        rows = [len(group.records) for group in groups]
        is_flat = len(rows) == len(inputs)  # each group has a record: then each has one, as most do

        def each(values: list[Any]) -> Any:
            return values if is_flat else list(chain.from_iterable(map(repeat, values, rows)))

        def per_row(values: Sequence[Sequence[Any]]) -> list[Any]:
            return list(chain.from_iterable(values))

        bundles = [group.bundle for group in groups]
        scores = np.array(per_row([group.scores for group in groups]), dtype=np.float64)  # None becomes NaN
        decisions = np.array(per_row([group.decisions for group in groups]), dtype=np.float32)
        yield _text(per_row([group.prediction_ids for group in groups]))
        yield _text(each([group.request_id for group in groups]))
        yield _moments(each([group.served_at_s for group in groups]), day)
        yield _text(times)
        yield _text([self._project] * len(inputs))
        yield _text(each([group.version for group in groups]))
        yield _text(each(bundles))
        yield _text(each([group.slot for group in groups]))
        yield _text_or_null(each([group.rollout for group in groups]))
        yield _numbers(np.array(each([group.share for group in groups]), dtype=np.float64))
        yield _text(per_row(self._entities(groups, bundles)))
        yield _numbers(scores)
        yield _booleans(decisions)
        yield _numbers(np.array(each([group.latency_us for group in groups]), dtype=np.int64))
        yield _text_or_null(per_row([group.errors for group in groups]))
        yield _joined(inputs)
        yield _text_or_null(each([group.client for group in groups]))
        yield self._unusual(groups, bundles, rows, scores, counted)
        yield _booleans(np.array(each([group.cached for group in groups]), dtype=np.float32))
        yield _text_or_null(each([group.uncounted for group in groups]))

    def _entities(self, groups: Sequence[LoggedGroup], bundles: Sequence[str]) -> list[Sequence[str]]:
        masking = {bundle for bundle in set(bundles) if self._known[bundle].masks_entity}
        if not masking:
            return [group.entities for group in groups]
        return [
            [self._mask.value(entity) for entity in group.entities] if group.bundle in masking else group.entities
            for group in groups
        ]

    def _unusual(
        self,
        groups: Sequence[LoggedGroup],
        bundles: Sequence[str],
        rows: Sequence[int],
        scores: NDArray[np.float64],
        counted: Counter[tuple[str, str, str]],
    ) -> pyarrow.Array:
        """The column of that name."""
        flags: dict[int, list[str]] = {}
        starts = np.cumsum([0, *rows[:-1]])
        for bundle in set(bundles):
            reference = self._known[bundle].reference
            if reference is None:
                continue
            members = [place for place, each in enumerate(bundles) if each == bundle]
            owned = _places(starts[members], np.array(rows)[members])
            for row in owned[reference.flag_scores(scores[owned])].tolist():
                flags.setdefault(row, []).append(EXTREME_SCORE)
            encoded = [groups[place].features for place in members]
            if [each is not None and len(each) for each in encoded] != [rows[place] for place in members]:
                members = [place for place in members if _has_features(groups[place])]
                owned = _places(starts[members], np.array(rows)[members])
                encoded = [groups[place].features for place in members]
            if not members:
                continue
            records = list(chain.from_iterable([groups[place].records for place in members]))
            for place, flag in reference.flag_inputs(np.concatenate(cast(list[NDArray[np.float32]], encoded)), records):
                flags.setdefault(int(owned[place]), []).append(flag)
        if not flags:
            return pyarrow.nulls(len(scores), pyarrow.string())
        owners = list(chain.from_iterable(map(repeat, groups, rows)))
        for row, found in flags.items():
            if owners[row].uncounted != SYNTHETIC:
                counted.update((owners[row].version, owners[row].slot, flag) for flag in found)
        return _text_or_null([",".join(flags[row]) if row in flags else None for row in range(len(scores))])


def day_name(day: int) -> str:
    """As in the names of folders: 2013-08-01."""
    return datetime.fromtimestamp(day * DAY_S, UTC).date().isoformat()


def _message(batch: pyarrow.RecordBatch) -> bytes:
    """The batch as it stands in a stream: a stream of its own, without the schema and the end."""
    options = pyarrow.ipc.IpcWriteOptions(
        compression="zstd" if batch.num_rows >= COMPRESSED_ROWS else None, use_threads=False
    )
    sink = pyarrow.BufferOutputStream()
    with pyarrow.ipc.new_stream(sink, batch.schema, options=options) as stream:
        stream.write_batch(batch)
    content: bytes = sink.getvalue().to_pybytes()
    return content[len(STREAM_HEAD) : -len(END_OF_STREAM)]


def _event_time(value: Any) -> str:
    """The record's own time as ISO 8601, or what was sent where that is none."""
    if value.__class__ is str and len(value) == 19 and value[4:17:3] == "--T::":
        return str(value)  # of the usual shape: a time as it should be written, or none, which stays as it is as well
    try:
        return parse_timestamp(value).isoformat()
    except (TypeError, ValueError):
        return "" if value is None else str(value)  # a challenger's schema may have refused it


def _has_features(group: LoggedGroup) -> bool:
    return group.features is not None and len(group.features) == len(group.records)


def _places(starts: NDArray[np.intp], lengths: NDArray[np.intp]) -> NDArray[np.intp]:
    """The rows of all spans."""
    if not len(starts):
        return starts
    ends = np.cumsum(lengths)
    places: NDArray[np.intp] = np.repeat(starts - (ends - lengths), lengths) + np.arange(ends[-1])
    return places


def _bitmap(valid: NDArray[np.bool_]) -> pyarrow.Buffer:
    return pyarrow.py_buffer(np.packbits(valid, bitorder="little"))


def _text(values: Sequence[str]) -> pyarrow.Array:
    first = values[0]
    if values.count(first) == len(values):
        content = first.encode(errors="backslashreplace")
        offsets = np.arange(0, (len(values) + 1) * len(content), len(content) or 1, dtype=np.int32)[: len(values) + 1]
        if not content:
            offsets = np.zeros(len(values) + 1, dtype=np.int32)
        return _strings(content * len(values), offsets)
    joined = "".join(values)
    if joined.isascii():
        return _strings(joined.encode(), _offsets(values))
    return _joined([value.encode(errors="backslashreplace") for value in values])


def _joined(values: Sequence[bytes]) -> pyarrow.Array:
    return _strings(b"".join(values), _offsets(values))


def _offsets(values: Sequence[str] | Sequence[bytes]) -> NDArray[np.int32]:
    offsets = np.zeros(len(values) + 1, dtype=np.int32)
    np.cumsum(np.fromiter(map(len, values), dtype=np.int32, count=len(values)), out=offsets[1:])
    return offsets


def _strings(content: bytes, offsets: NDArray[np.int32], validity: pyarrow.Buffer | None = None) -> pyarrow.Array:
    return pyarrow.StringArray.from_buffers(
        len(offsets) - 1, pyarrow.py_buffer(offsets), pyarrow.py_buffer(content), validity
    )


def _text_or_null(values: Sequence[str | None]) -> pyarrow.Array:
    missing = values.count(None)
    if missing == len(values):
        return pyarrow.nulls(len(values), pyarrow.string())
    if not missing:
        return _text([value for value in values if value is not None])
    encoded = [b"" if value is None else value.encode(errors="backslashreplace") for value in values]
    valid = np.fromiter((value is not None for value in values), dtype=np.bool_, count=len(values))
    return _strings(b"".join(encoded), _offsets(encoded), _bitmap(valid))


def _numbers(values: NDArray[np.float64] | NDArray[np.int64]) -> pyarrow.Array:
    """NaN is null: the log has no other use for it."""
    kind = pyarrow.float64() if values.dtype == np.float64 else pyarrow.int64()
    missing = np.isnan(values)
    validity = _bitmap(~missing) if missing.any() else None
    return pyarrow.Array.from_buffers(kind, len(values), [validity, pyarrow.py_buffer(values)])


def _booleans(values: NDArray[np.float32]) -> pyarrow.Array:
    missing = np.isnan(values)
    validity = _bitmap(~missing) if missing.any() else None
    return pyarrow.Array.from_buffers(pyarrow.bool_(), len(values), [validity, _bitmap(values == 1)])


def _moments(served_at_s: Sequence[float], day: int) -> pyarrow.Array:
    """ISO 8601 with microseconds, UTC, as one matrix of characters; all of `day`."""
    template = f"{day_name(day)}T00:00:00.000000+00:00".encode()
    text = np.tile(np.frombuffer(template, dtype=np.uint8), (len(served_at_s), 1))
    left = np.rint(np.array(served_at_s) * 1e6).astype(np.int64) - day * DAY_S * 1_000_000
    left = np.minimum(left, DAY_S * 1_000_000 - 1)  # the last instant of a day is not rounded into the next
    for place, unit in zip((11, 14, 17), (3_600_000_000, 60_000_000, 1_000_000), strict=True):
        value = left // unit
        left = left - value * unit
        text[:, place] += (value // 10).astype(np.uint8)
        text[:, place + 1] += (value % 10).astype(np.uint8)
    for place in range(6):
        text[:, 25 - place] += (left // 10**place % 10).astype(np.uint8)
    return _strings(text.tobytes(), np.arange(0, text.size + 1, text.shape[1], dtype=np.int32))
