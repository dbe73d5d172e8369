"""Summaries of days of the log that are kept: a watch of a week counts again only the days whose files are other ones.

A summary is named by the day, by what the files with its events are, by the entities that are hidden, and by the
version and bundle that answered. So one that is found is right, and one that is not found is counted.
"""

import os
from collections.abc import Sequence
from dataclasses import replace
from datetime import date, datetime, timedelta
from pathlib import Path

import msgspec

from contracts.durable_files import write_whole
from contracts.input_schema import InputSchema
from pipelines.monitoring.day_summaries import Layout, concatenate
from pipelines.monitoring.forgotten import read_forgotten
from pipelines.monitoring.log_batches import Window
from pipelines.monitoring.log_spans import WindowFiles
from pipelines.monitoring.logged_days import LoggedDays, summarise_log
from pipelines.monitoring.segments import consistently
from pipelines.monitoring.summary_files import read_days, write_days

_EPOCH = date(1970, 1, 1)


class _Beside(msgspec.Struct, frozen=True):
    """What a summary tells beside its arrays."""

    unseen: dict[int, dict[str, dict[str, int]]]
    refused: dict[int, int]
    first_refusal: str | None


def summarise_days(
    window: Window, folder: Path, *, schema: InputSchema, layout: Layout, version: str, bundle: str
) -> LoggedDays:
    """What `summarise_log` says of `window`, from the summaries in `folder` as far as these are of the same files."""
    listed = consistently(window.files)
    days = [window.start + timedelta(days=place) for place in range((window.end - window.start).days)]
    paths = {day: _path(folder, window, listed, day, (version, bundle)) for day in days}
    found = {day: kept for day, path in paths.items() if path is not None and (kept := _read(path)) is not None}
    lacking = [day for day in days if day not in found]
    if lacking:
        rest = replace(window, start=lacking[0], end=lacking[-1] + timedelta(days=1))
        counted = summarise_log(rest, schema=schema, layout=layout, version=version)
        for day in lacking:
            found[day] = counted.of((day - _EPOCH).days)
            if (path := paths[day]) is not None:
                _write(path, found[day])
    return _together([found[day] for day in days], layout)


def _path(folder: Path, window: Window, listed: WindowFiles, day: date, answered: Sequence[str]) -> Path | None:
    start = datetime(day.year, day.month, day.day)
    hidden = [each.digest for each in read_forgotten(window.root)]
    name = listed.name(start, start + timedelta(days=1), str(window.root), *answered, *hidden)
    return None if name is None else folder / f"{day.isoformat()}-{name[:32]}.npz"


def _read(path: Path) -> LoggedDays | None:
    beside = path.with_suffix(".json")
    try:
        told = msgspec.json.decode(beside.read_bytes(), type=_Beside)
        os.utime(beside)  # what is used is not cleaned up as forgotten
        return LoggedDays(read_days(path), told.unseen, told.refused, told.first_refusal)
    except FileNotFoundError:
        return None


def _write(path: Path, kept: LoggedDays) -> None:
    beside = msgspec.json.encode(_Beside(kept.unseen, kept.refused, kept.first_refusal))
    write_whole(path.with_suffix(".json"), beside)
    write_days(path, kept.days)  # last: a summary without its arrays is none


def _together(parts: Sequence[LoggedDays], layout: Layout) -> LoggedDays:
    return LoggedDays(
        concatenate([part.days for part in parts], layout),
        {day: words for part in parts for day, words in part.unseen.items()},
        {day: count for part in parts for day, count in part.refused.items()},
        next((part.first_refusal for part in parts if part.first_refusal is not None), None),
    )
