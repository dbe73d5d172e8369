"""What differs between two versions: parameters, inputs, data, metrics, form, code; pure, from what is on record."""

from collections.abc import Iterator, Mapping
from typing import Any

import msgspec

_ABSENT = "–"
_SHOWN_WORDS = 8
_AREAS = ("Model", "Parameters", "Serving", "Inputs", "Data", "Metrics on its own test rows", "Code")


class Described(msgspec.Struct, frozen=True, kw_only=True):
    """A version as its records have it; what is not kept any more is empty.

    `manifest`, `schema` and `snapshot` are those of `contracts.bundle` and `pipelines.data.snapshots`, as JSON values;
    `tags` and `metrics` are the registry's.
    """

    version: str
    bundle: str = ""
    manifest: Mapping[str, Any] = {}
    schema: Mapping[str, Any] = {}
    snapshot: Mapping[str, Any] = {}
    tags: Mapping[str, str] = {}
    metrics: Mapping[str, float] = {}


class Difference(msgspec.Struct, frozen=True, kw_only=True):
    """One thing that is otherwise: `area` groups them for a reader."""

    area: str
    name: str
    challenger: str
    champion: str


def differences(challenger: Described, champion: Described | None) -> tuple[Difference, ...]:
    """All that differs; nothing without a champion to compare with."""
    if champion is None:
        return ()
    mine, theirs = _facts(challenger), _facts(champion)
    found = [
        Difference(
            area=area, name=name, challenger=mine.get((area, name), _ABSENT), champion=theirs.get((area, name), _ABSENT)
        )
        for area, name in dict.fromkeys([*mine, *theirs])
        if mine.get((area, name), _ABSENT) != theirs.get((area, name), _ABSENT)
    ]
    return tuple(sorted([*found, *_words(challenger, champion)], key=lambda each: _AREAS.index(each.area)))


def _facts(described: Described) -> dict[tuple[str, str], str]:
    """Everything that can differ, by area and name, in the order in which it is shown."""
    return dict([*_model(described), *_inputs(described), *_data(described), *_metrics(described), *_code(described)])


def _model(described: Described) -> Iterator[tuple[tuple[str, str], str]]:
    manifest = described.manifest
    yield ("Model", "trainer"), str(manifest.get("trainer", _ABSENT))
    yield ("Model", "form"), str(manifest.get("optimization", _ABSENT))
    yield ("Model", "threshold"), str(manifest.get("threshold", _ABSENT))
    for name, value in sorted(manifest.get("parameters", {}).items()):
        yield ("Parameters", name), _value(value)
    for name, value in sorted(manifest.get("serving", {}).items()):
        yield ("Serving", name), _value(value)


def _inputs(described: Described) -> Iterator[tuple[tuple[str, str], str]]:
    if "version" in described.schema:
        yield ("Inputs", "schema version"), str(described.schema["version"])
    for field in described.schema.get("fields", ()):
        told = {name: value for name, value in field.items() if name not in ("name", "description", "vocabulary")}
        yield ("Inputs", field["name"]), ", ".join(f"{name} {_value(value)}" for name, value in told.items() if value)


def _data(described: Described) -> Iterator[tuple[tuple[str, str], str]]:
    snapshot = described.snapshot
    yield ("Data", "as of"), described.tags.get("as_of", _ABSENT)
    for part in ("train", "validation", "test"):
        if window := snapshot.get("windows", {}).get(part):
            yield ("Data", f"{part} window"), f"{window['start']} up to {window['end']}"
        if part in snapshot.get("rows_by_part", {}):
            yield ("Data", f"{part} rows"), f"{snapshot['rows_by_part'][part]:,}"
        if (share := snapshot.get("label_share", {}).get(part)) is not None:
            yield ("Data", f"{part} label share"), f"{share:.1%}"
    yield ("Data", "snapshot"), str(described.manifest.get("snapshot", _ABSENT))[:12]


def _metrics(described: Described) -> Iterator[tuple[tuple[str, str], str]]:
    for name, value in sorted(described.metrics.items()):
        yield ("Metrics on its own test rows", name.replace("_", " ")), f"{value:.4f}"


def _code(described: Described) -> Iterator[tuple[tuple[str, str], str]]:
    yield ("Code", "commit"), described.tags.get("commit", _ABSENT)[:12]
    yield ("Code", "configuration"), described.tags.get("configuration", _ABSENT)[:12]
    yield ("Code", "lock"), str(described.manifest.get("lock", _ABSENT))[:12]
    for name, value in sorted(described.manifest.get("frameworks", {}).items()):
        yield ("Code", name), str(value)


def _value(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:g}"
    if isinstance(value, list | tuple):
        return ", ".join(map(_value, value)) or _ABSENT
    return str(value)


def _words(challenger: Described, champion: Described) -> Iterator[Difference]:
    """Of fields that both have: the words that only one of them knows."""
    mine, theirs = (
        {field["name"]: set(field.get("vocabulary", ())) for field in described.schema.get("fields", ())}
        for described in (challenger, champion)
    )
    for name in mine.keys() & theirs.keys():
        if mine[name] != theirs[name]:
            yield Difference(
                area="Inputs",
                name=f"{name}: words that only it knows",
                challenger=_some(mine[name] - theirs[name]),
                champion=_some(theirs[name] - mine[name]),
            )


def _some(words: set[str]) -> str:
    shown = ", ".join(sorted(words)[:_SHOWN_WORDS])
    return f"{shown}{f' and {len(words) - _SHOWN_WORDS} more' if len(words) > _SHOWN_WORDS else ''}" or _ABSENT
