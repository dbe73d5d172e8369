"""Records as JSON for the log, those of many requests by one call: a JSON text has no line break of its own."""

import json
from bisect import bisect_right
from collections.abc import Mapping, Sequence
from itertools import accumulate
from typing import Any, NamedTuple, overload

import msgspec
import numpy as np
from numpy.typing import NDArray

from contracts.encoder import parse_timestamp

_USUAL_TIME, _MARKS, _MARKS_AT = len("2013-07-01T08:30:00"), "--T::", (4, 7, 10, 13, 16)
_LINE_BREAK = ord("\n")
_encode_json = msgspec.json.Encoder().encode
_encode_lines = msgspec.json.Encoder().encode_lines


class LoggedInputs(NamedTuple):
    """Records as JSON, one behind the other, with the length of each and its event time."""

    content: bytes
    lengths: NDArray[np.intp]
    times: Sequence[str]


class JoinedRecords(Sequence[Mapping[str, Any]]):
    """The records of several requests; few of them are looked at."""

    def __init__(self, parts: Sequence[Sequence[Mapping[str, Any]]]) -> None:
        self._parts = parts
        self._ends = list(accumulate(map(len, parts)))

    def __len__(self) -> int:
        return self._ends[-1] if self._ends else 0

    @overload
    def __getitem__(self, row: int) -> Mapping[str, Any]: ...
    @overload
    def __getitem__(self, row: slice) -> list[Mapping[str, Any]]: ...
    def __getitem__(self, row: int | slice) -> Mapping[str, Any] | list[Mapping[str, Any]]:
        if isinstance(row, slice):
            return [self[each] for each in range(*row.indices(len(self)))]
        place = bisect_right(self._ends, row)
        return self._parts[place][row - self._ends[place]]


def written_together(rows: Sequence[Any], times: Sequence[Any]) -> LoggedInputs:
    """`rows` are what msgspec writes as an object.

    Raises:
        ValueError, TypeError, OverflowError: one of them is nothing that it writes.
    """
    content = _encode_lines(rows)
    ends = np.flatnonzero(np.frombuffer(content, dtype=np.uint8) == _LINE_BREAK)
    if len(ends) != len(rows):
        raise ValueError(f"{len(rows)} records are {len(ends)} lines")
    return LoggedInputs(content.replace(b"\n", b""), np.diff(ends, prepend=-1) - 1, _event_times(times))


def written_one_by_one(records: Sequence[Mapping[str, Any]], times: Sequence[Any]) -> LoggedInputs:
    """As near to what was sent as JSON can be: half a surrogate pair, or a value of another library."""
    encoded: list[bytes] = []
    for record in records:
        try:
            encoded.append(_encode_json(record))
        except (TypeError, ValueError, OverflowError):
            encoded.append(json.dumps(record, default=str, ensure_ascii=False).encode(errors="replace"))
    return LoggedInputs(b"".join(encoded), np.array(list(map(len, encoded)), dtype=np.intp), _event_times(times))


def _event_times(values: Sequence[Any]) -> Sequence[str]:
    """`_event_time` of each; all at once where all have the usual shape."""
    count = len(values)
    try:
        if set(map(len, values)) == {_USUAL_TIME}:
            joined = "".join(values)
            if all(joined[place::_USUAL_TIME] == mark * count for place, mark in zip(_MARKS_AT, _MARKS, strict=True)):
                return values
    except TypeError:  # one is missing, or no text
        pass
    return list(map(_event_time, values))


def _event_time(value: Any) -> str:
    """The record's own time as ISO 8601, or what was sent where that is none."""
    if value.__class__ is str and len(value) == _USUAL_TIME and value[4:17:3] == _MARKS:
        return str(value)  # of the usual shape: a time as it should be written, or none, which stays as it is as well
    try:
        return parse_timestamp(value).isoformat()
    except (TypeError, ValueError):
        return "" if value is None else str(value)  # a challenger's schema may have refused it
