"""How many predictions each version made: the rows that the log has, and the counts of days that were reduced."""

import json
from pathlib import Path

import msgspec
import pyarrow as pa
import pyarrow.parquet as pq

from pipelines.monitoring.predictions import STREAM_COLUMNS, connected
from pipelines.monitoring.retention import AGGREGATES, SOURCES, read_aggregates
from pipelines.monitoring.segments import (
    SAMPLED,
    DamagedSegment,
    DamagedStreamError,
    Files,
    consistently,
    list_files,
    read_stream,
)


class Tally(msgspec.Struct, frozen=True, kw_only=True):
    """The predictions of one version in one slot. `first` and `last` are the days (UTC) on which they were served."""

    version: str
    slot: str
    requests: int
    errors: int
    first: str
    last: str


def count_by_version(root: Path) -> tuple[Tally, ...]:
    """The tallies of the whole log below `root`, by version and slot; none where nothing was logged."""
    counted = [*_reduced(root), *consistently(lambda: _logged(root))]
    keys = sorted({(row.version, row.slot) for row in counted})
    return tuple(_sum([row for row in counted if (row.version, row.slot) == key]) for key in keys)


def kept_by_version(root: Path) -> tuple[dict[str, int], tuple[DamagedSegment, ...]]:
    """How many predictions of each version the log below `root` keeps whole, and the files that could not be read.

    The sample of the days beyond the retention is not counted: its rows stand for rows that are gone.
    """
    return consistently(lambda: _kept(root))


def _kept(root: Path) -> tuple[dict[str, int], tuple[DamagedSegment, ...]]:
    files = list_files(root)
    counts: dict[str, int] = {}
    damaged = list(files.damaged)
    for path in files.all:
        if path.name.startswith(SAMPLED):
            continue
        try:
            if path.suffix == ".arrows":
                columns = [batch["version"] for batch in read_stream(path, STREAM_COLUMNS)]
            else:
                columns = [pq.read_table(path, columns=["version"])["version"]]
        except (DamagedStreamError, pa.ArrowException, KeyError) as error:
            damaged.append(DamagedSegment(path.relative_to(root).as_posix(), str(error).splitlines()[0]))
            continue
        for column in columns:
            for found in column.value_counts().to_pylist():
                counts[found["values"]] = counts.get(found["values"], 0) + found["counts"]
    return counts, tuple(damaged)


def _sum(rows: list[Tally]) -> Tally:
    return Tally(
        version=rows[0].version,
        slot=rows[0].slot,
        requests=sum(row.requests for row in rows),
        errors=sum(row.errors for row in rows),
        first=min(row.first for row in rows),
        last=max(row.last for row in rows),
    )


def _reduced(root: Path) -> list[Tally]:
    return [
        Tally(
            version=row["version"],
            slot=row["slot"],
            requests=row["requests"],
            errors=row["errors"],
            first=row["day"],
            last=row["day"],
        )
        for row in read_aggregates(root).to_pylist()
    ]


def _logged(root: Path) -> list[Tally]:
    """The rows that no aggregate counts: no samples, and no files that a crash left behind when they were counted."""
    found = list_files(root)
    counted = {
        name
        for path in (root / AGGREGATES).glob("[!.]*.parquet")
        for name in json.loads((pq.read_schema(path).metadata or {})[SOURCES.encode()])
    }
    tables = tuple(path for path in found.tables if not path.name.startswith(SAMPLED) and path.name not in counted)
    files = Files(found.streams, tables, found.replaced, found.damaged)
    query = """
        SELECT version, slot, count(*) AS requests, count(error) AS errors,
               min(served_at)[:10] AS first, max(served_at)[:10] AS last
        FROM predictions GROUP BY version, slot
    """
    with connected(root, files, []) as connection:
        rows = connection.sql(query).to_arrow_table().to_pylist()
    return [msgspec.convert(row, Tally) for row in rows]
