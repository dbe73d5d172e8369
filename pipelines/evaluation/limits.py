"""The slice of a project's configuration that the gates on quality and latency own."""

from typing import Literal

import msgspec

from pipelines.evaluation.privacy import PrivacyLimits
from pipelines.evaluation.references import ReferenceLimits
from pipelines.evaluation.robustness import RobustnessLimits
from pipelines.evaluation.sanity import SanityLimits

Metric = Literal[
    "log_loss", "brier", "auc", "average_precision", "calibration_error", "cost", "f1", "recall", "false_positive_rate"
]
PromoteWhen = Literal["better", "not_worse"]
_SHARES = (
    "log_loss_margin",
    "auc_margin",
    "brier_margin",
    "calibration_error_margin",
    "calibration_error_max",
    "average_precision_margin",
    "f1_margin",
    "recall_margin",
    "false_positive_rate_margin",
    "false_positive_rate_max",
)
_COSTS = ("cost_margin", "cost_max", "latency_us_p99_max", "latency_us_p99_max_32_rows", "latency_us_margin")


class GateLimits(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What a challenger must show on the test rows.

    Against a champion it must not be worse: the 95 % interval of each paired difference must lie on the right side of
    its margin, the upper bound for log loss, Brier score, calibration error, cost and false-positive rate (and for the
    p50 of one row, `latency_us_margin`), the lower bound for AUC, PR-AUC (`average_precision_margin`), F1 and recall. A
    margin of None asks for nothing. `improvement` is how much lower its log loss must be at least, as a point estimate;
    0 asks for none, a negative number allows to be worse by it. The margins are for test windows of two weeks: days
    differ, and intervals over 14 of them are about ±0.01 wide.

    `promote_when` says what is reason enough for a new version: `not_worse`, since it is fresher, or only `better`:
    then each metric of `better_in` must be shown to be better, its whole interval on the good side of zero.

    Without a champion only the absolute limits hold: better than the base rate's log loss, `auc_min`,
    `calibration_error_max` (expected calibration error), `cost_max` (per row, in the unit of the project's costs),
    `false_positive_rate_max`, `latency_us_p99_max` (one row, µs), `latency_us_p99_max_32_rows` and `minimum_test_rows`.

    `resamples` of the bootstrap cost time and no memory; below 1,000 the tails that few days need are rough.
    What `references`, `sanity`, `robustness` and `privacy` ask is explained there, and in docs/scrutiny.md.
    """

    promote_when: PromoteWhen = "not_worse"
    better_in: tuple[Metric, ...] = ("log_loss",)
    log_loss_margin: float = 0.012
    auc_margin: float = 0.03
    brier_margin: float = 0.005
    calibration_error_margin: float = 0.05
    average_precision_margin: float | None = None
    cost_margin: float | None = None
    f1_margin: float | None = None
    recall_margin: float | None = None
    false_positive_rate_margin: float | None = None
    improvement: float = -0.002
    auc_min: float = 0.55
    calibration_error_max: float = 0.15
    cost_max: float | None = None
    false_positive_rate_max: float | None = None
    latency_us_p99_max: float = 2000.0
    latency_us_p99_max_32_rows: float | None = None
    latency_us_margin: float = 500.0
    minimum_test_rows: int = 500
    resamples: int = 2000
    references: ReferenceLimits = ReferenceLimits()
    sanity: SanityLimits = SanityLimits()
    robustness: RobustnessLimits = RobustnessLimits()
    privacy: PrivacyLimits = PrivacyLimits()

    def __post_init__(self) -> None:
        for key in _SHARES:
            if (found := getattr(self, key)) is not None and not 0 < found <= 1:
                raise ValueError(f"{key}: found {found}, expected a number above 0 and at most 1")
        for key in _COSTS:
            if (found := getattr(self, key)) is not None and found <= 0:
                raise ValueError(f"{key}: found {found}, expected a number above 0")
        if not -1 <= self.improvement <= 1:
            raise ValueError(f"improvement: found {self.improvement}, expected a number from -1 to 1")
        if not 0 <= self.auc_min < 1:
            raise ValueError(f"auc_min: found {self.auc_min}, expected from 0 to below 1")
        if self.minimum_test_rows < 1:
            raise ValueError(f"minimum_test_rows: found {self.minimum_test_rows}, expected at least 1")
        if not 100 <= self.resamples <= 100_000:
            raise ValueError(f"resamples: found {self.resamples}, expected from 100 to 100,000")
        if not self.better_in or len(set(self.better_in)) != len(self.better_in):
            raise ValueError(f"better_in: found {self.better_in}, expected at least one metric, each once")

    def margin(self, metric: str) -> float | None:
        """By how much the challenger may be worse in `metric` at most; None where nothing is asked."""
        found: float | None = getattr(self, f"{metric}_margin")
        return found
