"""The schema of the records that a model takes, with the vocabularies that training fitted.

It travels in the bundle: training encodes by it, the model server validates and encodes by it, monitoring reads it.
"""

from functools import cached_property
from typing import Literal

import msgspec

Kind = Literal["number", "category", "boolean", "timestamp", "identifier"]
Part = Literal["minute_of_day", "day_of_week", "day_of_year"]


class Field(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One field of a record.

    `required` refuses a missing value; otherwise missing is NaN in the encoded row. A number outside
    [`minimum`, `maximum`], an infinity too, is handled as `outside` says, one that is NaN as `nan` says, a category
    outside `vocabulary` as `unseen` says, and a value of another kind (or a text that is no local time) as `malformed`
    says: what is taken as missing in this way is NaN also where a value is required. A timestamp (local time, ISO 8601
    without offset) becomes one column for each of `parts`. An identifier is validated and logged, and is no feature.
    `personal` fields are never logged in clear.
    """

    name: str
    kind: Kind
    required: bool = True
    minimum: float | None = None
    maximum: float | None = None
    outside: Literal["reject", "clip", "missing"] = "reject"
    nan: Literal["reject", "missing"] = "reject"
    vocabulary: tuple[str, ...] = ()
    unseen: Literal["reject", "missing"] = "missing"
    malformed: Literal["reject", "missing"] = "reject"
    parts: tuple[Part, ...] = ()
    personal: bool = False
    description: str = ""

    def __post_init__(self) -> None:
        if self.nan == "missing" and self.kind != "number":
            raise ValueError(f"{self.name!r} is a {self.kind}; nan: missing belongs to numbers")
        if self.malformed == "missing" and self.kind == "identifier":
            raise ValueError(f"{self.name!r} is an identifier; malformed: missing belongs to what becomes a column")

    @property
    def columns(self) -> tuple[str, ...]:
        """The names of the encoded columns that this field fills."""
        if self.kind == "identifier":
            return ()
        if self.kind == "timestamp":
            return tuple(f"{self.name}.{part}" for part in self.parts)
        return (self.name,)


class InputSchema(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True, dict=True):
    """All fields of a record, in the order of the encoded columns.

    `entity` names the field by which requests stick to a slot, `time` the field that says when the event happens,
    `key` the fields that together identify the event, by which its outcome is joined later.
    """

    version: int
    entity: str
    time: str
    key: tuple[str, ...]
    fields: tuple[Field, ...]

    def __post_init__(self) -> None:
        names = [field.name for field in self.fields]
        if len(set(names)) != len(names):
            twice = sorted({name for name in names if names.count(name) > 1})
            raise ValueError(f"fields are declared twice: {', '.join(twice)}")
        for role, name in [("entity", self.entity), ("time", self.time), *(("key", key) for key in self.key)]:
            if name not in names:
                raise ValueError(f"{role} names the field {name!r}, which is not declared; declared: {names}")
            if self.fields[names.index(name)].malformed == "missing":
                raise ValueError(
                    f"{role} names the field {name!r}: it says what event a row is of, so malformed: reject"
                )
        for field in self.fields:
            if field.kind == "category" and not field.vocabulary:
                raise ValueError(f"the category {field.name!r} has no vocabulary: fit it or declare it")

    @cached_property
    def columns(self) -> tuple[str, ...]:
        """The names of the encoded columns, in order."""
        return tuple(column for field in self.fields for column in field.columns)

    @cached_property
    def categorical(self) -> dict[int, int]:
        """For each encoded column that holds codes of a vocabulary: its position → the number of codes."""
        sizes = {field.name: len(field.vocabulary) for field in self.fields if field.kind == "category"}
        return {position: sizes[name] for position, name in enumerate(self.columns) if name in sizes}
