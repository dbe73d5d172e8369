"""The slots of champion, challenger and holdout, and what the server holds: lease, hard limits, compare-and-swap.

All of it runs on the event loop's thread: no method awaits, so each is one step for everybody else. The clock is
monotonic and given from outside; a lease that has run out is noticed by whoever asks next.
"""

import logging
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Literal

from contracts.assignment import unit
from contracts.flags import FlagsInForce, SetFlags
from contracts.slots import InjectFault, LoadSlot, Observation, PromoteSlot, RenewLease, SetShare, SlotCounts, Tripped
from contracts.strata import STRATUM_S
from serving.challenger import Challenger, Slot, count_answer, late_text, limit_text, take_away
from serving.champion_file import State
from serving.engine import Model
from serving.faulty import FaultError
from serving.flags import FlagFileError, FlagRules, read_flags, rules_of
from serving.held import Held, name_of
from serving.units import UnitBook

MAXIMUM_LEASE_S = 3600.0
_REMEMBERED_TRIPS = 1000
logger = logging.getLogger(__name__)


class SlotConflictError(Exception):
    """The slots are not in the state that a message expects; the text says in which they are."""


class SlotMessageError(ValueError):
    """A message with a value that no state of the slots allows."""


class Slots:
    """Champion and challenger of one server process; `server` names the process, so that a restart is seen."""

    def __init__(
        self, *, server: str, clock: Callable[[], float] = time.monotonic, remembered: State | None = None
    ) -> None:
        self.champion: Slot | None = None
        self.challenger: Challenger | None = None
        self.holdout: Held | None = None
        self.trips: dict[Literal["hard_limit", "lease"], int] = {"hard_limit": 0, "lease": 0}
        self._server = server
        self._clock = clock
        self._remembered = remembered
        self._tripped_rollouts: dict[str, str] = {}
        self.flags = FlagsInForce()
        self.flag_rules: FlagRules | None = None
        self.flags_problem: str | None = None

    def by_name(self) -> list[tuple[str, Slot]]:
        """The slots that hold a model, with their names."""
        slots = (("champion", self.champion), ("challenger", self.challenger), ("holdout", self.holdout))
        return [(name, slot) for name, slot in slots if slot is not None]

    # -- what a request asks ---------------------------------------------------------------------------------------

    def sharing(self) -> Challenger | None:
        """The challenger while it has a share of the answers and a lease for it."""
        challenger = self._current()
        return challenger if challenger is not None and challenger.share > 0 else None

    def shadowing(self) -> Challenger | None:
        """The challenger while it shadows under a lease."""
        challenger = self._current()
        return challenger if challenger is not None and challenger.shadow else None

    def is_asked(self, challenger: Challenger) -> bool:
        """Whether `challenger` is still in its place and has not tripped."""
        return self.challenger is challenger and challenger.tripped is None

    def expire(self) -> None:
        """Takes share and shadow from a challenger whose lease has run out; called by a timer as well."""
        challenger = self._current()
        if challenger is not None:
            self._close_strata(challenger)

    def check_memory(self, resident_mb: float) -> None:
        """Trips a challenger since whose loading the process has grown by more than the hard limit; by a timer."""
        challenger = self._current()
        if challenger is None or challenger.tripped is not None:
            return
        least_mb = challenger.least_resident_mb
        challenger.least_resident_mb = resident_mb if least_mb is None else min(least_mb, resident_mb)
        limit_mb, grown_mb = challenger.hard_limits.memory_mb, resident_mb - challenger.least_resident_mb
        if limit_mb is not None and grown_mb > limit_mb:
            reason = f"the server grew by {grown_mb:.0f} MB since it loaded the challenger > limit {limit_mb:g} MB"
            self._trip(challenger, "hard_limit", reason)

    def count_challenger_answer(
        self, challenger: Challenger, seconds: float, score: float, *, is_counted: bool = True
    ) -> None:
        """A request that the challenger answered; only for the hard limits where it is not counted."""
        if is_counted:
            count_answer(challenger.counts, seconds, score)
        self._count_request(challenger, failed=None, is_counted=is_counted)

    def count_challenger_error(self, challenger: Challenger, entity: str, *, is_counted: bool = True) -> None:
        """A request that the challenger failed on, and the champion answers; trips when the hard limit is reached."""
        challenger.counts.errors += is_counted
        if challenger.first_error_s is None:
            challenger.first_error_s = self._clock()
        self._count_request(challenger, failed=unit(challenger.position_salt, entity), is_counted=is_counted)
        limits = challenger.hard_limits
        if challenger.recent_errors < limits.errors or challenger.tripped is not None:
            return
        entities = len(set(challenger.recent) - {None})
        if entities >= limits.errors or challenger.recent_errors == limits.window:
            self._trip(challenger, "hard_limit", limit_text(limits, entities, len(challenger.recent)))

    def forgive(self, challenger: Challenger, entity: str) -> None:
        """The champion fails on this row as well: it is the request that is wrong, and no reason to trip."""
        failed = unit(challenger.position_salt, entity)
        for place in reversed(range(len(challenger.recent))):
            if challenger.recent[place] == failed:
                challenger.recent[place] = None
                challenger.recent_errors -= 1
                return

    def _count_request(self, challenger: Challenger, *, failed: int | None, is_counted: bool) -> None:
        challenger.counts.requests += is_counted
        if challenger.first_error_s is not None:
            challenger.requests_since_first_error += 1
        challenger.recent.append(failed)
        challenger.recent_errors += failed is not None
        if len(challenger.recent) > challenger.hard_limits.window:
            challenger.recent_errors -= challenger.recent.popleft() is not None

    # -- counts by entity, for whoever judges (contracts.strata) ---------------------------------------------------

    def gather_answers(
        self, challenger: Challenger, arm: int, entities: Sequence[str], seconds: float, scores: Sequence[float]
    ) -> None:
        """Rows that `arm` (0: champion, 1: challenger) answered in `seconds` while `challenger` is tried."""
        salt = challenger.position_salt
        units = [unit(salt, entity) for entity in entities]
        challenger.gathered.answered(arm, units, seconds, scores, self._stratum(challenger))

    def gather_failure(self, challenger: Challenger, arm: int, entity: str) -> None:
        """A row that `arm` failed on."""
        challenger.gathered.failed(arm, unit(challenger.position_salt, entity), self._stratum(challenger))

    def _stratum(self, challenger: Challenger) -> tuple[int, int, float]:
        return int(self._clock() / STRATUM_S), challenger.phase, challenger.share

    def _close_strata(self, challenger: Challenger, index: int | None = None) -> None:
        """Closes what lies before stratum `index`, by default the present one."""
        now_s = self._clock()
        if challenger.book is not None:
            for gathered in challenger.gathered.before(int(now_s / STRATUM_S) if index is None else index):
                challenger.book.close(gathered, now_s)

    def _current(self) -> Challenger | None:
        challenger = self.challenger
        if challenger is None or challenger.lease_ends_s is None:
            return challenger
        if (late_s := self._clock() - challenger.lease_ends_s) >= 0:
            self._trip(challenger, "lease", late_text(challenger, late_s))
        return challenger

    def _trip(self, challenger: Challenger, cause: Literal["hard_limit", "lease"], reason: str) -> None:
        first = challenger.first_error_s
        tripped = Tripped(
            cause=cause,
            reason=reason,
            seconds_since_first_error=None if first is None else self._clock() - first,
            challenger_requests_since_first_error=None if first is None else challenger.requests_since_first_error,
        )
        self._record_trip(challenger, tripped)

    def _record_trip(self, challenger: Challenger, tripped: Tripped) -> None:
        """The one place where a trip counts as an event."""
        take_away(challenger, tripped)
        self.trips[tripped.cause] += 1
        if challenger.rollout is not None:
            self._tripped_rollouts[challenger.rollout] = tripped.reason
            if len(self._tripped_rollouts) > _REMEMBERED_TRIPS:
                del self._tripped_rollouts[next(iter(self._tripped_rollouts))]
        logger.warning(
            "tripped: rollout %s, version %s: %s", challenger.rollout, challenger.model.version, tripped.reason
        )

    # -- what whoever runs a rollout asks --------------------------------------------------------------------------

    def is_in_place(self, load: LoadSlot) -> bool:
        """Whether `load` has nothing left to do: the same rollout's challenger, or champion or holdout already.

        Raises:
            SlotConflictError: another rollout holds the slot, or this one has tripped or holds another version.
        """
        challenger = self._current()
        warm = [slot.model for slot in (self.champion, self.holdout) if slot is not None]
        if (load.version, load.bundle) in [(model.version, model.bundle.id) for model in warm]:
            return True
        if challenger is not None and challenger.rollout == load.rollout:
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
        if challenger is not None and (challenger.share > 0 or challenger.lease_ends_s is not None):
            raise SlotConflictError(
                f"rollout {challenger.rollout!r} holds the challenger slot with version {challenger.model.version}, "
                f"share {challenger.share:g}: end it first"
            )
        return False

    def place(self, load: LoadSlot, model: Model) -> None:
        """Puts a loaded `model` into the challenger's slot, without share. Raises SlotConflictError as above."""
        if self.is_in_place(load):
            return
        self.challenger = Challenger(
            model=model,
            counts=SlotCounts(version=load.version),
            rollout=load.rollout,
            hard_limits=load.hard_limits,
            latency_floor_ms=load.latency_floor_ms,
            slice_by=load.slice_by,
            book=self._book(load),
        )

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
        challenger.phase += (challenger.share, challenger.shadow) != (message.share, message.shadow)
        challenger.share, challenger.shadow, challenger.sample = message.share, message.shadow, message.sample
        challenger.lease_ends_s = self._clock() + message.lease_s

    def renew(self, message: RenewLease) -> None:
        """Raises SlotConflictError when the rollout does not hold the slot, or has tripped."""
        _require_lease(message.lease_s)
        self._held_by(message.rollout).lease_ends_s = self._clock() + message.lease_s

    def promote(self, message: PromoteSlot, remember: Callable[[State], None]) -> None:
        """Makes the challenger the champion, if the champion is still the expected one; the same again is a success.

        So does the version of a holdout, which is over then. With `message.holdout` the replaced champion is kept.

        `remember` makes it durable first, so that after a crash the server comes up with what it last promised.

        Raises:
            SlotConflictError: another champion, no such challenger, or a challenger that has tripped.
            OSError: it cannot be remembered; nothing has changed then.
        """
        champion = self.champion
        if champion is not None and champion.model.version == message.version:
            return
        serving = champion.model.version if champion else None
        # a champion that is remembered but could not be loaded may be replaced by whoever knows of it, or of none
        allowed = {serving} if champion else {None, self._remembered.champion.version if self._remembered else None}
        if message.expected not in allowed:
            raise SlotConflictError(f"the champion is {serving or 'nobody'}, expected was {message.expected}")
        model, keep, kept = self._promotable(message.version), message.holdout, None
        if keep is not None and champion is not None:
            kept = Held.begin(champion.model, keep.rollout, keep.share)
        self._remember(State(champion=name_of(model), holdout=kept.remembered if kept else None), remember)
        self.install_champion(model)
        self.challenger, self.holdout = None, kept
        logger.info("promoted: version %s in place of %s", model.version, serving)

    def _promotable(self, version: str) -> Model:
        """The model of `version`, which is at hand. Raises SlotConflictError."""
        if self.holdout is not None and self.holdout.model.version == version:
            return self.holdout.model
        challenger = self._current()
        if challenger is None or challenger.model.version != version:
            found = challenger.model.version if challenger else "nobody"
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
            self._remember(State(champion=remembered.champion), remember)  # also of one that could not be loaded
        if is_mine:
            self.holdout = None
        return is_mine

    def install_champion(self, model: Model) -> None:
        """Puts `model` into the champion's slot, with counts from zero."""
        self.champion = Slot(model=model, counts=SlotCounts(version=model.version))

    def drop(self, rollout: str) -> bool:
        """Empties the challenger's slot if `rollout` holds it; says whether it did."""
        if self.challenger is None or self.challenger.rollout != rollout:
            return False
        self.challenger = None
        return True

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
        if self.challenger is not None and flags.flags.sticky_by != before.flags.sticky_by:
            self.challenger.phase += 1  # what sticks is what is counted: it is other units from now on
        self.adopt_flags(flags)
        logger.info("flags: revision %d by %r, since %r: %r", flags.revision, flags.by, flags.reason, flags.flags)

    def adopt_flags(self, flags: FlagsInForce) -> None:
        """Goes by `flags` from the next request on."""
        if flags != self.flags:
            self.flag_rules = rules_of(flags.flags)
        self.flags, self.flags_problem = flags, None

    def inject_fault(self, message: InjectFault) -> None:
        """The challenger does what `message` says from now on. Raises SlotConflictError, SlotMessageError."""
        if self.challenger is None:
            raise SlotConflictError("there is no challenger to fail")
        try:
            self.challenger.suffer(message.error_share, message.fault)
        except FaultError as error:
            raise SlotMessageError(str(error)) from error

    def observe(self) -> Observation:
        """Both slots at this instant."""
        challenger = self._current()
        now = self._clock()
        lease_ends = challenger.lease_ends_s if challenger else None
        if challenger is not None:
            self._close_strata(challenger)
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
        )

    def _held_by(self, rollout: str) -> Challenger:
        challenger = self._current()
        if challenger is None or challenger.rollout != rollout:
            holder = repr(challenger.rollout) if challenger else "nobody"
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


def _require_lease(lease_s: float) -> None:
    if not 0 < lease_s <= MAXIMUM_LEASE_S:
        raise SlotMessageError(f"lease_s is {lease_s:g}, expected more than 0 and at most {MAXIMUM_LEASE_S:g}")
