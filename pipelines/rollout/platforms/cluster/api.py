"""The Kubernetes API as the rollout uses it: by paths and plain objects, through the official client.

Rate limits, server errors and lost connections are waited out for a bounded time; what remains is one of three:
PlatformUnreachableError (nobody knows), StaleWriteError (somebody was faster), SlotRefusedError (the API says no).
"""

import asyncio
import json
import os
import random
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from typing import TYPE_CHECKING, Any

import aiohttp

from pipelines.rollout.platforms.port import PlatformUnreachableError, SlotRefusedError
from pipelines.rollout.platforms.separate.platform import StaleWriteError

if TYPE_CHECKING:
    from kubernetes.aio.client import ApiClient

FIELD_MANAGER = "paceline-rollout"
APPLY, JSON_PATCH = "application/apply-patch+yaml", "application/json-patch+json"
TIMEOUT_S = 5.0
PATIENCE_S = 8.0  # below a lease: whoever waits longer than that has lost it anyway
BACKOFF_S, BACKOFF_S_MAX = 0.1, 2.0
RETRY_AFTER_S_MAX = 5.0
WATCH_S = 60
_AGAIN = frozenset({408, 429, 500, 502, 503, 504})
Object = dict[str, Any]


async def open_client(context: str | None = None) -> "ApiClient":
    """The official client: by `KUBECONFIG` (or ~/.kube/config), or by a pod's service account.

    Raises:
        PlatformUnreachableError: there is neither.
    """
    from kubernetes.aio import config
    from kubernetes.aio.client import ApiClient, Configuration

    configuration = Configuration()
    try:
        # named here: the library reads the variable once, when it is imported
        file = os.environ.get("KUBECONFIG") or None
        await config.load_kube_config(config_file=file, context=context, client_configuration=configuration)
    except config.ConfigException as missing:
        try:
            config.load_incluster_config(client_configuration=configuration)
        except config.ConfigException:
            raise PlatformUnreachableError(
                f"there is no Kubernetes configuration ({missing}): set KUBECONFIG, or run in a pod that has an account"
            ) from missing
    return ApiClient(configuration)


class Cluster:
    """One namespace. May be used again after `aclose`."""

    def __init__(
        self,
        namespace: str,
        connect: Callable[[], Awaitable["ApiClient"]] = open_client,
        *,
        field_manager: str = FIELD_MANAGER,
        patience_s: float = PATIENCE_S,
        timeout_s: float = TIMEOUT_S,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self.namespace = namespace
        self.field_manager = field_manager
        self._connect = connect
        self._patience_s, self._timeout_s = patience_s, timeout_s
        self._clock, self._sleep = clock, sleep
        self._client: ApiClient | None = None

    def path(self, group: str, plural: str, name: str = "") -> str:
        """The path of a resource; `group` is `apps/v1`, or `v1` for the core."""
        root = f"/api/{group}" if "/" not in group else f"/apis/{group}"
        return f"{root}/namespaces/{self.namespace}/{plural}" + (f"/{name}" if name else "")

    async def get(self, path: str) -> Object | None:
        """The object, or None where there is none."""
        try:
            return await self._call("GET", path)
        except SlotRefusedError as error:
            if error.status == 404:
                return None
            raise

    async def list_of(self, path: str, selector: str = "") -> Object:
        """The list, with the resource version that a watch goes on from."""
        return await self._call("GET", path, query={"labelSelector": selector} if selector else {})

    async def apply(self, path: str, body: Object, *, force: bool = False) -> Object:
        """Server-side apply. Raises SlotRefusedError where another manager holds a field and `force` is not given."""
        query = {"fieldManager": self.field_manager, "force": "true" if force else "false"}
        try:
            return await self._call("PATCH", path, body, content_type=APPLY, query=query)
        except StaleWriteError as error:
            if "resourceVersion" in body.get("metadata", {}):
                raise
            raise SlotRefusedError(409, f"{path}: {error}: take these fields out of what the other applies") from error

    async def patch(self, path: str, operations: list[Object]) -> Object:
        """JSON patch (RFC 6902), the content type that custom resources take."""
        return await self._call(
            "PATCH", path, operations, content_type=JSON_PATCH, query={"fieldManager": self.field_manager}
        )

    async def create(self, path: str, body: Object) -> Object:
        """Creates an object. Raises StaleWriteError where it is there already."""
        return await self._call("POST", path, body, query={"fieldManager": self.field_manager})

    async def replace(self, path: str, body: Object) -> Object:
        """Replaces an object whose resource version still holds. Raises StaleWriteError."""
        return await self._call("PUT", path, body, query={"fieldManager": self.field_manager})

    async def delete(self, path: str) -> None:
        """Deletes an object, and what it owns; nothing to do is a success."""
        try:
            await self._call(
                "DELETE", path, {"kind": "DeleteOptions", "apiVersion": "v1", "propagationPolicy": "Background"}
            )
        except SlotRefusedError as error:
            if error.status != 404:
                raise

    async def watch(self, path: str, version: str, selector: str = "") -> AsyncIterator[Object]:
        """The events after `version`, until the server ends the watch.

        Raises:
            StaleWriteError: the version is too old (410 Gone): list again.
            PlatformUnreachableError: the connection is lost.
        """
        query = {"watch": "true", "resourceVersion": version, "allowWatchBookmarks": "true"}
        query |= {"timeoutSeconds": str(WATCH_S)} | ({"labelSelector": selector} if selector else {})
        try:
            answer = await self._send("GET", path, None, "application/json", query, aiohttp.ClientTimeout(
                total=None, sock_connect=self._timeout_s, sock_read=WATCH_S + self._timeout_s
            ))  # fmt: skip
            async with answer:
                if answer.status != 200:
                    raise self._refusal("WATCH", path, answer.status, await answer.read())
                async for line in answer.content:
                    if not line.strip():
                        continue
                    event: Object = json.loads(line)
                    if event.get("type") == "ERROR":
                        status = event.get("object", {})
                        raise self._refusal("WATCH", path, int(status.get("code", 500)), json.dumps(status).encode())
                    yield event
        except (aiohttp.ClientError, TimeoutError, OSError, json.JSONDecodeError) as error:
            raise PlatformUnreachableError(f"watching {path}: {type(error).__name__} {error}") from error

    async def aclose(self) -> None:
        """Closes the connections."""
        client, self._client = self._client, None
        if client is not None:
            await client.close()

    async def _call(
        self,
        method: str,
        path: str,
        body: Any = None,
        *,
        content_type: str = "application/json",
        query: Mapping[str, str] | None = None,
    ) -> Object:
        """One request, tried again while the API is busy or away; all that is sent is safe to repeat."""
        ends_s = self._clock() + self._patience_s
        attempt = 0
        while True:
            pause_s = min(BACKOFF_S_MAX, BACKOFF_S * 2**attempt) * random.uniform(0.5, 1)
            attempt += 1
            try:
                timeout = aiohttp.ClientTimeout(total=self._timeout_s)
                answer = await self._send(method, path, body, content_type, dict(query or {}), timeout)
                async with answer:
                    content = await answer.read()
            except (aiohttp.ClientError, TimeoutError, OSError) as error:
                failure = PlatformUnreachableError(f"{method} {path}: {type(error).__name__} {error}".rstrip())
            else:
                if 200 <= answer.status < 300:
                    found: Object = json.loads(content)
                    return found
                if answer.status not in _AGAIN:
                    raise self._refusal(method, path, answer.status, content)
                failure = PlatformUnreachableError(f"{method} {path}: {answer.status} {_message(content)}")
                pause_s = max(pause_s, _retry_after_s(answer.headers.get("Retry-After")))
            if self._clock() + pause_s >= ends_s:
                raise failure
            await self._sleep(pause_s)

    async def _send(
        self,
        method: str,
        path: str,
        body: Any,
        content_type: str,
        query: Mapping[str, str],
        timeout: aiohttp.ClientTimeout,
    ) -> aiohttp.ClientResponse:
        if self._client is None:
            self._client = await self._connect()
        headers = {"Accept": "application/json", "Content-Type": content_type}
        found: aiohttp.ClientResponse = await self._client.call_api(
            path,
            method,
            query_params=list(query.items()),
            header_params=headers,
            body=body,
            auth_settings=["BearerToken"],
            _preload_content=False,
            _request_timeout=timeout,
        )
        return found

    def _refusal(self, method: str, path: str, status: int, content: bytes) -> Exception:
        message = _message(content)
        if status in (409, 410):
            return StaleWriteError(message)
        if status in _AGAIN:
            return PlatformUnreachableError(f"{method} {path}: {status} {message}")
        return SlotRefusedError(status, f"{method} {path}: {message}")


def _message(content: bytes) -> str:
    """What the API's `Status` says."""
    try:
        found = json.loads(content)
    except ValueError:
        return content[:300].decode(errors="replace")
    return str(found.get("message") or found.get("reason") or found)[:500] if isinstance(found, dict) else str(found)


def _retry_after_s(header: str | None) -> float:
    """Seconds, bounded; the API writes whole seconds."""
    if header is None or not header.isascii() or not header.isdigit():
        return 0.0
    return min(float(header), RETRY_AFTER_S_MAX)
