"""Joins predictions with the outcomes that arrived later, by the fields that identify the event."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime
from typing import Any

import msgspec
import pyarrow as pa
import pyarrow.compute as pc

from contracts.encoder import parse_timestamp
from contracts.input_schema import InputSchema, Kind
from pipelines.monitoring.predictions import parse_inputs

OUTCOME = "outcome"


class Coverage(msgspec.Struct, frozen=True, kw_only=True):
    """How many predictions there are, for how many the outcome should be known by now, and for how many of those it is.

    An event may never get an outcome (a cancelled flight), so a share below 1 is normal, and a fall is not.
    """

    predictions: int
    due: int
    labelled: int
    without_key: int

    @property
    def share(self) -> float | None:
        """Labelled of due; None while nothing is due."""
        return self.labelled / self.due if self.due else None


@dataclass(frozen=True)
class LabelledPredictions:
    """The predictions with one more column, `outcome` (boolean, null while not known), and how many have one."""

    table: pa.Table
    coverage: Coverage


def join_outcomes(
    predictions: pa.Table,
    outcomes: pa.Table,
    schema: InputSchema,
    label: str,
    *,
    known_before: date,
) -> LabelledPredictions:
    """Adds the outcome to each prediction of an event on a day before `known_before` (as-of less the label's delay).

    The outcome of a later event is not used even if `outcomes` has it: a replay of history must not know more than the
    run that it repeats.

    Args:
        predictions: columns of the prediction log.
        outcomes: the fields of `schema.key`, and `label` as 0 and 1 or as a boolean; null labels are left out.

    Raises:
        ValueError: `outcomes` lacks a column, has two different labels for one event or a label that is neither 0 nor
            1, or a key field is personal (the log has it only masked).
    """
    missing = [name for name in (*schema.key, label) if name not in outcomes.column_names]
    if missing:
        raise ValueError(f"outcomes lack the columns {missing}; found: {outcomes.column_names}")
    personal = [field.name for field in schema.fields if field.name in schema.key and field.personal]
    if personal:
        raise ValueError(f"the key fields {personal} are personal and masked in the log; choose a key that is not")
    known = _labels(outcomes, schema, label)
    kinds = {field.name: field.kind for field in schema.fields}
    keys = [_key(record, schema.key, kinds) for record in parse_inputs(predictions)]
    due = _due(predictions, known_before)
    found = [known.get(key) if key is not None and ripe else None for key, ripe in zip(keys, due, strict=True)]
    coverage = Coverage(
        predictions=len(keys),
        due=sum(due),
        labelled=sum(value is not None for value in found),
        without_key=sum(key is None for key in keys),
    )
    return LabelledPredictions(predictions.append_column(OUTCOME, pa.array(found, pa.bool_())), coverage)


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


def _due(predictions: pa.Table, known_before: date) -> list[bool]:
    """Whether each event is old enough; by its day, as labels arrive for whole days."""
    return [_day(text) < known_before for text in pc.fill_null(predictions.column("event_time"), "").to_pylist()]


def _day(text: str) -> date:
    try:
        return datetime.fromisoformat(text).date()
    except ValueError:
        return date.max  # a time that is none is never due; the reader of the log counts it
