"""Takes the share from challengers whose lease is over. It asks nobody but the API: that is the point of it."""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable

from pipelines.rollout.platforms.cluster.api import Object
from pipelines.rollout.platforms.cluster.http_route import split_of
from pipelines.rollout.platforms.cluster.watching import WatchedRoutes
from pipelines.rollout.platforms.port import PlatformError
from pipelines.rollout.platforms.separate.platform import SeparateServers
from pipelines.rollout.platforms.separate.split import Split

CHECK_EVERY_S = 0.5
SWEEP_EVERY_S = 30.0  # what crashed without traffic is not urgent
logger = logging.getLogger(__name__)


class Guard:
    """Watches all routes of a namespace. `expired` counts the shares that it took, `failures` attempts in vain.

    A lease is over when its time has come, and also when it has not changed for its length by our own monotonic clock:
    whoever wrote it may have had a clock that is ahead.
    """

    def __init__(
        self,
        watched: WatchedRoutes,
        platform_of: Callable[[str], SeparateServers],
        *,
        clock: Callable[[], float] = time.time,
        monotonic: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._watched, self._platform_of = watched, platform_of
        self._clock, self._monotonic, self._sleep = clock, monotonic, sleep
        self._first_seen: dict[str, tuple[float, float]] = {}
        self._platforms: dict[str, SeparateServers] = {}
        self._swept_s: dict[str, float] = {}
        self.expired = 0
        self.failures = 0

    async def follow(self) -> None:
        """Until it is cancelled."""
        try:
            while True:
                await self.check()
                await self._sleep(CHECK_EVERY_S)
        finally:
            for platform in self._platforms.values():
                await platform.aclose()

    async def check(self) -> None:
        """All routes once; one that cannot be changed does not keep the others waiting for the next time."""
        names = list(self._watched.routes)
        await asyncio.gather(*(self._check(name, self._watched.routes[name]) for name in names))

    async def _check(self, name: str, route: Object) -> None:
        try:
            split = split_of(route)
            now_s = self._monotonic()
            is_over = split.has_traffic and self._is_over(name, split)
            if not is_over and now_s - self._swept_s.get(name, 0.0) < SWEEP_EVERY_S:
                return
            self._swept_s[name] = now_s
            platform = self._platforms.setdefault(name, self._platform_of(name))
            reason = await platform.expire(split.lease_ends_s if is_over else None)
            if reason is not None:
                self.expired += 1
                logger.warning("%s: the challenger's share is taken: %s", name, reason)
        except PlatformError as error:
            self.failures += 1
            logger.warning("%s: %s", name, error)

    def _is_over(self, name: str, split: Split) -> bool:
        ends_s = split.lease_ends_s or 0.0
        seen = self._first_seen.get(name)
        if seen is None or seen[0] != ends_s:
            seen = self._first_seen[name] = (ends_s, self._monotonic())
        return self._clock() >= ends_s or self._monotonic() - seen[1] >= split.lease_s
