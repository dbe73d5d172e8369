"""The predictions of a window with their outcomes, as narrow as what is asked of them: of the inputs slices only.

The log is read and labelled in batches, and of each row some 25 bytes stay: a day of a million predictions is 25 MB.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import date, datetime

import pyarrow as pa
import pyarrow.compute as pc

from contracts.prediction_row import SYNTHETIC
from pipelines.monitoring.input_texts import held, input_texts, narrowed
from pipelines.monitoring.log_batches import Window, fold_predictions
from pipelines.monitoring.outcome_store import CANONICAL_TIME, OutcomeStore
from pipelines.monitoring.outcomes import OUTCOME, SHARED, Coverage, Labeller, OutcomeSource, StoredOutcomes
from pipelines.monitoring.predictions import EVENT_TIME, select_columns
from pipelines.monitoring.segments import DamagedSegment

_READ = ("prediction_id", "request_id", "event_time", "version", "slot", "entity", "score", "decision", "inputs")
_COUNTED = f"uncounted IS DISTINCT FROM '{SYNTHETIC}'"
_WITHIN = f"{EVENT_TIME} >= ? AND {EVENT_TIME} < ?"
_WORDS = pa.dictionary(pa.int32(), pa.string())


@dataclass(frozen=True)
class LabelledLog:
    """The rows of a window, in any order.

    `table` has the columns `version`, `slot`, `score`, `decision`, `event_time` (its local hour), `outcome`, `is_due`,
    and of the inputs the slices, where `input_texts` finds them. `undated` rows of the log have an event time that is
    no time, and are in no window.
    """

    table: pa.Table
    coverage: Coverage
    segments: int
    damaged: tuple[DamagedSegment, ...]
    undated: int

    @property
    def days(self) -> int:
        """On how many different days the events are, by their own local times."""
        texts = pc.unique(self.table["event_time"]).to_pylist()
        return len({datetime.fromisoformat(text).date() for text in texts})


def read_labelled(
    window: Window,
    sources: Callable[[], Sequence[OutcomeSource]],
    *,
    keys: Sequence[str],
    slices: Sequence[str],
    as_of: date,
    delay_days: int,
) -> LabelledLog:
    """The predictions of `window` without synthetic requests, with the outcomes that `sources` knew at `as_of`.

    Args:
        keys: the input fields by which sources look up an event.
        slices: the input fields whose words are kept.
    """
    query = (
        f"SELECT {select_columns(*_READ)}, {EVENT_TIME} IS NULL AS undated FROM predictions"
        f" WHERE {_COUNTED} AND (({_WITHIN}) OR {EVENT_TIME} IS NULL)"
    )
    wanted = list(dict.fromkeys((*keys, *slices)))

    def fold(batches: Iterator[pa.RecordBatch]) -> tuple[pa.Table, Coverage, int]:
        labeller, parts, undated = Labeller(sources(), as_of=as_of, delay_days=delay_days), [_empty(slices)], 0
        for batch in batches:
            dated = batch.filter(pc.invert(batch["undated"]))
            undated += batch.num_rows - dated.num_rows
            rows = pa.Table.from_batches([dated]).drop_columns(["undated"])
            parts.append(_kept(labeller.label(narrowed(rows, wanted)), slices))
        return pa.concat_tables(parts).unify_dictionaries().combine_chunks(), labeller.coverage(), undated

    found = fold_predictions(window, query, window.bounds, fold)
    table, coverage, undated = found.result
    return LabelledLog(table, coverage, found.read.listed, found.damaged, undated + found.read.undated)


def stored_outcomes(store: OutcomeStore, window: Window, as_of: date) -> StoredOutcomes:
    """What was told to `store` of the predictions of `window`, for batches of them in any order."""
    told = store.told_of(as_of, window.start, window.end)
    requests = pc.unique(told["request_id"].drop_null()).to_pylist()
    schema = pa.schema([(name, pa.string()) for name in ("request_id", "entity", "moment", "slot")])

    def fold(batches: Iterator[pa.RecordBatch]) -> pa.Table:
        return pa.Table.from_batches(batches, schema)

    if not requests:
        return StoredOutcomes(store, told, schema.empty_table())
    rows = (
        f"(SELECT request_id, entity, {CANONICAL_TIME} AS moment, slot FROM predictions WHERE {_COUNTED} AND {_WITHIN}"
        " AND request_id IN (SELECT unnest(?::VARCHAR[])))"
    )
    query = f"SELECT {SHARED.format(rows)}"
    return StoredOutcomes(store, told, fold_predictions(window, query, [*window.bounds, requests], fold).result)


def _kept(labelled: pa.Table, slices: Sequence[str]) -> pa.Table:
    """What stays of labelled rows."""
    texts = input_texts(labelled, slices)
    columns = {name: labelled[name] for name in ("version", "slot", "score", "decision")}
    columns |= {"event_time": _hours(labelled["event_time"]), OUTCOME: labelled[OUTCOME], "is_due": labelled["is_due"]}
    return held(columns, {name: texts[name] for name in slices}).cast(_schema(slices))


def _hours(texts: pa.ChunkedArray) -> pa.Array:
    """Each event's local hour as text; a time that Python cannot read stays, and is refused by whoever asks."""
    found = texts.combine_chunks().dictionary_encode()
    hours = pa.array([_hour(text) for text in found.dictionary.to_pylist()], pa.string())
    return hours.take(found.indices)


def _hour(text: str) -> str:
    try:
        return datetime.fromisoformat(text).replace(tzinfo=None).isoformat(timespec="hours")
    except ValueError:
        return text


def _schema(slices: Sequence[str]) -> pa.Schema:
    types = {"version": _WORDS, "slot": _WORDS, "score": pa.float64(), "decision": pa.bool_(), "event_time": _WORDS}
    empty = {name: pa.array([], kind) for name, kind in (types | {OUTCOME: pa.bool_(), "is_due": pa.bool_()}).items()}
    return held(empty, {name: pa.array([], _WORDS) for name in slices}).schema


def _empty(slices: Sequence[str]) -> pa.Table:
    return _schema(slices).empty_table()
