"""Whether the challenger is right as often as the champion, by the outcomes that are known so far of a phase. Pure.

The unit is the entity: its loss is the mean over its predictions in the phase whose outcome is known, from 0 to 1. In
the shadow both versions have predicted for the same requests, and the difference within each entity is bet on; in a
step entities come to either version by chance, and are paired by chance, as in a holdout.

More outcomes change what an entity's loss is, so readings of one phase are no process to which factors are added: each
that counts is a test of its own. It counts when the smaller side has grown by half since the last one, and the k-th has
the part 1 / (k·(k + 1)) of the phase's alpha, which is 1 over all there can be. So the level holds whenever it is
asked, and a hundred times as many entities are some eleven tests more.
"""

from math import log
from typing import Self

import msgspec

from pipelines.rollout.comparisons import NEVER, Finding, finding, limit_of
from pipelines.rollout.holdout import LARGEST_LOG_LOSS
from pipelines.rollout.plan import Quality
from pipelines.statistics import betting
from pipelines.statistics.betting import Floats

FIRST_ENTITIES, GROWTH = 10, 1.5  # on the smaller side: at the first test, and from each to the next
PROOF_ALPHA = 0.05  # of the proof that the challenger is within the margin, in one phase
NAME = "outcomes"


class Graded(msgspec.Struct, frozen=True, kw_only=True):
    """One reading of the phase in which the challenger has `share` (0: its shadow); pairs are of challenger, champion.

    `entities` have an outcome, `mean_loss` is in units of the loss. The logarithms are of e-values against "the
    challenger is not worse" and "it is worse by the margin or more". `unknown` says why nothing could be read.
    """

    share: float
    entities: tuple[int, int] = (0, 0)
    mean_loss: tuple[float | None, float | None] = (None, None)
    log_worse: float = 0.0
    log_within: float = 0.0
    unknown: str | None = None


def graded(policy: Quality, share: float, mine: Floats, theirs: Floats, *, in_pairs: bool) -> Graded:
    """The reading of the entities' losses (each from 0 to 1) on the challenger and on the champion.

    `in_pairs`: both are of the same entities in the same order. Else either order is one of chance.
    """
    scale = LARGEST_LOG_LOSS if policy.loss == "log_loss" else 1.0
    apart = mine - theirs if in_pairs else betting.differences(mine, theirs)
    means = [float(side.mean()) * scale if side.size else None for side in (mine, theirs)]
    return Graded(
        share=share,
        entities=(mine.size, theirs.size),
        mean_loss=(means[0], means[1]),
        log_worse=betting.log_e_value(apart, 0.0),
        log_within=betting.log_e_value(-apart, -policy.margin / scale),
    )


class Outcomes(msgspec.Struct, frozen=True, kw_only=True):
    """What the judge keeps of a phase: how many readings have counted, the last that did, and the last of all."""

    tests: int = 0
    counted: Graded | None = None
    last: Graded | None = None

    def after(self, found: Graded) -> Self:
        """With one more reading."""
        smaller = min(found.entities)
        least = FIRST_ENTITIES if self.counted is None else GROWTH * min(self.counted.entities)
        if found.unknown is not None or smaller < least:
            return msgspec.structs.replace(self, last=found)
        return msgspec.structs.replace(self, tests=self.tests + 1, counted=found, last=found)

    def is_within(self) -> bool:
        """Whether the challenger is shown to be at most the margin worse."""
        if self.counted is None:
            return False
        return self.counted.log_within > log(self.tests * (self.tests + 1) / PROOF_ALPHA)

    def finding(self, policy: Quality, alpha: float) -> Finding:
        """The evidence that the challenger is worse, with `alpha` for this phase. Within the margin nobody asks."""
        if self.counted is None:
            return finding(NAME, f"outcomes: {self._none_yet()}", 0.0, limit_of(alpha))
        what = _in_words(policy, self.counted)
        if self.is_within():
            told = f"{what}, shown to be at most {policy.margin:g} worse; whether it is worse at all"
            return finding(NAME, told, self.counted.log_worse, NEVER)
        limit = limit_of(alpha / (self.tests * (self.tests + 1)))
        return finding(NAME, f"{what}, worse", self.counted.log_worse, limit)

    def lacking(self, policy: Quality) -> str | None:
        """Why a phase does not advance yet, in words; None: the challenger is shown to be within the margin.

        A reading that failed shows nothing, whatever was known before.
        """
        if self.counted is None or (self.last is not None and self.last.unknown is not None):
            return f"outcomes: {self._none_yet()}"
        if self.is_within():
            return None
        return f"{_in_words(policy, self.counted)}, at most {policy.margin:g} worse: not shown yet"

    @property
    def is_known(self) -> bool:
        """Whether there is anything to judge by."""
        return self.counted is not None and self.last is not None and self.last.unknown is None

    def _none_yet(self) -> str:
        if self.last is None:
            return "none was read yet"
        if self.last.unknown is not None:
            return f"not known, {self.last.unknown}"
        return f"known of {self.last.entities[0]:,} and {self.last.entities[1]:,} entities, at least {FIRST_ENTITIES}"


def _in_words(policy: Quality, found: Graded) -> str:
    name = {"brier": "Brier score", "log_loss": "log loss"}[policy.loss]
    mine, theirs = (f"{0.0 if mean is None else mean:.4f}" for mean in found.mean_loss)
    return f"mean {name} of an entity {mine} (n = {found.entities[0]:,}) against {theirs} (n = {found.entities[1]:,})"
