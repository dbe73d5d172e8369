"""Joins predictions with the outcomes that arrived later, whoever tells them, as they were known at a date.

Each source says of each prediction what it knew and since when; of several the word that was known last counts. An
outcome is used only when it is due, as-of less the label's delay: those that come early are not like the others (the
loans that have gone bad by now, say), and what they say of a version would change from day to day.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from typing import Any, Protocol

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from contracts.encoder import parse_timestamp
from contracts.input_schema import InputSchema, Kind
from pipelines.monitoring.outcome_store import CANONICAL_TIME, OutcomeStore
from pipelines.monitoring.predictions import parse_inputs

OUTCOME = "outcome"
_DAY_US = 86_400_000_000
_NEVER = np.iinfo(np.int64).min  # since when nothing is known


class Coverage(msgspec.Struct, frozen=True, kw_only=True):
    """How many predictions there are, for how many the outcome should be known by now, and for how many of those it is.

    An event may never get an outcome (a cancelled flight), so a share below 1 is normal, and a fall is not. `early` are
    outcomes that are known and not due, which nothing uses; `corrected` those of which a source has said otherwise
    before. `age_days` is from the day of the newest event with an outcome to the as-of date, `delay_days` the median
    from the start of the event's day until its outcome was known; None without outcomes.
    """

    predictions: int
    due: int
    labelled: int
    without_key: int
    early: int = 0
    corrected: int = 0
    age_days: int | None = None
    delay_days: float | None = None

    @property
    def share(self) -> float | None:
        """Labelled of due; None while nothing is due."""
        return self.labelled / self.due if self.due else None


@dataclass(frozen=True)
class LabelledPredictions:
    """The predictions with two more columns: `outcome` (boolean, null while not known) and `is_due`."""

    table: pa.Table
    coverage: Coverage


@dataclass(frozen=True)
class Known:
    """What a source knows of each prediction, in their order.

    Args:
        values: -1 where nothing is known, or else 0 and 1, shape (n,).
        since_us: since when, in microseconds of UTC since 1970, shape (n,); without meaning where nothing is known.
        corrected: of how many it has said otherwise before.
        without_key: how many it cannot look up, for lack of what names their event.
    """

    values: NDArray[np.int8]
    since_us: NDArray[np.int64]
    corrected: int = 0
    without_key: int = 0


class OutcomeSource(Protocol):
    """The port for ground truth: whoever knows what became of predictions."""

    def known(self, predictions: pa.Table, as_of: date) -> Known:
        """What was known of `predictions` (columns of the log) when the day `as_of` began, UTC."""
        ...


class WarehouseOutcomes:
    """The labels of the warehouse, by the fields that identify the event, each known the label's delay after its day.

    Args:
        outcomes: the fields of `schema.key`, and `label` as 0 and 1 or as a boolean; null labels are left out.

    Raises:
        ValueError: `outcomes` lacks a column, has two different labels for one event or a label that is neither 0 nor
            1, or a key field is personal (the log has it only masked).
    """

    def __init__(self, outcomes: pa.Table, schema: InputSchema, label: str, *, delay_days: int) -> None:
        missing = [name for name in (*schema.key, label) if name not in outcomes.column_names]
        if missing:
            raise ValueError(f"outcomes lack the columns {missing}; found: {outcomes.column_names}")
        personal = [field.name for field in schema.fields if field.name in schema.key and field.personal]
        if personal:
            raise ValueError(f"the key fields {personal} are personal and masked in the log; choose a key that is not")
        self._schema, self._delay_days = schema, delay_days
        self._labels = _labels(outcomes, schema, label)

    def known(self, predictions: pa.Table, as_of: date) -> Known:
        """See `OutcomeSource`."""
        kinds = {field.name: field.kind for field in self._schema.fields}
        keys = [_key(record, self._schema.key, kinds) for record in parse_inputs(predictions)]
        found = [-1 if key is None else self._labels.get(key, -1) for key in keys]
        values = np.array(found, dtype=np.int8)
        days = _event_days(predictions)
        since = np.where(days < _NO_DAY, days, 0) + self._delay_days + 1
        is_known = (since <= _day_number(as_of)) & (days < _NO_DAY)
        return Known(np.where(is_known, values, -1), since * _DAY_US, without_key=sum(key is None for key in keys))


class StoredOutcomes:
    """What was told to the outcome store, by the prediction's id or by entity and time."""

    def __init__(self, store: OutcomeStore) -> None:
        self._store = store

    def known(self, predictions: pa.Table, as_of: date) -> Known:
        """See `OutcomeSource`. What is told of a prediction also holds for the shadow's of the same request."""
        count = predictions.num_rows
        values, since = np.full(count, -1, dtype=np.int8), np.zeros(count, dtype=np.int64)
        wanted = predictions.select(["prediction_id", "request_id", "entity", "event_time", "slot"])
        found = self._store.outcomes.query(
            _LAST_WORD,
            [datetime.combine(as_of, time(), UTC)],
            predictions=wanted.append_column("position", pa.array(np.arange(count, dtype=np.int64))),
        )
        places = found["position"].to_numpy()
        values[places] = found["value"].cast(pa.int8()).to_numpy()
        since[places] = found["since_us"].to_numpy()
        return Known(values, since, corrected=int(np.sum(found["said"].to_numpy() > 1)))


# an event can be looked up by its request where that has no other row of the same entity and time in the slot
_LAST_WORD = f"""
WITH known AS (SELECT * FROM batches WHERE known_at <= ?),
rows AS (SELECT position, prediction_id, request_id, entity, slot, {CANONICAL_TIME} AS moment FROM predictions),
alone AS (SELECT * FROM rows QUALIFY count(*) OVER (PARTITION BY request_id, entity, moment, slot) = 1),
said AS (
    SELECT position, k.* FROM rows JOIN known k USING (prediction_id)
    UNION ALL SELECT position, k.* FROM alone a JOIN known k
        ON k.prediction_id <> a.prediction_id AND k.request_id = a.request_id AND k.entity = a.entity
        AND k.event_time = a.moment
    UNION ALL SELECT position, k.* FROM rows r JOIN known k
        ON k.prediction_id IS NULL AND k.entity = r.entity AND k.event_time = r.moment)
SELECT position, value, epoch_us(known_at) AS since_us, count(DISTINCT value) OVER (PARTITION BY position) AS said
FROM said
QUALIFY row_number() OVER (PARTITION BY position ORDER BY known_at DESC, added_at DESC, row_id DESC) = 1
"""


def label_predictions(
    predictions: pa.Table, sources: Sequence[OutcomeSource], *, as_of: date, delay_days: int
) -> LabelledPredictions:
    """Adds to each prediction the outcome that was known when the day `as_of` began, if it is due.

    Due are events on a day before as-of less `delay_days`, by the local day of the event, as labels arrive for whole
    days. A run for an earlier date knows no more than a run on that date did.
    """
    days = _event_days(predictions)
    today = _day_number(as_of)
    due = days < today - delay_days
    values = np.full(len(days), -1, dtype=np.int8)
    since = np.full(len(days), _NEVER, dtype=np.int64)
    corrected = without_key = 0
    for source in sources:
        known = source.known(predictions, as_of)
        is_later = (known.values >= 0) & (known.since_us >= since)
        values, since = np.where(is_later, known.values, values), np.where(is_later, known.since_us, since)
        corrected += known.corrected
        without_key = max(without_key, known.without_key)
    used = due & (values >= 0)
    delays = since[used] / _DAY_US - days[used]
    coverage = Coverage(
        predictions=len(days),
        due=int(due.sum()),
        labelled=int(used.sum()),
        without_key=without_key,
        early=int(((values >= 0) & ~due).sum()),
        corrected=corrected,
        age_days=int(today - days[used].max()) if used.any() else None,
        delay_days=round(float(np.median(delays)), 3) if used.any() else None,
    )
    outcomes = pa.array(values == 1, pa.bool_(), mask=~used)
    table = predictions.append_column(OUTCOME, outcomes).append_column("is_due", pa.array(due, pa.bool_()))
    return LabelledPredictions(table, coverage)


def _labels(outcomes: pa.Table, schema: InputSchema, label: str) -> dict[tuple[str, ...], bool]:
    kinds = {field.name: field.kind for field in schema.fields}
    labels: dict[tuple[str, ...], bool] = {}
    for row in outcomes.select([*schema.key, label]).to_pylist():
        value = row[label]
        if value is None:
            continue
        if value not in (0, 1):
            raise ValueError(f"the label {label} is 0 or 1, found {value!r}")
        key = _key(row, schema.key, kinds)
        if key is None:
            raise ValueError(f"an outcome lacks a key field: { ({name: row[name] for name in schema.key}) }")
        if labels.setdefault(key, bool(value)) != bool(value):
            raise ValueError(f"two different outcomes for {dict(zip(schema.key, key, strict=True))}")
    return labels


def _key(record: Mapping[str, Any], names: Sequence[str], kinds: Mapping[str, Kind]) -> tuple[str, ...] | None:
    """One canonical text for each key field, whatever types the two sides have; None when a field is missing."""
    try:
        return tuple(_CANONICAL[kinds[name]](record[name]) for name in names)
    except (KeyError, TypeError, ValueError):
        return None


def _timestamp(value: Any) -> str:
    return parse_timestamp(value).isoformat(timespec="microseconds")


def _number(value: Any) -> str:
    return repr(float(value))


def _text(value: Any) -> str:
    if value is None:
        raise ValueError("nothing is no key")
    return str(value)


_CANONICAL: dict[Kind, Callable[[Any], str]] = {
    "timestamp": _timestamp,
    "number": _number,
    "category": _text,
    "boolean": _text,
    "identifier": _text,
}


_NO_DAY = 1 << 40  # the day of a time that is none: it never becomes due; the reader of the log counts it


def _event_days(predictions: pa.Table) -> NDArray[np.int64]:
    """The local day of each event, as days since 1970."""
    texts = pc.fill_null(predictions.column("event_time"), "").to_pylist()
    return np.array([_day(text) for text in texts], dtype=np.int64)


def _day(text: str) -> int:
    try:
        return _day_number(datetime.fromisoformat(text).date())
    except ValueError:
        return _NO_DAY


def _day_number(day: date) -> int:
    return (day - date(1970, 1, 1)) // timedelta(days=1)
