"""What the prediction log has of one rollout, counted by DuckDB: over time, by phase, on slices, and what failed.

Versions are told apart by their number and not by their slot, so that shadow rows count for the challenger, and the
days after a promotion can be read as well. Rows are of the log: one for each record of a request.
"""

from collections.abc import Sequence
from datetime import datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import msgspec

from pipelines.monitoring.predictions import connected, refusal
from pipelines.monitoring.segments import DamagedSegment, Files, consistently, list_files

if TYPE_CHECKING:
    import duckdb

Arm = Literal["champion", "challenger"]
SCORE_BINS = 20
_BUCKETS = 60
_MAXIMUM_WORDS = 40  # of a field's values: a field with more is no slice
_SHOWN_INPUTS = 8_000  # characters: a longer record is left out


class Part(msgspec.Struct, frozen=True, kw_only=True):
    """Rows of one version: in a phase (`name` is its share, as `5 %`), or in an interval from `start_s`.

    `unanswered` of the `errors` had no answer of the other version either. Latencies are in milliseconds, of answers
    that no cache gave. `scores` counts them in bins of equal width over [0, 1].
    """

    name: str = ""
    start_s: float = 0.0
    arm: Arm
    rows: int
    errors: int
    unanswered: int = 0
    entities: int = 0
    failed_entities: int = 0
    p50_ms: float | None = None
    p95_ms: float | None = None
    p99_ms: float | None = None
    mean_score: float | None = None
    scores: tuple[int, ...] = ()


class Slice(msgspec.Struct, frozen=True, kw_only=True):
    """Rows of one version with one value of one field."""

    field: str
    value: str
    arm: Arm
    rows: int
    errors: int
    entities: int
    failed_entities: int
    p95_ms: float | None
    mean_score: float | None


class ErrorKind(msgspec.Struct, frozen=True, kw_only=True):
    """How often an error was logged, by its text."""

    error: str
    arm: Arm
    rows: int
    entities: int


class Failure(msgspec.Struct, frozen=True, kw_only=True):
    """A request that failed. `inputs` is masked, as the log has it, and None when too long; `answered_by` is the
    version that answered in the failed one's place, None when nobody did, and `score` what it said."""

    prediction_id: str
    request_id: str
    served_at: str
    phase: str
    slot: str
    version: str
    entity: str
    latency_ms: float
    error: str
    inputs: str | None
    answered_by: str | None
    answer_id: str | None
    score: float | None


class Client(msgspec.Struct, frozen=True, kw_only=True):
    """Who asked, by the key's name, how many rows the challenger was to answer for it, and on how many it failed."""

    client: str
    rows: int
    errors: int


class RolloutRows(msgspec.Struct, frozen=True, kw_only=True):
    """All of it. `first_failed_s` is the challenger's, since the epoch; `slices` are of fields with few values."""

    rows: int = 0
    first_failed_s: float | None = None
    parts: tuple[Part, ...] = ()
    over_time: tuple[Part, ...] = ()
    bucket_s: float = 0.0
    slices: tuple[Slice, ...] = ()
    error_kinds: tuple[ErrorKind, ...] = ()
    failures: tuple[Failure, ...] = ()
    clients: tuple[Client, ...] = ()
    damaged: tuple[str, ...] = ()


class Wanted(msgspec.Struct, frozen=True, kw_only=True):
    """Which rows: of `rollout`, or without one of both versions, served from `since` up to and with `until` (UTC).

    `fields` are the inputs to break down by; at most `failures` failed requests are listed.
    """

    rollout: str | None
    champion: str | None
    challenger: str
    since: datetime
    until: datetime
    fields: tuple[str, ...] = ()
    failures: int = 50


def read_rollout_rows(root: Path, wanted: Wanted) -> RolloutRows:
    """Reads the log below `root` once; a log that is not there has no rows. Damaged files are named."""
    first, last = (when.date().isoformat() for when in (wanted.since - timedelta(days=1), wanted.until))

    def read() -> RolloutRows:
        import duckdb

        files = list_files(root, lambda day: first <= day <= last)
        try:
            return _read(root, files, wanted)
        except duckdb.Error:
            refused = {path: reason for path in files.tables if (reason := refusal(path)) is not None}
            if not refused:
                raise
            named = tuple(DamagedSegment(path.relative_to(root).as_posix(), why) for path, why in refused.items())
            readable = tuple(path for path in files.tables if path not in refused)
            return _read(root, Files(files.streams, readable, files.replaced, (*files.damaged, *named)), wanted)

    return consistently(read)


def _read(root: Path, files: Files, wanted: Wanted) -> RolloutRows:
    damaged: list[DamagedSegment] = list(files.damaged)
    with connected(root, files, damaged) as connection:
        _take(connection, wanted)
        found = _counted(connection, wanted)
    return msgspec.structs.replace(found, damaged=tuple(f"{each.path}: {each.reason}" for each in damaged))


def _take(connection: "duckdb.DuckDBPyConnection", wanted: Wanted) -> None:
    """The table `taken`: the rows, narrow; streams can be read once only."""
    columns = "".join(f", json_extract_string(inputs, ?) AS slice_{place}" for place, _ in enumerate(wanted.fields))
    paths = [f'$."{name}"' for name in wanted.fields]
    if wanted.rollout is not None:
        condition, parameters = "rollout = ?", [wanted.rollout]
    else:
        condition, parameters = "version IN (?, ?)", [wanted.challenger, wanted.champion or wanted.challenger]
    connection.execute(
        f"""CREATE TEMP TABLE taken AS SELECT
        prediction_id, request_id, served_at, epoch(CAST(served_at AS TIMESTAMP)) AS at_s, version, slot, entity,
        CASE WHEN version = ? THEN 'challenger' ELSE 'champion' END AS arm,
        CASE WHEN rollout IS NULL THEN slot WHEN share = 0 THEN 'shadow'
             ELSE format('{{:g}} %', round(share * 100, 4)) END AS phase,
        share, score, coalesce(cached, false) AS cached, latency_us / 1000.0 AS latency_ms, error,
        client, CASE WHEN error IS NOT NULL AND length(inputs) <= {_SHOWN_INPUTS} THEN inputs END AS inputs{columns}
        FROM predictions WHERE {condition}
        AND CAST(served_at AS TIMESTAMP) >= ? AND CAST(served_at AS TIMESTAMP) <= ?""",
        [
            wanted.challenger,
            *paths,
            *parameters,
            wanted.since.replace(tzinfo=None),
            wanted.until.replace(tzinfo=None),
        ],
    )
    connection.execute(
        """UPDATE taken SET phase = 'no share' WHERE phase = 'shadow' AND slot != 'shadow'
        AND at_s > (SELECT min(at_s) FROM taken WHERE share > 0)"""  # tripped, or held: the slot is still there
    )
    connection.execute(
        """CREATE TEMP TABLE answers AS SELECT request_id, entity, arm, any_value(version) AS version,
        any_value(prediction_id) AS prediction_id, any_value(score) AS score FROM taken
        WHERE score IS NOT NULL AND request_id IN (SELECT request_id FROM taken WHERE error IS NOT NULL)
        GROUP BY ALL"""
    )
    connection.execute(
        """CREATE TEMP TABLE failed AS SELECT taken.*, answers.version AS answered_by,
        answers.prediction_id AS answer_id, answers.score AS answer_score FROM taken LEFT JOIN answers
        ON answers.request_id = taken.request_id AND answers.entity = taken.entity AND answers.arm != taken.arm
        WHERE error IS NOT NULL"""
    )


_MEASURES = """arm, count(*) AS rows, count(error) AS errors, count(DISTINCT entity) AS entities,
count(DISTINCT entity) FILTER (error IS NOT NULL) AS failed_entities,
quantile_cont(latency_ms, 0.5) FILTER (error IS NULL AND NOT cached) AS p50_ms,
quantile_cont(latency_ms, 0.95) FILTER (error IS NULL AND NOT cached) AS p95_ms,
quantile_cont(latency_ms, 0.99) FILTER (error IS NULL AND NOT cached) AS p99_ms,
avg(score) AS mean_score"""


def _counted(connection: "duckdb.DuckDBPyConnection", wanted: Wanted) -> RolloutRows:
    rows, first_s, last_s, failed_s = _one(
        connection,
        "SELECT count(*), min(at_s), max(at_s), min(at_s) FILTER (error IS NOT NULL AND arm = 'challenger') FROM taken",
    )
    if not rows:
        return RolloutRows()
    bucket_s = max((last_s - first_s) / _BUCKETS, 0.25)
    return RolloutRows(
        rows=rows,
        first_failed_s=failed_s,
        parts=_parts(connection),
        over_time=tuple(
            Part(**row)
            for row in _rows(
                connection,
                f"SELECT ? + floor((at_s - ?) / ?) * ? AS start_s, {_MEASURES} FROM taken GROUP BY 1, 2 ORDER BY 1, 2",
                [first_s, first_s, bucket_s, bucket_s],
            )
        ),
        bucket_s=bucket_s,
        slices=tuple(each for place, name in enumerate(wanted.fields) for each in _slices(connection, place, name)),
        error_kinds=tuple(
            ErrorKind(**row)
            for row in _rows(
                connection,
                "SELECT error, arm, count(*) AS rows, count(DISTINCT entity) AS entities FROM failed "
                "GROUP BY ALL ORDER BY rows DESC, error LIMIT 20",
            )
        ),
        failures=_failures(connection, wanted.failures),
        clients=tuple(
            Client(**row)
            for row in _rows(
                connection,
                "SELECT client, count(*) AS rows, count(error) AS errors FROM taken WHERE arm = 'challenger' AND "
                "slot != 'shadow' AND client IS NOT NULL GROUP BY 1 ORDER BY errors DESC, rows DESC, client LIMIT 10",
            )
        ),
    )


def _parts(connection: "duckdb.DuckDBPyConnection") -> tuple[Part, ...]:
    """By phase, in the order in which they began."""
    measured = _rows(
        connection,
        f"""SELECT phase AS name, min(at_s) AS start_s, {_MEASURES},
        [{", ".join(f"count(*) FILTER (bin = {place})" for place in range(SCORE_BINS))}] AS scores
        FROM (SELECT *, CASE WHEN score IS NOT NULL THEN least({SCORE_BINS - 1}, floor(score * {SCORE_BINS})) END AS bin
        FROM taken)
        GROUP BY phase, arm ORDER BY min(min(at_s)) OVER (PARTITION BY phase), arm""",
    )
    unanswered = {
        (row["phase"], row["arm"]): row["n"]
        for row in _rows(
            connection, "SELECT phase, arm, count(*) AS n FROM failed WHERE answered_by IS NULL GROUP BY ALL"
        )
    }
    return tuple(
        Part(**{**row, "scores": tuple(row["scores"])}, unanswered=unanswered.get((row["name"], row["arm"]), 0))
        for row in measured
    )


def _slices(connection: "duckdb.DuckDBPyConnection", place: int, name: str) -> list[Slice]:
    (words,) = _one(connection, f"SELECT count(DISTINCT slice_{place}) FROM taken")
    if not 1 < words <= _MAXIMUM_WORDS:
        return []
    found = _rows(
        connection,
        f"""SELECT coalesce(slice_{place}, '(missing)') AS value, {_MEASURES} FROM taken
        GROUP BY 1, arm ORDER BY 1, 2""",
    )
    fields = set(Slice.__struct_fields__)
    return [Slice(field=name, **{key: row[key] for key in row if key in fields}) for row in found]


def _failures(connection: "duckdb.DuckDBPyConnection", at_most: int) -> tuple[Failure, ...]:
    """The challenger's first, of those what nobody answered, then some of each kind: many of a kind say little more."""
    found = _rows(
        connection,
        """SELECT * FROM (SELECT *, row_number() OVER (PARTITION BY arm, error ORDER BY prediction_id) AS place
        FROM failed) ORDER BY arm = 'champion', answered_by IS NOT NULL, place, prediction_id LIMIT ?""",
        [at_most],
    )
    kept = set(Failure.__struct_fields__) - {"score"}
    return tuple(Failure(score=row["answer_score"], **{key: row[key] for key in kept}) for row in found)


def _one(connection: "duckdb.DuckDBPyConnection", query: str) -> Sequence[Any]:
    found: Sequence[Any] = connection.execute(query).fetchall()[0]
    return found


def _rows(connection: "duckdb.DuckDBPyConnection", query: str, parameters: Sequence[Any] = ()) -> list[dict[str, Any]]:
    answered = connection.execute(query, list(parameters))
    names = [column[0] for column in answered.description]
    return [dict(zip(names, row, strict=True)) for row in answered.fetchall()]
