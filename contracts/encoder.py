"""The encoder: a raw record → a float32 row, by the input schema.

The only feature code of the system. Training encodes tables with it and the model server encodes requests, by the same
rules value by value, so that a row has the same bytes alone and in a table. Missing is NaN; a category is its position
in the vocabulary. Whatever else is fitted lives in the ONNX graph.

A record is first taken to be right, without a look at its names one by one or an account of what might be wrong; only
one that is refused is gone through again, field by field, for its problems. Many rows go column by column.
"""

import heapq
import struct
from collections.abc import Callable, Iterable, Mapping, Sequence
from operator import itemgetter
from typing import Any

import numpy as np
from numpy.typing import NDArray

from contracts.column_encoder import Column, ColumnEncoder, RefusedColumnError
from contracts.field_values import FieldProblem, RefusedValueError, parse_timestamp, show, value_encoder
from contracts.input_schema import InputSchema

__all__ = ["Encoder", "FieldProblem", "InvalidRecordError", "parse_timestamp"]

MAXIMUM_PROBLEMS = 100  # rows after these are not looked at: who sends that many has one mistake, not many
MAXIMUM_UNKNOWN_FIELDS = 20  # named of each record; the others are counted
_SHOWN_NAME_CHARACTERS = 60
_NO_SUCH_FIELD = "no such field"
_BY_COLUMN_ROWS = 16  # fewer records are faster one by one
_COLUMNS_ROWS = 4  # what comes as columns has to become records for that
_CHUNK_ROWS = 4096  # what a table needs beside itself while it is encoded


class InvalidRecordError(ValueError):
    """Records that the schema refuses; `problems` names each field, what was found and what was expected."""

    def __init__(self, problems: Sequence[FieldProblem]) -> None:
        self.problems = tuple(problems)
        super().__init__("; ".join(f"{p.field}: found {p.found}, expected {p.expected}" for p in self.problems))


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
        names = tuple(field.name for field in schema.fields)
        self._names = names
        self._count = len(names)
        self._known = frozenset(names)
        self._pick: Callable[[Mapping[str, Any]], Iterable[Any]] = (
            itemgetter(*names) if len(names) > 1 else lambda record: (record[names[0]],)
        )
        steps = [value_encoder(field) for field in schema.fields]
        # parallel tuples: floats from low to high are encoded as they are, everything else by the field's own function
        self._encoders = tuple(step.encode for step in steps)
        self._steps = (tuple(step.low for step in steps), tuple(step.high for step in steps), self._encoders)
        self._pack_into = struct.Struct(f"{self.width}f").pack_into
        self._row_shape = (1, self.width)
        self._columns = ColumnEncoder(schema)

    def encode(self, record: Mapping[str, Any]) -> NDArray[np.float32]:
        """One record as an array of shape (1, width).

        Raises:
            InvalidRecordError: with one problem for each field that is wrong, and 20 at most for unknown ones.
        """
        values: list[float] = []
        try:
            self._append(record, values.append)
        except RefusedValueError:
            raise InvalidRecordError(self._problems(record, 0)) from None
        return self._row(values)

    def encode_values(self, values: Iterable[Any]) -> NDArray[np.float32] | None:
        """The values of one record, one for each field in the schema's order, as an array of shape (1, width).

        None where one is refused: what is wrong with it `encode` tells, of the whole record.
        """
        columns: list[float] = []
        try:
            self._append_values(values, columns.append)
        except RefusedValueError:
            return None
        return self._row(columns)

    def _row(self, values: Sequence[float]) -> NDArray[np.float32]:
        features: NDArray[np.float32] = np.empty(self._row_shape, np.float32)
        try:
            # half the time of an array from a list; numpy's types do not say that an array is a buffer
            self._pack_into(features, 0, *values)  # type: ignore[arg-type]
        except OverflowError:  # a schema may allow more than float32 can hold: infinity, as for a table
            return np.array([values], dtype=np.float32)
        return features

    def encode_rows(self, records: Sequence[Mapping[str, Any]]) -> NDArray[np.float32]:
        """`records` as an array of shape (len(records), width).

        Raises:
            InvalidRecordError: with one problem for each field that is wrong, in the first rows that have 100.
        """
        if len(records) == 1:
            return self.encode(records[0])
        pieces: list[NDArray[np.float32]] = []
        problems: list[FieldProblem] = []
        for start in range(0, len(records), _CHUNK_ROWS):
            chunk = records[start : start + _CHUNK_ROWS]
            features = self._by_column(chunk) if len(chunk) >= _BY_COLUMN_ROWS else None
            pieces.append(self._by_row(chunk, start, problems) if features is None else features)
            if len(problems) >= MAXIMUM_PROBLEMS:
                break
        if problems:
            raise InvalidRecordError(problems)
        if len(pieces) == 1:
            return pieces[0]
        return np.concatenate(pieces) if pieces else np.empty((0, self.width), dtype=np.float32)

    def encode_columns(self, columns: Mapping[str, Sequence[Any] | NDArray[Any]]) -> NDArray[np.float32]:
        """Rows that came as columns, one for each field and all of one length, as an array of shape (rows, width).

        The bytes are those of the same rows as records. Arrays of numbers are taken as they are, without a Python
        object for each value; a field that no row has may be left out.

        Raises:
            InvalidRecordError: as for the same rows as records.
            ValueError: there is no column, or not all have the same length.
        """
        lengths = {len(column) for column in columns.values()}
        if len(lengths) != 1:
            raise ValueError(f"columns have the lengths {sorted(lengths)}, expected one length")
        (rows,) = lengths
        if rows >= _COLUMNS_ROWS and columns.keys() <= self._known:
            try:
                return self._columns.encode([columns.get(name) for name in self._names], rows)
            except RefusedColumnError:
                pass
        values = [column.tolist() if isinstance(column, np.ndarray) else column for column in columns.values()]
        return self.encode_rows([dict(zip(columns, row, strict=True)) for row in zip(*values, strict=True)])

    def _by_column(self, records: Sequence[Mapping[str, Any]]) -> NDArray[np.float32] | None:
        """None where a value needs a closer look than a column gives."""
        try:
            rows = [self._pick(record) if len(record) == self._count else self._picked(record) for record in records]
            columns: list[Column] = list(zip(*rows, strict=True))
            return self._columns.encode(columns, len(records))
        except (KeyError, RefusedColumnError, RefusedValueError):
            return None

    def _by_row(
        self, records: Sequence[Mapping[str, Any]], start: int, problems: list[FieldProblem]
    ) -> NDArray[np.float32]:
        """`start` is the number of the first row; with a problem among them the array says nothing."""
        values: list[float] = []
        for row, record in enumerate(records, start):
            try:
                self._append(record, values.append)
            except RefusedValueError:
                problems.extend(self._problems(record, row))
                if len(problems) >= MAXIMUM_PROBLEMS:
                    break
        if problems:
            return np.empty((0, self.width), dtype=np.float32)
        return np.array(values, dtype=np.float32).reshape(len(records), self.width)

    def _append(self, record: Mapping[str, Any], append: Callable[[float], None]) -> None:
        """Appends the columns of a record. Raises RefusedValueError where it is not right, having appended some."""
        try:
            values = self._pick(record) if len(record) == self._count else self._picked(record)
        except KeyError:  # as many as there are fields, and one of those is not there: another is unknown
            raise RefusedValueError(_NO_SUCH_FIELD) from None
        self._append_values(values, append)

    def _append_values(self, values: Iterable[Any], append: Callable[[float], None]) -> None:
        for value, low, high, encode in zip(values, *self._steps, strict=True):
            kind = value.__class__
            if (kind is float or kind is int) and low <= value <= high:
                append(value)
            else:
                encode(value, append)

    def _picked(self, record: Mapping[str, Any]) -> Iterable[Any]:
        """The values of `record` in the order of the fields, None for those that it lacks."""
        if not record.keys() <= self._known:
            raise RefusedValueError(_NO_SUCH_FIELD)
        return map(record.get, self._names)

    def _problems(self, record: Mapping[str, Any], row: int) -> list[FieldProblem]:
        """What is wrong with a record that was refused."""
        unknown = record.keys() - self._known
        problems = [
            FieldProblem(str(name)[:_SHOWN_NAME_CHARACTERS], "a field that is not in the schema", _NO_SUCH_FIELD, row)
            for name in heapq.nsmallest(MAXIMUM_UNKNOWN_FIELDS, unknown, key=str)
        ]
        if (more := len(unknown) - MAXIMUM_UNKNOWN_FIELDS) > 0:
            problems.append(
                FieldProblem("*", f"{more:,} more fields that are not in the schema", "no such fields", row)
            )
        ignored: list[float] = []
        for field, encode in zip(self.schema.fields, self._encoders, strict=True):
            value = record.get(field.name)
            try:
                encode(value, ignored.append)
            except RefusedValueError as refused:
                problems.append(FieldProblem(field.name, show(value), refused.expected, row))
        return problems
