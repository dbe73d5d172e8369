"""What traffic the prediction log has: by hour of the day and segment, and how much a second.

Counted are requests that a version answered, each once: no shadow rows, no synthetic ones, and a challenger's error
that the champion answered is the champion's row.
"""

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Literal
from zoneinfo import ZoneInfo

from contracts.prediction_row import SYNTHETIC
from pipelines.monitoring.predictions import EVENT_TIME, query_predictions
from pipelines.monitoring.segments import DamagedSegment

MISSING = "missing"  # the segment of a record that has no value
RECENT_S = 600.0
_SERVED_AT = "CAST(substr(served_at, 1, 19) AS TIMESTAMP)"  # always UTC
_ANSWERED = (
    f"slot <> 'shadow' AND NOT (slot = 'challenger' AND error IS NOT NULL) AND uncounted IS DISTINCT FROM '{SYNTHETIC}'"
)
_OF_A_CHALLENGER = "slot = 'challenger' AND rollout = ? AND version = ? AND cached IS NOT TRUE AND uncounted IS NULL"


@dataclass(frozen=True)
class SegmentedTraffic:
    """Requests by (hour of the day, segment), on how many different days, and the files that could not be read."""

    counts: dict[tuple[int, str], int]
    days: int
    damaged: tuple[DamagedSegment, ...] = ()


@dataclass(frozen=True)
class MeasuredTraffic:
    """What came in some days before now: all of it, and the requests of the last `RECENT_S` seconds.

    `entity_seconds` counts an entity once in each second in which it sent something (to some percent), and
    `failed_entity_seconds` those with an error. `by_hour` has the requests of each hour of the day, UTC; `days` is on
    how many different days there were any, `seconds` how long ago the first was.
    """

    requests: int
    recent: int
    entity_seconds: int
    failed_entity_seconds: int
    by_hour: tuple[int, ...]
    days: int
    seconds: float
    damaged: tuple[DamagedSegment, ...] = ()


def count_traffic(
    root: Path,
    start: datetime,
    end: datetime,
    *,
    segment: str | None,
    by: Literal["served", "event"],
    time_zone: str,
    of_challenger: tuple[str, str] | None = None,
) -> SegmentedTraffic:
    """The requests served from `start` up to `end`: all, or what `(rollout, version)` answered as challenger.

    `by` says whose hour it is: that of serving, in `time_zone`, or that of the record's own time, which is local.
    `segment` is a field of the record; None makes all one segment. A challenger's errors count: it has seen those.
    """
    zone = ZoneInfo(time_zone)
    # a quarter of an hour is the largest part of which every time zone's hours are made
    moment = f"time_bucket(INTERVAL '15 minutes', {_SERVED_AT if by == 'served' else EVENT_TIME})"
    name = "''" if segment is None else f"coalesce(json_extract_string(inputs, ?), '{MISSING}')"
    path = [] if segment is None else [f'$."{segment}"']
    rows, asked = (_ANSWERED, ()) if of_challenger is None else (_OF_A_CHALLENGER, of_challenger)
    found = query_predictions(
        root,
        f"{moment} AS moment, {name} AS segment, count(*) AS requests",
        f"WHERE served_at >= ? AND served_at < ? AND {rows} GROUP BY ALL",
        [*path, _text(start), _text(end), *asked],
        _between(start, end),
    )
    counts: Counter[tuple[int, str]] = Counter()
    days = set()
    for when, value, requests in zip(*(found.table.column(place).to_pylist() for place in range(3)), strict=True):
        if when is None:  # the record's time is none
            continue
        local = when.replace(tzinfo=UTC).astimezone(zone) if by == "served" else when
        counts[local.hour, value] += requests
        days.add(local.date())
    return SegmentedTraffic(dict(counts), len(days), found.damaged)


def measure_traffic(root: Path, until: datetime, days: int) -> MeasuredTraffic:
    """How much was answered in the `days` days before `until`."""
    start, recent = until - timedelta(days=days), until - timedelta(seconds=RECENT_S)
    who = "entity || substr(served_at, 1, 19)"
    found = query_predictions(
        root,
        f"""date_trunc('hour', {_SERVED_AT}) AS hour, count(*) AS requests, min(served_at) AS first,
            count(*) FILTER (WHERE served_at >= ?) AS recent, approx_count_distinct({who}) AS entities,
            approx_count_distinct({who}) FILTER (WHERE error IS NOT NULL) AS failed""",
        f"WHERE served_at >= ? AND served_at < ? AND {_ANSWERED} GROUP BY ALL",
        [_text(recent), _text(start), _text(until)],
        _between(start, until),
    )
    hours = found.table.to_pylist()
    by_hour = [0] * 24
    for hour in hours:
        by_hour[hour["hour"].hour] += hour["requests"]
    first = min((datetime.fromisoformat(hour["first"]) for hour in hours), default=until)
    return MeasuredTraffic(
        requests=sum(by_hour),
        recent=sum(hour["recent"] for hour in hours),
        entity_seconds=sum(hour["entities"] for hour in hours),
        failed_entity_seconds=sum(hour["failed"] for hour in hours),
        by_hour=tuple(by_hour),
        days=len({hour["hour"].date() for hour in hours}),
        seconds=(until - first).total_seconds(),
        damaged=found.damaged,
    )


def _between(start: datetime, end: datetime) -> Callable[[str], bool]:
    """Whether a day's folder can have something of that time."""
    first, last = (moment.astimezone(UTC).date().isoformat() for moment in (start, end))
    return lambda day: first <= day <= last


def _text(moment: datetime) -> str:
    """As the log writes times: ISO 8601, UTC."""
    return moment.astimezone(UTC).isoformat(timespec="microseconds")
