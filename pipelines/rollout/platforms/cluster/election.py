"""Leader election by a `coordination.k8s.io` Lease, as client-go does it: the official Python client has none for it.

A candidate believes no clock but its own: a holder is alive while its record changes within the record's duration.
"""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from typing import Literal, TypeVar

import msgspec

from pipelines.rollout.platforms.cluster import names
from pipelines.rollout.platforms.cluster.api import Cluster, Object
from pipelines.rollout.platforms.port import PlatformError
from pipelines.rollout.platforms.separate.platform import StaleWriteError
from pipelines.rollout.platforms.turns import TurnLostError, work_while

Answer = TypeVar("Answer")
DURATION_S, RENEW_S = 15.0, 5.0
logger = logging.getLogger(__name__)
GIVEN_BACK_S = 1  # the duration of a record that its holder has given back


class Seen(msgspec.Struct, frozen=True):
    """A record, and when this candidate saw it first, by its own monotonic clock."""

    holder: str
    renewed: str
    duration_s: float
    at_s: float


def standing(seen: Seen | None, me: str, now_s: float) -> Literal["mine", "free", "taken"]:
    """What a candidate may do: renew, take it, or wait. Pure."""
    if seen is None or not seen.holder:
        return "free"
    if seen.holder == me:
        return "mine"
    return "free" if now_s - seen.at_s >= seen.duration_s else "taken"


def micro_time(seconds: float) -> str:
    """RFC 3339 with six digits, never all zero: a MicroTime without them is refused by the API."""
    moment = datetime.fromtimestamp(seconds, UTC)
    return moment.replace(microsecond=moment.microsecond or 1).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


class Election:
    """A turn (`pipelines.rollout.platforms.turns`) that the Lease `name` gives to one candidate at a time.

    A holder that cannot renew stops by itself before anybody else may take it: after two thirds of the duration.
    """

    def __init__(
        self,
        cluster: Cluster,
        name: str,
        identity: str,
        *,
        duration_s: float = DURATION_S,
        renew_s: float = RENEW_S,
        clock: Callable[[], float] = time.monotonic,
        wall: Callable[[], float] = time.time,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        if renew_s * 2 >= duration_s:
            raise ValueError(f"renew_s is below half of duration_s, found {renew_s:g} and {duration_s:g}")
        self._cluster, self._name, self._me = cluster, name, identity
        self._duration_s, self._renew_s = duration_s, renew_s
        self._clock, self._wall, self._sleep = clock, wall, sleep
        self._path = cluster.path(names.LEASES, "leases", name)
        self._seen: Seen | None = None
        self.is_leading = False
        self.holder = ""

    async def take(self, work: Callable[[], Awaitable[Answer]]) -> Answer:
        """Waits to lead, works, and gives the Lease back. Raises TurnLostError where it is lost meanwhile."""
        try:
            while not await self._try():
                await self._sleep(self._renew_s / 2)
            self.is_leading = True
            try:
                return await work_while(self._keep, work)
            finally:
                self.is_leading = False
                await self._give_back()
        finally:
            await self._cluster.aclose()

    async def _keep(self) -> None:
        """Renews until that fails for too long."""
        renewed_s = self._clock()
        while True:
            await self._sleep(self._renew_s)
            try:
                async with asyncio.timeout(self._duration_s / 3):
                    if await self._write_if_possible():
                        renewed_s = self._clock()
                    elif self._seen is not None and self._seen.holder != self._me:
                        raise TurnLostError(f"{self._seen.holder} holds the Lease {self._name} now")
            except (PlatformError, TimeoutError):
                pass  # the API is away; nobody else can take it meanwhile either
            if self._clock() - renewed_s >= self._duration_s * 2 / 3:
                silent_s = self._clock() - renewed_s
                raise TurnLostError(f"the Lease {self._name} could not be renewed for {silent_s:.1f} s")

    async def _try(self) -> bool:
        try:
            return await self._write_if_possible()
        except PlatformError as error:
            logger.warning("the Lease %s cannot be asked for: %s", self._name, error)
            return False

    async def _write_if_possible(self) -> bool:
        """One attempt to take or to renew; False where somebody else holds it, or was faster."""
        found = await self._cluster.get(self._path)
        self._look(found)
        if standing(self._seen, self._me, self._clock()) == "taken":
            return False
        try:
            if found is None:
                path = self._cluster.path(names.LEASES, "leases")
                written = await self._cluster.create(path, self._record(None, self._me))
            else:
                written = await self._cluster.replace(self._path, self._record(found, self._me))
        except StaleWriteError:
            return False
        self._look(written)
        return True

    async def _give_back(self) -> None:
        """So that the next one need not wait; where that fails, it waits."""
        try:
            found = await self._cluster.get(self._path)
            if found is not None and (found.get("spec") or {}).get("holderIdentity") == self._me:
                await self._cluster.replace(self._path, self._record(found, ""))
        except (PlatformError, StaleWriteError):
            return

    def _look(self, found: Object | None) -> None:
        spec = {} if found is None else found.get("spec") or {}
        holder, renewed = spec.get("holderIdentity") or "", spec.get("renewTime") or ""
        self.holder = holder
        if self._seen is None or (self._seen.holder, self._seen.renewed) != (holder, renewed):
            self._seen = Seen(holder, renewed, float(spec.get("leaseDurationSeconds") or 0), self._clock())

    def _record(self, found: Object | None, holder: str) -> Object:
        before = {} if found is None else found.get("spec") or {}
        now = micro_time(self._wall())
        is_other = before.get("holderIdentity") != holder
        spec = {
            "holderIdentity": holder,
            "leaseDurationSeconds": max(1, round(self._duration_s)) if holder else GIVEN_BACK_S,
            "acquireTime": now if is_other else before.get("acquireTime", now),
            "renewTime": now,
            "leaseTransitions": int(before.get("leaseTransitions") or 0) + (is_other and bool(holder)),
        }
        metadata = {"name": self._name} if found is None else found["metadata"]
        return {"apiVersion": names.LEASES, "kind": "Lease", "metadata": metadata, "spec": spec}
