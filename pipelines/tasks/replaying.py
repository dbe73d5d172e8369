"""The real events of a period as live requests."""

import asyncio
import os
from collections.abc import Callable
from datetime import date
from pathlib import Path
from typing import Any

import msgspec

from pipelines.backtest import replay as backtest
from pipelines.wiring import find_project, home, server_url


def records(project: str, start: date, end: date) -> list[dict[str, Any]]:
    """The events from `start` until before `end` in time order, as a client would send them: without the outcome."""
    import ibis

    found = find_project(project)
    names = [field.name for field in found.schema.fields]
    connection = ibis.duckdb.connect()
    events = found.source().events(connection, home().warehouse(project))
    time = events[found.schema.time]
    chosen = events.filter((time >= ibis.date(start)) & (time < ibis.date(end)))
    order = dict.fromkeys((found.schema.time, *found.schema.key))
    table = chosen.order_by(list(order)).select(names).to_pyarrow()
    connection.disconnect()
    rows: list[dict[str, Any]] = table.to_pylist()
    if not rows:
        raise LookupError(f"{project} has no events from {start} until {end}: was it ingested?")
    return rows


async def replay(
    project: str,
    start: str,
    end: str,
    rate: float,
    url: str | None,
    answers: Path | None,
    stop: asyncio.Event,
    on_progress: Callable[[backtest.Progress], None] | None = None,
    instead: dict[str, str] | None = None,
) -> dict[str, Any]:
    """Sends the events of the period to the model server, and returns what its clients saw.

    Every request says what `instead` has for a field: a feature that is broken on purpose. Raises ValueError for a
    field that the project does not have.

    A server that asks for an API key gets that of `PACELINE_API_KEY`.
    """
    found = find_project(project)
    if unknown := set(instead or {}) - {field.name for field in found.schema.fields}:
        raise ValueError(f"{', '.join(sorted(unknown))} is no field of {project}")
    rows = await asyncio.to_thread(records, project, date.fromisoformat(start), date.fromisoformat(end))
    summary = await backtest.replay(
        url or server_url(found),
        [{**row, **(instead or {})} for row in rows],
        entity=found.schema.entity,
        rate=rate,
        api_key=os.environ.get("PACELINE_API_KEY"),
        answers=answers,
        stop=stop,
        on_progress=on_progress,
    )
    built: dict[str, Any] = msgspec.to_builtins(summary)
    return built
