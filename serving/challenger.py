"""A model in its slot, the challenger with everything that its rollout rests on, and how their answers are counted."""

from bisect import bisect_left
from collections import Counter, deque
from collections.abc import Sequence
from dataclasses import dataclass, field

from contracts.assignment import unit
from contracts.faults import Fault
from contracts.slots import LATENCY_EDGES_S, SCORE_BINS, HardLimits, Lane, LoadSlot, ShadowCounts, SlotCounts, Tripped
from contracts.strata import DIFFERENCE_BINS, ERRORS, MAXIMUM_SLICES, OTHER_SLICE, PairCounts, SlicePairs
from serving.engine import Model, ModelRefusedError
from serving.faulty import faulty
from serving.units import Gathered, UnitBook

CHAMPION, CHALLENGER = 0, 1  # the arms of a stratum
MAXIMUM_DISCORDANT = 100_000  # entities; long before, the shadow has ended
MAXIMUM_COMPARED = 100_000  # entities


@dataclass(eq=False)
class Slot:
    """A model in its place, with its counts since it came there."""

    model: Model
    counts: SlotCounts


@dataclass(eq=False, slots=True)
class SliceTally:
    """Pairs of one slice: how many decisions turned over, and how scores differ."""

    flips: int = 0
    challenger_only: int = 0
    differences: list[int] = field(default_factory=lambda: [0] * DIFFERENCE_BINS)


@dataclass(eq=False)
class Challenger(Slot):
    """The challenger, and everything that its rollout rests on; all of it goes when the challenger goes."""

    rollout: str | None
    hard_limits: HardLimits
    share: float = 0.0
    shadow: bool = False
    sample: float = 1.0  # of the requests, for its shadow
    lease_ends_s: float | None = None
    tripped: Tripped | None = None
    fault_share: float = 0.0
    fault: Fault | None = None
    shadowed: ShadowCounts = field(default_factory=ShadowCounts)
    recent: deque[int | None] = field(default_factory=deque)  # the entity that a request failed for, or None
    recent_errors: int = 0
    latency_floor_ms: float = 0.0
    phase: int = 0
    gathered: Gathered = field(default_factory=Gathered)
    book: UnitBook | None = None
    first_error_s: float | None = None
    requests_since_first_error: int = 0
    compared: set[int] = field(default_factory=set)  # entities of the shadow whose scores were compared
    differences: list[int] = field(default_factory=lambda: [0] * DIFFERENCE_BINS)
    slice_by: str | None = None
    slices: dict[str, SliceTally] = field(default_factory=dict)
    discordant: dict[int, str] = field(default_factory=dict)  # entities of the shadow that only one version failed
    least_resident_mb: float | None = None  # the process, since the challenger was loaded
    lane: Lane | None = None  # the entities that it may have a share of; None: all
    seat: int = 0  # of the seats that a server has, its own as long as it is there
    epoch: int = 0  # numbers the times that a seat was filled, where workers share them
    fence: int | None = None  # the latest entry of the ledger that anybody who was obeyed had read

    def __post_init__(self) -> None:
        self.sound = self.model  # without the fault that `suffer` may give it

    def suffer(self, error_share: float, fault: Fault | None) -> None:
        """Has these faults from now on. Raises FaultError when the model cannot have one."""
        if fault != self.fault:
            self.model = self.sound if fault is None else faulty(self.sound, fault)
        self.fault_share, self.fault = error_share, fault

    @property
    def position_salt(self) -> str:
        """What the sticky assignment is salted with: the rollout."""
        return self.rollout or ""

    def count_pair(self, entity: str, *, failed: bool, champion_failed: bool, value: str | None = None) -> None:
        """A request that both versions were asked, in the shadow. Of an entity the first pair that differs counts."""
        if failed == champion_failed or len(self.discordant) >= MAXIMUM_DISCORDANT:
            return
        position = unit(self.position_salt, entity)
        if position not in self.discordant:
            self.discordant[position] = "challenger" if failed else "champion"
            if failed and value is not None:
                self._slice(value).challenger_only += 1

    def count_difference(self, entity: str, difference: float, *, is_flip: bool, value: str | None) -> None:
        """The challenger's score less the champion's in the slice `value`. Of an entity the first counts."""
        position = unit(self.position_salt, entity)
        if position in self.compared or len(self.compared) >= MAXIMUM_COMPARED:
            return
        self.compared.add(position)
        place = min(max(int((difference + 1) / 2 * DIFFERENCE_BINS), 0), DIFFERENCE_BINS - 1)
        self.differences[place] += 1
        if value is None:
            return
        found = self._slice(value)
        found.flips += is_flip
        found.differences[place] += 1

    def _slice(self, value: str) -> SliceTally:
        if value not in self.slices and len(self.slices) >= MAXIMUM_SLICES - 1:
            value = OTHER_SLICE
        return self.slices.setdefault(value, SliceTally())

    @property
    def pairs(self) -> PairCounts:
        """Entities whose pairs differ in who failed, by side, and how the scores of pairs differ."""
        sides = Counter(self.discordant.values())
        return PairCounts(
            challenger_only={ERRORS: sides["challenger"]},
            champion_only={ERRORS: sides["champion"]},
            differences=tuple(self.differences),
            slices={
                value: SlicePairs(
                    pairs=sum(found.differences),
                    challenger_only=found.challenger_only,
                    flips=found.flips,
                    differences=tuple(found.differences),
                )
                for value, found in self.slices.items()
            },
        )


def require_slices(load: LoadSlot, model: Model) -> None:
    """Raises ModelRefusedError when `model` has no category that `load` wants to compare by, or it is personal."""
    kinds = {field.name: field.kind for field in model.schema.fields if not field.personal}
    if load.slice_by is not None and kinds.get(load.slice_by) != "category":
        allowed = ", ".join(name for name, kind in kinds.items() if kind == "category") or "none"
        raise ModelRefusedError(f"slice_by is {load.slice_by}, expected a category of the schema: {allowed}")


def count_answer(counts: SlotCounts | ShadowCounts, seconds: float, score: float) -> None:
    """Adds one answer's latency and score to the histograms of `counts`."""
    counts.latency[bisect_left(LATENCY_EDGES_S, seconds)] += 1
    place = int(score * SCORE_BINS)
    if not 0 <= place < SCORE_BINS:
        place = 0 if place < 0 else SCORE_BINS - 1
    counts.scores[place] += 1


def count_answers(counts: SlotCounts, seconds: float, scores: Sequence[float]) -> None:
    """As `count_answer`, for the rows of one request, whose answers took equally long."""
    counts.requests += len(scores)
    counts.latency[bisect_left(LATENCY_EDGES_S, seconds)] += len(scores)
    bins = counts.scores
    for score in scores:
        place = int(score * SCORE_BINS)
        bins[place if 0 <= place < SCORE_BINS else (0 if place < 0 else -1)] += 1


def count_each(all_counts: Sequence[SlotCounts], seconds: Sequence[float], scores: Sequence[float]) -> None:
    """As `count_answer`, for rows of several requests, to each of `all_counts`."""
    buckets = [bisect_left(LATENCY_EDGES_S, each) for each in seconds]
    places = [min(max(int(score * SCORE_BINS), 0), SCORE_BINS - 1) for score in scores]
    for counts in all_counts:
        counts.requests += len(scores)
        latency, bins = counts.latency, counts.scores
        for bucket in buckets:
            latency[bucket] += 1
        for place in places:
            bins[place] += 1


def take_away(challenger: Challenger, tripped: Tripped) -> None:
    """Share, shadow and lease of a challenger that has tripped."""
    challenger.share, challenger.shadow, challenger.lease_ends_s = 0.0, False, None
    challenger.tripped = tripped


def limit_text(limits: HardLimits, errors: int, requests: int) -> str:
    """Why a challenger has tripped that failed for too many entities, or on each of its last requests."""
    if errors < limits.errors:
        return f"an error in each of the last {requests} challenger requests"
    return f"errors for {errors} entities in the last {requests} challenger requests >= limit {limits.errors}"


def late_text(challenger: Challenger, late_s: float) -> str:
    """Why a challenger has tripped whose lease ran out `late_s` seconds ago."""
    had = "its shadow" if challenger.shadow else f"its share of {challenger.share:g}"
    return f"the lease ran out {late_s:.3f} s ago and nobody renewed it; {had} is gone"
