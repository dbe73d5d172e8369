"""Runs a rollout: looks, lets the machine decide, acts through the platform; the imperative shell of `machine`.

The ledger holds every event that changed the state. Whoever calls `run_rollout` with the same offer again — after a
crash, on another host, beside one that still runs — folds them and goes on from there: the actions of the last event
are carried out again, which all of them bear. While the ledger is away nothing is decided and no lease is renewed.
"""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from typing import Any, Literal

import msgspec

from contracts import slots
from contracts.slots import LoadSlot, Observation, PromoteSlot, Tripped
from pipelines.ledger import Ledger
from pipelines.rollout import features
from pipelines.rollout.coverage_reading import CoverageBeside, ReadCoverage
from pipelines.rollout.experiment import Contest
from pipelines.rollout.machine import (
    Aborted,
    Action,
    Commanded,
    Drop,
    Event,
    Load,
    Loaded,
    LoadRefused,
    Looked,
    Offer,
    PhaseRecord,
    Promote,
    PromotionDone,
    PromotionRefused,
    RenewLease,
    SetShare,
    ShareRefused,
    State,
    Unreachable,
)
from pipelines.rollout.outcome_reading import OutcomesBeside, ReadOutcomes
from pipelines.rollout.patience import Patience
from pipelines.rollout.plan import Plan
from pipelines.rollout.platforms.port import Platform, PlatformUnreachableError, SlotRefusedError
from pipelines.rollout.story import Story

__all__ = ["Offer", "Outcome", "run_rollout"]

DROP_ATTEMPTS = 5
PROMOTION_ATTEMPTS = 3
_log = logging.getLogger(__name__)


class Outcome(msgspec.Struct, frozen=True, kw_only=True):
    """How a rollout ended, and each of its phases. `is_dropped` is False when the server did not confirm the drop."""

    state: Literal["promoted", "rolled_back", "refused", "not_chosen"]
    reason: str
    seconds: float
    steps: tuple[PhaseRecord, ...]
    tripped: Tripped | None
    challenger_requests: int
    is_dropped: bool = True


async def run_rollout(
    platform: Platform,
    ledger: Ledger,
    plan: Plan,
    offer: Offer,
    *,
    on_look: Callable[[Observation], None] | None = None,
    should_stop: Callable[[], str | None] | None = None,
    coverage: ReadCoverage | None = None,
    outcomes: ReadOutcomes | None = None,
    contest: Contest | None = None,
    clock: Callable[[], float] = time.time,
    sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
) -> Outcome:
    """Runs the rollout of `offer` to its end, from wherever the ledger says that it is.

    `plan` is that of a new rollout; one that has begun keeps its own. `on_look` sees every observation; `should_stop`
    is asked before every look (in a thread, it may block), and a reason from it rolls the challenger back. `coverage`
    reads how much of the usual traffic the challenger has seen (blocking, in a thread beside the looks), for the steps
    that ask; `outcomes` in the same way those of the rollout's own predictions. `contest` says whether one of several
    challengers goes on alone, which waits for that. `clock` is in seconds since the epoch.

    Raises:
        ValueError: the ledger has another version under this rollout's name.
        PlatformUnreachableError: the server is silent for longer than the plan bears while it was to promote, so
            nobody knows whether it did. Running the same offer again finishes or undoes it.
        LedgerUnavailableError: the ledger is away for longer than the plan's `unreachable_s`. Running the same offer
            again goes on.
    """
    story = Story(ledger, offer)
    patience = Patience(plan.look_every_s, plan.unreachable_s, clock, sleep)
    if (recorded := await patience.ask(story.outcome)) is not None:
        return msgspec.convert(recorded, Outcome)
    state, actions = await patience.ask(story.begin, plan, clock())
    covering, outcoming = CoverageBeside(coverage, clock), OutcomesBeside(outcomes, clock)
    readable = covering.features | outcoming.features
    run = _Run(platform, ledger, story, readable, contest, on_look, clock, sleep, patience)
    event: Event | None = None
    while not state.is_final:
        was_commanded = isinstance(event, Commanded)
        event = await run.perform(state, actions)
        await patience.ask(story.tell, state)
        if event is None:
            await sleep(0 if was_commanded else state.plan.look_every_s)
            # a look follows each command, so that many of them do not keep the judge or the lease waiting
            wish = None if was_commanded else await run.wish(should_stop, story, state)
            event = wish or await run.ranked(state) or await run.look()
            event = outcoming.onto(covering.onto(event, state), state)
        state, actions = await patience.ask(story.record, state, event)
        _give_up(state, clock())
    is_dropped = await run.drop(offer, state.plan, actions)
    outcome = _outcome(state, is_dropped)
    await patience.ask(story.tell, state)
    return msgspec.convert(await patience.ask(story.end, outcome.state, outcome), Outcome)


class _Run:
    """Carries out actions, and says as an event what came of it."""

    def __init__(
        self,
        platform: Platform,
        ledger: Ledger,
        story: Story,
        readable: frozenset[str],
        contest: Contest | None,
        on_look: Callable[[Observation], None] | None,
        clock: Callable[[], float],
        sleep: Callable[[float], Awaitable[None]],
        patience: Patience,
    ) -> None:
        self._platform = platform
        self._ledger = ledger
        self._story = story
        self._readable = readable
        self._contest = contest
        self._is_lone = False  # on the server, at the last look
        self._on_look = on_look
        self._clock = clock
        self._sleep = sleep
        self._patience = patience

    async def look(self) -> Event:
        """An observation, or that there is none."""
        try:
            observation = await self._platform.observe()
        except PlatformUnreachableError as error:
            return Unreachable(reason=str(error), at_s=self._clock())
        if self._on_look is not None:
            self._on_look(observation)
        self._is_lone = not any(each.share > 0 or each.shadow for each in observation.beside)
        return Looked(observation=observation, at_s=self._clock())

    async def wish(self, should_stop: Callable[[], str | None] | None, story: Story, state: State) -> Event | None:
        """What a person wants: whoever runs the rollout its end, or somebody what the ledger says, one at a time."""
        reason = None if should_stop is None else await asyncio.to_thread(should_stop)
        if reason is not None:
            return Aborted(reason=reason, by="request", at_s=self._clock())
        found = await self._patience.ask(story.next_command, state.last_command)
        return None if found is None else Commanded(entry=found[0], command=found[1], at_s=self._clock())

    async def ranked(self, state: State) -> Event | None:
        """Whether one of several challengers goes on, once that is known, and no other has traffic any more."""
        if self._contest is None or state.phase != "ranking":
            return None
        word = await self._patience.ask(self._contest.word, state)
        if word is None or (word.goes_on and not self._is_lone):
            return None
        return word.at(self._clock())

    async def perform(self, state: State, actions: tuple[Action, ...]) -> Event | None:
        """Carries `actions` out in order, up to the first that something came of."""
        for action in actions:
            try:
                event = await self._perform(state, action)
            except PlatformUnreachableError as error:
                event = Unreachable(reason=str(error), at_s=self._clock())
            if event is not None:
                return event
        return None

    async def drop(self, offer: Offer, plan: Plan, actions: tuple[Action, ...]) -> bool:
        """Carries out the final Drop, if there is one; False when the server did not confirm it."""
        for action in actions:
            if isinstance(action, Drop):
                is_dropped = await self._drop(offer, plan)  # first: it takes traffic away, and the ledger may be away
                await self._restore(offer, action.reason)
                return is_dropped
        return True

    async def _drop(self, offer: Offer, plan: Plan) -> bool:
        for attempt in range(DROP_ATTEMPTS):
            try:
                await self._platform.drop(offer.rollout)
                await self._platform.drop(_finishing(offer))
                return True
            except SlotRefusedError as error:
                _log.error("rollout %s: the server refuses to drop the challenger: %s", offer.rollout, error)
                return False
            except PlatformUnreachableError as error:
                _log.warning("rollout %s: drop %d of %d: %s", offer.rollout, attempt + 1, DROP_ATTEMPTS, error)
                await self._sleep(plan.look_every_s)
        return False

    async def _perform(self, state: State, action: Action) -> Event | None:
        offer = state.offer
        assert offer is not None  # there is no action before an offer
        if isinstance(action, Load):
            supported = self._platform.supports() | self._readable
            if (reason := features.refusal(state.plan, supported)) is not None:
                return LoadRefused(reason=reason, at_s=self._clock())
            try:
                await self._platform.load(_load_slot(offer, state.plan, offer.rollout))
            except SlotRefusedError as error:
                return LoadRefused(reason=error.detail, at_s=self._clock())
            return Loaded(at_s=self._clock())
        if isinstance(action, SetShare | RenewLease):
            return await self._share(offer, action)
        if isinstance(action, Promote):
            return await self._promote(offer, state.plan, state.reason or "won its rollout")
        raise ValueError(f"a rollout that goes on has no action {action}")

    async def _share(self, offer: Offer, action: SetShare | RenewLease) -> Event | None:
        fence = self._story.evidence.last_entry
        try:
            if isinstance(action, SetShare):
                share = slots.SetShare(
                    rollout=offer.rollout,
                    share=action.share,
                    shadow=action.shadow,
                    sample=action.sample,
                    lease_s=action.lease_s,
                    lane=action.lane,
                    fence=fence,
                )
                await self._platform.set_share(share)
            else:
                renewal = slots.RenewLease(rollout=offer.rollout, lease_s=action.lease_s, fence=fence)
                await self._platform.renew_lease(renewal)
        except SlotRefusedError as error:
            event = await self.look()
            # a trip, a restart or another rollout in the slot says more than the refusal that follows from it;
            # whoever was refused by what another controller knows cannot record that: the other's event is there
            if isinstance(event, Looked) and _is_ready(event.observation, offer, offer.rollout):
                return ShareRefused(reason=error.detail, at_s=self._clock())
            return event
        return None

    async def _promote(self, offer: Offer, plan: Plan, reason: str) -> Event:
        """Swaps the champion in the ledger by the rollout's evidence, then on the server.

        When one refuses, the drop undoes the other, after the refusal is recorded. Each time before the server is
        asked, the ledger is: meanwhile somebody may have put another champion there.
        """
        refused = "the challenger does not stay in its slot"
        for _ in range(PROMOTION_ATTEMPTS):
            observation = await self._platform.observe()
            is_promoted = observation.champion is not None and observation.champion.version == offer.version
            if not is_promoted and observation.tripped is not None and observation.tripped.cause == "hard_limit":
                return Looked(observation=observation, at_s=self._clock())
            if (unfit := await self._swap(offer, reason)) is not None:
                return PromotionRefused(reason=unfit, at_s=self._clock())
            if is_promoted:
                return PromotionDone(at_s=self._clock())
            try:
                if not _is_ready(observation, offer, offer.rollout, _finishing(offer)):
                    await self._place_again(offer, plan)
                    continue
                if (reign := await self._patience.ask(self._reign, offer)) is not None:
                    await self._platform.promote(_promote_slot(offer, plan, reign))
                    return PromotionDone(at_s=self._clock())
            except SlotRefusedError as error:
                refused = error.detail
        return PromotionRefused(reason=refused, at_s=self._clock())

    async def _swap(self, offer: Offer, reason: str) -> str | None:
        return await self._patience.ask(
            self._ledger.promote,
            offer.project,
            offer.expected_champion,
            offer.version,
            offer.bundle,
            offer.rollout,
            reason,
            self._story.evidence,
        )

    def _reign(self, offer: Offer) -> int | None:
        """The ledger's entry since which the version leads; None where another one does by now."""
        champion = self._ledger.champion(offer.project)
        return None if champion is None or champion.version != offer.version else champion.since_entry

    async def _restore(self, offer: Offer, reason: str) -> None:
        await self._patience.ask(self._ledger.restore_champion, offer.project, offer.version, offer.rollout, reason)

    async def _place_again(self, offer: Offer, plan: Plan) -> None:
        """Brings a challenger back whose promotion is decided and whose slot was lost: a restart, an expired lease.

        A rollout that has tripped does not come back, by the server's rule; hence the other name.
        """
        await self._platform.drop(offer.rollout)
        await self._platform.load(_load_slot(offer, plan, _finishing(offer)))


def _is_ready(observation: Observation, offer: Offer, *rollouts: str) -> bool:
    """Whether the challenger holds its slot under one of these names and has not tripped."""
    challenger = observation.challenger
    is_held = challenger is not None and challenger.version == offer.version and observation.rollout in rollouts
    return is_held and observation.tripped is None


def _finishing(offer: Offer) -> str:
    return f"{offer.rollout}:promotion"


def _promote_slot(offer: Offer, plan: Plan, reign: int) -> PromoteSlot:
    """The first champion has nobody to hold out against."""
    keep = None
    if plan.holdout is not None and offer.expected_champion is not None:
        keep = slots.KeepHoldout(rollout=offer.rollout, share=plan.holdout.share)
    return PromoteSlot(version=offer.version, expected=offer.expected_champion, holdout=keep, fence=reign)


def _load_slot(offer: Offer, plan: Plan, rollout: str) -> LoadSlot:
    return LoadSlot(
        version=offer.version,
        bundle=offer.bundle,
        path=offer.path,
        rollout=rollout,
        hard_limits=plan.hard_limits,
        latency_floor_ms=plan.latency_floor_ms,
        slice_by=None if plan.shadow is None else plan.shadow.slice_by,
        lane=offer.lane if rollout == offer.rollout else None,
    )


def _give_up(state: State, now_s: float) -> None:
    """Ends the wait for a server that was to promote: the machine does not, since only the server knows what is so."""
    since_s = state.unreachable_since_s
    if state.phase == "promoting" and since_s is not None and now_s - since_s >= state.plan.unreachable_s:
        assert state.offer is not None
        raise PlatformUnreachableError(
            f"the server is silent for {now_s - since_s:.0f} s while version {state.offer.version} was to be promoted: "
            f"run the rollout {state.offer.rollout} again when it answers, which finishes or undoes the promotion"
        )


def _outcome(state: State, is_dropped: bool) -> Outcome:
    if state.phase not in ("promoted", "rolled_back", "refused", "not_chosen") or state.ended_s is None:
        raise ValueError(f"a rollout in the phase {state.phase} has not ended")
    challenger: Any = None if state.memory is None else state.memory.challenger
    return Outcome(
        state=state.phase,
        reason=state.reason,
        seconds=max(0.0, state.ended_s - state.started_s),
        steps=state.records,
        tripped=state.tripped,
        challenger_requests=0 if challenger is None else challenger.requests,
        is_dropped=is_dropped,
    )
