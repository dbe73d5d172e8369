"""What the prediction log has of each day of a week: requests, errors, scores, decisions and latency, counted there."""

from datetime import date, datetime, timedelta
from pathlib import Path

import msgspec

from contracts.prediction_row import SYNTHETIC
from pipelines.monitoring.predictions import EVENT_TIME, query_predictions
from pipelines.monitoring.segments import DamagedSegment


class DayOfVersion(msgspec.Struct, frozen=True, kw_only=True):
    """The rows of one version in one slot for the events of one day. Latency is that of encoding and scoring, as the
    server logged it; None where no row has one. `mean_score` and `decision_share` are of the answers."""

    day: str
    version: str
    slot: str
    rows: int
    errors: int
    mean_score: float | None
    decision_share: float | None
    latency_ms_p50: float | None
    latency_ms_p99: float | None


class WeekTraffic(msgspec.Struct, frozen=True, kw_only=True):
    """The days, by day, version and slot, and the files that could not be read."""

    days: tuple[DayOfVersion, ...]
    damaged: tuple[DamagedSegment, ...] = ()


def count_week(root: Path, start: date, end: date) -> WeekTraffic:
    """The traffic for events from `start` up to, and without, `end`, by the local days of the records."""
    found = query_predictions(
        root,
        f"""CAST(CAST({EVENT_TIME} AS DATE) AS VARCHAR) AS day, version, slot, count(*) AS rows,
            count(*) FILTER (WHERE error IS NOT NULL) AS errors, avg(score) AS mean_score,
            avg(CAST(decision AS DOUBLE)) FILTER (WHERE error IS NULL) AS decision_share,
            quantile_cont(latency_us, 0.5) / 1000 AS latency_ms_p50,
            quantile_cont(latency_us, 0.99) / 1000 AS latency_ms_p99""",
        f"""WHERE uncounted IS DISTINCT FROM '{SYNTHETIC}' AND slot IS NOT NULL
            AND {EVENT_TIME} >= ? AND {EVENT_TIME} < ? GROUP BY ALL ORDER BY day, version, slot""",
        [_midnight(start), _midnight(end)],
    )
    days = tuple(msgspec.convert(row, DayOfVersion) for row in found.table.to_pylist())
    return WeekTraffic(days=days, damaged=found.damaged)


def days_of(start: date, end: date) -> list[str]:
    """The dates from `start` up to, and without, `end`.

    >>> days_of(date(2013, 7, 1), date(2013, 7, 3))
    ['2013-07-01', '2013-07-02']
    """
    return [(start + timedelta(days=number)).isoformat() for number in range((end - start).days)]


def _midnight(day: date) -> datetime:
    return datetime.combine(day, datetime.min.time())
