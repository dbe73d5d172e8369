"""Messages between whoever runs a rollout and the model server, as JSON on its control routes."""

from typing import Literal

import msgspec

from contracts.faults import Fault
from contracts.strata import PairCounts, Stratum

SCORE_BINS = 10  # equal width over [0, 1]
# upper edges in seconds of the latency histogram's buckets, 4 to an octave, from 50 µs to 13 s; one more is open
LATENCY_EDGES_S = tuple(5e-5 * 2 ** (step / 4) for step in range(73))
MAXIMUM_HARD_LIMIT_WINDOW = 10_000
MAXIMUM_HOLDOUT_SHARE = 0.05
MAXIMUM_CHALLENGERS = 8  # at a time


class HardLimits(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What the server itself holds: failures of `errors` entities in a challenger's last `window` requests end it.

    Counted are entities and not requests: one client that always fails says little about a version, unless each of the
    last `window` requests failed. A request that the champion fails on as well does not count. `memory_mb` (10^6 bytes)
    is by how much the process may grow since the challenger was loaded; null: by any.
    """

    errors: int = 8
    window: int = 20
    memory_mb: float | None = None

    def __post_init__(self) -> None:
        if self.memory_mb is not None and self.memory_mb <= 0:
            raise ValueError(f"memory_mb is above 0 or null, found {self.memory_mb:g}")
        if not 1 <= self.errors <= self.window <= MAXIMUM_HARD_LIMIT_WINDOW:
            raise ValueError(
                f"hard limits need 1 <= errors <= window <= {MAXIMUM_HARD_LIMIT_WINDOW}, "
                f"found errors {self.errors} and window {self.window}"
            )


class Lane(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One of `of` equal parts of the entities, `place` from 0, which `experiment` gives one challenger each.

    Within its lane a challenger has its share as one that is alone has it of all entities: see `contracts.assignment`.
    """

    experiment: str
    place: int
    of: int

    def __post_init__(self) -> None:
        if not 2 <= self.of <= MAXIMUM_CHALLENGERS or not 0 <= self.place < self.of:
            raise ValueError(
                f"a lane is one of 2 to {MAXIMUM_CHALLENGERS}, numbered from 0; found place {self.place} of {self.of}"
            )


class LoadSlot(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Load the bundle at `path`, whose id must be `bundle`, as registry version `version`.

    An answer within `latency_floor_ms` never counts as slow. In the shadow answers are also compared by the values of
    the category field `slice_by`, where there is one. Challengers of one experiment are loaded beside each other, each
    with its `lane`; one without takes the place of whatever has no share and no lease.
    """

    version: str
    bundle: str
    path: str
    rollout: str | None = None
    hard_limits: HardLimits = HardLimits()
    latency_floor_ms: float = 0.0
    slice_by: str | None = None
    lane: Lane | None = None


class SetShare(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Give the challenger of `rollout` this share of the entities, or let it shadow, for `lease_s` seconds from now.

    In its shadow it is given a copy of the share `sample` of the requests, drawn one by one. With the `lane` that it
    was loaded with, all that is of the entities in this lane; without one of all entities, of which no other challenger
    may have a part then. `fence` is the ledger's last entry of this rollout that whoever asks has read: who has read
    less than somebody that was obeyed is refused. None, from a hand and not a controller, is not compared.
    """

    rollout: str
    share: float
    shadow: bool = False
    sample: float = 1.0
    lease_s: float = 15.0
    lane: Lane | None = None
    fence: int | None = None


class RenewLease(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Keep the share of `rollout` for `lease_s` seconds from now; `fence` as in `SetShare`."""

    rollout: str
    lease_s: float = 15.0
    fence: int | None = None


class KeepHoldout(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Keep the old champion for `share` of the entities: those that the challenger of `rollout` comes to last."""

    rollout: str
    share: float

    def __post_init__(self) -> None:
        if not 0 < self.share <= MAXIMUM_HOLDOUT_SHARE:
            raise ValueError(f"a holdout's share lies in (0, {MAXIMUM_HOLDOUT_SHARE}], found {self.share}")


class PromoteSlot(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Make the challenger `version` the champion, if the champion is still `expected` (compare-and-swap).

    The version that a holdout has kept warm may be named as well: it leads again at once, and the holdout is over.
    With `holdout` the champion that is replaced stays warm, and goes on answering that share. `fence` is the ledger's
    entry since which the version leads: that of an earlier reign than one that was obeyed is refused, also after a
    restart. None, from a hand, is not compared.
    """

    version: str
    expected: str | None
    holdout: KeepHoldout | None = None
    fence: int | None = None


class InjectFault(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Only where the settings allow it: what the challenger does wrong from now on; without anything, nothing more.

    It fails on `error_share` of its requests, and has `fault` in its graph's place. Where there are several
    challengers, `rollout` says which.
    """

    rollout: str | None = None
    error_share: float = 0.0
    fault: Fault | None = None

    def __post_init__(self) -> None:
        if not 0 <= self.error_share <= 1:
            raise ValueError(f"error_share is {self.error_share:g}, expected 0 to 1")


class SlotCounts(msgspec.Struct, kw_only=True):
    """Cumulative counts of one version since it was loaded into its slot; a request here is one record.

    `requests` includes `errors`; latency and scores are of the answers. Rows that the champion answers in a failed
    challenger's place, shadow rows and requests for a version by name are counted for neither side: they are not
    assigned by chance.
    """

    version: str
    requests: int = 0
    errors: int = 0
    latency: list[int] = msgspec.field(default_factory=lambda: [0] * (len(LATENCY_EDGES_S) + 1))
    scores: list[int] = msgspec.field(default_factory=lambda: [0] * SCORE_BINS)


class ShadowCounts(msgspec.Struct, kw_only=True):
    """Pairs of answers to the same request; `flips` is how many decisions would have been another.

    `dropped` rows were drawn, and left out since the server was busy; of rows that were not drawn nothing is counted.
    `latency` is the challenger's, `champion_latency` that of the champion's answers to the same requests.
    """

    pairs: int = 0
    errors: int = 0
    flips: int = 0
    dropped: int = 0
    absolute_difference_sum: float = 0.0
    latency: list[int] = msgspec.field(default_factory=lambda: [0] * (len(LATENCY_EDGES_S) + 1))
    champion_latency: list[int] = msgspec.field(default_factory=lambda: [0] * (len(LATENCY_EDGES_S) + 1))
    scores: list[int] = msgspec.field(default_factory=lambda: [0] * SCORE_BINS)


class Held(msgspec.Struct, frozen=True, kw_only=True):
    """The old champion in a holdout: the rollout that replaced it, its share, and its counts since then.

    As everywhere, `counts` are of the rows that came to it by chance, not of those answered in the champion's place.
    """

    rollout: str
    share: float
    counts: SlotCounts


class Tripped(msgspec.Struct, frozen=True, kw_only=True):
    """Why the server itself took the challenger's share away; seconds are of the server's clock."""

    cause: Literal["hard_limit", "lease"]
    reason: str
    seconds_since_first_error: float | None = None
    challenger_requests_since_first_error: int | None = None


class Beside(msgspec.Struct, frozen=True, kw_only=True):
    """Another challenger than the one that was asked about: which, and what it has. `share` is that of its lane."""

    rollout: str | None
    version: str
    share: float
    shadow: bool
    lease_left_s: float
    lane: Lane | None = None
    tripped: Tripped | None = None


class Observation(msgspec.Struct, frozen=True, kw_only=True):
    """What the judge sees: the state of both slots at one instant. `clock_s` is monotonic within one server process.

    `share` is of the entities in `lane`, where the challenger has one; `beside` are the other challengers. `fence` is
    the ledger's entry of the latest reign that the server was told of.
    """

    server: str
    clock_s: float
    rollout: str | None
    share: float
    shadow: bool
    lease_left_s: float
    champion: SlotCounts | None
    challenger: SlotCounts | None
    shadowed: ShadowCounts | None
    tripped: Tripped | None = None
    strata: tuple[Stratum, ...] = ()
    pairs: PairCounts | None = None
    holdout: Held | None = None
    lane: Lane | None = None
    beside: tuple[Beside, ...] = ()
    fence: int | None = None
