"""The slots of several processes: what is decided is decided in the supervisor's, and the workers' follow.

Lease and hard limits hold in each worker by itself: a trip is on the board, where every worker sees it at its next
request, and whether a lease has run out each asks its own clock.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, cast

from contracts.assignment import unit
from contracts.slots import InjectFault, LoadSlot, Observation, RenewLease, SetShare, SlotCounts, Tripped
from contracts.strata import STRATUM_S
from serving.challenger import Challenger, late_text, limit_text, take_away
from serving.champion_file import Remembered, State
from serving.engine import Model
from serving.held import Held, name_of
from serving.slots import Slots
from serving.units import OpenStratum
from serving.workers.board import Board
from serving.workers.messages import ChallengerView, View

CRASHES = frozenset({"SIGSEGV", "SIGBUS", "SIGILL", "SIGFPE", "SIGABRT"})
MAXIMUM_ENDS = 3  # of workers in one rollout, whatever ends them


@dataclass(frozen=True)
class _BundleName:
    id: str
    path: Path


@dataclass(frozen=True)
class _ModelName:
    version: str
    bundle: _BundleName


def named(name: Remembered) -> Model:
    """Stands for a model that the workers have loaded: the supervisor decides by names, and never asks for a score."""
    return cast(Model, _ModelName(name.version, _BundleName(name.bundle, Path(name.path))))


class SharedSlots(Slots):
    """The supervisor's slots (`worker` is None), or those of one worker."""

    def __init__(
        self,
        *,
        server: str,
        board: Board,
        worker: int | None,
        clock: Callable[[], float] = time.monotonic,
        remembered: State | None = None,
    ) -> None:
        super().__init__(server=server, clock=clock, remembered=remembered)
        self._board = board
        self._worker = worker
        self._epoch = 0
        self._ends: dict[int, int] = {}

    # -- in every process ------------------------------------------------------------------------------------------

    def is_asked(self, challenger: Challenger) -> bool:
        """Whether `challenger` is still in its place and has not tripped, here or in another worker."""
        return self._adopted(challenger).tripped is None and super().is_asked(challenger)

    def _at(self, challenger: Challenger) -> Board:
        return self._board.at(challenger.seat)

    def _checked(self, challenger: Challenger) -> Challenger:
        ends_s = self._adopted(challenger).lease_ends_s
        if ends_s is None or (now_s := self._clock()) < ends_s:
            return challenger
        board = self._at(challenger)
        challenger.lease_ends_s = board.lease_ends_s  # a renewal is on the board, and no message
        late_s = now_s - challenger.lease_ends_s
        if late_s >= 0:
            tripped = self._tripped(challenger, "lease", late_text(challenger, late_s))
            if board.trip_when_over(challenger.epoch, now_s, tripped) is None:
                challenger.lease_ends_s = board.lease_ends_s
        return self._adopted(challenger)

    def _adopted(self, challenger: Challenger) -> Challenger:
        """`challenger`, with the trip that is on the board; it counts as an event in the supervisor alone."""
        if challenger.tripped is None and self._at(challenger).has_tripped(challenger.epoch):
            tripped = self._at(challenger).tripped(challenger.epoch)
            if tripped is not None and self._worker is None:
                self._record_trip(challenger, tripped)
            elif tripped is not None:
                take_away(challenger, tripped)
        return challenger

    def _tripped(self, challenger: Challenger, cause: Literal["hard_limit", "lease"], reason: str) -> Tripped:
        board, epoch = self._at(challenger), challenger.epoch
        first = board.first_error(epoch)
        return Tripped(
            cause=cause,
            reason=reason,
            seconds_since_first_error=None if first is None else self._clock() - first.at_s,
            challenger_requests_since_first_error=(
                None if first is None else board.requests(epoch) - first.position + 1
            ),
        )

    def _trip(self, challenger: Challenger, cause: Literal["hard_limit", "lease"], reason: str) -> None:
        """For all workers at once."""
        self._at(challenger).trip(challenger.epoch, self._tripped(challenger, cause, reason))
        self._adopted(challenger)

    # -- in a worker -----------------------------------------------------------------------------------------------

    def follow(self, view: View, models: Mapping[Remembered, Model]) -> None:
        """Takes over the state `view`, whose models are loaded; what stays in its slot keeps its counts."""
        if view.champion is None:
            self.champion = None
        elif self.champion is None or name_of(self.champion.model) != view.champion:
            self.install_champion(models[view.champion])
        self.adopt_flags(view.flags)
        self._follow_holdout(view, models)
        held = {challenger.epoch: challenger for challenger in self.challengers}
        followed = [self._followed(told, held.get(told.epoch), models) for told in view.challengers]
        self.seat(challenger for challenger in followed if challenger is not None)

    def _followed(
        self, told: ChallengerView, challenger: Challenger | None, models: Mapping[Remembered, Model]
    ) -> Challenger | None:
        if challenger is None:
            if told.is_tripped:  # what has tripped is loaded by nobody who does not hold it
                return None
            challenger = Challenger(
                model=models[told.name],
                counts=SlotCounts(version=told.name.version),
                rollout=told.rollout,
                hard_limits=told.hard_limits,
                slice_by=told.slice_by,
                seat=told.seat,
                epoch=told.epoch,
            )
            if self._worker is not None:
                self._at(challenger).begin(self._worker, told.epoch)
        challenger.lane = told.lane
        challenger.share, challenger.shadow, challenger.phase = told.share, told.shadow, told.phase
        challenger.sample, challenger.lease_ends_s = told.sample, told.lease_ends_s
        challenger.suffer(told.fault_share, told.fault)
        if (tripped := self._adopted(challenger).tripped) is not None:
            take_away(challenger, tripped)  # after the supervisor had made this view
        return challenger

    def _follow_holdout(self, view: View, models: Mapping[Remembered, Model]) -> None:
        told = view.holdout
        if told is None:
            self.holdout = None
        elif self.holdout is None or self.holdout.remembered != told:
            self.holdout = Held.begin(models[told.model], told.rollout, told.share)

    def count_challenger_error(self, challenger: Challenger, entity: str, *, is_counted: bool = True) -> None:
        """As in one process; the window is that of all workers together."""
        worker = self._require_worker()
        challenger.counts.errors += is_counted
        failed = unit(challenger.position_salt, entity)
        self._count_request(challenger, failed=failed, is_counted=is_counted)
        limits = challenger.hard_limits
        board = self._at(challenger)
        found = board.count_error(worker, challenger.epoch, limits.window, self._clock(), failed)
        if found >= limits.errors and challenger.tripped is None:
            requests = min(limits.window, board.requests(challenger.epoch))
            self._trip(challenger, "hard_limit", limit_text(limits, found, requests))

    def forgive(self, challenger: Challenger, entity: str) -> None:
        """As in one process."""
        super().forgive(challenger, entity)
        self._at(challenger).forgive(self._require_worker(), unit(challenger.position_salt, entity))

    def _count_request(self, challenger: Challenger, *, failed: int | None, is_counted: bool) -> None:
        challenger.counts.requests += is_counted
        self._at(challenger).count_request(self._require_worker())

    def _require_worker(self) -> int:
        if self._worker is None:
            raise RuntimeError("the supervisor answers no requests")
        return self._worker

    def handed_over(self) -> dict[int, list[OpenStratum]]:
        """What was gathered in strata that are over, by the challenger's epoch."""
        before = int(self._clock() / STRATUM_S)
        return {each.epoch: each.gathered.before(before) for each in self.challengers}

    def observe_all(self) -> list[Observation]:
        """An observation for each challenger; one where there is none."""
        return [self.observe(each.rollout) for each in self.challengers] or [self.observe()]

    # -- in the supervisor -----------------------------------------------------------------------------------------

    def place(self, load: LoadSlot, model: Model) -> None:
        """As in one process; a new challenger begins a new epoch."""
        before = self.challengers
        super().place(load, model)
        if self.challengers != before:
            self._epoch += 1
            self.challengers[-1].epoch = self._epoch

    def set_share(self, message: SetShare) -> None:
        """As in one process; raises SlotConflictError also when a worker has tripped meanwhile."""
        super().set_share(message)
        self._give_lease(message.rollout)

    def renew(self, message: RenewLease) -> None:
        """As `set_share`. All workers see the new end at once."""
        super().renew(message)
        self._give_lease(message.rollout)

    def inject_fault(self, message: InjectFault) -> None:
        """As in one process; it is the workers whose graphs it concerns."""
        challenger = self.to_fail(message)
        challenger.fault_share, challenger.fault = message.error_share, message.fault

    def blame(self, crash: str) -> bool:
        """A worker has ended by `crash`; whether that trips a challenger, if one is asked now.

        An end by a bad memory access or the like does, since only native code does such; of other ends, which may be
        somebody's hand, the third in a rollout. Of several challengers nobody can tell whose end it was: all trip.
        """
        blamed = [challenger for challenger in self.challengers if self._is_blamed(self._checked(challenger), crash)]
        for challenger in blamed:
            self._trip(challenger, "hard_limit", f"a worker that held the challenger has ended by {crash}")
        return bool(blamed)

    def _is_blamed(self, challenger: Challenger, crash: str) -> bool:
        if challenger.tripped is not None or not (challenger.share > 0 or challenger.shadow):
            return False
        self._ends[challenger.epoch] = self._ends.get(challenger.epoch, 0) + 1
        return crash in CRASHES or self._ends[challenger.epoch] >= MAXIMUM_ENDS

    def abandon(self, rollout: str | None) -> None:
        """Takes the challenger of `rollout` away; without a name all."""
        self.seat(each for each in self.challengers if rollout is not None and each.rollout != rollout)

    def view(self, generation: int, not_ready: str | None) -> View:
        """The state that the workers are to be in."""
        self.expire()
        return View(
            generation=generation,
            champion=name_of(self.champion.model) if self.champion else None,
            not_ready=not_ready,
            flags=self.flags,
            holdout=self.holdout.remembered if self.holdout else None,
            challengers=tuple(_view_of(challenger) for challenger in self.challengers),
        )

    def absorb(self, gathered: Mapping[int, Sequence[OpenStratum]]) -> None:
        """What a worker has gathered for the challengers, by their epochs."""
        for challenger in self.challengers:
            challenger.gathered.absorb(gathered.get(challenger.epoch, ()))

    def close_strata(self, before_s: float) -> None:
        """Every worker has handed over what it gathered before `before_s`."""
        for challenger in self.challengers:
            super()._close_strata(challenger, int(before_s / STRATUM_S))

    def _close_strata(self, challenger: Challenger, index: int | None = None) -> None:
        """Nothing: strata are closed in the supervisor, when all workers have handed theirs over."""

    def _give_lease(self, rollout: str) -> None:
        challenger = self.held_by(rollout)
        if challenger is not None and challenger.lease_ends_s is not None:
            self._at(challenger).renew(challenger.epoch, challenger.lease_ends_s)
            self._held_by(rollout)


def _view_of(challenger: Challenger) -> ChallengerView:
    return ChallengerView(
        epoch=challenger.epoch,
        seat=challenger.seat,
        lane=challenger.lane,
        name=name_of(challenger.model),
        rollout=challenger.rollout,
        hard_limits=challenger.hard_limits,
        share=challenger.share,
        shadow=challenger.shadow,
        sample=challenger.sample,
        lease_ends_s=challenger.lease_ends_s,
        fault_share=challenger.fault_share,
        fault=challenger.fault,
        is_tripped=challenger.tripped is not None,
        phase=challenger.phase,
        slice_by=challenger.slice_by,
    )
