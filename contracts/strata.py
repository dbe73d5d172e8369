"""What both versions did to which entities, second by second: the counts that a rollout's judge rests on.

Assignment is sticky, so the unit of analysis is the entity. A client that always fails is one failing entity on one
side, however many requests it sends: in each metric an entity is counted as failed **once** in a rollout, at the
first time, and has been at risk in every stratum up to then in which it was active. Under equality the side of those
who fail in a stratum is then that of a draw from all at risk, whatever the base rate does and whoever asks how often.
"""

import msgspec

ERRORS, SLOW_P50, SLOW_P95, SLOW_P99 = "errors", "slow_p50", "slow_p95", "slow_p99"
UNIT_METRICS = (ERRORS, SLOW_P50, SLOW_P95, SLOW_P99)
QUANTILES = (0.5, 0.95, 0.99)  # of the champion's latency, for the metrics slow_p50, slow_p95 and slow_p99
STRATUM_S = 1.0
KEPT_STRATA = 120  # closed strata that an observation carries: a judge that missed more has lost them
DIFFERENCE_BINS = 64  # of differences of scores in the shadow
MAXIMUM_SLICES = 50  # further values are counted together
OTHER_SLICE = "(other)"
UNIT_SCORE_BINS = 10  # by the champion's own deciles of earlier strata


class Exposure(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """`at_risk` entities were active and had not failed before; to `happened` of them it happened in this stratum."""

    at_risk: int = 0
    happened: int = 0


class UnitCounts(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One version in one stratum. All counts are of entities, never of requests, unless it is said.

    `new` are those that this rollout saw for the first time: whether they are split as configured is the first check.
    `rollout` has each metric with "before" meaning since the rollout began, `phase` since the share was last set.
    `scores` counts the first answer that an entity got in this phase, by the stratum's `score_edges`.
    `requests` is of requests, for people.
    """

    version: str
    entities: int = 0
    new: int = 0
    requests: int = 0
    rollout: dict[str, Exposure] = {}
    phase: dict[str, Exposure] = {}
    scores: tuple[int, ...] = (0,) * UNIT_SCORE_BINS


class Stratum(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A closed interval of about a second in which the share did not change. Not counted: cached answers, rows that the
    champion answers in the challenger's place, shadow rows, synthetic requests, and clients whose version is pinned.

    `number` grows by one from stratum to stratum of a server process. `latency_cuts_s` are the champion's quantiles
    (`QUANTILES`) of earlier strata, empty until there are enough answers; slow is above the cut and the plan's floor.
    `score_edges` are the inner edges of the score bins, deciles of the champion's scores in earlier strata, empty
    until there are enough; then no scores are counted.
    """

    number: int
    closed_s: float
    seconds: float
    rollout: str
    share: float
    phase: int
    champion: UnitCounts
    challenger: UnitCounts
    latency_cuts_s: tuple[float, ...] = ()
    score_edges: tuple[float, ...] = ()


class SlicePairs(msgspec.Struct, frozen=True, kw_only=True):
    """Pairs of one slice, of each entity the first: how scores differ, and how many decisions turn over.

    `challenger_only` is of how many entities only the challenger failed; for people, the judge asks for all slices.
    """

    pairs: int = 0
    challenger_only: int = 0
    flips: int = 0
    differences: tuple[int, ...] = (0,) * DIFFERENCE_BINS


class PairCounts(msgspec.Struct, frozen=True, kw_only=True):
    """Cumulative counts of pairs of answers to the same request in the shadow.

    `challenger_only` and `champion_only` are the discordant pairs of each metric: it happened on that side and not on
    the other; of each entity only the first counts. `differences` counts the challenger's score less the champion's, of
    each entity's first pair in which both have one, in `DIFFERENCE_BINS` bins of equal width over [-1, 1]; `slices` has
    them by the value of the field that the plan names, in the order in which the values came.
    """

    challenger_only: dict[str, int] = {}
    champion_only: dict[str, int] = {}
    differences: tuple[int, ...] = (0,) * DIFFERENCE_BINS
    slices: dict[str, SlicePairs] = {}
