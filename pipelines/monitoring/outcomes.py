"""Joins predictions with the outcomes that arrived later, whoever tells them, as they were known at a date.

Each source says of each prediction what it knew and since when; of several the word that was known last counts. An
outcome is used only when it is due, as-of less the label's delay: those that come early are not like the others (the
loans that have gone bad by now, say), and what they say of a version would change from day to day.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from typing import Protocol

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from contracts.input_schema import InputSchema, Kind
from pipelines.monitoring.input_texts import input_texts
from pipelines.monitoring.outcome_store import CANONICAL_TIME, OutcomeStore
from pipelines.monitoring.predictions import EVENT_TIME

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
        self._delay_days = delay_days
        self._kinds = {field.name: field.kind for field in schema.fields if field.name in schema.key}
        self._labels = _labels(outcomes, self._kinds, label)

    def known(self, predictions: pa.Table, as_of: date) -> Known:
        """See `OutcomeSource`."""
        import duckdb

        count = predictions.num_rows
        rows = input_texts(predictions, list(self._kinds))
        keys = canonical_keys(self._kinds, "rows")
        with duckdb.connect() as connection:
            connection.register("rows", rows.append_column("position", pa.array(np.arange(count, dtype=np.int64))))
            connection.register("labels", self._labels)
            names = [f"k{place}" for place in range(len(self._kinds))]
            found = connection.sql(
                f"""SELECT position, {" OR ".join(f"{name} IS NULL" for name in names)} AS lacks, value
                FROM (SELECT position, {keys} FROM rows) LEFT JOIN labels USING ({", ".join(names)})"""
            ).to_arrow_table()
        values = np.full(count, -1, dtype=np.int8)
        values[found["position"].to_numpy()] = pc.fill_null(found["value"], -1).to_numpy()
        days = _event_days(predictions)
        since = np.where(days < _NO_DAY, days, 0) + self._delay_days + 1
        is_known = (since <= _day_number(as_of)) & (days < _NO_DAY)
        without_key = pc.sum(found["lacks"]).as_py() or 0
        return Known(np.where(is_known, values, -1).astype(np.int8), since * _DAY_US, without_key=without_key)


class StoredOutcomes:
    """What was told to the outcome store, by the prediction's id or by entity and time.

    Args:
        told: what was told of the predictions that are asked for (`OutcomeStore.told_of`); None: all that was told.
        shared: the events that a request has twice in a slot (`SHARED`); None: found in the predictions
            that are asked for, which then are all of their requests.
    """

    def __init__(self, store: OutcomeStore, told: pa.Table | None = None, shared: pa.Table | None = None) -> None:
        self._store, self._told, self._shared = store, told, shared

    def known(self, predictions: pa.Table, as_of: date) -> Known:
        """See `OutcomeSource`. What is told of a prediction also holds for the shadow's of the same request."""
        import duckdb

        count = predictions.num_rows
        values, since = np.full(count, -1, dtype=np.int8), np.zeros(count, dtype=np.int64)
        told = self._store.told_of(as_of) if self._told is None else self._told
        if not told.num_rows:
            return Known(values, since)
        wanted = predictions.select(["prediction_id", "request_id", "entity", "event_time", "slot"])
        with duckdb.connect() as connection:
            connection.register("known", told)
            connection.register("rows", wanted.append_column("position", pa.array(np.arange(count, dtype=np.int64))))
            connection.execute(f"CREATE TEMP VIEW placed AS SELECT *, {CANONICAL_TIME} AS moment FROM rows")
            if self._shared is None:
                connection.execute(f"CREATE TEMP VIEW shared AS SELECT {SHARED.format('placed')}")
            else:
                connection.register("shared", self._shared)
            found = connection.sql(_LAST_WORD).to_arrow_table()
        places = found["position"].to_numpy()
        values[places] = found["value"].cast(pa.int8()).to_numpy()
        since[places] = found["since_us"].to_numpy()
        return Known(values, since, corrected=int(np.sum(found["said"].to_numpy() > 1)))


# an event can be looked up by its request where that has no other row of the same entity and time in the slot
SHARED = "request_id, entity, moment, slot FROM {} GROUP BY ALL HAVING count(*) > 1"
_LAST_WORD = """
WITH alone AS (SELECT * FROM placed ANTI JOIN shared USING (request_id, entity, moment, slot)),
said AS (
    SELECT position, k.* FROM placed JOIN known k USING (prediction_id)
    UNION ALL SELECT position, k.* FROM alone a JOIN known k
        ON k.prediction_id <> a.prediction_id AND k.request_id = a.request_id AND k.entity = a.entity
        AND k.event_time = a.moment
    UNION ALL SELECT position, k.* FROM placed r JOIN known k
        ON k.prediction_id IS NULL AND k.entity = r.entity AND k.event_time = r.moment)
SELECT position, value, epoch_us(known_at) AS since_us, count(DISTINCT value) OVER (PARTITION BY position) AS said
FROM said
QUALIFY row_number() OVER (PARTITION BY position ORDER BY known_at DESC, added_at DESC, row_id DESC) = 1
"""


class Labeller:
    """Adds to predictions, a batch after another, the outcomes that were known when the day `as_of` began.

    Due are events on a day before as-of less `delay_days`, by the local day of the event, as labels arrive for whole
    days. A run for an earlier date knows no more than a run on that date did. No row is kept.
    """

    def __init__(self, sources: Sequence[OutcomeSource], *, as_of: date, delay_days: int) -> None:
        self._sources, self._as_of, self._delay_days = sources, as_of, delay_days
        self._today = _day_number(as_of)
        self._counts = dict.fromkeys(("predictions", "due", "labelled", "without_key", "early", "corrected"), 0)
        self._newest: int | None = None
        self._delays: list[tuple[NDArray[np.float64], NDArray[np.int64]]] = []  # each different one, and how often

    def label(self, predictions: pa.Table) -> pa.Table:
        """`predictions` with two more columns: `outcome` (boolean, null while not known) and `is_due`."""
        days = _event_days(predictions)
        due = days < self._today - self._delay_days
        values = np.full(len(days), -1, dtype=np.int8)
        since = np.full(len(days), _NEVER, dtype=np.int64)
        corrected = without_key = 0
        for source in self._sources:
            known = source.known(predictions, self._as_of)
            is_later = (known.values >= 0) & (known.since_us >= since)
            values, since = np.where(is_later, known.values, values), np.where(is_later, known.since_us, since)
            corrected += known.corrected
            without_key = max(without_key, known.without_key)
        used = due & (values >= 0)
        found = (len(days), due.sum(), used.sum(), without_key, ((values >= 0) & ~due).sum(), corrected)
        for name, count in zip(self._counts, found, strict=True):
            self._counts[name] += int(count)
        if used.any():
            newest = int(days[used].max())
            self._newest = newest if self._newest is None else max(newest, self._newest)
            self._delays.append(np.unique(since[used] / _DAY_US - days[used], return_counts=True))
        outcomes = pa.array(values == 1, pa.bool_(), mask=~used)
        return predictions.append_column(OUTCOME, outcomes).append_column("is_due", pa.array(due, pa.bool_()))

    def coverage(self) -> Coverage:
        """Of all predictions that were labelled."""
        return Coverage(
            **self._counts,
            age_days=None if self._newest is None else self._today - self._newest,
            delay_days=_median(self._delays),
        )


def label_predictions(
    predictions: pa.Table, sources: Sequence[OutcomeSource], *, as_of: date, delay_days: int
) -> LabelledPredictions:
    """What a `Labeller` says of `predictions` that are all at hand."""
    labeller = Labeller(sources, as_of=as_of, delay_days=delay_days)
    return LabelledPredictions(labeller.label(predictions), labeller.coverage())


def _median(counted: Sequence[tuple[NDArray[np.float64], NDArray[np.int64]]]) -> float | None:
    """The median of values that are counted in parts; None without any."""
    if not counted:
        return None
    values, counts = (np.concatenate(parts) for parts in zip(*counted, strict=True))
    order = np.argsort(values)
    last = np.cumsum(counts[order])
    middle = [(last[-1] - 1) // 2, last[-1] // 2]
    return round(float(values[order][np.searchsorted(last, middle, side="right")].mean()), 3)


def _labels(outcomes: pa.Table, kinds: Mapping[str, Kind], label: str) -> pa.Table:
    """The columns k0, k1 … (canonical texts of the key) and `value`, one row for each event."""
    import duckdb

    keys, names = canonical_keys(kinds, "told"), ", ".join(f"k{place}" for place in range(len(kinds)))
    with duckdb.connect() as connection:
        connection.register("told", outcomes.select(list(dict.fromkeys((*kinds, label)))))
        rows = f"""SELECT {keys}, told."{label}" AS label, TRY_CAST(told."{label}" AS DOUBLE) AS value FROM told
            WHERE told."{label}" IS NOT NULL"""
        connection.register("rows", connection.sql(rows).to_arrow_table())
        wrong = "SELECT label FROM rows WHERE value IS NULL OR value NOT IN (0, 1) LIMIT 1"
        for (found,) in connection.sql(wrong).fetchall():
            raise ValueError(f"the label {label} is 0 or 1, found {found!r}")
        without = " OR ".join(f"{name} IS NULL" for name in names.split(", "))
        for lacking in connection.sql(f"SELECT {names} FROM rows WHERE {without} LIMIT 1").fetchall():
            raise ValueError(f"an outcome lacks a key field: {dict(zip(kinds, lacking, strict=True))}")
        grouped = f"SELECT {names}, min(value) AS low, max(value) AS high FROM rows GROUP BY ALL"
        connection.register("events", connection.sql(grouped).to_arrow_table())
        for twice in connection.sql(f"SELECT {names} FROM events WHERE low <> high LIMIT 1").fetchall():
            raise ValueError(f"two different outcomes for {dict(zip(kinds, twice, strict=True))}")
        return connection.sql(f"SELECT {names}, CAST(low AS TINYINT) AS value FROM events").to_arrow_table()


def canonical_keys(kinds: Mapping[str, Kind], table: str) -> str:
    """SQL: one text for each key field, the same whatever types the two sides have; null where there is none."""
    columns = [_SQL[kind].format(f'{table}."{name}"') for name, kind in kinds.items()]
    return ", ".join(f"{column} AS k{place}" for place, column in enumerate(columns))


_TEXT = "CAST({0} AS VARCHAR)"
_SQL: dict[Kind, str] = {
    "timestamp": "strftime(" + EVENT_TIME.replace("event_time", "CAST({0} AS VARCHAR)") + ", '%Y-%m-%dT%H:%M:%S.%f')",
    "number": "CAST(TRY_CAST({0} AS DOUBLE) AS VARCHAR)",
    "category": _TEXT,
    "boolean": _TEXT,
    "identifier": _TEXT,
}


_NO_DAY = 1 << 40  # the day of a time that is none: it never becomes due; the reader of the log counts it


def _event_days(predictions: pa.Table) -> NDArray[np.int64]:
    """The local day of each event, as days since 1970."""
    column = pc.fill_null(predictions.column("event_time"), "").combine_chunks()
    texts = column if pa.types.is_dictionary(column.type) else column.dictionary_encode()
    days = np.array([_day(text) for text in texts.dictionary.to_pylist()], dtype=np.int64)
    found: NDArray[np.int64] = days[texts.indices.to_numpy()]
    return found


def _day(text: str) -> int:
    try:
        return _day_number(datetime.fromisoformat(text).date())
    except ValueError:
        return _NO_DAY


def _day_number(day: date) -> int:
    return (day - date(1970, 1, 1)) // timedelta(days=1)
