"""Arrow columns from Python values, without an array that is made from a list of Python objects.

That imports pandas where it is installed, and holds the interpreter for long. Strings are joined and their lengths
summed by numpy; what is the same for all rows is repeated as bytes, and compression takes it away again.
"""

from collections.abc import Sequence
from datetime import UTC, datetime
from itertools import chain, repeat
from operator import mul
from typing import Any

import numpy as np
import pyarrow
from numpy.typing import NDArray

DAY_S = 86_400


class Spread:
    """What groups have in common, given to each of their `rows`."""

    def __init__(self, rows: Sequence[int]) -> None:
        self.rows = rows
        self.total = sum(rows)
        self._is_flat = self.total == len(rows)  # each group has a record: then each has one, as most do

    def array(self, values: NDArray[Any]) -> NDArray[Any]:
        """`values` has one for each group."""
        return values if self._is_flat else np.repeat(values, self.rows, axis=0)

    def text(self, values: Sequence[str | None]) -> pyarrow.Array:
        """Texts, or None, one for each group."""
        if values.count(values[0]) == len(values):
            return self.text_of_rows(values)
        if self._is_flat:
            return nullable_text_column(values)
        if None in values:
            return nullable_text_column(list(chain.from_iterable(map(repeat, values, self.rows))))
        encoded = [value.encode(errors="backslashreplace") for value in values if value is not None]
        return joined_column(b"".join(map(mul, encoded, self.rows)), np.repeat(list(map(len, encoded)), self.rows))

    def text_of_rows(self, values: Sequence[str | None]) -> pyarrow.Array:
        """Texts, or None, one for each row; or one for all."""
        first = values[0]
        if values.count(first) == len(values):
            return pyarrow.nulls(self.total, pyarrow.string()) if first is None else same_text_column(first, self.total)
        return nullable_text_column(values)


def day_name(day: int) -> str:
    """As in the names of folders: 2013-08-01."""
    return datetime.fromtimestamp(day * DAY_S, UTC).date().isoformat()


def _bitmap(valid: NDArray[np.bool_]) -> pyarrow.Buffer:
    return pyarrow.py_buffer(np.packbits(valid, bitorder="little"))


def same_text_column(value: str, rows: int) -> pyarrow.Array:
    """`value` in each of `rows`; what UTF-8 cannot write is escaped."""
    content = value.encode(errors="backslashreplace")
    return _strings(content * rows, np.arange(rows + 1, dtype=np.int32) * np.int32(len(content)))


def text_column(values: Sequence[str]) -> pyarrow.Array:
    """Texts, none of them missing; what UTF-8 cannot write is escaped."""
    joined = "".join(values)
    if joined.isascii():
        return _strings(joined.encode(), _offsets(values))
    encoded = [value.encode(errors="backslashreplace") for value in values]
    return _strings(b"".join(encoded), _offsets(encoded))


def joined_column(content: bytes, lengths: NDArray[Any]) -> pyarrow.Array:
    """Texts that are UTF-8 already, one behind the other, with the length of each."""
    return _strings(content, _summed(lengths))


def _offsets(values: Sequence[str] | Sequence[bytes]) -> NDArray[np.int32]:
    return _summed(np.fromiter(map(len, values), dtype=np.int32, count=len(values)))


def _summed(lengths: NDArray[Any]) -> NDArray[np.int32]:
    offsets = np.zeros(len(lengths) + 1, dtype=np.int32)
    np.cumsum(lengths, out=offsets[1:])
    return offsets


def _strings(content: bytes, offsets: NDArray[np.int32], validity: pyarrow.Buffer | None = None) -> pyarrow.Array:
    return pyarrow.StringArray.from_buffers(
        len(offsets) - 1, pyarrow.py_buffer(offsets), pyarrow.py_buffer(content), validity
    )


def nullable_text_column(values: Sequence[str | None]) -> pyarrow.Array:
    """Texts, or None."""
    missing = values.count(None)
    if missing == len(values):
        return pyarrow.nulls(len(values), pyarrow.string())
    if not missing:
        return text_column([value for value in values if value is not None])
    encoded = [b"" if value is None else value.encode(errors="backslashreplace") for value in values]
    valid = np.fromiter((value is not None for value in values), dtype=np.bool_, count=len(values))
    return _strings(b"".join(encoded), _offsets(encoded), _bitmap(valid))


def sparse_bytes_column(places: Sequence[int], contents: Sequence[bytes], rows: int) -> pyarrow.Array:
    """`contents` at the `places`, which ascend, of `rows`; null everywhere else."""
    if not places:
        return pyarrow.nulls(rows, pyarrow.binary())
    lengths, valid = np.zeros(rows, dtype=np.int32), np.zeros(rows, dtype=np.bool_)
    lengths[places], valid[places] = list(map(len, contents)), True
    buffers = [_bitmap(valid), pyarrow.py_buffer(_summed(lengths)), pyarrow.py_buffer(b"".join(contents))]
    return pyarrow.Array.from_buffers(pyarrow.binary(), rows, buffers)


def number_column(values: NDArray[np.float64] | NDArray[np.int64]) -> pyarrow.Array:
    """NaN is null: the log has no other use for it."""
    kind = pyarrow.float64() if values.dtype == np.float64 else pyarrow.int64()
    missing = np.isnan(values)
    validity = _bitmap(~missing) if missing.any() else None
    return pyarrow.Array.from_buffers(kind, len(values), [validity, pyarrow.py_buffer(values)])


def boolean_column(values: NDArray[np.float32]) -> pyarrow.Array:
    """1 is true, NaN is null."""
    missing = np.isnan(values)
    validity = _bitmap(~missing) if missing.any() else None
    return pyarrow.Array.from_buffers(pyarrow.bool_(), len(values), [validity, _bitmap(values == 1)])


def moment_column(served_at_s: Sequence[float], day: int, spread: Spread) -> pyarrow.Array:
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
    text = spread.array(text)
    return _strings(text.tobytes(), np.arange(0, text.size + 1, text.shape[1], dtype=np.int32))
