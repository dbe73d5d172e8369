"""The challengers of one server process as requests ask them: who has a share now, what is counted, and what ends one.

Several are there only in an experiment (`serving.lanes`). Each has a lease and hard limits of its own.
"""

import logging
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Literal

from contracts.assignment import unit
from contracts.slots import Tripped
from contracts.strata import STRATUM_S
from serving.challenger import Challenger, count_answer, late_text, limit_text, take_away
from serving.lanes import Lanes, lanes_of

_REMEMBERED_TRIPS = 1000
logger = logging.getLogger(__name__)


class Challengers:
    """`challenger` is the first of the `challengers`, and the only one but in an experiment.

    `lanes` are those in force. The clock is monotonic and given from outside.
    """

    def __init__(self, *, clock: Callable[[], float] = time.monotonic) -> None:
        self.challenger: Challenger | None = None
        self.challengers: tuple[Challenger, ...] = ()
        self.lanes: Lanes | None = None
        self.trips: dict[Literal["hard_limit", "lease"], int] = {"hard_limit": 0, "lease": 0}
        self._clock = clock
        self._tripped_rollouts: dict[str, str] = {}

    def seat(self, challengers: Iterable[Challenger]) -> None:
        """Makes `challengers` those that there are."""
        self.challengers = tuple(challengers)
        self.challenger = self.challengers[0] if self.challengers else None
        self.lanes = lanes_of(self.challengers)

    def held_by(self, rollout: str | None) -> Challenger | None:
        """The challenger of `rollout`, if it is there."""
        return next((each for each in self.challengers if each.rollout == rollout), None)

    # -- what a request asks ---------------------------------------------------------------------------------------

    def sharing(self) -> Challenger | None:
        """The challenger while it has a share of all answers and a lease for it; with lanes there is none."""
        challenger = self._current()
        return challenger if challenger is not None and challenger.share > 0 and self.lanes is None else None

    def shadowing(self) -> Challenger | None:
        """The challenger while it shadows all answers under a lease; with lanes there is none."""
        challenger = self._current()
        return challenger if challenger is not None and challenger.shadow and self.lanes is None else None

    def in_lane(self, place: int) -> Challenger | None:
        """The challenger whose lane is `place`, where it has not lost it."""
        for challenger in self.challengers:
            if challenger.lane is not None and challenger.lane.place == place:
                return self._checked(challenger)
        return None

    def is_shadowing(self, challenger: Challenger) -> bool:
        """Whether `challenger` still shadows under a lease."""
        return any(each is challenger for each in self.challengers) and self._checked(challenger).shadow

    def is_asked(self, challenger: Challenger) -> bool:
        """Whether `challenger` is still in its place and has not tripped."""
        return challenger.tripped is None and any(each is challenger for each in self.challengers)

    def expire(self) -> None:
        """Takes share and shadow from challengers whose lease has run out; called by a timer as well."""
        for challenger in self.challengers:
            self._close_strata(self._checked(challenger))

    def check_memory(self, resident_mb: float) -> None:
        """Trips challengers since whose loading the process has grown by more than the hard limit; by a timer.

        Of several nobody can tell whose memory it is: each that was there has grown by as much.
        """
        for challenger in self.challengers:
            if self._checked(challenger).tripped is None:
                self._check_memory(challenger, resident_mb)

    def _check_memory(self, challenger: Challenger, resident_mb: float) -> None:
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
        self.gather_each(challenger, arm, entities, [seconds] * len(scores), scores)

    def gather_each(
        self,
        challenger: Challenger,
        arm: int,
        entities: Sequence[str],
        seconds: Sequence[float],
        scores: Sequence[float],
    ) -> None:
        """The same for rows that took each its own time."""
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
        return None if self.challenger is None else self._checked(self.challenger)

    def _checked(self, challenger: Challenger) -> Challenger:
        """`challenger`, which has tripped if its lease has run out."""
        if challenger.lease_ends_s is None:
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
