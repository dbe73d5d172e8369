"""Groups of answered rows → one Arrow record batch, column by column from buffers (`serving.arrow_columns`).

The records of many requests become JSON in one call, and those of a request by columns never become records: a call, a
dict and a list for each row would cost more than everything else that the log does.
"""

import logging
import math
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate, chain, repeat
from typing import Any

import msgspec
import numpy as np
import pyarrow
from numpy.typing import NDArray

from contracts.masking import Mask
from contracts.prediction_row import END_OF_STREAM, SYNTHETIC, PredictionRow, is_sampled
from serving.arrow_columns import (
    Spread,
    boolean_column,
    joined_column,
    moment_column,
    nullable_text_column,
    number_column,
    same_text_column,
    sparse_bytes_column,
    text_column,
)
from serving.columns import Columns
from serving.logged_groups import LoggedGroup, by_attribute, has_features
from serving.logged_inputs import JoinedRecords, LoggedInputs, written_one_by_one, written_together
from serving.unusual import EXTREME_SCORE, Reference

MAXIMUM_BATCH_BYTES = 64 << 20  # of inputs; far below what 32-bit offsets can address
PIECE_ROWS = 512  # between two pauses, in which answers go on: some 1 ms
_SIZED_ROWS = 128  # between two looks at how much it has become
_COLUMNS_AT_ONCE = 3
COMPRESSED_ROWS = 16  # smaller batches only grow by it
_KNOWN_BUNDLES = 16
_PARALLEL = ("scores", "prediction_ids", "entities")
logger = logging.getLogger(__name__)

_TYPES: dict[Any, pyarrow.DataType] = {
    str: pyarrow.string(),
    float: pyarrow.float64(),
    int: pyarrow.int64(),
    bool: pyarrow.bool_(),
    bytes: pyarrow.binary(),
}


def _arrow_type(annotation: Any) -> pyarrow.DataType:
    found = [kind for kind in _TYPES if kind is annotation or kind in getattr(annotation, "__args__", ())]
    return _TYPES[found[0]]


SEGMENT_SCHEMA: pyarrow.Schema = pyarrow.schema(
    [(column.name, _arrow_type(column.type)) for column in msgspec.structs.fields(PredictionRow)]
)
STREAM_HEAD: bytes = SEGMENT_SCHEMA.serialize().to_pybytes()


@dataclass(frozen=True, slots=True)
class _Known:
    """What a batch needs to know of one bundle."""

    personal: tuple[str, ...]
    time: str
    masks_entity: bool
    personal_columns: list[int]
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
    """Builds batches for one project. `pause` is called between pieces, to let other threads have the interpreter.

    `features_share` of the requests have their encoded rows logged as well.
    """

    def __init__(self, project: str, mask: Mask, pause: Callable[[], None], features_share: float = 0.0) -> None:
        self._project = project
        self._mask = mask
        self._pause = pause
        self._features_share = features_share
        self._known: dict[str, _Known] = {}

    def build(self, day: int, groups: Sequence[LoggedGroup]) -> Batch:
        """One batch of as many of `groups` as fit, all of `day`; one that cannot be logged is left out, and said so."""
        refused: list[int] = []
        encoded: list[LoggedInputs] = []
        size = rows = paused_at = taken = 0
        for piece in _pieces(groups):
            for each in self._encode(piece, taken, refused):
                encoded.append(each)
                size += len(each.content)
                rows += len(each.lengths)
            taken += len(piece)
            if size >= MAXIMUM_BATCH_BYTES:
                break
            if rows - paused_at >= PIECE_ROWS:
                paused_at = rows
                self._pause()
        if not rows:
            return Batch(b"", 0, taken, refused, {})
        left_out = set(refused)
        good = [group for place, group in enumerate(groups[:taken]) if place not in left_out and len(group.records)]
        unusual: Counter[tuple[str, str, str]] = Counter()
        columns: list[pyarrow.Array] = []
        try:
            for column in self._columns(day, good, encoded, unusual):
                columns.append(column)
                if rows >= PIECE_ROWS and len(columns) % _COLUMNS_AT_ONCE == 0:
                    self._pause()
            batch = pyarrow.RecordBatch.from_arrays(columns, schema=SEGMENT_SCHEMA)
        except (TypeError, ValueError, OverflowError, AttributeError):
            return self._build_without_culprits(day, groups[:taken])
        return Batch(_message(batch), rows, taken, refused, unusual)

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

    def _encode(self, groups: Sequence[LoggedGroup], first: int, refused: list[int]) -> list[LoggedInputs]:
        """The inputs of `groups`, the first of which has the position `first`; those without any join `refused`."""
        try:
            return [self._encode_together(groups)]
        except Exception:  # noqa: BLE001  whose it is, and whether it is a fault at all, each alone tells
            if len(groups) == 1:
                return self._encode_by_record(groups[0], first, refused)
        return [each for place, group in enumerate(groups) for each in self._encode([group], first + place, refused)]

    def _encode_together(self, groups: Sequence[LoggedGroup]) -> LoggedInputs:
        """All records in one call: a JSON text has no line break of its own."""
        of = by_attribute(groups)
        counts = list(map(len, of["records"]))
        if any(counts != list(map(len, of[name])) for name in _PARALLEL):
            raise ValueError("the sequences of a group are not parallel")
        alike = {(group.bundle, group.baseline is None): group for group in groups}
        known = {bundle: self._known_of(group) for (bundle, _), group in alike.items()}
        if Columns in set(map(type, of["records"])) or len(known) > 1 or any(each.personal for each in known.values()):
            rows, times = self._rows_by_group(groups, known)
        else:
            rows, time = list(chain.from_iterable(of["records"])), known[groups[0].bundle].time
            times = [record.get(time) for record in rows]
        return written_together(rows, times)

    def _rows_by_group(self, groups: Sequence[LoggedGroup], known: Mapping[str, _Known]) -> tuple[list[Any], list[Any]]:
        """The rows of `groups`, masked, as msgspec writes them; and their own times."""
        rows: list[Any] = []
        times: list[Any] = []
        for group in groups:
            about, records = known[group.bundle], group.records
            if isinstance(records, Columns):
                rows += records.masked(about.personal, self._mask).rows()
                times += records.values(about.time)
            else:
                rows += [self._mask.record(record, about.personal) for record in records]
                times += [record.get(about.time) for record in records]
        return rows, times

    def _encode_by_record(self, group: LoggedGroup, place: int, refused: list[int]) -> list[LoggedInputs]:
        """As near to what was sent as JSON can be: half a surrogate pair, or a value of another library."""
        try:
            known, counts = self._known_of(group), {len(getattr(group, name)) for name in _PARALLEL}
            if counts != {len(group.records)}:
                raise ValueError(f"{len(group.records)} records have other sequences of {sorted(counts)}")
            masked = [self._mask.record(record, known.personal) for record in group.records]
            return [written_one_by_one(masked, [record.get(known.time) for record in group.records])]
        except Exception:  # one request that cannot be logged must not stop the log for all others
            logger.exception("the predictions of request %s cannot be logged", group.request_id)
            refused.append(place)
            return []

    def _known_of(self, group: LoggedGroup) -> _Known:
        """What is known of the bundle of `group`."""
        known = self._known.get(group.bundle)
        if known is None or (known.reference is None and group.baseline is not None):
            known = self._learn(group)
        return known

    def _learn(self, group: LoggedGroup) -> _Known:
        personal = tuple(field.name for field in group.schema.fields if field.personal)
        known = _Known(
            personal=personal,
            time=group.schema.time,
            masks_entity=group.schema.entity in personal,
            personal_columns=[
                group.schema.columns.index(column)
                for field in group.schema.fields
                if field.personal
                for column in field.columns
            ],
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
        encoded: Sequence[LoggedInputs],
        counted: Counter[tuple[str, str, str]],
    ) -> Iterator[pyarrow.Array]:
        """In the order of `PredictionRow`'s fields; counts the flags of unusual rows in `counted`."""
        of = by_attribute(groups)
        spread = Spread(list(map(len, of["records"])))
        scores = np.array(list(chain.from_iterable(of["scores"])), dtype=np.float64)  # None becomes NaN
        decisions = np.array(list(chain.from_iterable(of["decisions"])), dtype=np.float32)
        lengths = np.concatenate([each.lengths for each in encoded])
        yield text_column(list(chain.from_iterable(of["prediction_ids"])))
        yield _own_texts(of, "request_ids", spread, "request_id")
        yield moment_column(of["served_at_s"], day, spread)
        yield text_column(list(chain.from_iterable([each.times for each in encoded])))
        yield same_text_column(self._project, spread.total)
        yield spread.text(of["version"])
        yield spread.text(of["bundle"])
        yield spread.text(of["slot"])
        yield spread.text(of["rollout"])
        yield number_column(spread.array(np.array(of["share"], dtype=np.float64)))
        yield text_column(list(chain.from_iterable(self._entities(groups, of["bundle"]))))
        yield number_column(scores)
        yield boolean_column(decisions)
        yield number_column(np.array(_own(of, "latencies_us", spread, "latency_us"), dtype=np.int64))
        yield nullable_text_column(list(chain.from_iterable(of["errors"])))
        yield joined_column(b"".join([each.content for each in encoded]), lengths)
        yield _own_texts(of, "clients", spread, "client")
        yield self._unusual(groups, of, spread.rows, scores, counted)
        yield boolean_column(spread.array(np.array(of["cached"], dtype=np.float32)))
        yield spread.text(of["uncounted"])
        yield self._sampled_features(groups, spread)

    def _sampled_features(self, groups: Sequence[LoggedGroup], spread: Spread) -> pyarrow.Array:
        """The column `features`: null, but for rows of the requests that are sampled."""
        places: list[int] = []
        contents: list[bytes] = []
        for start, group in zip(accumulate(spread.rows, initial=0), groups, strict=False):
            features, sampled = group.features, self._sampled(group)
            if features is None or not sampled:
                continue
            if hidden := self._known[group.bundle].personal_columns:
                features = features.copy()
                features[:, hidden] = np.nan
            told = _told_by_json(group.records, sampled)
            places += [start + row for row in told]
            contents += [features[row].astype("<f4", copy=False).tobytes() for row in told]
        return sparse_bytes_column(places, contents, spread.total)

    def _sampled(self, group: LoggedGroup) -> Sequence[int]:
        """The rows of `group` that are logged with their features."""
        share = self._features_share
        if not share or not has_features(group):
            return ()
        if group.each is None:
            return range(len(group.records)) if is_sampled(group.request_id, share) else ()
        return [row for row, request_id in enumerate(group.each.request_ids) if is_sampled(request_id, share)]

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
        of: Mapping[str, Sequence[Any]],
        rows: Sequence[int],
        scores: NDArray[np.float64],
        counted: Counter[tuple[str, str, str]],
    ) -> pyarrow.Array:
        """The column of that name; `of` are the attributes of `groups`."""
        flags: dict[int, list[str]] = {}
        bundles = of["bundle"]
        starts, lengths = np.cumsum([0, *rows[:-1]]), np.array(rows)
        for bundle in set(bundles):
            reference = self._known[bundle].reference
            if reference is None:
                continue
            members = [place for place, each in enumerate(bundles) if each == bundle]
            owned = _places(starts[members], lengths[members])
            for row in owned[reference.flag_scores(scores[owned])].tolist():
                flags.setdefault(row, []).append(EXTREME_SCORE)
            encoded, sizes = _picked(of["features"], members), _picked(rows, members)
            if set(map(type, encoded)) != {np.ndarray} or list(map(len, encoded)) != list(sizes):
                members = [place for place in members if has_features(groups[place])]
                owned = _places(starts[members], lengths[members])
                encoded = _picked(of["features"], members)
            if not members:
                continue
            records = JoinedRecords(_picked(of["records"], members))
            for place, flag in reference.flag_inputs(np.concatenate(encoded), records):
                flags.setdefault(int(owned[place]), []).append(flag)
        if not flags:
            return pyarrow.nulls(len(scores), pyarrow.string())
        owners = list(chain.from_iterable(map(repeat, groups, rows)))
        for row, found in flags.items():
            if owners[row].uncounted != SYNTHETIC:
                counted.update((owners[row].version, owners[row].slot, flag) for flag in found)
        return nullable_text_column([",".join(flags[row]) if row in flags else None for row in range(len(scores))])


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


def _pieces(groups: Sequence[LoggedGroup]) -> Iterator[Sequence[LoggedGroup]]:
    """Neighbours whose rows are encoded by one call; between two pieces somebody looks at what has come of them."""
    first = rows = 0
    for place, group in enumerate(groups):
        rows += len(group.records)
        if rows >= _SIZED_ROWS:
            yield groups[first : place + 1]
            first, rows = place + 1, 0
    if first < len(groups):
        yield groups[first:]


def _picked(values: Sequence[Any], places: Sequence[int]) -> Sequence[Any]:
    return values if len(places) == len(values) else [values[place] for place in places]


def _told_by_json(records: Sequence[Mapping[str, Any]], rows: Sequence[int]) -> Sequence[int]:
    """Those of `rows` that JSON can tell: it has no word for an infinity, which a clipping field takes to its bound."""
    if not isinstance(records, Columns):
        return [row for row in rows if not _has_infinity(records[row].values())]
    if records.is_typed:  # a number of JSON that no float can hold is refused
        return rows
    if len(rows) == len(records) and not any(map(_has_infinity, records.by_name.values())):
        return rows
    return [row for row in rows if not _has_infinity(records.values_of_row(row))]


def _has_infinity(values: Iterable[Any]) -> bool:
    if isinstance(values, np.ndarray):
        return bool(values.dtype.kind == "f" and np.isinf(values).any())
    return any(value.__class__ is float and math.isinf(value) for value in values)


def _own(of: Mapping[str, Sequence[Any]], name: str, spread: Spread, shared: str) -> Sequence[Any]:
    """The attribute `name` of each row's request; rows of one request have the group's attribute `shared`."""
    parts = zip(of["each"], of[shared], spread.rows, strict=True)
    by_group = [repeat(value, rows) if each is None else getattr(each, name) for each, value, rows in parts]
    return list(chain.from_iterable(by_group))


def _own_texts(of: Mapping[str, Sequence[Any]], name: str, spread: Spread, shared: str) -> pyarrow.Array:
    if not any(of["each"]):
        return spread.text(of[shared])
    return spread.text_of_rows(_own(of, name, spread, shared))


def _places(starts: NDArray[np.intp], lengths: NDArray[np.intp]) -> NDArray[np.intp]:
    """The rows of all spans."""
    if not len(starts):
        return starts
    ends = np.cumsum(lengths)
    places: NDArray[np.intp] = np.repeat(starts - (ends - lengths), lengths) + np.arange(ends[-1])
    return places
