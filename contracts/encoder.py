"""The encoder: a raw record → a float32 row, by the input schema.

The only feature code of the system. Training encodes tables with it and the model server encodes requests, value by
value with the same functions, so that a row has the same bytes alone and in a table. Missing is NaN; a category is its
position in the vocabulary. Whatever else is fitted lives in the ONNX graph.
"""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from contracts.input_schema import Field, InputSchema

_NAN = math.nan
_LARGEST = float(np.finfo(np.float32).max)
_MAX_IDENTIFIER_CHARACTERS = 256

_PART: dict[str, Callable[[datetime], float]] = {
    "minute_of_day": lambda moment: moment.hour * 60 + moment.minute,
    "day_of_week": lambda moment: moment.weekday(),
    "day_of_year": lambda moment: moment.timetuple().tm_yday,
}


class FieldProblem(msgspec.Struct, frozen=True):
    """What is wrong with one field of one record."""

    field: str
    found: str
    expected: str
    row: int = 0


class InvalidRecordError(ValueError):
    """Records that the schema refuses; `problems` names each field, what was found and what was expected."""

    def __init__(self, problems: Sequence[FieldProblem]) -> None:
        self.problems = tuple(problems)
        super().__init__("; ".join(f"{p.field}: found {p.found}, expected {p.expected}" for p in self.problems))


class _RefusedValueError(Exception):
    def __init__(self, expected: str) -> None:
        self.expected = expected


def _show(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."


def _number(field: Field) -> Callable[[Any], float]:
    low = -_LARGEST if field.minimum is None else float(field.minimum)
    high = _LARGEST if field.maximum is None else float(field.maximum)
    outside = field.outside

    def encode(value: Any) -> float:
        if value.__class__ is not float and value.__class__ is not int:
            raise _RefusedValueError("a number")
        if low <= value <= high:
            return float(value)
        if value != value or outside == "reject":
            raise _RefusedValueError(f"a number from {low:g} to {high:g}")
        if outside == "missing":
            return _NAN
        return low if value < low else high

    return encode


def _category(field: Field) -> Callable[[Any], float]:
    codes = {word: float(code) for code, word in enumerate(field.vocabulary)}
    reject = field.unseen == "reject"

    def encode(value: Any) -> float:
        if value.__class__ is not str:
            raise _RefusedValueError("a string")
        code = codes.get(value)
        if code is not None:
            return code
        if reject:
            raise _RefusedValueError(f"one of {', '.join(field.vocabulary[:20])}")
        return _NAN

    return encode


def _boolean(field: Field) -> Callable[[Any], float]:
    def encode(value: Any) -> float:
        if value.__class__ is not bool:
            raise _RefusedValueError("true or false")
        return float(value)

    return encode


def parse_timestamp(value: Any) -> datetime:
    """A local time from ISO 8601 text (or a `datetime`), without an offset from UTC.

    Raises:
        ValueError: the text is no timestamp, or it carries an offset.
    """
    moment = value if isinstance(value, datetime) else datetime.fromisoformat(value)
    if moment.tzinfo is not None:
        raise ValueError("an offset is not allowed")
    return moment


class Encoder:
    """Encodes records by `schema`.

    >>> schema = InputSchema(version=1, entity="id", time="at", key=("id",), fields=(
    ...     Field(name="id", kind="identifier"),
    ...     Field(name="at", kind="timestamp", parts=("day_of_week",)),
    ...     Field(name="distance", kind="number", minimum=0)))
    >>> Encoder(schema).encode({"id": "N14228", "at": "2013-01-01T05:15", "distance": 1400})
    array([[1.0e+00, 1.4e+03]], dtype=float32)
    """

    def __init__(self, schema: InputSchema) -> None:
        self.schema = schema
        self.width = len(schema.columns)
        self._known = frozenset(field.name for field in schema.fields)
        self._steps = [(field, _value_encoder(field)) for field in schema.fields]

    def encode(self, record: Mapping[str, Any]) -> NDArray[np.float32]:
        """One record as an array of shape (1, width).

        Raises:
            InvalidRecordError: with one problem for each field that is wrong.
        """
        return self.encode_rows((record,))

    def encode_rows(self, records: Sequence[Mapping[str, Any]]) -> NDArray[np.float32]:
        """`records` as an array of shape (len(records), width).

        Raises:
            InvalidRecordError: with one problem for each field that is wrong, in all rows.
        """
        problems: list[FieldProblem] = []
        values: list[float] = []
        for row, record in enumerate(records):
            self._append(record, row, values, problems)
        if problems:
            raise InvalidRecordError(problems)
        return np.array(values, dtype=np.float32).reshape(len(records), self.width)

    def _append(self, record: Mapping[str, Any], row: int, values: list[float], problems: list[FieldProblem]) -> None:
        problems.extend(
            FieldProblem(str(name)[:60], "a field that is not in the schema", "no such field", row)
            for name in sorted(record.keys() - self._known, key=str)
        )
        for field, encode in self._steps:
            value = record.get(field.name)
            if value is None:
                if field.required:
                    problems.append(FieldProblem(field.name, "nothing", f"a {field.kind}", row))
                values.extend(_NAN for _ in field.columns)
                continue
            try:
                encoded = encode(value)
            except _RefusedValueError as refused:
                problems.append(FieldProblem(field.name, _show(value), refused.expected, row))
                continue
            if isinstance(encoded, float):
                values.append(encoded)
            else:
                values.extend(encoded)


def _value_encoder(field: Field) -> Callable[[Any], float | Iterable[float]]:
    if field.kind == "number":
        return _number(field)
    if field.kind == "category":
        return _category(field)
    if field.kind == "boolean":
        return _boolean(field)
    if field.kind == "identifier":
        return _identifier
    return _timestamp(field)


def _identifier(value: Any) -> tuple[float, ...]:
    if isinstance(value, bool) or not isinstance(value, str | int):
        raise _RefusedValueError("a string or a whole number")
    if isinstance(value, str) and len(value) > _MAX_IDENTIFIER_CHARACTERS:
        raise _RefusedValueError(f"at most {_MAX_IDENTIFIER_CHARACTERS} characters")
    return ()


def _timestamp(field: Field) -> Callable[[Any], tuple[float, ...]]:
    parts = [_PART[part] for part in field.parts]

    def encode(value: Any) -> tuple[float, ...]:
        try:
            moment = parse_timestamp(value)
        except (TypeError, ValueError):
            raise _RefusedValueError("a local time such as 2013-07-01T08:30:00") from None
        return tuple(float(part(moment)) for part in parts)

    return encode
