"""The slots of champion, challengers and holdout, and what the server holds: leases, hard limits, compare-and-swap.

All of it runs on the event loop's thread: no method awaits, so each is one step for everybody else. The clock is
monotonic and given from outside; a lease that has run out is noticed by whoever asks next.
"""

import logging
import time
from collections.abc import Callable
from pathlib import Path

import msgspec

from contracts.flags import FlagsInForce, SetFlags
from contracts.slots import (
    Beside,
    InjectFault,
    LoadSlot,
    Observation,
    PromoteSlot,
    RenewLease,
    SetShare,
    SlotCounts,
)
from serving.challenger import Challenger, Slot
from serving.challengers import Challengers
from serving.champion_file import State
from serving.engine import Model
from serving.faulty import FaultError
from serving.flags import FlagFileError, FlagRules, read_flags, rules_of
from serving.held import Held, name_of
from serving.lanes import beside, conflict, free_seat, is_live
from serving.units import UnitBook

MAXIMUM_LEASE_S = 3600.0
logger = logging.getLogger(__name__)


class SlotConflictError(Exception):
    """The slots are not in the state that a message expects; the text says in which they are."""


class SlotMessageError(ValueError):
    """A message with a value that no state of the slots allows."""


class Slots(Challengers):
    """Champion and challengers of one server process; `server` names the process, so that a restart is seen."""

    def __init__(
        self, *, server: str, clock: Callable[[], float] = time.monotonic, remembered: State | None = None
    ) -> None:
        super().__init__(clock=clock)
        self.champion: Slot | None = None
        self.holdout: Held | None = None
        self._server = server
        self._remembered = remembered
        self.flags = FlagsInForce()
        self.flag_rules: FlagRules | None = None
        self.flags_problem: str | None = None

    def by_name(self) -> list[tuple[str, Slot]]:
        """The slots that hold a model, with their names."""
        challengers = (("challenger", challenger) for challenger in self.challengers)
        slots = (("champion", self.champion), *challengers, ("holdout", self.holdout))
        return [(name, slot) for name, slot in slots if slot is not None]

    # -- what whoever runs a rollout asks --------------------------------------------------------------------------

    def is_in_place(self, load: LoadSlot) -> bool:
        """Whether `load` has nothing left to do: the same rollout's challenger, or champion or holdout already.

        Raises:
            SlotConflictError: another rollout holds the slot, or this one has tripped or holds another version.
        """
        self.expire()
        warm = [slot.model for slot in (self.champion, self.holdout) if slot is not None]
        if (load.version, load.bundle) in [(model.version, model.bundle.id) for model in warm]:
            return True
        if (challenger := self.held_by(load.rollout)) is not None:
            held = challenger.model
            if (held.version, held.bundle.id) == (load.version, load.bundle):
                return True
            if load.rollout is not None:
                raise SlotConflictError(
                    f"rollout {load.rollout!r} already holds the slot with version {held.version}, "
                    f"asked for was {load.version}: a rollout has one version"
                )
        if load.rollout is not None and (reason := self._tripped_rollouts.get(load.rollout)):
            raise SlotConflictError(f"rollout {load.rollout!r} has tripped and does not come back: {reason}")
        if (reason := conflict(load, [each for each in self.challengers if each is not challenger])) is not None:
            raise SlotConflictError(reason)
        return False

    def place(self, load: LoadSlot, model: Model) -> None:
        """Puts a loaded `model` into the challenger's slot, without share. Raises SlotConflictError as above."""
        if self.is_in_place(load):
            return
        kept = beside(load, self.challengers)
        challenger = Challenger(
            model=model,
            counts=SlotCounts(version=load.version),
            rollout=load.rollout,
            hard_limits=load.hard_limits,
            latency_floor_ms=load.latency_floor_ms,
            slice_by=load.slice_by,
            book=self._book(load),
            lane=load.lane,
            seat=free_seat(kept),
        )
        self.seat([*kept, challenger])

    def _book(self, load: LoadSlot) -> UnitBook | None:
        if self.champion is None:
            return None
        return UnitBook(
            rollout=load.rollout or "",
            champion=self.champion.model.version,
            challenger=load.version,
            latency_floor_s=load.latency_floor_ms / 1000,
        )

    def set_share(self, message: SetShare) -> None:
        """Raises SlotMessageError for a share outside [0, 1], SlotConflictError when the rollout may not have one."""
        _require_lease(message.lease_s)
        if not 0 <= message.share <= 1:
            raise SlotMessageError(f"share is {message.share:g}, expected 0 to 1")
        if message.shadow and message.share > 0:
            raise SlotMessageError(f"a challenger shadows or has a share; found shadow with share {message.share:g}")
        if not 0 < message.sample <= 1:
            raise SlotMessageError(f"sample is {message.sample:g}, expected more than 0 and at most 1")
        if self.champion is None:
            raise SlotConflictError("there is no champion to fall back on: promote the first version instead")
        if message.share > 0 and self.flags_problem is not None:
            raise SlotConflictError(f"no share is given while nobody knows whom the flags deny: {self.flags_problem}")
        if self.holdout is not None:
            raise SlotConflictError(
                f"the holdout of rollout {self.holdout.rollout!r} keeps version {self.holdout.model.version}: "
                "end it before another rollout has traffic"
            )
        challenger = self._held_by(message.rollout)
        challenger.fence = _latest(message.fence, challenger.fence, f"rollout {message.rollout!r}")
        self._change_lane(challenger, message)
        challenger.phase += (challenger.share, challenger.shadow) != (message.share, message.shadow)
        challenger.share, challenger.shadow, challenger.sample = message.share, message.shadow, message.sample
        challenger.lease_ends_s = self._clock() + message.lease_s

    def _change_lane(self, challenger: Challenger, message: SetShare) -> None:
        """From its lane a challenger may come to all entities, when it is the only one; there is no way back."""
        if message.lane == challenger.lane:
            return
        if message.lane is not None:
            was = "all entities" if challenger.lane is None else f"lane {challenger.lane.place} of {challenger.lane.of}"
            raise SlotConflictError(
                f"rollout {challenger.rollout!r} has {was}, asked for was lane {message.lane.place} of "
                f"{message.lane.of} of {message.lane.experiment!r}: a challenger keeps the lane that it was loaded with"
            )
        others = [each for each in self.challengers if each is not challenger and is_live(self._checked(each))]
        if others:
            held = ", ".join(f"{each.rollout!r} (version {each.model.version})" for each in others)
            raise SlotConflictError(
                f"rollout {challenger.rollout!r} cannot have all entities while there are other challengers: {held}"
            )
        challenger.lane = None
        challenger.phase += 1
        self.seat([challenger])

    def renew(self, message: RenewLease) -> None:
        """Raises SlotConflictError when the rollout does not hold the slot, has tripped, or went on meanwhile."""
        _require_lease(message.lease_s)
        challenger = self._held_by(message.rollout)
        challenger.fence = _latest(message.fence, challenger.fence, f"rollout {message.rollout!r}")
        challenger.lease_ends_s = self._clock() + message.lease_s

    def promote(self, message: PromoteSlot, remember: Callable[[State], None]) -> None:
        """Makes the challenger the champion, if the champion is still the expected one; the same again is a success.

        So does the version of a holdout, which is over then. With `message.holdout` the replaced champion is kept.

        `remember` makes it durable first, so that after a crash the server comes up with what it last promised.

        Raises:
            SlotConflictError: another champion, no such challenger, a challenger that has tripped, or an earlier reign
                than the server was told of.
            OSError: it cannot be remembered; nothing has changed then.
        """
        champion, told = self.champion, None if self._remembered is None else self._remembered.fence
        fence = _latest(message.fence, told, "the champion")
        if champion is not None and champion.model.version == message.version:
            if fence != told:
                known = self._remembered or State(champion=name_of(champion.model))
                self._remember(msgspec.structs.replace(known, fence=fence), remember)
            return
        serving = champion.model.version if champion else None
        # a champion that is remembered but could not be loaded may be replaced by whoever knows of it, or of none
        allowed = {serving} if champion else {None, self._remembered.champion.version if self._remembered else None}
        if message.expected not in allowed:
            raise SlotConflictError(f"the champion is {serving or 'nobody'}, expected was {message.expected}")
        model, keep, kept = self._promotable(message.version), message.holdout, None
        if keep is not None and champion is not None:
            kept = Held.begin(champion.model, keep.rollout, keep.share)
        holdout = kept.remembered if kept else None
        self._remember(State(champion=name_of(model), holdout=holdout, fence=fence), remember)
        self.install_champion(model)
        self.seat(())
        self.holdout = kept
        logger.info("promoted: version %s in place of %s", model.version, serving)

    def _promotable(self, version: str) -> Model:
        """The model of `version`, which is at hand. Raises SlotConflictError."""
        if self.holdout is not None and self.holdout.model.version == version:
            return self.holdout.model
        self.expire()
        challenger = next((each for each in self.challengers if each.model.version == version), None)
        if challenger is None:
            found = ", ".join(each.model.version for each in self.challengers) or "nobody"
            raise SlotConflictError(f"the challenger is {found}, asked to promote was {version}: load it first")
        if challenger.tripped is not None:
            raise SlotConflictError(f"the challenger {version} has tripped: {challenger.tripped.reason}")
        return challenger.sound

    def _remember(self, state: State, remember: Callable[[State], None]) -> None:
        remember(state)
        self._remembered = state

    def end_holdout(self, rollout: str, remember: Callable[[State], None]) -> bool:
        """The champion answers all entities, if `rollout` has a holdout; says whether it had. Raises OSError."""
        remembered = self._remembered
        is_mine = self.holdout is not None and self.holdout.rollout == rollout
        if remembered is not None and remembered.holdout is not None and remembered.holdout.rollout == rollout:
            ended = msgspec.structs.replace(remembered, holdout=None)
            self._remember(ended, remember)  # also of one that could not be loaded
        if is_mine:
            self.holdout = None
        return is_mine

    def install_champion(self, model: Model) -> None:
        """Puts `model` into the champion's slot, with counts from zero."""
        self.champion = Slot(model=model, counts=SlotCounts(version=model.version))

    def drop(self, rollout: str) -> bool:
        """Empties the challenger's slot if `rollout` holds it; says whether it did."""
        dropped = self.held_by(rollout)
        self.seat(each for each in self.challengers if each is not dropped)
        return dropped is not None

    def set_flags(self, message: SetFlags, remember: Callable[[FlagsInForce], None]) -> None:
        """Puts other flags in force. `remember` makes them durable first.

        Raises:
            SlotConflictError: the flags in force have not the expected revision.
            OSError: they cannot be remembered; nothing has changed then.
        """
        before = self.flags
        if message.expected is not None and message.expected != before.revision:
            raise SlotConflictError(
                f"the flags have revision {before.revision}, set by {before.by!r}, expected was {message.expected}: "
                "look at them again"
            )
        flags = FlagsInForce(flags=message.flags, revision=before.revision + 1, by=message.by, reason=message.reason)
        remember(flags)
        if flags.flags.sticky_by != before.flags.sticky_by:
            for challenger in self.challengers:
                challenger.phase += 1  # what sticks is what is counted: it is other units from now on
        self.adopt_flags(flags)
        logger.info("flags: revision %d by %r, since %r: %r", flags.revision, flags.by, flags.reason, flags.flags)

    def adopt_flags(self, flags: FlagsInForce) -> None:
        """Goes by `flags` from the next request on."""
        if flags != self.flags:
            self.flag_rules = rules_of(flags.flags)
        self.flags, self.flags_problem = flags, None

    def inject_fault(self, message: InjectFault) -> None:
        """The challenger does what `message` says from now on. Raises SlotConflictError, SlotMessageError."""
        challenger = self.to_fail(message)
        try:
            challenger.suffer(message.error_share, message.fault)
        except FaultError as error:
            raise SlotMessageError(str(error)) from error

    def to_fail(self, message: InjectFault) -> Challenger:
        """The challenger that `message` is about. Raises SlotConflictError."""
        if message.rollout is None and len(self.challengers) == 1:
            return self.challengers[0]
        challenger = None if message.rollout is None else self.held_by(message.rollout)
        if challenger is None:
            found = ", ".join(repr(each.rollout) for each in self.challengers)
            reason = f"which challenger is to fail? Name the rollout of one of: {found}"
            raise SlotConflictError(reason if found else "there is no challenger to fail")
        return challenger

    def observe(self, rollout: str | None = None) -> Observation:
        """Both slots at this instant, the challenger's that of `rollout` where that holds one, else the first one's."""
        self.expire()
        challenger = (None if rollout is None else self.held_by(rollout)) or self.challenger
        now = self._clock()
        lease_ends = challenger.lease_ends_s if challenger else None
        return Observation(
            server=self._server,
            clock_s=now,
            rollout=challenger.rollout if challenger else None,
            share=challenger.share if challenger else 0.0,
            shadow=challenger.shadow if challenger else False,
            lease_left_s=0.0 if lease_ends is None else lease_ends - now,
            champion=self.champion.counts if self.champion else None,
            challenger=challenger.counts if challenger else None,
            shadowed=challenger.shadowed if challenger else None,
            tripped=challenger.tripped if challenger else None,
            strata=tuple(challenger.book.strata) if challenger and challenger.book else (),
            pairs=challenger.pairs if challenger else None,
            holdout=self.holdout.seen if self.holdout else None,
            lane=challenger.lane if challenger else None,
            beside=tuple(_seen(each, now) for each in self.challengers if each is not challenger),
            fence=None if self._remembered is None else self._remembered.fence,
        )

    def _held_by(self, rollout: str) -> Challenger:
        self.expire()
        challenger = self.held_by(rollout)
        if challenger is None:
            holder = ", ".join(repr(each.rollout) for each in self.challengers) or "nobody"
            raise SlotConflictError(
                f"the challenger slot is held by {holder}, not by rollout {rollout!r}: load it first"
            )
        if challenger.tripped is not None:
            raise SlotConflictError(
                f"rollout {rollout!r} has tripped and does not come back: {challenger.tripped.reason}"
            )
        return challenger


def adopt_remembered_flags(slots: Slots, state: Path) -> None:
    """Goes by the flags that the folder `state` remembers; where they cannot be read, no share is given."""
    try:
        slots.adopt_flags(read_flags(state))
    except FlagFileError as error:
        logger.error("%s", error)
        slots.flags_problem = str(error)


def _seen(challenger: Challenger, now_s: float) -> Beside:
    ends_s = challenger.lease_ends_s
    return Beside(
        rollout=challenger.rollout,
        version=challenger.model.version,
        share=challenger.share,
        shadow=challenger.shadow,
        lease_left_s=0.0 if ends_s is None else ends_s - now_s,
        lane=challenger.lane,
        tripped=challenger.tripped,
    )


def _latest(fence: int | None, obeyed: int | None, what: str) -> int | None:
    """The later of both entries. Raises SlotConflictError where whoever asks has not read what was obeyed before.

    A process that was asleep while another one went on wakes up with what was so then, whatever its lease says now.
    """
    if fence is None or obeyed is None:
        return obeyed if fence is None else fence
    if fence < obeyed:
        raise SlotConflictError(
            f"{what} goes by entry {obeyed} of the ledger, this was asked by entry {fence}: read the ledger again"
        )
    return fence


def _require_lease(lease_s: float) -> None:
    if not 0 < lease_s <= MAXIMUM_LEASE_S:
        raise SlotMessageError(f"lease_s is {lease_s:g}, expected more than 0 and at most {MAXIMUM_LEASE_S:g}")
