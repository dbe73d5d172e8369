"""Past events as live requests: sent in time order at a fixed rate, whether or not the answers keep up (open loop)."""

import asyncio
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import httpx
import msgspec

from contracts.slots import LATENCY_EDGES_S

MAX_IN_FLIGHT = 256
REQUEST_TIMEOUT_S = 5.0


class Answer(msgspec.Struct, frozen=True, kw_only=True):
    """What the client saw of one request. `error` is None when it was answered; `sent_s` is the client's own clock."""

    sent_s: float
    entity: str
    status: int
    latency_ms: float
    prediction_id: str | None = None
    version: str | None = None
    slot: str | None = None
    rollout: str | None = None
    share: float = 0.0
    error: str | None = None


class Progress(msgspec.Struct, frozen=True, kw_only=True):
    """Counts so far."""

    sent: int = 0
    answered: int = 0
    failed: int = 0
    by_version: dict[str, int] = {}


class ReplaySummary(msgspec.Struct, frozen=True, kw_only=True):
    """The whole replay; latencies in milliseconds as the client saw them, from the moment a request was due."""

    requests: int
    failed: int
    seconds: float
    by_version: dict[str, int]
    latency_ms_p50: float | None
    latency_ms_p99: float | None
    first_error: str | None


async def replay(
    url: str,
    records: Iterable[Mapping[str, Any]],
    *,
    entity: str,
    rate: float,
    api_key: str | None = None,
    answers: Path | None = None,
    stop: asyncio.Event | None = None,
    on_progress: Callable[[Progress], None] | None = None,
) -> ReplaySummary:
    """Sends each of `records` to the prediction route below `url`, `rate` a second, until they or `stop` end it.

    Args:
        entity: the field by which requests stick to a slot; it is written to the answers.
        api_key: what the server asks for, if it does.
        answers: a file that gets one JSON line (`Answer`) for each request.

    Raises:
        ValueError: the rate is not above 0.
    """
    if rate <= 0:
        raise ValueError(f"rate: found {rate}, expected requests a second above 0")
    session = _Session(url, entity, api_key, answers, on_progress)
    try:
        await session.run(records, rate, stop or asyncio.Event())
    finally:
        await session.close()
    return session.summary()


class _Session:
    def __init__(
        self,
        url: str,
        entity: str,
        api_key: str | None,
        answers: Path | None,
        on_progress: Callable[[Progress], None] | None,
    ) -> None:
        self._client = httpx.AsyncClient(
            base_url=url,
            headers={} if api_key is None else {"x-api-key": api_key},
            timeout=REQUEST_TIMEOUT_S,
            trust_env=False,
            limits=httpx.Limits(max_connections=MAX_IN_FLIGHT, max_keepalive_connections=MAX_IN_FLIGHT),
        )
        self._entity = entity
        self._output = None if answers is None else answers.open("ab")
        self._on_progress = on_progress
        self._places = asyncio.Semaphore(MAX_IN_FLIGHT)
        self._tasks: set[asyncio.Task[None]] = set()
        self._started_s = time.monotonic()
        self._ended_s = self._started_s
        self._sent = self._failed = 0
        self._first_error: str | None = None
        self._by_version: dict[str, int] = {}
        self._latencies = [0] * (len(LATENCY_EDGES_S) + 1)

    async def run(self, records: Iterable[Mapping[str, Any]], rate: float, stop: asyncio.Event) -> None:
        self._started_s = time.monotonic()
        for number, record in enumerate(records):
            due = self._started_s + number / rate
            delay = due - time.monotonic()
            if delay > 0:
                await _sleep_unless(stop, delay)
            if stop.is_set():
                break
            await self._places.acquire()
            task = asyncio.create_task(self._send(record, due))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
            if self._on_progress is not None and number % max(1, round(rate)) == 0:
                self._on_progress(
                    Progress(
                        sent=self._sent,
                        answered=self._sent - self._failed,
                        failed=self._failed,
                        by_version=dict(self._by_version),
                    )
                )
        await asyncio.gather(*self._tasks)
        self._ended_s = time.monotonic()

    async def _send(self, record: Mapping[str, Any], due_s: float) -> None:
        try:
            answer = await self._ask(record, due_s)
        finally:
            self._places.release()
        self._sent += 1
        if answer.error is not None:
            self._failed += 1
            self._first_error = self._first_error or answer.error
        else:
            self._by_version[answer.version or "?"] = self._by_version.get(answer.version or "?", 0) + 1
        bucket = sum(1 for edge in LATENCY_EDGES_S if answer.latency_ms / 1000 > edge)
        self._latencies[bucket] += 1
        if self._output is not None:
            self._output.write(msgspec.json.encode(answer) + b"\n")

    async def _ask(self, record: Mapping[str, Any], due_s: float) -> Answer:
        entity = str(record.get(self._entity))
        sent_s = time.monotonic()
        try:
            response = await self._client.post("/v1/predict", content=msgspec.json.encode({"records": [record]}))
        except httpx.HTTPError as error:
            reason = f"{type(error).__name__}: {error}"
            return Answer(sent_s=sent_s, entity=entity, status=0, latency_ms=_since_ms(due_s), error=reason)
        latency_ms = _since_ms(due_s)
        if response.status_code != 200:
            return Answer(
                sent_s=sent_s,
                entity=entity,
                status=response.status_code,
                latency_ms=latency_ms,
                error=f"{response.status_code}: {response.text[:300]}",
            )
        body = msgspec.json.decode(response.content)
        prediction = body["predictions"][0]
        return Answer(
            sent_s=sent_s,
            entity=entity,
            status=200,
            latency_ms=latency_ms,
            prediction_id=prediction["prediction_id"],
            version=prediction["model_version"],
            slot=prediction["slot"],
            rollout=body["rollout"],
            share=body["share"],
        )

    async def close(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._client.aclose()
        if self._output is not None:
            self._output.close()

    def summary(self) -> ReplaySummary:
        return ReplaySummary(
            requests=self._sent,
            failed=self._failed,
            seconds=self._ended_s - self._started_s,
            by_version=dict(self._by_version),
            latency_ms_p50=self._quantile_ms(0.5),
            latency_ms_p99=self._quantile_ms(0.99),
            first_error=self._first_error,
        )

    def _quantile_ms(self, quantile: float) -> float | None:
        total = sum(self._latencies)
        if not total:
            return None
        below = 0
        for edge, count in zip((*LATENCY_EDGES_S, LATENCY_EDGES_S[-1]), self._latencies, strict=True):
            below += count
            if below >= quantile * total:
                return edge * 1000
        return LATENCY_EDGES_S[-1] * 1000


def _since_ms(moment_s: float) -> float:
    return (time.monotonic() - moment_s) * 1000


async def _sleep_unless(stop: asyncio.Event, seconds: float) -> None:
    try:
        await asyncio.wait_for(stop.wait(), seconds)
    except TimeoutError:
        return  # nobody asked to stop: the next request is due
