"""Groups of answered rows → one Arrow record batch, column by column from buffers (`serving.arrow_columns`)."""

import json
import logging
import math
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
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
from contracts.prediction_row import END_OF_STREAM, SYNTHETIC, PredictionRow, is_sampled
from serving.arrow_columns import (
    boolean_column,
    json_column,
    moment_column,
    nullable_bytes_column,
    nullable_text_column,
    number_column,
    text_column,
)
from serving.unusual import EXTREME_SCORE, Reference

MAXIMUM_BATCH_BYTES = 64 << 20  # of inputs; far below what 32-bit offsets can address
PIECE_ROWS = 512  # between two pauses, in which answers go on: some 1 ms
_SIZED_ROWS = 128  # between two looks at how much it has become
_COLUMNS_AT_ONCE = 3
COMPRESSED_ROWS = 16  # smaller batches only grow by it
_KNOWN_BUNDLES = 16
_encode_json = msgspec.json.Encoder().encode
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
        yield text_column(per_row([group.prediction_ids for group in groups]))
        yield text_column(each([group.request_id for group in groups]))
        yield moment_column(each([group.served_at_s for group in groups]), day)
        yield text_column(times)
        yield text_column([self._project] * len(inputs))
        yield text_column(each([group.version for group in groups]))
        yield text_column(each(bundles))
        yield text_column(each([group.slot for group in groups]))
        yield nullable_text_column(each([group.rollout for group in groups]))
        yield number_column(np.array(each([group.share for group in groups]), dtype=np.float64))
        yield text_column(per_row(self._entities(groups, bundles)))
        yield number_column(scores)
        yield boolean_column(decisions)
        yield number_column(np.array(each([group.latency_us for group in groups]), dtype=np.int64))
        yield nullable_text_column(per_row([group.errors for group in groups]))
        yield json_column(inputs)
        yield nullable_text_column(each([group.client for group in groups]))
        yield self._unusual(groups, bundles, rows, scores, counted)
        yield boolean_column(np.array(each([group.cached for group in groups]), dtype=np.float32))
        yield nullable_text_column(each([group.uncounted for group in groups]))
        yield self._sampled_features(groups)

    def _sampled_features(self, groups: Sequence[LoggedGroup]) -> pyarrow.Array:
        """The column `features`: null, but for rows of the requests that are sampled."""
        contents: list[bytes | None] = []
        for group in groups:
            features = group.features
            if features is None or not (_has_features(group) and is_sampled(group.request_id, self._features_share)):
                contents += [None] * len(group.records)
                continue
            if hidden := self._known[group.bundle].personal_columns:
                features = features.copy()
                features[:, hidden] = np.nan
            contents += [
                None if _has_infinity(record) else row.tobytes()
                for row, record in zip(features.astype("<f4", copy=False), group.records, strict=True)
            ]
        return nullable_bytes_column(contents)

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


def _has_infinity(record: Mapping[str, Any]) -> bool:
    """Whether JSON cannot tell what was encoded: it has no word for what a clipping field takes to its bound."""
    return any(value.__class__ is float and math.isinf(value) for value in record.values())


def _places(starts: NDArray[np.intp], lengths: NDArray[np.intp]) -> NDArray[np.intp]:
    """The rows of all spans."""
    if not len(starts):
        return starts
    ends = np.cumsum(lengths)
    places: NDArray[np.intp] = np.repeat(starts - (ends - lengths), lengths) + np.arange(ends[-1])
    return places
