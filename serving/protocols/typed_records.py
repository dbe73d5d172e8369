"""Records in JSON whose fields are known: decoded straight to typed rows, and by column from there.

msgspec checks names and types while it parses, and makes no dict for a record: half the time. It reads only records
that have each of the schema's fields, with values of the field's kind or null. Of every other body it says nothing:
that goes the general way, which tells what is wrong with it, or that nothing is.
"""

from collections.abc import Sequence
from typing import Annotated, Any

import msgspec
from msgspec.structs import astuple

from contracts.input_schema import InputSchema
from serving.columns import Columns
from serving.protocols.records import MAXIMUM_RECORDS

_TYPES: dict[str, Any] = {
    "number": float | int | None,
    "category": str | None,
    "timestamp": str | None,
    "boolean": bool | None,
    "identifier": str | int | None,
}
TYPED_FROM = 4  # records: what few become by column takes as long as it saves


class TypedRecords:
    """Reads `{"records": […]}` by `schema`."""

    def __init__(self, schema: InputSchema) -> None:
        self.schema = schema
        fields = schema.fields
        self._names = tuple(field.name for field in fields)
        places = [f"field_{place}" for place in range(len(fields))]  # a field may have a name that is none in Python
        row = msgspec.defstruct(
            "Row",
            [(place, _TYPES[field.kind]) for place, field in zip(places, fields, strict=True)],
            rename=dict(zip(places, self._names, strict=True)),
            forbid_unknown_fields=True,
            gc=False,
        )
        records = Annotated[list[row], msgspec.Meta(min_length=1, max_length=MAXIMUM_RECORDS)]  # type: ignore[valid-type]
        body = msgspec.defstruct("Body", [("records", records)], forbid_unknown_fields=True)
        self._decoder: msgspec.json.Decoder[Any] = msgspec.json.Decoder(body)

    def decode(self, body: bytes) -> Columns | None:
        """The records in `body` by column; None where they have to be read otherwise."""
        rows = self.rows(body)
        return None if rows is None else self.columns(rows, list(map(astuple, rows)))

    def rows(self, body: bytes) -> list[msgspec.Struct] | None:
        """The records in `body`, each a struct of its values in the order of the fields; None as above."""
        try:
            found: list[msgspec.Struct] = self._decoder.decode(body).records
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            return None
        return found

    def columns(self, rows: Sequence[msgspec.Struct], values: Sequence[tuple[Any, ...]]) -> Columns:
        """`rows`, whose `values` are known, by column."""
        return Columns(dict(zip(self._names, zip(*values, strict=True), strict=True)), len(rows), rows)
