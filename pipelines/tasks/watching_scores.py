"""The fast watch over a project's scores, as a process beside the servers: reads their counters, and remembers.

What it knows is one file below `PACELINE_HOME`, written whole after each look, so it goes on where it was killed. The
ledger gets `scores.alarm` and `scores.quiet`; while the ledger is away the watch goes on, and tells it later.
"""

import asyncio
import fcntl
import logging
import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
import msgspec

from contracts.slots import SCORE_BINS
from pipelines.ledger import LedgerUnavailableError
from pipelines.monitoring.score_counts import NoScoresError, Series, new_scores, read_counters
from pipelines.monitoring.score_memory import Kept, Untold, read_memory, write_memory
from pipelines.monitoring.score_watch import ScoreWatch, accepted, is_gap, look
from pipelines.projects import Project
from pipelines.wiring import find_project, home, open_ledger, server_url

ALARM, QUIET, ACCEPTED = "scores.alarm", "scores.quiet", "scores.accepted"
LOCK = ".watching"
KEY = "PACELINE_METRICS_KEY"
FETCH_S = 5.0
logger = logging.getLogger("paceline")
Clock = Callable[[], float]


class ScoresAreWatchedError(RuntimeError):
    """Another process watches the scores of this project."""


async def watch_scores(
    project: str,
    urls: Sequence[str] = (),
    stop: asyncio.Event | None = None,
    on_look: Callable[[Kept], None] = lambda _: None,
    clock: Clock = time.time,
) -> Kept:
    """Looks at the servers' counters every `monitoring.scores.look_s` seconds until `stop`; returns what it knows then.

    `urls` are the servers, by default the project's; `clock` is Unix time.

    Raises:
        ScoresAreWatchedError: another process does.
    """
    found, ended = find_project(project), stop or asyncio.Event()
    servers = list(urls) or [server_url(found)]
    key = os.environ.get(KEY)
    headers = {} if key is None else {"x-api-key": key}
    folder = home().scores(project)
    with _alone(folder, project):
        kept = read_memory(folder) or Kept()
        async with httpx.AsyncClient(timeout=FETCH_S, trust_env=False, headers=headers) as client:
            while not ended.is_set():
                pages = await asyncio.gather(*(_fetch(client, url) for url in servers))
                kept = tell(found, looked(found, kept, dict(zip(servers, pages, strict=True)), clock()))
                write_memory(folder, kept)
                on_look(kept)
                try:
                    await asyncio.wait_for(ended.wait(), found.monitoring.scores.look_s)
                except TimeoutError:
                    continue
    return kept


def looked(project: Project, kept: Kept, pages: dict[str, Series | None], now_s: float) -> Kept:
    """What is known after a look at the counters of each server; None is one that did not answer. Without I/O.

    After a pause the counters are only read: what came in meanwhile belongs to no hour.
    """
    limits = project.monitoring.scores
    total = [0] * SCORE_BINS
    for url, series in pages.items():
        if series is not None:
            total = [one + more for one, more in zip(total, new_scores(kept.servers.get(url), series), strict=True)]
    counts = [0] * SCORE_BINS if is_gap(kept.watch, now_s, limits) else total
    watch = look(kept.watch, counts, now_s, project.decision_threshold, limits)
    answered = {url: series for url, series in pages.items() if series is not None}
    return msgspec.structs.replace(
        kept,
        watch=watch,
        servers={**kept.servers, **answered},
        unreachable=len(pages) - len(answered),
        untold=(*kept.untold, *_news(kept.watch, watch)),
    )


def tell(project: Project, kept: Kept) -> Kept:
    """Tells the ledger what is new, and hears whether a person has accepted the scores as they are."""
    try:
        ledger = open_ledger(creates=False)
        for each in kept.untold:
            ledger.append(project.name, each.kind, each.subject, each.body, key=f"{each.kind}/{each.subject}")
        said = ledger.entries(project=project.name, kinds=(ACCEPTED,), after=kept.accepted_entry)
    except LedgerUnavailableError as away:
        logger.warning("the ledger is away, and will be told later: %s", away)
        return kept
    for each in kept.untold:
        logger.warning("%s: %s", each.kind, each.body["reason"])
    kept = msgspec.structs.replace(kept, untold=())
    if not said:
        return kept
    logger.warning("%s accepts the scores as they are: %s", said[-1].body["by"], said[-1].body["reason"])
    return msgspec.structs.replace(kept, watch=accepted(kept.watch), accepted_entry=said[-1].id)


def accept_scores(project: str, reason: str, by: str) -> dict[str, Any]:
    """Tells the watch of a project, running or not, that the scores are right as they are now: it learns anew."""
    find_project(project)
    body = {"reason": reason, "by": by}
    return open_ledger().append(project, ACCEPTED, project, body).body


def _news(before: ScoreWatch, now: ScoreWatch) -> Iterator[Untold]:
    if now.alarm is not None and before.alarm is None:
        body = {**msgspec.to_builtins(now.alarm), "evidence": now.evidence}
        yield Untold(kind="scores.alarm", subject=_moment(now.alarm.since_s), body=body)
    if now.alarm is None and before.alarm is not None and now.looked_s is not None:
        minutes = (now.looked_s - before.alarm.since_s) / 60
        reason = f"the scores are as usual again, after {minutes:.0f} minutes"
        yield Untold(kind="scores.quiet", subject=_moment(now.looked_s), body={"reason": reason})


def _moment(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds")


async def _fetch(client: httpx.AsyncClient, url: str) -> Series | None:
    try:
        response = await client.get(f"{url.rstrip('/')}/metrics")
        return read_counters(response.raise_for_status().text)
    except (httpx.HTTPError, NoScoresError) as error:
        logger.warning("%s tells no scores: %s", url, str(error) or type(error).__name__)
        return None


@contextmanager
def _alone(folder: Path, project: str) -> Iterator[None]:
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / LOCK).open("w") as handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ScoresAreWatchedError(f"another process watches the scores of {project} ({folder})") from None
        yield
