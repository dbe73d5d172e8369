"""The logged inputs of many rows as encoded columns, without a Python object for each row.

The JSON of a batch is parsed by Arrow, and encoded by the functions of `contracts`, which training and serving use:
numbers as arrays, words and times once for each different one. A batch with a value that needs a closer look goes row
by row, so the bytes are the same (a test compares them).
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.json
from numpy.typing import NDArray

from contracts.column_encoder import ColumnEncoder, RefusedColumnError
from contracts.field_values import PART, parse_timestamp, word_codes
from contracts.input_schema import Field, InputSchema
from pipelines.monitoring.predictions import encode_inputs

_ARROW = {
    "number": pa.float64(),
    "category": pa.string(),
    "boolean": pa.bool_(),
    "timestamp": pa.string(),
}
_BLOCK_BYTES = 8 << 20  # a record is no longer than this, or its batch goes row by row


@dataclass(frozen=True)
class EncodedColumns:
    """Encoded rows (`kept` of the batch); `unseen` has for each category the words that its vocabulary lacks, with the
    positions in `kept` of the rows that have one."""

    rows: NDArray[np.float32]
    kept: NDArray[np.int64]
    refused: int
    first_refusal: str | None = None
    unseen: Mapping[str, tuple[NDArray[np.int64], NDArray[np.str_]]] = field(default_factory=dict)


class ColumnReader:
    """Encodes batches of logged inputs by `schema`; personal fields, which are masked in the log, are missing."""

    def __init__(self, schema: InputSchema) -> None:
        self._schema = schema
        self._fields = [each for each in schema.fields if each.columns and not each.personal]
        self._places = {each.name: [schema.columns.index(name) for name in each.columns] for each in schema.fields}
        self._types = pa.schema([(each.name, _ARROW[each.kind]) for each in self._fields])
        relaxed = tuple(
            msgspec.structs.replace(each, required=False) if each.kind != "number" or each.personal else each
            for each in schema.fields
        )
        self._numbers = ColumnEncoder(msgspec.structs.replace(schema, fields=relaxed))
        self._codes = {each.name: word_codes(each) for each in self._fields if each.kind == "category"}

    def read(self, inputs: pa.Array) -> EncodedColumns:
        """The rows of `inputs`, an array of JSON texts."""
        if not len(inputs):
            return EncodedColumns(np.empty((0, len(self._schema.columns)), np.float32), np.empty(0, np.int64), 0)
        try:
            return self._read(inputs)
        except (pa.ArrowException, RefusedColumnError, TypeError, ValueError):
            return self._by_row(inputs)

    def _read(self, inputs: pa.Array) -> EncodedColumns:
        texts = pc.binary_join(pa.ListArray.from_arrays([0, len(inputs)], inputs), "\n")
        records = pyarrow.json.read_json(
            pa.BufferReader(texts[0].as_buffer()),
            read_options=pyarrow.json.ReadOptions(use_threads=False, block_size=_BLOCK_BYTES),
            parse_options=pyarrow.json.ParseOptions(explicit_schema=self._types, unexpected_field_behavior="ignore"),
        ).combine_chunks()
        if records.num_rows != len(inputs):
            raise RefusedColumnError
        absent: dict[str, NDArray[np.bool_]] = {}
        for each in self._fields:
            absent[each.name] = records.column(each.name).is_null().to_numpy()
            if each.required and absent[each.name].any():
                raise RefusedColumnError
        rows = self._encoded_numbers(records, absent)
        unseen: dict[str, tuple[NDArray[np.int64], NDArray[np.str_]]] = {}
        for each in self._fields:
            if each.kind == "category":
                rows[:, self._places[each.name][0]] = self._words(each, records, unseen)
            elif each.kind == "timestamp":
                for place, values in zip(self._places[each.name], _times(each, records), strict=True):
                    rows[:, place] = values
            elif each.kind == "boolean":
                values = records.column(each.name).cast(pa.float32()).to_numpy()
                rows[:, self._places[each.name][0]] = values
        return EncodedColumns(rows, np.arange(len(rows)), 0, None, unseen)

    def _encoded_numbers(self, records: pa.Table, absent: Mapping[str, NDArray[np.bool_]]) -> NDArray[np.float32]:
        columns: list[NDArray[np.float64] | None] = []
        for each in self._schema.fields:
            if each.kind != "number" or each.personal or absent[each.name].all():
                columns.append(None)
                continue
            column = records.column(each.name)
            # in an array a missing value cannot be told from one that is no number: any present value stands in for it
            columns.append(column.fill_null(column.drop_null()[0]).to_numpy())
        rows = self._numbers.encode(columns, records.num_rows)
        for each in self._fields:
            if each.kind == "number":
                rows[absent[each.name], self._places[each.name][0]] = np.nan
        return rows

    def _words(
        self, each: Field, records: pa.Table, unseen: dict[str, tuple[NDArray[np.int64], NDArray[np.str_]]]
    ) -> NDArray[np.float64]:
        code_of, longest = self._codes[each.name]
        column = records.column(each.name).combine_chunks().dictionary_encode()
        words = column.dictionary.to_pylist()
        codes = [None if len(word) > longest else code_of(word) for word in words]
        if each.unseen == "reject" and None in codes:
            raise RefusedColumnError
        # the last place stands for a missing value
        table = np.array([np.nan if code is None else code for code in [*codes, None]], dtype=np.float64)
        places = column.indices.fill_null(len(words)).to_numpy()
        if None in codes:
            unknown = np.array([code is None for code in codes] + [False])
            rows = np.flatnonzero(unknown[places])
            unseen[each.name] = rows, np.array([*words, ""])[places[rows]]
        found: NDArray[np.float64] = table[places]
        return found

    def _by_row(self, inputs: pa.Array) -> EncodedColumns:
        found = encode_inputs(pa.table({"inputs": inputs}), self._schema)
        return EncodedColumns(found.rows, found.kept, found.refused, found.first_refusal)


def _times(each: Field, records: pa.Table) -> list[NDArray[np.float64]]:
    column = records.column(each.name).combine_chunks().dictionary_encode()
    moments = [parse_timestamp(text) for text in column.dictionary.to_pylist()]
    places = column.indices.fill_null(len(moments)).to_numpy()
    return [np.array([*(PART[part](moment) for moment in moments), np.nan])[places] for part in each.parts]
