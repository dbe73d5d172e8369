"""Skew: what the servers encoded, held against what training makes of the same events. No I/O.

Two comparisons of each sampled row, both by the schema of the bundle that answered and bit for bit, so that -0.0, the
kind of a NaN and a missing value count:

- `encoding`: the features that the server logged, against the logged inputs encoded as training encodes. They differ
  where the two do not run the same feature code, or where it depends on the process that it runs in.
- `source`: the logged inputs, encoded so, against the record that the source has of the same event. They differ where
  clients send something else than what the model is trained on.

An event that the source does not have yet is not known, and never a match.
"""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from contracts.input_schema import InputSchema
from pipelines.monitoring.predictions import EncodedInputs, encode_records, parse_inputs
from pipelines.monitoring.source_records import SourceRecords

EXAMPLES = 5  # of each column: those with the first ids
WIDTH, REFUSED = "(width)", "(refused)"  # in a column's place: rows of another length, records that training refuses
_CHUNK_ROWS = 16_384
_FLOAT_BYTES = 4


class Example(msgspec.Struct, frozen=True, kw_only=True, order=True):
    """One value that differs: what was `found` in the log, and what training `expected`."""

    prediction_id: str
    request_id: str
    version: str
    found: str
    expected: str


class ColumnSkew(msgspec.Struct, frozen=True, kw_only=True):
    """An encoded column in which rows differ.

    In `one_missing` of the rows only one side has a value; `largest` is the largest finite difference of those where
    both have one, None where none has and for categories, whose codes have no distance.
    """

    column: str
    rows: int
    one_missing: int = 0
    largest: float | None = None
    examples: tuple[Example, ...] = ()


class Comparison(msgspec.Struct, frozen=True, kw_only=True):
    """`rows` were compared, `differing` of them differ in a byte: by `versions`, and in `columns`, worst first."""

    rows: int = 0
    differing: int = 0
    versions: dict[str, int] = {}
    columns: tuple[ColumnSkew, ...] = ()


class Skew(msgspec.Struct, frozen=True, kw_only=True):
    """What the sampled rows say.

    Of the `sampled` rows, `source` lacks those whose events are `not_due` in the source, `absent` from it although they
    are due, or `ambiguous`, as it has several records of them. `without_bundle` counts rows by the bundles whose schema
    is not at hand: they are in neither comparison. `not_compared` says of a column why it is not.
    """

    sampled: int
    encoding: Comparison
    source: Comparison
    not_due: int = 0
    absent: int = 0
    ambiguous: int = 0
    without_bundle: dict[str, int] = {}
    not_compared: dict[str, str] = {}


@dataclass
class _Column:
    rows: int = 0
    one_missing: int = 0
    largest: float | None = None
    examples: list[Example] = field(default_factory=list)


class _Tally:
    """Adds up a comparison."""

    def __init__(self) -> None:
        self._rows = self._differing = 0
        self._versions: Counter[str] = Counter()
        self._columns: dict[str, _Column] = {}

    def compare(
        self, schema: InputSchema, columns: Sequence[int], rows: pa.Table, found: NDArray[Any], expected: NDArray[Any]
    ) -> None:
        """Both sides float32 of the shape (rows, columns of the schema); `columns` are the ones that are compared."""
        self._rows += len(found)
        differs = found.view(np.uint32) != expected.view(np.uint32)
        differs[:, [place for place in range(differs.shape[1]) if place not in set(columns)]] = False
        self._mark(rows, differs.any(axis=1))
        for place in np.flatnonzero(differs.any(axis=0)).tolist():
            at = np.flatnonzero(differs[:, place])
            self._count(schema, place, rows, at, found[at, place], expected[at, place])

    def differ(self, name: str, rows: pa.Table, found: str, expected: str) -> None:
        """All `rows` differ as a whole, and have no values to compare."""
        if rows.num_rows:
            self._rows += rows.num_rows
            self._mark(rows, np.ones(rows.num_rows, dtype=bool))
            column = self._columns.setdefault(name, _Column())
            column.rows += rows.num_rows
            _keep(column, [_example(row, found, expected) for row in rows.slice(0, EXAMPLES).to_pylist()])

    def result(self) -> Comparison:
        """All that was added."""
        columns = [
            ColumnSkew(
                column=name,
                rows=column.rows,
                one_missing=column.one_missing,
                largest=column.largest,
                examples=tuple(column.examples),
            )
            for name, column in sorted(self._columns.items(), key=lambda each: (-each[1].rows, each[0]))
        ]
        versions = dict(sorted(self._versions.items()))
        return Comparison(rows=self._rows, differing=self._differing, versions=versions, columns=tuple(columns))

    def _mark(self, rows: pa.Table, is_differing: NDArray[np.bool_]) -> None:
        self._differing += int(is_differing.sum())
        self._versions.update(rows.column("version").filter(pa.array(is_differing)).to_pylist())

    def _count(
        self,
        schema: InputSchema,
        place: int,
        rows: pa.Table,
        at: NDArray[np.int64],
        found: NDArray[np.float32],
        expected: NDArray[np.float32],
    ) -> None:
        column = self._columns.setdefault(schema.columns[place], _Column())
        column.rows += len(at)
        column.one_missing += int((np.isnan(found) != np.isnan(expected)).sum())
        words = _words(schema, place)
        distances = np.abs(found.astype(np.float64) - expected)
        finite = distances[np.isfinite(distances)]
        if len(finite) and not words:
            column.largest = max(column.largest or 0.0, float(finite.max()))
        first = pc.sort_indices(rows.column("prediction_id").take(at)).slice(0, EXAMPLES).to_numpy()
        shown = rows.take(at[first]).to_pylist()
        values = [_shown(words, *pair) for pair in zip(found[first], expected[first], strict=True)]
        _keep(column, [_example(row, *texts) for row, texts in zip(shown, values, strict=True)])


class SkewCount:
    """Compares batches of sampled rows, and adds up.

    Args:
        schema_of: the schema in a bundle by its id; None where the bundle is not at hand.
        source: the records of the source, None where it has none to hold against.
    """

    def __init__(self, schema_of: Callable[[str], InputSchema | None], source: SourceRecords | None) -> None:
        self._schema_of = schema_of
        self._source = source
        self._schemas: dict[str, InputSchema | None] = {}
        self._encoding, self._of_source = _Tally(), _Tally()
        self._sampled = self._not_due = self._absent = self._ambiguous = 0
        self._without_bundle: Counter[str] = Counter()
        self._not_compared: dict[str, str] = {}

    def add(self, batch: pa.RecordBatch) -> None:
        """Rows with the columns `prediction_id`, `request_id`, `version`, `bundle`, `inputs`, `features` and `day`,
        the event's day since 1970."""
        for start in range(0, batch.num_rows, _CHUNK_ROWS):
            rows = pa.Table.from_batches([batch.slice(start, _CHUNK_ROWS)])
            self._sampled += rows.num_rows
            for bundle in pc.unique(rows.column("bundle")).to_pylist():
                mine = rows.filter(pc.equal(rows.column("bundle"), bundle))
                schema = self._schema(bundle)
                if schema is None:
                    self._without_bundle[bundle] += mine.num_rows
                else:
                    self._compare(schema, mine)

    def result(self) -> Skew:
        """All that was added."""
        return Skew(
            sampled=self._sampled,
            encoding=self._encoding.result(),
            source=self._of_source.result(),
            not_due=self._not_due,
            absent=self._absent,
            ambiguous=self._ambiguous,
            without_bundle=dict(sorted(self._without_bundle.items())),
            not_compared=dict(sorted(self._not_compared.items())),
        )

    def _schema(self, bundle: str) -> InputSchema | None:
        """Nothing is required in it: a NaN that was sent is null in the log, and both are the same bytes."""
        if bundle not in self._schemas:
            found = self._schema_of(bundle)
            if found is not None:
                fields = tuple(msgspec.structs.replace(each, required=False) for each in found.fields)
                found = msgspec.structs.replace(found, fields=fields)
                for each in found.fields:
                    if each.personal:
                        self._not_compared.update(dict.fromkeys(each.columns, "personal: the log has it masked"))
            self._schemas[bundle] = found
        return self._schemas[bundle]

    def _compare(self, schema: InputSchema, rows: pa.Table) -> None:
        encoded = encode_records(parse_inputs(rows), schema)
        is_kept = _mask(rows.num_rows, encoded.kept)
        self._encoding.differ(REFUSED, rows.filter(pa.array(~is_kept)), "encoded", "refused by the schema")
        width = len(schema.columns)
        sizes = pc.binary_length(rows.column("features")).to_numpy()
        is_whole = sizes == width * _FLOAT_BYTES
        odd = rows.filter(pa.array(is_kept & ~is_whole))
        self._encoding.differ(WIDTH, odd, "another number of columns", f"{width} columns")
        whole = rows.filter(pa.array(is_kept & is_whole))
        logged = np.frombuffer(b"".join(whole.column("features").to_pylist()), dtype="<f4").reshape(-1, width)
        expected = encoded.rows[is_whole[encoded.kept]]
        self._encoding.compare(schema, self._columns(schema), whole, logged.astype(np.float32), expected)
        if self._source is not None:
            self._compare_source(schema, rows.take(encoded.kept), encoded, self._source)

    def _compare_source(
        self, schema: InputSchema, rows: pa.Table, encoded: EncodedInputs, source: SourceRecords
    ) -> None:
        places = source.find(rows)
        is_due = rows.column("day").to_numpy() < source.known_until
        self._not_due += int((~is_due).sum())
        self._ambiguous += int((is_due & (places == source.AMBIGUOUS)).sum())
        self._absent += int((is_due & (places == source.ABSENT)).sum())
        known = np.flatnonzero(is_due & (places >= 0))
        if not len(known):
            return
        wanted, back = np.unique(places[known], return_inverse=True)
        told = encode_records(source.records(wanted, [each.name for each in schema.fields]), schema)
        of = np.full(len(wanted), -1, dtype=np.int64)
        of[told.kept] = np.arange(len(told.kept))
        theirs = of[back]
        refused = rows.take(known[theirs < 0])
        self._of_source.differ(REFUSED, refused, "taken", "what the source has is refused by the schema")
        mine = known[theirs >= 0]
        columns = self._columns(schema, source)
        self._of_source.compare(schema, columns, rows.take(mine), encoded.rows[mine], told.rows[theirs[theirs >= 0]])

    def _columns(self, schema: InputSchema, source: SourceRecords | None = None) -> list[int]:
        """The places of the columns that can be compared."""
        compared = []
        for each in schema.fields:
            if source is not None and each.name not in source.names and not each.personal:
                self._not_compared.update(dict.fromkeys(each.columns, "the source does not have it"))
            elif not each.personal:
                compared += [schema.columns.index(column) for column in each.columns]
        return compared


def _mask(rows: int, places: NDArray[np.int64]) -> NDArray[np.bool_]:
    mask = np.zeros(rows, dtype=bool)
    mask[places] = True
    return mask


def _words(schema: InputSchema, place: int) -> Mapping[float, str]:
    """What the codes of a category stand for; nothing for other columns."""
    name = schema.columns[place]
    found = next((each for each in schema.fields if each.name == name and each.kind == "category"), None)
    return {} if found is None else {float(code): word for code, word in enumerate(found.vocabulary)}


def _shown(words: Mapping[float, str], found: np.float32, expected: np.float32) -> tuple[str, str]:
    """Both values as text; with their bits where they would read the same."""
    left, right = (_text(words, value) for value in (found, expected))
    if left == right:
        left, right = (f"{text} (0x{value.view(np.uint32):08x})" for text, value in ((left, found), (right, expected)))
    return left, right


def _text(words: Mapping[float, str], value: np.float32) -> str:
    if np.isnan(value):
        return "missing"
    return words.get(float(value), str(value))


def _example(row: Mapping[str, Any], found: str, expected: str) -> Example:
    return Example(
        prediction_id=row["prediction_id"],
        request_id=row["request_id"],
        version=row["version"],
        found=found,
        expected=expected,
    )


def _keep(column: _Column, examples: Sequence[Example]) -> None:
    column.examples = sorted([*column.examples, *examples])[:EXAMPLES]
