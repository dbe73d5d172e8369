"""Reads the servers' counters: from each server, or from Prometheus for fleets of any size."""

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from typing import Protocol

import httpx
import msgspec

from pipelines.rollout.platforms.port import PlatformUnreachableError
from pipelines.rollout.platforms.separate.counts import ServerCounts
from pipelines.rollout.platforms.separate.exposition import METRICS, SLOT, Gathering, counts_of_text

SCRAPED_AT_ONCE = 32
SCRAPED_MAX = 200  # beyond that Prometheus has to be asked
TEXT_BYTES_MAX = 4 << 20
ANSWER_BYTES_MAX = 64 << 20
TIMEOUT_S = 3.0
FindServers = Callable[[], Awaitable[Mapping[str, str]]]


class Counters(Protocol):
    """Where the counters of a project's servers come from. `lag_s` is how old they may be."""

    lag_s: float

    async def read(self, find: FindServers) -> Iterable[ServerCounts]:
        """The counters of all servers; `find` has their URLs by name. Raises PlatformUnreachableError."""
        ...

    async def aclose(self) -> None:
        """Closes connections."""
        ...


class Scraped:
    """Asks each server's `/metrics`; one that does not answer is missing in this look, and comes with the next."""

    def __init__(self, key: str | None = None, *, timeout_s: float = TIMEOUT_S, lag_s: float = 0.0) -> None:
        """`key` is an API key of the scope `metrics`, for servers that have keys."""
        self.lag_s = lag_s
        self._headers = {} if key is None else {"x-api-key": key}
        self._timeout_s = timeout_s
        self._client: httpx.AsyncClient | None = None

    async def read(self, find: FindServers) -> Sequence[ServerCounts]:
        """The counters of those servers that answer."""
        servers = await find()
        if len(servers) > SCRAPED_MAX:
            raise PlatformUnreachableError(
                f"{len(servers)} servers are too many to be asked one by one (at most {SCRAPED_MAX}): set "
                "PACELINE_PROMETHEUS_URL"
            )
        if self._client is None:
            self._client = httpx.AsyncClient(trust_env=False, timeout=self._timeout_s, headers=self._headers)
        places = asyncio.Semaphore(SCRAPED_AT_ONCE)
        answers = await asyncio.gather(*(self._one(places, name, url) for name, url in servers.items()))
        if servers and all(answer is None for answer in answers):
            raise PlatformUnreachableError(
                f"none of {len(servers)} servers says what it counted: do they answer GET /metrics, and with which key?"
            )
        return [counts for answer in answers if answer is not None for counts in answer]

    async def _one(self, places: asyncio.Semaphore, name: str, url: str) -> tuple[ServerCounts, ...] | None:
        assert self._client is not None
        async with places:
            try:
                async with self._client.stream("GET", f"{url}/metrics") as answer:
                    answer.raise_for_status()
                    kept, seen = [], 0
                    async for line in answer.aiter_lines():
                        seen += len(line)
                        if seen > TEXT_BYTES_MAX:
                            return None
                        if line.startswith(METRICS):
                            kept.append(line)
                return counts_of_text(name, kept)
            except (httpx.HTTPError, ValueError):
                return None

    async def aclose(self) -> None:
        """Closes connections."""
        client, self._client = self._client, None
        if client is not None:
            await client.aclose()


# gc=False: tens of thousands of them, none of which can be part of a cycle
class _Labels(msgspec.Struct, gc=False):
    name: str = msgspec.field(name="__name__", default="")
    pod: str = ""
    instance: str = ""
    version: str = ""
    le: str = ""


class _Series(msgspec.Struct, gc=False):
    metric: _Labels
    value: tuple[float, float]  # the second is a number in a text


class _Data(msgspec.Struct):
    result: list[_Series]


class _Answer(msgspec.Struct):
    status: str
    data: _Data | None = None
    error: str = ""


def _sample(labels: _Labels, value: float) -> tuple[str, str, str, float]:
    return labels.pod or labels.instance, labels.version, labels.le, value


class Prometheus:
    """Asks Prometheus' instant query for all metrics at once; one answer at a time is more than its bytes.

    `chosen` are label matchers for the project's servers. `lag_s` is at least the scrape interval.
    """

    def __init__(self, url: str, chosen: str, *, lag_s: float, timeout_s: float = TIMEOUT_S) -> None:
        self.lag_s = lag_s
        self._url = url.rstrip("/")
        self._chosen = f'{chosen},slot="{SLOT}"'
        self._timeout_s = timeout_s
        self._client: httpx.AsyncClient | None = None
        self._decode = msgspec.json.Decoder(_Answer, strict=False).decode

    async def read(self, find: FindServers) -> Iterable[ServerCounts]:
        """All that Prometheus has; it finds the servers by itself."""
        del find
        gathered = Gathering()
        answers = await asyncio.gather(*(self._add(gathered, metric) for metric in METRICS), return_exceptions=True)
        for failure in filter(None, answers):
            raise failure
        return gathered.counts()

    async def _add(self, gathered: Gathering, metric: str) -> None:
        found = await self._query(f"{metric}{{{self._chosen}}}")
        gathered.add(metric, (_sample(each.metric, each.value[1]) for each in found))

    async def _query(self, query: str) -> list[_Series]:
        if self._client is None:
            self._client = httpx.AsyncClient(trust_env=False, timeout=self._timeout_s)
        try:
            async with self._client.stream("GET", f"{self._url}/api/v1/query", params={"query": query}) as answer:
                body = bytearray()
                async for piece in answer.aiter_bytes():
                    body += piece
                    if len(body) > ANSWER_BYTES_MAX:
                        raise PlatformUnreachableError(f"Prometheus answers {query} with over {ANSWER_BYTES_MAX} bytes")
        except httpx.HTTPError as error:
            raise PlatformUnreachableError(f"Prometheus at {self._url}: {type(error).__name__} {error}") from error
        try:
            found = self._decode(body)
        except msgspec.DecodeError as error:
            raise PlatformUnreachableError(
                f"{self._url} answers {answer.status_code}, no Prometheus: {error}"
            ) from error
        if found.status != "success" or found.data is None:
            raise PlatformUnreachableError(f"Prometheus refuses {query}: {found.error}")
        return found.data.result

    async def aclose(self) -> None:
        """Closes connections."""
        client, self._client = self._client, None
        if client is not None:
            await client.aclose()
