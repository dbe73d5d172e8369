"""Who may call: API keys with their scopes, and each client's rate limit. Control routes have a token of their own.

Everything that is not open by name needs a key, also a path that does not exist. The decision is plain functions on the
request's headers, without a framework, so that any front can ask for it before it reads a body.
"""

import asyncio
import hmac
import logging
import math
import os
import time
from collections.abc import Callable, Iterable, Iterator, MutableMapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric

from contracts.access import (
    KEY_CHARACTERS,
    KEY_ID_CHARACTERS,
    KEY_PREFIX,
    MAXIMUM_FILE_BYTES,
    KeyFile,
    KeyFileError,
    KeyScope,
    decode_keys,
    digest_of,
)
from serving.admission import RequestRefusedError, Scope, Send, client_request_id, respond_problem
from serving.rate_limit import Allowance, Headers, Limit, RateLimiter
from serving.settings import PREFIX, Settings, SettingsError

CHECK_EVERY_S = 0.5
# livez, readyz, and the same questions in the words of other protocols: probes have no key. The page at /docs is one
# constant text for all servers; what it draws, /openapi.json, needs the scope metadata
OPEN_PATHS = frozenset({"/livez", "/readyz", "/v2/health/live", "/v2/health/ready", "/ping", "/docs"})
_CONTROL = "/control/"
_METRICS = "/metrics"
_ID = slice(len(KEY_PREFIX), len(KEY_PREFIX) + KEY_ID_CHARACTERS)
_BEARER = b"bearer "
_NO_DIGEST = digest_of(b"")
_WRONG_KEY = "this route needs an active API key: `Authorization: Bearer pk_…` or `x-api-key: pk_…`"
logger = logging.getLogger(__name__)


class AccessRefusedError(RequestRefusedError):
    """401, 403 or 429, with the headers that tell a client what to do about it."""

    def __init__(self, status: int, detail: str, headers: Headers) -> None:
        super().__init__(status, detail, headers=headers)


class _Entry(NamedTuple):
    """A key as the hot path needs it."""

    id: str
    client: str
    digest: bytes
    scopes: frozenset[KeyScope]
    expires_s: float
    limit: Limit | None


class _Read(NamedTuple):
    """What a look at the file found: it changed, and this is in it, or this is wrong with it."""

    signature: tuple[int, ...]
    entries: dict[bytes, _Entry] | None
    error: str = ""


def scope_of(path: str) -> KeyScope | None:
    """The scope that a route other than a prediction needs; None where no API key is asked for."""
    if path in OPEN_PATHS or path.startswith(_CONTROL):
        return None
    return "metrics" if path == _METRICS else "metadata"


def client_of(scope: Scope) -> str | None:
    """The name of the client whose key a request came with; None on an open server or route."""
    found = scope.get("state", {}).get("client")
    return found if isinstance(found, str) else None


def open_access(settings: Settings) -> "Access | None":
    """The guard by `settings`; None where no keys are configured, which only loopback may do.

    Raises:
        SettingsError: others can reach the server and no keys are configured, or their file cannot be used.
    """
    if settings.keys is None:
        if not settings.is_loopback:
            raise SettingsError(
                f"{PREFIX}HOST is {settings.host}, which others can reach, and no API keys are configured: make a "
                f"file with `paceline keys create` and name it by {PREFIX}KEYS, or listen on 127.0.0.1"
            )
        return None
    usual = None if settings.rate_per_s is None else Limit.of(settings.rate_per_s, settings.burst)
    try:
        return Access(settings.keys, project=settings.project, usual=usual)
    except KeyFileError as error:
        raise SettingsError(f"{PREFIX}KEYS is {settings.keys}, which cannot be used: {error}") from error


class Access:
    """The keys in force, re-read when their file changes, and the clients' buckets.

    `usual` is the limit of keys that have none of their own; None leaves them without. A file that cannot be used does
    not open the server and does not close it: the keys that were in force stay, and their expiry still counts.
    """

    def __init__(
        self,
        path: Path,
        *,
        project: str,
        usual: Limit | None = None,
        clock: Callable[[], float] = time.monotonic,
        wall_clock: Callable[[], float] = time.time,
    ) -> None:
        self._path = path
        self._project = project
        self._usual = usual
        self._clock = clock
        self._wall_clock = wall_clock
        self._limiter = RateLimiter()
        self._signature: tuple[int, ...] = ()
        self._entries: dict[bytes, _Entry] = {}
        self._reloads = {"ok": 0, "failed": 0}
        self._refused: dict[tuple[str, str], int] = {}
        first = self._look()
        if first is None or first.entries is None:
            raise KeyFileError(first.error if first else f"{path} has not been read")
        self._signature, self._entries = first.signature, first.entries
        logger.info("%s: %s", path, self._told())

    def admit(self, scope: Scope, needed: KeyScope) -> Headers:
        """Lets a request in, and puts its client's name into `scope["state"]`; the headers belong on its answer.

        Raises:
            AccessRefusedError: 401 without an active key (one text for whatever is wrong with it), 403 without the
                scope, 429 when the client's bucket is empty.
        """
        entry = self._entry_of(scope["headers"])
        if entry is None:
            raise self._refusal(401, _WRONG_KEY, ((b"www-authenticate", b'Bearer realm="paceline"'),), "credential")
        if needed not in entry.scopes:
            detail = f"this key has not the scope {needed!r} on the server of {self._project!r}"
            told = b'Bearer realm="paceline", error="insufficient_scope", scope="%s"' % needed.encode()
            raise self._refusal(403, detail, ((b"www-authenticate", told),), "scope", entry.client)
        told_headers = self._take(entry)
        scope.setdefault("state", {}).update(client=entry.client, key_id=entry.id)
        return told_headers

    def reload(self) -> bool:
        """Reads the file where it has changed; whether other keys are in force now."""
        return self._install(self._look())

    async def watch(self) -> None:
        """Reloads for ever, off the event loop; a request sees the keys before or after a change, never between."""
        while True:
            await asyncio.sleep(CHECK_EVERY_S)
            self._install(await asyncio.to_thread(self._look))

    def collect(self) -> Iterator[Metric]:
        """The metric families of the guard."""
        refused = CounterMetricFamily(
            "paceline_access_refused",
            "Requests refused for their key, its scope or its rate",
            labels=("reason", "client"),
        )
        for (reason, client), count in self._refused.items():
            refused.add_metric((reason, client), count)
        yield refused
        reloads = CounterMetricFamily("paceline_key_reloads", "New files of API keys", labels=("result",))
        for result, count in self._reloads.items():
            reloads.add_metric((result,), count)
        yield reloads
        yield GaugeMetricFamily("paceline_keys_active", "API keys in force", value=self._active())

    def _entry_of(self, headers: Iterable[tuple[bytes, bytes]]) -> _Entry | None:
        """The entry whose key these headers carry. An unknown id costs the same work as a wrong secret."""
        given = _credential(headers)
        if len(given) != KEY_CHARACTERS:
            given = b""
        entry = self._entries.get(given[_ID])
        is_right = hmac.compare_digest(digest_of(given), _NO_DIGEST if entry is None else entry.digest)
        if entry is None or not is_right or self._wall_clock() >= entry.expires_s:
            return None
        return entry

    def _take(self, entry: _Entry) -> Headers:
        limit = entry.limit
        if limit is None:
            return ()
        found = self._limiter.take(entry.client, limit, self._clock())
        headers = _headers_of(limit, found)
        if not found.is_allowed:
            wait_s = max(1, math.ceil(found.retry_after_s))
            raise self._refusal(
                429,
                f"{entry.client} has used its {limit.burst} requests, which {limit.rate_per_s:g} a second refill: "
                f"try again in {wait_s} s",
                (*headers, (b"retry-after", b"%d" % wait_s)),
                "rate",
                entry.client,
            )
        return headers

    def _refusal(self, status: int, detail: str, headers: Headers, reason: str, client: str = "") -> AccessRefusedError:
        self._refused[reason, client] = self._refused.get((reason, client), 0) + 1
        return AccessRefusedError(status, detail, headers)

    def _look(self) -> _Read | None:
        """None where the file is the one that was seen last, good or broken; touches nothing that requests read."""
        try:
            # the path is followed anew each time: Kubernetes changes a mounted secret by turning a link
            if _signature(os.stat(self._path)) == self._signature:
                return None
            with self._path.open("rb") as file:
                # of the opened file and before its bytes: one that changes meanwhile is seen again at the next look
                signature = _signature(os.fstat(file.fileno()))
                content = file.read(MAXIMUM_FILE_BYTES + 1)
        except OSError as error:
            missing = (error.errno or -1,)
            return None if missing == self._signature else _Read(missing, None, f"{self._path}: {error.strerror}")
        try:
            return _Read(signature, self._entries_of(decode_keys(content)))
        except KeyFileError as error:
            return _Read(signature, None, f"{self._path}: {error}")

    def _install(self, found: _Read | None) -> bool:
        if found is None:
            return False
        self._signature = found.signature
        if found.entries is None:
            self._reloads["failed"] += 1
            logger.error("the API keys in force stay, since their new file cannot be used: %s", found.error)
            return False
        self._reloads["ok"] += 1
        self._entries = found.entries
        clients = {entry.client for entry in found.entries.values()}
        self._limiter.keep_only(clients)
        self._refused = {key: count for key, count in self._refused.items() if key[1] in clients or not key[1]}
        logger.info("the API keys have changed: %s", self._told())
        return True

    def _entries_of(self, file: KeyFile) -> dict[bytes, _Entry]:
        """Without the revoked ones; a key for other projects only is known here, and has no scope."""
        entries: dict[bytes, _Entry] = {}
        for key in file.keys:
            if key.revoked is not None:
                continue
            is_for_this = not key.projects or self._project in key.projects
            limit = self._usual if key.rate_per_s is None else Limit.of(key.rate_per_s, key.burst)
            entries[key.id.encode()] = _Entry(
                id=key.id,
                client=key.client,
                digest=bytes.fromhex(key.sha256),
                scopes=frozenset(key.scopes) if is_for_this else frozenset(),
                expires_s=math.inf if key.expires is None else key.expires.timestamp(),
                limit=limit,
            )
        return entries

    def _active(self) -> int:
        now_s = self._wall_clock()
        return sum(1 for entry in self._entries.values() if now_s < entry.expires_s and entry.scopes)

    def _told(self) -> str:
        active = self._active()
        clients = len({entry.client for entry in self._entries.values()})
        now = datetime.fromtimestamp(self._wall_clock(), UTC)
        warning = "" if active else "; every request for a guarded route is refused"
        return f"{active} keys of {clients} clients are active at {now:%Y-%m-%d %H:%M:%S} UTC{warning}"


async def respond_refused(scope: Scope, send: Send, refused: AccessRefusedError) -> None:
    """Answers a refused request, before anything of its body was read."""
    headers = list(refused.headers)
    request_id = client_request_id(scope)
    if request_id is not None:
        headers.append((b"x-request-id", request_id.encode()))
    is_open_inference = scope["path"].startswith(("/v2", "/v1/models"))
    await respond_problem(send, refused, headers, is_open_inference=is_open_inference)


def with_headers(send: Send, headers: Headers) -> Send:
    """`send`, with more headers on the answer."""
    if not headers:
        return send

    async def send_more(message: MutableMapping[str, Any]) -> None:
        if message["type"] == "http.response.start":
            message["headers"] = [*message.get("headers", ()), *headers]
        await send(message)

    return send_more


def _credential(headers: Iterable[tuple[bytes, bytes]]) -> bytes:
    """What stands in `x-api-key`, or else behind `Bearer`: a gateway may use `Authorization` for itself."""
    bearer = b""
    for name, value in headers:
        if name == b"x-api-key":
            return value.strip()
        if name == b"authorization" and not bearer and value[: len(_BEARER)].lower() == _BEARER:
            bearer = value[len(_BEARER) :].strip()
    return bearer


def _headers_of(limit: Limit, found: Allowance) -> Headers:
    return (
        *limit.headers,
        (b"ratelimit-remaining", b"%d" % found.remaining),
        (b"ratelimit-reset", b"%d" % math.ceil(found.full_after_s)),
    )


def _signature(found: os.stat_result) -> tuple[int, ...]:
    return (found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns)
