"""The feature flags as requests ask them, and the file that keeps them over a restart (`contracts.flags`)."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec

from contracts.durable_files import write_whole
from contracts.flags import CLIENT, ENTITY, FIELD_PREFIX, HEADER_PREFIX, Flags, FlagsInForce, Variant
from contracts.input_schema import InputSchema
from serving.columns import Columns

_NAME = "flags.json"


class FlagFileError(ValueError):
    """The file of the flags cannot be used; says which file, what was found, and what to do."""


class FlagRules:
    """Flags made ready for requests. `rules_of` makes none where nothing is set, so that usual requests ask nothing."""

    def __init__(self, flags: Flags) -> None:
        self._allow = frozenset(flags.allow)
        self._deny = frozenset(flags.deny)
        self._pins = dict(flags.pins)
        self._sticky_by = flags.sticky_by
        self._field = flags.sticky_by.removeprefix(FIELD_PREFIX) if flags.sticky_by.startswith(FIELD_PREFIX) else None
        header = flags.sticky_by.removeprefix(HEADER_PREFIX).lower()
        self._header = header.encode() if flags.sticky_by.startswith(HEADER_PREFIX) else None

    def variant_of(self, client: str | None) -> Variant | None:
        """The version that `client` is to see whatever the share is; None: by chance, as all others."""
        if client is not None:
            if client in self._deny:
                return "champion"
            pinned = self._pins.get(client)
            if pinned is not None:
                return pinned
        return "champion" if self._allow and client not in self._allow else None

    def is_pinned(self, client: str | None) -> bool:
        """Whether `client` has a pin that holds."""
        return client in self._pins

    def keys_of(
        self,
        records: Sequence[Mapping[str, Any]],
        entities: Sequence[str],
        client: str | None,
        headers: Mapping[bytes, bytes],
    ) -> Sequence[str]:
        """By what each record sticks to its version; its entity where the request has nothing else."""
        if self._field is not None:
            if isinstance(records, Columns):
                found = records.texts(self._field)
                if found is not None:
                    return found
            values = [record.get(self._field) for record in records]
            return [entity if value is None else str(value) for value, entity in zip(values, entities, strict=True)]
        key: str | None = None
        if self._header is not None:
            given = headers.get(self._header)
            key = None if given is None else str(given, "latin-1")
        elif self._sticky_by == CLIENT:
            key = client
        return entities if key is None else [key] * len(entities)


def rules_of(flags: Flags) -> FlagRules | None:
    """None where no flag is set."""
    return None if flags == Flags() else FlagRules(flags)


def unknown_field(flags: Flags, schema: InputSchema) -> str | None:
    """Why `flags` cannot be for records of `schema`, or None."""
    name = flags.sticky_by.removeprefix(FIELD_PREFIX)
    names = [field.name for field in schema.fields]
    if flags.sticky_by == ENTITY or not flags.sticky_by.startswith(FIELD_PREFIX) or name in names:
        return None
    return f"sticky_by is {flags.sticky_by!r}, and the champion's records have only the fields {', '.join(names)}"


def read_flags(folder: Path) -> FlagsInForce:
    """The flags that `folder` remembers; none set where nobody ever has.

    Raises:
        FlagFileError: the file is there and cannot be read.
    """
    path = folder / _NAME
    try:
        return msgspec.json.decode(path.read_bytes(), type=FlagsInForce)
    except FileNotFoundError:
        return FlagsInForce()
    except (OSError, msgspec.DecodeError) as error:
        raise FlagFileError(f"{path} cannot be read: {error}; set the flags to write it anew") from error


def write_flags(folder: Path, flags: FlagsInForce) -> None:
    """Replaces what `folder` remembers, durably. Raises OSError; the old flags stay then."""
    write_whole(folder / _NAME, msgspec.json.encode(flags))
