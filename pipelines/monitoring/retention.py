"""Retention: days older than the log keeps are counted, and reduced to a sample.

The counts by version and slot go to `<root>/aggregates/<day>.parquet`; in the day's folder one Parquet file remains,
with the rows that had errors or unusual flags, and of the others a share by the hash of their ids, and at least some of
each stratum (version, slot, tenth of the score): the same rows, whoever takes the sample. First the counts are durable,
then the sample takes the rows' place: a crash in between repeats work, and counts nothing twice, since the counts name
the files that are in them.
"""

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from contracts.slots import LATENCY_EDGES_S, SCORE_BINS
from pipelines.monitoring.compaction import count_rows, replace, sync
from pipelines.monitoring.predictions import connected
from pipelines.monitoring.segments import COMPACTED, SAMPLED, SAMPLING, Files, list_files

MINIMUM_KEEP_DAYS = 30
DEFAULT_SAMPLE = 0.01
ROWS_PER_STRATUM = 20  # of each version, slot and tenth of the score at least, where there are as many
AGGREGATES = "aggregates"
SOURCES = "paceline.sources"  # key of an aggregate's metadata: the names of the files that are counted in it
_HASHES = 1 << 32
_FLAGGED = "(error IS NOT NULL OR unusual IS NOT NULL)"
_TENTH = "coalesce(least(greatest(CAST(floor(score * 10) AS INTEGER), 0), 9), -1)"
AGGREGATE_COLUMNS = pa.schema(
    [
        ("day", pa.string()),
        ("version", pa.string()),
        ("slot", pa.string()),
        ("requests", pa.int64()),
        ("errors", pa.int64()),
        ("scores", pa.list_(pa.int64(), SCORE_BINS)),  # in the bins of `contracts.slots`
        ("latency", pa.list_(pa.int64(), len(LATENCY_EDGES_S) + 1)),  # in its buckets
        ("flags", pa.map_(pa.string(), pa.int64())),
    ]
)


_STRATUM_COLUMNS = pa.schema(
    [("version", pa.string()), ("slot", pa.string()), ("tenth", pa.int32()), ("rows", pa.int64())]
)


@dataclass(frozen=True)
class ReducedDay:
    """What was done with a day, or would be: of `rows` rows `kept` remain."""

    day: str
    rows: int
    kept: int


@dataclass
class _Counts:
    requests: int = 0
    errors: int = 0
    scores: list[int] = field(default_factory=lambda: [0] * SCORE_BINS)
    latency: list[int] = field(default_factory=lambda: [0] * (len(LATENCY_EDGES_S) + 1))
    flags: dict[str, int] = field(default_factory=dict)


def reduce_day(
    root: Path, day: str, *, keep_days: int, fraction: float = DEFAULT_SAMPLE, is_dry_run: bool = False
) -> ReducedDay | None:
    """Counts the rows of `day` and keeps a sample; call it after `compact_day`, within the same lock.

    Damaged files and segments whose writer lives are left alone. None when there is nothing to reduce. `keep_days` is
    only written down, for whoever misses a row.

    Raises:
        OSError: the disk refuses.
        CompactionError: the sample is not what it should be.
    """
    files = list_files(root, lambda each: each == day)
    full = tuple(path for path in files.tables if path.name.startswith(COMPACTED))
    before = tuple(path for path in files.tables if path.name.startswith(SAMPLED))
    if not full:
        return None
    rows = sum(pq.ParquetFile(path).metadata.num_rows for path in full)
    keep = _condition(fraction)
    kept = count_rows(root, _tables(full), keep)
    if is_dry_run:
        return ReducedDay(day, rows, kept)
    _aggregate(root, day, full)
    sources = _tables((*full, *before))  # an earlier sample goes through the same sieve
    kept = count_rows(root, sources, keep)
    earlier = [json.loads((pq.read_schema(path).metadata or {})[SAMPLING.encode()]) for path in before]
    sampling = {
        "keep_days": keep_days,
        "fraction": fraction,
        "rows": rows + sum(each["rows"] for each in earlier),
        "kept_rows": kept,
        "strata": _strata(root, _tables(full), [each.get("strata", []) for each in earlier]),
    }
    replace(root, root / f"day={day}", SAMPLED, sources, rows=kept, metadata={SAMPLING: sampling}, keep=keep)
    return ReducedDay(day, rows, kept)


def read_sample(root: Path, day: str) -> pa.Table:
    """The rows that were kept of a reduced day, with their `weight`: how many rows it stands for.

    Rows with errors or flags, all of which are kept, stand for themselves. Empty where the day was not reduced.
    """
    files = list_files(root, lambda each: each == day)
    samples = tuple(path for path in files.tables if path.name.startswith(SAMPLED))
    told = [json.loads((pq.read_schema(path).metadata or {})[SAMPLING.encode()]) for path in samples]
    strata = pa.Table.from_pylist([each for one in told for each in one.get("strata", [])], schema=_STRATUM_COLUMNS)
    with connected(root, _tables(samples), []) as connection:
        connection.register("strata", strata)
        return connection.sql(f"""
            WITH kept AS (SELECT *, {_TENTH} AS tenth, {_FLAGGED} AS is_flagged FROM predictions)
            SELECT kept.* EXCLUDE (tenth, is_flagged), CASE WHEN is_flagged THEN 1.0 ELSE
                strata.rows / count(*) OVER (PARTITION BY version, slot, tenth, is_flagged) END AS weight
            FROM kept LEFT JOIN strata USING (version, slot, tenth) ORDER BY prediction_id
        """).to_arrow_table()


def read_aggregates(root: Path) -> pa.Table:
    """The counts of all reduced days: `AGGREGATE_COLUMNS`, by day, version and slot."""
    tables = [pq.ParquetFile(path).read() for path in sorted((root / AGGREGATES).glob("[!.]*.parquet"))]
    return pa.concat_tables([AGGREGATE_COLUMNS.empty_table(), *tables])


def count_also(root: Path, day: str, name: str, new: str) -> None:
    """Where the rows of the file `name` are counted, those of `new`, which takes its place, are as well."""
    final = root / AGGREGATES / f"{day}.parquet"
    if not final.exists():
        return
    table = pq.ParquetFile(final).read()
    sources = _sources(final)
    if name in sources and new not in sources:
        _write(final, table, [*sources, new])


def _condition(fraction: float) -> str:
    chance = f"CAST('0x' || substr(md5(prediction_id), 1, 8) AS BIGINT) < {round(fraction * _HASHES)}"
    if fraction == 0:
        return _FLAGGED
    first = f"""SELECT prediction_id FROM predictions WHERE NOT ({_FLAGGED})
        QUALIFY row_number() OVER (PARTITION BY version, slot, {_TENTH} ORDER BY md5(prediction_id))
            <= {ROWS_PER_STRATUM}"""
    return f"{_FLAGGED} OR {chance} OR prediction_id IN ({first})"


def _strata(root: Path, files: Files, earlier: Sequence[Sequence[Mapping[str, Any]]]) -> list[dict[str, Any]]:
    """How many rows without a flag each stratum has, with those that an earlier sample was taken of."""
    with connected(root, files, []) as connection:
        query = (
            f"SELECT version, slot, {_TENTH} AS tenth, count(*) AS n FROM predictions WHERE NOT {_FLAGGED} GROUP BY ALL"
        )
        counts = Counter({(row[0], row[1], row[2]): row[3] for row in connection.execute(query).fetchall()})
    for strata in earlier:
        counts.update({(each["version"], each["slot"], each["tenth"]): each["rows"] for each in strata})
    return [
        {"version": version, "slot": slot, "tenth": tenth, "rows": rows}
        for (version, slot, tenth), rows in sorted(counts.items())
    ]


def _tables(paths: Sequence[Path]) -> Files:
    return Files(streams=(), tables=tuple(paths), replaced=(), damaged=())


def _aggregate(root: Path, day: str, paths: Sequence[Path]) -> None:
    """Adds the rows of `paths` to the counts of `day`, unless they are there."""
    final = root / AGGREGATES / f"{day}.parquet"
    final.parent.mkdir(exist_ok=True)
    counts: dict[tuple[str, str], _Counts] = {}
    sources: list[str] = []
    if final.exists():
        sources = _sources(final)
        for row in pq.ParquetFile(final).read().to_pylist():
            counts[row["version"], row["slot"]] = _Counts(
                row["requests"], row["errors"], row["scores"], row["latency"], dict(row["flags"])
            )
    new = tuple(path for path in paths if path.name not in sources)
    if not new:
        return
    _count(root, _tables(new), counts)
    rows = [_row(day, version, slot, found) for (version, slot), found in sorted(counts.items())]
    _write(final, pa.Table.from_pylist(rows, schema=AGGREGATE_COLUMNS), [*sources, *(path.name for path in new)])


def _sources(path: Path) -> list[str]:
    """The files that are counted in an aggregate."""
    found: list[str] = json.loads((pq.read_schema(path).metadata or {})[SOURCES.encode()])
    return found


def _write(final: Path, table: pa.Table, sources: Sequence[str]) -> None:
    draft = final.with_name(f".{final.name}.draft")
    schema = AGGREGATE_COLUMNS.with_metadata({SOURCES: json.dumps(list(sources))})
    pq.write_table(table.cast(schema), draft, compression="zstd")
    sync(draft)
    draft.rename(final)
    sync(final.parent)


def _row(day: str, version: str, slot: str, found: _Counts) -> Mapping[str, Any]:
    return {
        "day": day,
        "version": version,
        "slot": slot,
        "requests": found.requests,
        "errors": found.errors,
        "scores": found.scores,
        "latency": found.latency,
        "flags": sorted(found.flags.items()),
    }


def _count(root: Path, files: Files, counts: dict[tuple[str, str], _Counts]) -> None:
    """Adds the rows of `files` to `counts`."""

    def of(version: str, slot: str) -> _Counts:
        return counts.setdefault((version, slot), _Counts())

    with connected(root, files, []) as connection:

        def grouped(what: str, where: str = "true", source: str = "predictions") -> list[tuple[Any, ...]]:
            query = f"SELECT version, slot, {what} AS what, count(*) FROM {source} WHERE {where} GROUP BY ALL"
            found: list[tuple[Any, ...]] = connection.execute(query).fetchall()
            return found

        for version, slot, is_error, rows in grouped("error IS NOT NULL"):
            of(version, slot).requests += rows
            of(version, slot).errors += rows if is_error else 0
        bin_ = f"least(greatest(CAST(floor(score * {SCORE_BINS}) AS BIGINT), 0), {SCORE_BINS - 1})"
        answered = "error IS NULL AND score IS NOT NULL"
        for version, slot, place, rows in grouped(bin_, answered):
            of(version, slot).scores[place] += rows
        for version, slot, latency_us, rows in grouped("latency_us", answered):
            of(version, slot).latency[int(np.searchsorted(LATENCY_EDGES_S, latency_us / 1e6))] += rows
        flags = "(SELECT version, slot, unnest(string_split(unusual, ',')) AS flag FROM predictions)"
        for version, slot, flag, rows in grouped("flag", source=flags):
            found = of(version, slot).flags
            found[flag] = found.get(flag, 0) + rows
