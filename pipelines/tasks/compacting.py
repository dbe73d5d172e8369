"""The prediction log kept small: past days compacted, days beyond the retention reduced to counts and a sample."""

import logging
from collections.abc import Callable
from datetime import UTC, date, datetime, timedelta
from typing import Any

import duckdb
import msgspec
import pyarrow as pa

from pipelines.monitoring.compaction import CompactionError, CompactionRunsError, compact_day, locked
from pipelines.monitoring.forgetting import finish_forgetting
from pipelines.monitoring.log_cost import FEW_ROWS, cost_of, measure_log
from pipelines.monitoring.retention import DEFAULT_SAMPLE, MINIMUM_KEEP_DAYS, reduce_day
from pipelines.monitoring.segments import days_of
from pipelines.rollout import holdouts
from pipelines.wiring import find_project, home, log_keep_days, read_ledger

__all__ = ["CompactionRunsError", "compact", "compacted_text", "cost", "cost_text"]
SHOWN_MONTHS = (1, 2, 3, 6, 12, 24, 36, 60)
logger = logging.getLogger("paceline")


def compact(
    project: str,
    *,
    today: str | None = None,
    keep_days: int | None = None,
    sample: float = DEFAULT_SAMPLE,
    is_dry_run: bool = False,
    progress: Callable[[str], None] = logger.info,
) -> dict[str, Any]:
    """Compacts the days before `today` (UTC; at the latest the real one, which is the default), and reduces those that
    are older than `keep_days`, by default what the environment says, and than a holdout that has not ended.

    Safe to repeat; a bad day does not stop the others.

    Raises:
        ValueError: an option is not allowed.
        CompactionRunsError: another compaction of this log is at work.
        CompactionError: days could not be done; all others are.
    """
    find_project(project)
    keep_days = log_keep_days() if keep_days is None else keep_days
    if keep_days < MINIMUM_KEEP_DAYS:
        raise ValueError(f"predictions are kept for at least {MINIMUM_KEEP_DAYS} days, found {keep_days}")
    if not 0 <= sample <= 1:
        raise ValueError(f"the sample is a share of the rows from 0 to 1, found {sample}")
    # a date in the future would take rows that are young
    until = min(datetime.now(UTC).date(), date.max if today is None else date.fromisoformat(today))
    oldest_kept = (until - timedelta(days=keep_days)).isoformat()
    held = holdouts.unfinished(read_ledger(), project)
    if held is not None:  # it is judged by every row since its promotion
        oldest_kept = min(oldest_kept, held.since.date().isoformat())
    root = home().predictions(project)
    compacted: list[dict[str, Any]] = []
    reduced: list[dict[str, Any]] = []
    failed: dict[str, str] = {}
    with locked(root):
        for day in days_of(root, lambda each: each < until.isoformat()):
            progress(f"{project}: {day}")
            try:
                done = compact_day(root, day, is_dry_run=is_dry_run)
                if done.merged or done.removed or done.held or done.damaged:
                    compacted.append(msgspec.to_builtins(done))
                if day < oldest_kept:
                    less = reduce_day(root, day, keep_days=keep_days, fraction=sample, is_dry_run=is_dry_run)
                    if less is not None:
                        reduced.append(msgspec.to_builtins(less))
            except (CompactionError, OSError, duckdb.Error, pa.ArrowException) as error:
                logger.error("the log of %s could not be compacted: %s", day, error)
                failed[day] = str(error).splitlines()[0]
        pending = 0 if is_dry_run else finish_forgetting(root, datetime.now(UTC))
    if failed:
        raise CompactionError("; ".join(f"{day}: {reason}" for day, reason in failed.items()))
    return {
        "project": project,
        "before": until.isoformat(),
        "keep_days": keep_days,
        "sample": sample,
        "is_dry_run": is_dry_run,
        "compacted": compacted,
        "reduced": reduced,
        "to_forget": pending,
    }


def compacted_text(found: dict[str, Any]) -> str:
    """What `compact` did, as lines for a terminal."""
    would = "would become" if found["is_dry_run"] else "became"
    lines = [f"{found['project']}: the log before {found['before']}, kept whole for {found['keep_days']} days"]
    for day in found["compacted"]:
        if day["merged"]:
            lines.append(f"  {day['day']}: {day['merged']} files {would} one of {day['rows']:,} rows")
        if day["removed"] and not found["is_dry_run"]:
            lines.append(f"  {day['day']}: {day['removed']} files removed that an interrupted compaction had replaced")
        if day["held"]:
            lines.append(f"  {day['day']}: {day['held']} segments are still being written; next time")
        lines += [f"  {day['day']}: {each['path']} is damaged and stays: {each['reason']}" for each in day["damaged"]]
    for day in found["reduced"]:
        would = "would be" if found["is_dry_run"] else "were"
        lines.append(f"  {day['day']}: {day['rows']:,} rows {would} counted and reduced to {day['kept']:,}")
    if found["to_forget"]:
        lines.append(f"  {found['to_forget']} entities are hidden, and not all of their rows have gone yet; next time")
    if len(lines) == 1:
        lines.append("  nothing to do")
    return "\n".join(lines)


def cost(
    project: str, *, rate: float, keep_days: int | None = None, sample: float, months: int, price: float | None
) -> dict[str, Any]:
    """What the log of `project` takes on disk at `rate` predictions a second, by the size of its own rows.

    Raises:
        LookupError: nothing was logged yet, so nothing can be measured.
        ValueError: an option is not allowed.
    """
    find_project(project)
    keep_days = log_keep_days() if keep_days is None else keep_days
    if keep_days < MINIMUM_KEEP_DAYS:
        raise ValueError(f"predictions are kept for at least {MINIMUM_KEEP_DAYS} days, found {keep_days}")
    measured = measure_log(home().predictions(project))
    shown = [month for month in SHOWN_MONTHS if month < months] + [months]
    found = cost_of(measured, rate=rate, keep_days=keep_days, sample=sample, months=shown, price_per_gb_month=price)
    return {
        "project": project,
        "keep_days": keep_days,
        "sample": sample,
        "price_per_gb_month": price,
        "measured": msgspec.to_builtins(measured),
        **msgspec.to_builtins(found),
    }


def cost_text(found: dict[str, Any]) -> str:
    """What `cost` found, as lines for a terminal."""
    measured = found["measured"]

    def row(name: str, rows: int, each: float | None) -> str:
        return f"  {name}: not measured" if each is None else f"  {name}: {each:,.1f} bytes a row, of {rows:,} rows"

    lines = [
        f"{found['project']}: measured in its own files",
        row("as the server writes it", measured["segment_rows"], measured["segment_bytes_per_row"]),
        row("compacted", measured["compacted_rows"], measured["compacted_bytes_per_row"]),
        f"  errors and unusual rows, all kept: {measured['special_share']:.2%}",
    ]
    if measured["compacted_rows"] < FEW_ROWS:
        lines.append(f"  of fewer than {FEW_ROWS:,} rows: the head and foot of the files are a large part of that")
    lines += [
        f"at {found['rate']:,g} predictions a second, every row kept for {found['keep_days']} days, then "
        f"{found['sample']:.2%}, what is special, and the counts:",
        f"  written in a day: {_size(found['bytes_per_day'])}, {found['rows_per_day']:,.0f} rows; "
        f"compacted {_size(found['compacted_bytes_per_day'])}",
        f"  kept whole: {_size(found['full_bytes'])}; for good: {_size(found['long_term_bytes_per_day'])} a day",
    ]
    for month in found["months"]:
        price = "" if month["cost"] is None else f", {month['cost']:,.2f} for that month"
        lines.append(f"  after {month['month']:>3} months: {_size(month['bytes'])}{price}")
    return "\n".join(lines)


def _size(size: float) -> str:
    for unit, bytes_ in (("TB", 1e12), ("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if size >= bytes_:
            return f"{size / bytes_:,.2f} {unit}"
    return f"{size:,.0f} bytes"
