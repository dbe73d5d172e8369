"""The rollout's port over a gateway and two groups of servers. Kubernetes and Envoy give it their parts."""

import asyncio
import logging
import secrets
import time
from collections.abc import Awaitable, Callable, Mapping, Set
from types import TracebackType
from typing import Protocol, Self

import msgspec

from contracts.slots import LoadSlot, Observation, PromoteSlot, RenewLease, SetShare, SlotCounts
from pipelines.rollout import features
from pipelines.rollout.platforms.port import PlatformUnreachableError, SlotRefusedError
from pipelines.rollout.platforms.separate.counts import Counting, hard_limit
from pipelines.rollout.platforms.separate.reading import Counters
from pipelines.rollout.platforms.separate.split import WEIGHTS, Named, Split, latest

# counts by the unit that is assigned: behind a gateway that is the request (docs/decisions/0012)
BY_REQUEST = frozenset({features.ENTITIES, features.LATENCY, features.SCORES})
SUPPORTED = frozenset({features.SHARE, features.LEASE, features.HARD_LIMITS})
CHANGES_MAX = 8  # attempts at one change that others overtake
POLL_S = 0.5
RENEW_BELOW = 2 / 3  # of a lease that is left: a look does not write each time
logger = logging.getLogger(__name__)


class StaleWriteError(Exception):
    """Somebody else has changed the gateway since it was read: read it again."""


class Gateway(Protocol):
    """Where the split is kept, and carried out."""

    async def read(self) -> tuple[Split, str]:
        """What is in force, and a stamp that changes with every change. Raises PlatformError."""
        ...

    async def write(self, split: Split, stamp: str) -> None:
        """Puts `split` in force, all of it or nothing, if the stamp still holds. Raises StaleWriteError."""
        ...


class Fleet(Protocol):
    """The two groups of servers. All methods are safe to repeat."""

    async def champion(self) -> Named | None:
        """What the stable servers are to serve; None where nobody has said so."""
        ...

    async def place(self, named: Named, rollout: str) -> None:
        """Has the challenger's servers serve `named`; returns before they do."""
        ...

    async def waiting_for(self, named: Named) -> str | None:
        """Why the challenger's servers do not serve `named` yet; None: they do. Raises SlotRefusedError: never."""
        ...

    async def lead(self, named: Named) -> None:
        """Has the stable servers serve `named`, one after the other; returns before they do."""
        ...

    async def leading(self, named: Named) -> str | None:
        """Why the stable servers do not all serve `named` yet; None: they do. Raises SlotRefusedError: never."""
        ...

    async def why_gone(self, named: Named) -> str | None:
        """Why none of the challenger's servers can answer with `named`; None: some can."""
        ...

    async def placed(self) -> str | None:
        """The rollout that the challenger's servers run for; None where none run."""
        ...

    async def remove(self, rollout: str) -> None:
        """Takes the challenger's servers away, if they are those of `rollout`."""
        ...

    async def servers(self) -> Mapping[str, str]:
        """The URLs of all servers that run, by name."""
        ...

    async def aclose(self) -> None:
        """Closes connections."""
        ...


class SeparateServers:
    """`Platform` for champion and challenger in separate servers.

    `is_retried` says that the gateway asks the champion again where the challenger fails: these requests count for the
    challenger alone. `settle_s` is how long a changed share takes to be in force everywhere: counts of that time are in
    no stratum.
    """

    def __init__(
        self,
        gateway: Gateway,
        fleet: Fleet,
        counters: Counters,
        *,
        counted: Set[str] = BY_REQUEST,
        has_shadow: bool = True,
        is_retried: bool = False,
        settle_s: float = 2.0,
        load_timeout_s: float = 600.0,
        poll_s: float = POLL_S,
        clock: Callable[[], float] = time.time,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._gateway, self._fleet, self._counters = gateway, fleet, counters
        self._counted, self._is_retried = counted, is_retried
        self._shadow = frozenset({features.SHADOW, features.SAMPLE}) if has_shadow else frozenset()
        self._settle_s = settle_s
        self._load_timeout_s = load_timeout_s
        self._poll_s = poll_s
        self._clock, self._sleep = clock, sleep
        self._server = secrets.token_hex(6)
        self._counting: Counting | None = None
        self._placed: tuple[str, str] | None = None

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Closes the connections."""
        await self._counters.aclose()
        await self._fleet.aclose()

    def supports(self) -> Set[str]:
        """No pairs (copies are answered elsewhere), no holdout, no memory limit (the servers have their own)."""
        return SUPPORTED | self._counted | self._shadow

    async def load(self, message: LoadSlot) -> None:
        """Claims the slot on the gateway, then starts the challenger's servers, and waits until all are ready."""
        split, _ = await self._read()
        if split.placed(message) is split and split.rollout != message.rollout:
            return  # it leads already
        split = await self._change(lambda found: found.placed(message))
        named = split.challenger
        assert named is not None
        assert message.rollout is not None
        await self._fleet.place(named, message.rollout)
        await self._wait(lambda: self._fleet.waiting_for(named), f"version {named.version} to be ready")

    async def set_share(self, message: SetShare) -> None:
        """Changes the gateway's weights; no share is given while the challenger's servers are not ready."""
        split, _ = await self._read()
        split.require_held(message.rollout)
        if (message.share > 0 or message.shadow) and split.challenger is not None:
            why = await self._fleet.waiting_for(split.challenger)
            if why is not None:
                raise PlatformUnreachableError(f"no share before all servers of the challenger are ready: {why}")
        await self._change(lambda found: found.expired(self._clock()).shared(message, self._clock()))

    async def renew_lease(self, message: RenewLease) -> None:
        """Renews the lease once a third of it is over."""

        def renewed(found: Split) -> Split:
            now_s = self._clock()
            found = found.expired(now_s)
            found.require_held(message.rollout)
            latest(message.fence, found.fence)
            if found.lease_s == message.lease_s and found.lease_left_s(now_s) >= RENEW_BELOW * message.lease_s:
                return found
            return found.renewed(message, now_s)

        split = await self._change(renewed)
        split.require_held(message.rollout)

    async def promote(self, message: PromoteSlot) -> None:
        """Rolls the stable servers over, waits until all serve the version, and only then changes the gateway.

        Meanwhile the challenger keeps its share, and its lease is renewed here. Servers that will never serve the
        version go back to the champion before.
        """
        if message.holdout is not None:
            raise SlotRefusedError(422, "separate servers keep no holdout: take it out of the plan")
        split, _ = await self._read()
        latest(message.fence, split.reign)  # before any server changes; and again where the gateway does
        champion = split.champion
        if champion is not None and champion.version == message.version:
            named = champion
        else:
            serving = None if champion is None else champion.version
            if serving != message.expected:
                raise SlotRefusedError(409, f"the champion is {serving}, expected was {message.expected}")
            named = split.expired(self._clock()).promotable(message.version)
        await self._fleet.lead(named)
        try:
            await self._wait(lambda: self._fleet.leading(named), f"all to serve version {named.version}", keeps=split)
        except SlotRefusedError:
            if champion is not None and not champion.is_same(named):
                await self._fleet.lead(champion)
            raise
        await self._change(lambda found: found.promoted(message.version, message.fence))
        logger.info("promoted: version %s leads", message.version)
        await self.sweep()

    async def drop(self, rollout: str) -> None:
        """One change of the gateway takes the challenger's traffic; then its servers go, and a promotion that began."""
        before, _ = await self._read()
        split = await self._change(lambda found: found.dropped(rollout))
        await self.sweep()
        if split.champion is not None and before.rollout == rollout:
            await self._fleet.lead(split.champion)

    async def expire(self, over: float | None = None) -> str | None:
        """Takes traffic from a challenger whose lease has run out, and what no rollout owns; why, if it did.

        For whoever watches beside the rollout; it asks nobody but the gateway and the fleet. `over` is the end of a
        lease that is over by another clock than ours, unless it was renewed meanwhile.
        """
        before, _ = await self._read()

        def expired(found: Split) -> Split:
            now_s = self._clock()
            return found.expired(max(now_s, over) if over is not None and found.lease_ends_s == over else now_s)

        split = await self._change(expired)
        await self.sweep()
        return split.tripped.reason if split.tripped is not None and before.tripped is None else None

    async def sweep(self) -> None:
        """Removes challenger's servers that no rollout owns.

        The gateway is read after them: a rollout claims it before it starts servers, so these are of none.
        """
        placed = await self._fleet.placed()
        if placed is not None and (await self._read())[0].rollout != placed:
            await self._fleet.remove(placed)

    async def end_holdout(self, rollout: str) -> None:
        """There is none."""

    async def observe(self) -> Observation:
        """What the gateway is to do, and what the servers counted. Trips the challenger where that is due."""
        split = await self._change(lambda found: found.expired(self._clock()))
        if split.rollout is None:
            await self.sweep()
        if split.rollout is None or split.challenger is None or split.champion is None:
            self._counting = None
            return self._observation(split, None)
        counting = self._counting_of(split.rollout, split.champion.version, split.challenger.version)
        reason = None
        if split.has_traffic:
            reason = await self._fleet.why_gone(split.challenger)
            counting.look(
                await self._counters.read(self._fleet.servers),
                self._clock(),
                share=split.weight / WEIGHTS,
                phase=split.phase,
                is_shadow=split.shadow,
                is_settled=self._clock() - split.changed_s >= self._settle_s + self._counters.lag_s,
                latency_floor_s=split.latency_floor_ms / 1000,
            )
            if split.share > 0:
                reason = reason or hard_limit(split.hard_limits, counting.recent)
        if reason is not None:
            logger.warning("tripped: rollout %s, version %s: %s", split.rollout, split.challenger.version, reason)
            split = await self._trip(split.rollout, reason)
        return self._observation(split, counting)

    async def _trip(self, rollout: str, reason: str) -> Split:
        def tripped(found: Split) -> Split:
            is_mine = found.rollout == rollout and found.tripped is None
            return found.after_trip("hard_limit", reason) if is_mine else found

        return await self._change(tripped)

    def _counting_of(self, rollout: str, champion: str, challenger: str) -> Counting:
        found = self._counting
        if found is None or (found.rollout, found.champion, found.challenger) != (rollout, champion, challenger):
            found = self._counting = Counting(rollout, champion, challenger, is_retried=self._is_retried)
        return found

    def _observation(self, split: Split, counting: Counting | None) -> Observation:
        now_s = self._clock()
        champion, challenger = split.champion, split.challenger
        return Observation(
            server=self._server,
            clock_s=now_s,
            rollout=split.rollout,
            share=split.share,
            shadow=split.shadow,
            lease_left_s=split.lease_left_s(now_s),
            champion=None if champion is None else _slot(counting, champion),
            challenger=None if challenger is None else _slot(counting, challenger),
            shadowed=None if counting is None else counting.shadowed(),
            tripped=split.tripped,
            strata=() if counting is None else tuple(counting.strata),
            pairs=None if counting is None else counting.pairs(),
            fence=split.reign,
        )

    async def _read(self) -> tuple[Split, str]:
        split, stamp = await self._gateway.read()
        if split.champion is None:  # nothing was ever promoted here: the servers know what they were started with
            split = msgspec.structs.replace(split, champion=await self._fleet.champion())
        return split, stamp

    async def _change(self, change: Callable[[Split], Split]) -> Split:
        """What is in force after `change`, which is tried again on what others have written meanwhile."""
        for _ in range(CHANGES_MAX):
            found, stamp = await self._read()
            wanted = change(found)
            if wanted is found:
                return found
            try:
                await self._gateway.write(wanted, stamp)
            except StaleWriteError:
                continue
            return wanted
        raise PlatformUnreachableError(f"others changed the gateway {CHANGES_MAX} times in a row: try again")

    async def _wait(self, why: Callable[[], Awaitable[str | None]], what: str, keeps: Split | None = None) -> None:
        """Polls until `why` has no reason left; the lease of `keeps` is renewed meanwhile."""
        ends_s = self._clock() + self._load_timeout_s
        while (reason := await why()) is not None:
            if self._clock() >= ends_s:
                raise PlatformUnreachableError(f"waited {self._load_timeout_s:g} s for {what}: {reason}")
            if keeps is not None and keeps.rollout is not None and keeps.lease_ends_s is not None:
                await self.renew_lease(RenewLease(rollout=keeps.rollout, lease_s=keeps.lease_s))
            await self._sleep(self._poll_s)


def _slot(counting: Counting | None, named: Named) -> SlotCounts:
    return SlotCounts(version=named.version) if counting is None else counting.slot(named.version)
