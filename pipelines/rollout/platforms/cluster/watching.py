"""The routes of a namespace as they are now: listed once, then watched; a watch that ends goes on where it was.

A route is whatever carries a split as its annotation: an HTTPRoute, or an InferenceService.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable

from pipelines.rollout.platforms.cluster import names
from pipelines.rollout.platforms.cluster.api import Cluster, Object
from pipelines.rollout.platforms.port import PlatformError
from pipelines.rollout.platforms.separate.platform import StaleWriteError

PAUSE_S, PAUSE_S_MAX = 0.2, 5.0
HTTP_ROUTES = (names.ROUTES, "httproutes")
logger = logging.getLogger(__name__)


class WatchedRoutes:
    """`routes` by name, once `is_synced`. `restarts` counts watches that broke, `lists` how often all were listed."""

    def __init__(
        self,
        cluster: Cluster,
        kind: tuple[str, str] = HTTP_ROUTES,
        *,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        """`kind` is the group and the plural of the objects."""
        self._cluster = cluster
        self._sleep = sleep
        self._path = cluster.path(*kind)
        self._selector = "=".join(names.PART_OF)
        self.routes: dict[str, Object] = {}
        self.is_synced = False
        self.restarts = 0
        self.lists = 0

    async def follow(self) -> None:
        """Until it is cancelled. After 410 Gone all are listed again; after a lost connection the watch goes on."""
        version, pause_s = "", PAUSE_S
        while True:
            try:
                if not version:
                    version = await self._list()
                version = await self._watch(version)
                pause_s = PAUSE_S
            except StaleWriteError as gone:
                logger.info("the watch starts anew: %s", gone)
                version = ""
                self.restarts += 1
            except PlatformError as error:
                logger.warning("%s; again in %.1f s", error, pause_s)
                self.restarts += 1
                await self._sleep(pause_s)
                pause_s = min(PAUSE_S_MAX, pause_s * 2)

    async def aclose(self) -> None:
        """Closes the connections."""
        await self._cluster.aclose()

    async def _list(self) -> str:
        found = await self._cluster.list_of(self._path, self._selector)
        self.routes = {each["metadata"]["name"]: each for each in found["items"]}
        self.is_synced = True
        self.lists += 1
        version: str = found["metadata"]["resourceVersion"]
        return version

    async def _watch(self, version: str) -> str:
        """The version after the last event that was seen, also where the connection breaks in the middle."""
        try:
            async for event in self._cluster.watch(self._path, version, self._selector):
                metadata = event["object"]["metadata"]
                version = metadata["resourceVersion"]
                if event["type"] == "DELETED":
                    self.routes.pop(metadata["name"], None)
                elif event["type"] != "BOOKMARK":
                    self.routes[metadata["name"]] = event["object"]
        except PlatformError as error:
            logger.warning("%s", error)
            self.restarts += 1
            await self._sleep(PAUSE_S)
        return version
