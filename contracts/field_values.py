"""How one value of a field is encoded, and what refuses it."""

import math
from collections.abc import Callable
from datetime import datetime
from typing import Any, NamedTuple

import msgspec
import numpy as np

from contracts.input_schema import Field

Append = Callable[[float], None]
Encode = Callable[[Any, Append], None]

_NAN = math.nan
_LARGEST = float(np.finfo(np.float32).max)
_NO_FLOAT = (math.inf, -math.inf)  # a range in which nothing is
_SHOWN_CHARACTERS = 60
_SHOWN_WORDS = 20
_SHOWN_BITS = 256
MAXIMUM_IDENTIFIER_CHARACTERS = 256

PART: dict[str, Callable[[datetime], float]] = {
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


class RefusedValueError(Exception):
    """A value that its field refuses, and what was expected."""

    def __init__(self, expected: str) -> None:
        self.expected = expected


class ValueEncoder(NamedTuple):
    """Floats from `low` to `high` are encoded as they are; `encode` takes any value and appends the field's columns."""

    low: float
    high: float
    encode: Encode


def show(value: Any) -> str:
    """`value` for an error's text: shortened before it is written out, however large or deep it is."""
    if value is None:
        return "nothing"
    if isinstance(value, str | bytes):
        text = repr(value[: _SHOWN_CHARACTERS + 1])
    elif isinstance(value, int) and value.bit_length() > _SHOWN_BITS:
        return f"a whole number of {value.bit_length()} bits"
    elif isinstance(value, list | tuple):
        return f"a list of {len(value)}"
    elif isinstance(value, dict):
        return f"an object of {len(value)}"
    else:
        text = repr(value)
    return text if len(text) <= _SHOWN_CHARACTERS else text[: _SHOWN_CHARACTERS - 3] + "..."


def parse_timestamp(value: Any) -> datetime:
    """A local time from ISO 8601 text (or a `datetime`), without an offset from UTC.

    Raises:
        ValueError: the text is no timestamp, or it carries an offset.
    """
    moment = value if isinstance(value, datetime) else datetime.fromisoformat(value)
    if moment.tzinfo is not None:
        raise ValueError("an offset is not allowed")
    return moment


def value_encoder(field: Field) -> ValueEncoder:
    """How `field` encodes one value."""
    if field.kind == "number":
        low, high = number_range(field)
        return ValueEncoder(max(low, -_LARGEST), min(high, _LARGEST), _number(field))
    of_kind = {"category": _category, "boolean": _boolean, "identifier": _identifier, "timestamp": _timestamp}
    return ValueEncoder(*_NO_FLOAT, of_kind[field.kind](field))


def number_range(field: Field) -> tuple[float, float]:
    """From where to where the numbers of `field` are inside; what float32 can hold, where the schema says nothing."""
    low = -_LARGEST if field.minimum is None else float(field.minimum)
    high = _LARGEST if field.maximum is None else float(field.maximum)
    return low, high


def _otherwise(field: Field, expected: str) -> Encode:
    """What becomes of a value that is missing or of another kind than the field's."""
    missing = [_NAN] * len(field.columns)
    is_required, is_refused = field.required, field.malformed == "reject"

    def encode(value: Any, append: Append) -> None:
        if value is None:
            if is_required:
                raise RefusedValueError(f"a {field.kind}")
        elif is_refused:
            raise RefusedValueError(expected)
        for each in missing:
            append(each)

    return encode


def _number(field: Field) -> Encode:
    low, high = number_range(field)
    outside, is_nan_refused = field.outside, field.nan == "reject"
    otherwise = _otherwise(field, "a number")

    def encode(value: Any, append: Append) -> None:
        if value.__class__ is not float and value.__class__ is not int:
            otherwise(value, append)
        elif low <= value <= high:
            append(float(value))
        elif value != value:
            if is_nan_refused:
                raise RefusedValueError(f"a number from {low:g} to {high:g}")
            append(_NAN)
        elif outside == "reject":
            raise RefusedValueError(f"a number from {low:g} to {high:g}")
        elif outside == "missing":
            append(_NAN)
        else:
            append(low if value < low else high)

    return encode


def word_codes(field: Field) -> tuple[Callable[[str], float | None], int]:
    """The code of a word, and how long a word can be to have one: longer texts are not even hashed."""
    codes = {word: float(code) for code, word in enumerate(field.vocabulary)}
    return codes.get, max(map(len, field.vocabulary), default=0)


def _category(field: Field) -> Encode:
    code_of, longest = word_codes(field)
    is_refused = field.unseen == "reject"
    otherwise = _otherwise(field, "a string")
    expected = f"one of {', '.join(field.vocabulary[:_SHOWN_WORDS])}"

    def encode(value: Any, append: Append) -> None:
        if value.__class__ is not str:
            otherwise(value, append)
            return
        code = code_of(value) if len(value) <= longest else None
        if code is not None:
            append(code)
        elif is_refused:
            raise RefusedValueError(expected)
        else:
            append(_NAN)

    return encode


def _boolean(field: Field) -> Encode:
    otherwise = _otherwise(field, "true or false")

    def encode(value: Any, append: Append) -> None:
        if value.__class__ is bool:
            append(float(value))
        else:
            otherwise(value, append)

    return encode


def _identifier(field: Field) -> Encode:
    otherwise = _otherwise(field, "a string or a whole number")

    def encode(value: Any, append: Append) -> None:
        if isinstance(value, bool) or not isinstance(value, str | int):
            otherwise(value, append)
        elif isinstance(value, str) and len(value) > MAXIMUM_IDENTIFIER_CHARACTERS:
            raise RefusedValueError(f"at most {MAXIMUM_IDENTIFIER_CHARACTERS} characters")

    return encode


def _timestamp(field: Field) -> Encode:
    parts = [PART[part] for part in field.parts]
    otherwise = _otherwise(field, "a local time such as 2013-07-01T08:30:00")

    def encode(value: Any, append: Append) -> None:
        try:
            moment = parse_timestamp(value)
        except (TypeError, ValueError):
            otherwise(value, append)
            return
        for part in parts:
            append(part(moment))

    return encode
