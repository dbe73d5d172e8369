"""The plan of a rollout: which steps a challenger takes, how long each lasts, and how much worse is too much."""

from hashlib import sha256
from itertools import pairwise
from typing import Literal, NamedTuple
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

import msgspec

from contracts.slots import MAXIMUM_CHALLENGERS, MAXIMUM_HOLDOUT_SHARE, HardLimits
from contracts.strata import ERRORS, QUANTILES, SLOW_P99, UNIT_METRICS

LEASE_LOOKS_MIN = 3  # a lease outlives at least two lost looks


def _at_least(name: str, found: float, minimum: float) -> None:
    if found < minimum:
        raise ValueError(f"{name} is at least {minimum}, found {found}")


def _check_times(name: str, minimum_s: float, maximum_s: float) -> None:
    if not 0 <= minimum_s <= maximum_s:
        raise ValueError(f"{name}.minimum_s lies between 0 and maximum_s, found {minimum_s} with maximum_s {maximum_s}")


class ShadowStep(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The challenger answers in the shadow of the champion until `minimum_pairs` and `minimum_s` are reached.

    Seconds are counted from the phase's start. More than `maximum_flip_share` of the decisions turned
    over, a mean score more than `maximum_shift` above or below the champion's for the same requests, or `maximum_s`
    without the pairs, ends the rollout. Both are also asked within each value of the category field `slice_by`.
    Without a `maximum_shift` scores are not compared in pairs: the steps compare them. The challenger gets a copy of
    the share `sample` of the requests, which bounds what it costs; pairs come as slowly.
    """

    minimum_pairs: int = 200
    minimum_s: float = 10.0
    maximum_s: float = 3600.0
    maximum_flip_share: float = 0.35
    maximum_shift: float | None = 0.2
    slice_by: str | None = None
    sample: float = 1.0

    def __post_init__(self) -> None:
        if not 0 < self.sample <= 1:
            raise ValueError(f"shadow.sample is a share of the requests in (0, 1], found {self.sample}")
        _check_times("shadow", self.minimum_s, self.maximum_s)
        _at_least("shadow.minimum_pairs", self.minimum_pairs, 1)
        if not 0 < self.maximum_flip_share <= 1:
            raise ValueError(f"shadow.maximum_flip_share lies in (0, 1], found {self.maximum_flip_share}")
        if self.maximum_shift is not None and not 0 < self.maximum_shift < 1:
            raise ValueError(f"shadow.maximum_shift is a difference of means in (0, 1), found {self.maximum_shift}")
        if self.maximum_shift is None and self.slice_by is not None:
            raise ValueError(f"shadow.slice_by is {self.slice_by!r}: slices need a shadow.maximum_shift as well")


class Step(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The challenger answers `share` of the entities until `minimum_requests` (its own) and `minimum_s` are reached.

    When `maximum_s` has passed without a verdict, `on_timeout` says what that means. `coverage` is the share of the
    usual traffic, by hour of the day and segment, that the challenger has to have seen since the rollout began: a step
    that lacks it never advances by `on_timeout`. None asks for nothing.
    """

    share: float
    minimum_requests: int = 200
    minimum_s: float = 10.0
    maximum_s: float = 3600.0
    on_timeout: Literal["wait", "advance", "rollback"] = "rollback"
    coverage: float | None = None

    def __post_init__(self) -> None:
        if self.coverage is not None and not 0 < self.coverage <= 1:
            raise ValueError(f"steps.coverage lies in (0, 1] or is null, found {self.coverage}")
        if not 0 < self.share <= 1:
            raise ValueError(f"steps.share lies in (0, 1], found {self.share}")
        _at_least("steps.minimum_requests", self.minimum_requests, 1)
        _check_times("steps", self.minimum_s, self.maximum_s)


class Coverage(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What the usual traffic is that a step's `coverage` is a share of, and how it is read from the prediction log.

    The reference are the requests of the `reference_days` before the rollout, by hour of the day in `time_zone` at
    which they were `served` (or by the hour of the record's own time, with `event`) and by the values of the record's
    field `segment`. A cell is seen with `minimum_per_cell` requests of the challenger. A log with traffic on fewer than
    `minimum_days` days is no reference: then the steps `wait`, or `ignore` what they ask. Read every `read_every_s`.
    """

    segment: str | None = None
    by: Literal["served", "event"] = "served"
    time_zone: str = "UTC"
    minimum_per_cell: int = 5
    reference_days: int = 28
    minimum_days: int = 7
    without_reference: Literal["wait", "ignore"] = "wait"
    read_every_s: float = 60.0

    def __post_init__(self) -> None:
        _at_least("coverage.minimum_per_cell", self.minimum_per_cell, 1)
        _at_least("coverage.minimum_days", self.minimum_days, 1)
        _at_least("coverage.reference_days", self.reference_days, self.minimum_days)
        _at_least("coverage.read_every_s", self.read_every_s, 1)
        try:
            ZoneInfo(self.time_zone)
        except (ZoneInfoNotFoundError, ValueError, OSError):
            raise ValueError(f"coverage.time_zone is a name such as Europe/Berlin, found {self.time_zone!r}") from None


Question = Literal["first_step", "full"]


class Approvals(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """When a person is asked: before the first step, before 100 %, or never.

    Meanwhile the share stays as it is, and the judge may roll back. Without an answer in `timeout_s`, `on_timeout`.
    """

    before_first_step: bool = False
    before_full: bool = False
    timeout_s: float = 86_400.0
    on_timeout: Literal["approve", "reject"] = "reject"

    def __post_init__(self) -> None:
        if self.timeout_s <= 0:
            raise ValueError(f"approvals.timeout_s is above 0, found {self.timeout_s}")

    def question(self, step: int, steps: int) -> Question | None:
        """What is asked before `step` (from 0) of `steps`, if anything; one question where it is first and last."""
        if self.before_first_step and step == 0:
            return "first_step"
        return "full" if self.before_full and step == steps - 1 else None


class AlphaShares(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """How the plan's alpha is shared out over what the judge compares; at most 1 together. A share of 0 asks nothing.

    `slow_p50`, `slow_p95` and `slow_p99` are answers slower than the champion's quantiles, `split` is whether entities
    are divided as configured, `flips` are decisions that turn over in the shadow. `quality` is for a plan that compares
    by outcomes, which takes it from another share.
    """

    errors: float = 0.45
    slow_p50: float = 0.05
    slow_p95: float = 0.1
    slow_p99: float = 0.05
    scores: float = 0.15
    flips: float = 0.1
    split: float = 0.1
    quality: float = 0.0

    def __post_init__(self) -> None:
        found = [getattr(self, name) for name in self.__struct_fields__]
        if min(found) < 0 or sum(found) > 1 + 1e-9:
            raise ValueError(f"alpha_shares are at least 0 and at most 1 together, found {found}")


class Holdout(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What stays on the old champion after 100 %, until outcomes say which version was better.

    `share` of the entities stay, those that no step shows the challenger. Compared is the mean `loss` of an entity: its
    Brier score, or its log loss with probabilities kept between 0.01 and 0.99. The new version stays when it is shown
    to be at most `margin` worse (in units of the loss), with an outcome for `minimum_outcomes` entities on each side;
    it is rolled back when it is shown to be worse. `alpha` bounds the probability of either by mistake. After
    `maximum_days` without a verdict, label delay included, `on_timeout` holds.
    """

    share: float = 0.05
    loss: Literal["brier", "log_loss"] = "brier"
    margin: float = 0.05
    minimum_outcomes: int = 50
    maximum_days: int = 14
    alpha: float = 0.01
    on_timeout: Literal["keep", "rollback"] = "keep"

    def __post_init__(self) -> None:
        if not 0 < self.share <= MAXIMUM_HOLDOUT_SHARE:
            raise ValueError(f"holdout.share lies in (0, {MAXIMUM_HOLDOUT_SHARE}], found {self.share}")
        if not 0 < self.margin < 1:
            raise ValueError(f"holdout.margin lies in (0, 1), found {self.margin}")
        if not 0 < self.alpha < 1:
            raise ValueError(f"holdout.alpha lies in (0, 1), found {self.alpha}")
        _at_least("holdout.minimum_outcomes", self.minimum_outcomes, 1)
        _at_least("holdout.maximum_days", self.maximum_days, 1)


class RateMargin(NamedTuple):
    """A step advances when `metric` is shown to happen to at most `margin` more of the entities than on the champion.

    `field` of the plan holds the margin, `words` are the metric's. `usual` is the champion's own rate where it is one
    by definition, None where only traffic tells it.
    """

    metric: str
    field: str
    words: str
    margin: float
    usual: float | None = None


class Quality(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What outcomes that arrive within the rollout must say of the shadow and of each step below 100 %.

    Compared is the mean `loss` of an entity, as in the holdout: of the same requests in the shadow, of entities that
    come to either version by chance in a step. A phase ends well only when the challenger is shown to be at most
    `margin` worse (in units of the loss), and it is rolled back when it is shown to be worse at all, and not to be
    within the margin. Outcomes are read every `every_s` seconds.
    """

    loss: Literal["brier", "log_loss"] = "brier"
    margin: float = 0.05
    every_s: float = 60.0

    def __post_init__(self) -> None:
        if not 0 < self.margin < 1:
            raise ValueError(f"quality.margin lies in (0, 1), found {self.margin}")
        _at_least("quality.every_s", self.every_s, 1)


DEFAULT_STEPS = tuple(Step(share=share) for share in (0.05, 0.1, 0.25, 0.5, 1.0))


class Plan(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """How a challenger is rolled out.

    `alpha` bounds the probability that a challenger within the margins is rolled back by the judge in the whole
    rollout, however many looks there are; `alpha_shares` says how it is shared out. Two margins are odds ratios: of
    failing, and of answering slower than the champion's quantiles of the seconds before. Scores are compared by the
    champion's own deciles, since a retrained model scores differently by right: `score_margin` is a difference of mean
    ranks (0 to 1), `score_odds_margin` an odds ratio of falling into one of the deciles. A step advances only when the
    failure rate is shown to be at most `error_rate_margin` above the champion's, and the rate of answers slower than
    the champion's p99 at most `slow_p99_rate_margin`; null asks for no such proof. An answer within `latency_floor_ms`
    is never slow. `hard_limits` are held by the server itself. `bootstrap` lets a project without a champion take its
    first one without traffic to compare with. `unreachable_s` bounds how long a silent server is asked again,
    `maximum_pause_s` how long a rollout stays paused before it is rolled back. `when_busy` says what a new offer does
    while another rollout of the project has not ended: it waits, ends that one, or is refused. `preflight` says whether
    a plan is begun with a phase that cannot reach its verdict at the traffic that there is.
    With `quality` outcomes are compared during the rollout, with the share `alpha_shares.quality`: for a project that
    knows them within minutes.
    With a `holdout` the last step stops short of its share, and the old champion keeps it until outcomes have matured.
    `challengers` is how many are rolled out beside each other in an experiment (docs/experiments.md), which `among`
    fills in: each has the steps' shares of its own lane, an equal part of the entities.
    """

    shadow: ShadowStep | None = ShadowStep()
    steps: tuple[Step, ...] = DEFAULT_STEPS
    alpha: float = 0.01
    alpha_shares: AlphaShares = AlphaShares()
    error_odds_margin: float = 1.0
    latency_odds_margin: float = 1.5
    score_margin: float = 0.3
    score_odds_margin: float = 10.0
    error_rate_margin: float | None = 0.05
    slow_p99_rate_margin: float | None = None
    hard_limits: HardLimits = HardLimits()
    approvals: Approvals = Approvals()
    coverage: Coverage = Coverage()
    preflight: Literal["refuse", "report", "off"] = "report"
    lease_s: float = 15.0
    look_every_s: float = 1.0
    latency_floor_ms: float = 10.0
    bootstrap: bool = True
    unreachable_s: float = 60.0
    maximum_pause_s: float = 86_400.0
    when_busy: Literal["queue", "supersede", "refuse"] = "queue"
    quality: Quality | None = None
    holdout: Holdout | None = None
    challengers: int = 1

    def among(self, challengers: int) -> "Plan":
        """The plan of each of several challengers.

        By Bonferroni each has `alpha / challengers`: the probability that any of them is rolled back by mistake is at
        most the sum, whatever they have in common. Raises ValueError for a plan that is not for several.
        """
        return msgspec.structs.replace(self, alpha=self.alpha / challengers, challengers=challengers)

    def rate_margins(self, step: Step) -> tuple[RateMargin, ...]:
        """Within what the challenger is shown to be before `step` advances.

        At a share of 1 no champion answers beside it, and what is slow is known by the champion's answers alone.
        """
        found = []
        if self.error_rate_margin is not None:
            found.append(RateMargin(ERRORS, "error_rate_margin", "failures", self.error_rate_margin))
        if self.slow_p99_rate_margin is not None and step.share < 1:
            words, usual = "answers slower than p99", 1 - QUANTILES[UNIT_METRICS.index(SLOW_P99) - 1]
            found.append(RateMargin(SLOW_P99, "slow_p99_rate_margin", words, self.slow_p99_rate_margin, usual))
        return tuple(found)

    @property
    def identity(self) -> str:
        """Names this version of the plan: twelve characters of the hash of its content."""
        return sha256(msgspec.json.encode(self, order="deterministic")).hexdigest()[:12]

    def __post_init__(self) -> None:
        if not self.steps:
            raise ValueError("steps holds at least one step, the last with share 1.0; found none")
        shares = [step.share for step in self.steps]
        if any(later <= earlier for earlier, later in pairwise(shares)):
            raise ValueError(f"steps have growing shares, found {shares}")
        if shares[-1] != 1:
            raise ValueError(f"the last of steps has share 1.0, found {shares[-1]}")
        if not 0 < self.alpha < 1:
            raise ValueError(f"alpha lies in (0, 1), found {self.alpha}")
        for name in ("error_odds_margin", "latency_odds_margin", "score_odds_margin"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is an odds ratio of at least 1, found {getattr(self, name)}")
        if not 0 < self.score_margin <= 1:
            raise ValueError(f"score_margin is a difference of mean ranks in (0, 1], found {self.score_margin}")
        if self.error_rate_margin is not None and not 0 < self.error_rate_margin <= 1:
            raise ValueError(f"error_rate_margin lies in (0, 1] or is null, found {self.error_rate_margin}")
        if self.slow_p99_rate_margin is not None and not 0 < self.slow_p99_rate_margin < 1:
            raise ValueError(f"slow_p99_rate_margin lies in (0, 1) or is null, found {self.slow_p99_rate_margin}")
        if self.latency_floor_ms < 0:
            raise ValueError(f"latency_floor_ms is at least 0, found {self.latency_floor_ms}")
        if self.unreachable_s < self.lease_s:
            raise ValueError(
                f"unreachable_s is at least lease_s, since a share lives that long without us; found "
                f"{self.unreachable_s} with lease_s {self.lease_s}"
            )
        if self.maximum_pause_s <= 0:
            raise ValueError(f"maximum_pause_s is above 0, found {self.maximum_pause_s}")
        if self.quality is not None and self.alpha_shares.quality == 0:
            raise ValueError("quality needs a part of alpha: give alpha_shares.quality some of another share; found 0")
        if self.quality is not None and self.challengers > 1:
            raise ValueError("quality compares one challenger with the champion: leave it out for several")
        if self.holdout is not None and len(shares) > 1 and shares[-2] >= 1 - self.holdout.share:
            raise ValueError(
                f"steps before the last leave the holdout's share of {self.holdout.share:g}, found {shares[-2]:g}"
            )
        if not 1 <= self.challengers <= MAXIMUM_CHALLENGERS:
            raise ValueError(f"challengers are 1 to {MAXIMUM_CHALLENGERS}, found {self.challengers}")
        if self.challengers > 1 and len(shares) < 2:
            raise ValueError(
                f"{self.challengers} challengers need a step below share 1.0, to be compared in; found {shares}"
            )
        if self.challengers > 1 and self.approvals.before_first_step:
            raise ValueError("approvals.before_first_step asks about one challenger: set it to false for several")
        if self.look_every_s <= 0:
            raise ValueError(f"look_every_s is above 0, found {self.look_every_s}")
        if self.lease_s < LEASE_LOOKS_MIN * self.look_every_s:
            raise ValueError(
                f"lease_s is at least {LEASE_LOOKS_MIN} times look_every_s, so that one lost look does not end a "
                f"rollout; found {self.lease_s} with look_every_s {self.look_every_s}"
            )
