"""What is measured of a version's live predictions: values that quality writes, and triggers and reports read."""

import msgspec


class Estimate(msgspec.Struct, frozen=True, kw_only=True):
    """A value with its 95 % interval, and the rows and blocks of time that it rests on.

    `low` and `high` are None where the blocks are too few to say how much the value varies between them.
    """

    value: float
    low: float | None
    high: float | None
    n: int
    blocks: int

    def __str__(self) -> str:
        interval = "no interval" if self.low is None else f"95 % {self.low:.4f} … {self.high:.4f}"
        return f"{self.value:.4f} ({interval}, n = {self.n:,})"


class Quality(msgspec.Struct, frozen=True, kw_only=True):
    """One version in one slot. `errors` are rows without a score; what needs outcomes is None while it has none.

    `positive_share` is that of the outcomes, `decision_share` that of all decisions, `false_positive_rate` the share of
    positive decisions among the negative outcomes (its `n` counts those).
    """

    version: str
    slot: str
    rows: int
    errors: int
    labelled: int
    mean_score: float | None
    decision_share: float | None
    positive_share: float | None
    auc: Estimate | None
    log_loss: Estimate | None
    brier: Estimate | None
    false_positive_rate: Estimate | None
