"""What a project declares about its records and their label, and how training completes it.

A project declares fields, ranges and roles; a category may leave its vocabulary open. `fit_schema` closes it with the
words of the training rows, and the result is the `InputSchema` that travels in the bundle.
"""

from __future__ import annotations

from datetime import date, timedelta
from typing import TYPE_CHECKING, Annotated

import msgspec

from contracts.input_schema import Field, InputSchema

if TYPE_CHECKING:
    import pyarrow as pa

PART_COLUMN = "part"


class SchemaError(ValueError):
    """A schema that cannot be completed from these rows: which field, and what was found."""


class Label(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The column that is predicted, and how many days after the event's day its value is known."""

    column: str
    delay_days: Annotated[int, msgspec.Meta(ge=0, le=3650)]
    description: str = ""

    def known_before(self, as_of: date) -> date:
        """The first day whose labels are not known yet at the start of the day `as_of`: `as_of - delay_days`."""
        return as_of - timedelta(days=self.delay_days)


class DeclaredSchema(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The fields of a record as the project declares them.

    Like `contracts.input_schema.InputSchema`, except that a category may have no vocabulary yet: training takes the
    `vocabulary_size` most frequent words of its rows. Raises ValueError (naming the key) for roles that do not fit.
    """

    version: Annotated[int, msgspec.Meta(ge=1)]
    entity: str
    time: str
    key: Annotated[tuple[str, ...], msgspec.Meta(min_length=1)]
    fields: Annotated[tuple[Field, ...], msgspec.Meta(min_length=1)]
    vocabulary_size: Annotated[int, msgspec.Meta(ge=1, le=100_000)] = 200

    def __post_init__(self) -> None:
        by_name = {field.name: field for field in self.fields}
        if len(by_name) != len(self.fields):
            names = [field.name for field in self.fields]
            raise ValueError(f"fields: declared twice: {', '.join(sorted({n for n in names if names.count(n) > 1}))}")
        if PART_COLUMN in by_name:
            raise ValueError(f"fields: {PART_COLUMN!r} is the snapshot's own column; name the field otherwise")
        for role, name in [("entity", self.entity), ("time", self.time), *(("key", name) for name in self.key)]:
            if name not in by_name:
                raise ValueError(f"{role}: {name!r} is not among the fields {', '.join(by_name)}")
            if not by_name[name].required:
                raise ValueError(f"{role}: the field {name!r} must be required, found required: false")
            if by_name[name].malformed != "reject":
                raise ValueError(f"{role}: the field {name!r} says what event a row is of: malformed must be reject")
        if by_name[self.time].kind != "timestamp":
            raise ValueError(f"time: {self.time!r} must be of kind timestamp, found {by_name[self.time].kind}")
        for field in self.fields:
            _check_field(field)

    @property
    def names(self) -> tuple[str, ...]:
        """The names of the fields, as declared."""
        return tuple(field.name for field in self.fields)


def _check_field(field: Field) -> None:
    if field.minimum is not None and field.maximum is not None and field.minimum > field.maximum:
        raise ValueError(f"fields: {field.name!r} has minimum {field.minimum:g} above maximum {field.maximum:g}")
    if field.kind != "number" and (field.minimum is not None or field.maximum is not None):
        raise ValueError(f"fields: {field.name!r} is a {field.kind}; minimum and maximum belong to numbers")
    if field.kind != "category" and field.vocabulary:
        raise ValueError(f"fields: {field.name!r} is a {field.kind}; a vocabulary belongs to categories")
    if field.kind != "timestamp" and field.parts:
        raise ValueError(f"fields: {field.name!r} is a {field.kind}; parts belong to timestamps")


def fit_schema(declared: DeclaredSchema, train_table: pa.Table) -> InputSchema:
    """The schema that the bundle carries: `declared` with each open vocabulary filled from `train_table`.

    Words are ordered by frequency, then by alphabet, so that the same rows give the same codes.

    Raises:
        SchemaError: a category has no column or no value in `train_table`.
    """
    return InputSchema(
        version=declared.version,
        entity=declared.entity,
        time=declared.time,
        key=declared.key,
        fields=tuple(_fitted(field, train_table, declared.vocabulary_size) for field in declared.fields),
    )


def _fitted(field: Field, train_table: pa.Table, size: int) -> Field:
    if field.kind != "category" or field.vocabulary:
        return field
    if field.name not in train_table.column_names:
        raise SchemaError(f"the category {field.name!r} has no column; found {', '.join(train_table.column_names)}")
    counted = train_table.column(field.name).drop_null().value_counts().to_pylist()
    by_frequency = sorted((-pair["counts"], pair["values"]) for pair in counted)
    words = tuple(word for _, word in by_frequency[:size])
    if not words:
        raise SchemaError(f"the category {field.name!r} is missing in all {train_table.num_rows:,} training rows")
    return msgspec.structs.replace(field, vocabulary=words)
